from types import SimpleNamespace

from django.contrib.auth.models import AnonymousUser
from django.template import Context, Template
from django.test import RequestFactory, SimpleTestCase

from accounts.models import Account, User

ACME = Account(number="82000118", name="Acme")
ALICE = User(username="alice")


def draw(template, **of_request):
    request = RequestFactory().get("/")
    request.user = of_request.pop("user", ALICE)
    for name, value in of_request.items():
        setattr(request, name, value)
    context = {"request": request, "nav": "images", "csrf_token": "the-token"}
    source = f'{{% load frame %}}{{% frame "{template}" %}}'
    return Template(source).render(Context(context))


class FrameTests(SimpleTestCase):
    def test_the_sidebar_leads_to_pages_of_the_account(self):
        html = draw("_sidebar.html", account=ACME)
        assert 'href="/82000118/images/"' in html
        assert "00000000" not in html

    def test_the_sidebar_keeps_the_region_and_tells_the_section(self):
        html = draw("_sidebar.html", account=ACME, region=SimpleNamespace(code="IAD"))
        assert '"/82000118/images/?region=IAD" aria-current="page"' in html

    def test_alice_and_bob_each_see_their_own_names(self):
        beta = Account(number="82000126", name="Beta")
        alices = draw("_account_menu.html", account=ACME)
        bobs = draw("_account_menu.html", account=beta, user=User(username="bob"))
        for html, own, others in (
            (alices, ("Acme", "alice", "82000118"), ("Beta", "bob", "82000126")),
            (bobs, ("Beta", "bob", "82000126"), ("Acme", "alice", "82000118")),
        ):
            assert all(word in html for word in own)
            assert not any(word in html for word in others)

    def test_names_are_escaped(self):
        account = Account(number="82000118", name="<b>Acme</b>")
        html = draw("_account_menu.html", account=account)
        assert "&lt;b&gt;Acme&lt;/b&gt;" in html
        assert "<b>Acme" not in html

    def test_a_name_cannot_ask_for_the_token(self):
        account = Account(number="82000118", name="\ue000token\ue000")
        html = draw("_account_menu.html", account=account)
        assert html.count("the-token") == 1

    def test_outside_an_account_the_menu_names_the_user(self):
        html = draw("_account_menu.html")
        assert "alice" in html
        assert "User Management" not in html

    def test_the_head_needs_nobody_signed_in(self):
        html = draw("_head.html", user=AnonymousUser())
        assert html.lstrip().startswith('<meta charset="utf-8">')
