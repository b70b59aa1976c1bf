import psycopg
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.models import AnonymousUser
from django.db import InterfaceError, OperationalError
from django.template.loader import render_to_string
from django.test import Client, RequestFactory, SimpleTestCase, override_settings
from django.urls import path
from procrastinate.exceptions import ConnectorException
from psycopg_pool import PoolTimeout

PAGES = ("403", "403_csrf", "404", "409", "413", "422", "429", "500", "503")


def render(page, **context):
    request = RequestFactory().get("/")
    request.user = AnonymousUser()
    return render_to_string(f"{page}.html", context, request)


class ErrorPageTests(SimpleTestCase):
    def test_each_says_what_happened_also_when_nothing_more_is_known(self):
        for page in PAGES:
            with self.subTest(page=page):
                html = render(page)
                assert html.count("<h1>") == 1
                assert "data-problem" in html

    def test_those_for_a_panel_in_trouble_need_no_request(self):
        for page in ("500", "503"):
            with self.subTest(page=page):
                assert "data-problem" in render_to_string(f"{page}.html")

    def test_a_refusal_names_the_role_and_who_has_it(self):
        missing = "Accepting needs cloudImages:admin."
        html = render("403", missing=missing, holders=["bob", "<i>"])
        assert missing in html
        assert "these users have it: bob, &lt;i&gt;." in html

    def test_a_conflict_leads_to_the_fresh_state(self):
        html = render("409", message="It has been answered.", back="/82000118/images/")
        assert "It has been answered." in html
        assert 'href="/82000118/images/"' in html

    def test_a_sign_in_that_is_kept_out_says_for_how_long(self):
        assert "For 15 minutes" in render("429", minutes=15)


@login_not_required
def broken(request, kind):
    raise FAULTS[kind]


JOB_NOT_DEFERRED = ConnectorException()
JOB_NOT_DEFERRED.__cause__ = psycopg.OperationalError("the reason")
FAULTS = {
    "OperationalError": OperationalError("the reason"),
    "InterfaceError": InterfaceError("the reason"),
    "PoolTimeout": PoolTimeout("the reason"),
    "job": JOB_NOT_DEFERRED,
    "ZeroDivisionError": ZeroDivisionError("the reason"),
}
# A panel of one page, which fails.
urlpatterns = [path("<str:kind>", broken)]
handler500 = "controlpanel.errors.server_error"


@override_settings(ROOT_URLCONF=__name__)
class ServerErrorTests(SimpleTestCase):
    def get(self, kind):
        return Client(raise_request_exception=False).get(f"/{kind}")

    def test_a_database_that_is_away_is_soon_back(self):
        for kind in ("OperationalError", "InterfaceError", "PoolTimeout", "job"):
            with self.subTest(kind=kind):
                response = self.get(kind)
                assert response.status_code == 503
                assert response["Retry-After"] == "5"

    def test_a_fault_of_ours_says_nothing_of_its_reason(self):
        response = self.get("ZeroDivisionError")
        assert response.status_code == 500
        self.assertNotContains(response, "the reason", status_code=500)
