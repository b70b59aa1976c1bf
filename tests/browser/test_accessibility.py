"""Every page by axe, in both themes, on a desktop and on a phone: WCAG 2.2 AA.

The pages come from the table of all URLs, so that a new one is looked at too.
"""

import re
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest
from django.test import Client
from playwright.sync_api import expect

from accounts.models import ApplicationCredential, Invitation
from accounts.permissions import Role
from images.models import Image
from servers.models import ImageSchedule, Server
from tests.factories import (
    AccountFactory,
    ImageFactory,
    ImageShareFactory,
    UserFactory,
)
from tests.servers.factories import FlavorFactory, ServerFactory, SSHKeyFactory
from tests.test_access import ACCESS, PERSONAL
from tests.test_error_pages import PAGES, render

AXE = Path(__file__).with_name("axe.min.js").read_text()
TAGS = ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa"]
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
# So many tests, which can run side by side.
PARTS = 4
# Every rule in two of the four ways; in the others what can differ there, the colours.
RULES = {"type": "tag", "values": TAGS}
COLOURS = {"type": "rule", "values": ["color-contrast"]}
LIGHT_DESKTOP, DARK_PHONE = (DESKTOP, "light", RULES), (PHONE, "dark", RULES)
FOUR_WAYS = [
    LIGHT_DESKTOP,
    (DESKTOP, "dark", COLOURS),
    (PHONE, "light", COLOURS),
    DARK_PHONE,
]
# Of the many pages that are put together from the same pieces.
TWO_WAYS = [LIGHT_DESKTOP, DARK_PHONE]
RUN_AXE = """
async ([root, runOnly]) => {
    const found = await axe.run(
        root, {runOnly, resultTypes: ["violations"], preload: false}
    );
    return found.violations.map(({id, nodes}) => `${id}: ${nodes[0].html}`);
}
"""
# What sticks out of the page to the side, the innermost elements.
TOO_WIDE = """
() => {
    const root = document.scrollingElement;
    if (root.scrollWidth <= root.clientWidth) return [];
    const wide = [...document.querySelectorAll("body *")].filter(
        (each) => each.getBoundingClientRect().right > root.clientWidth + 1
    );
    return wide.slice(-3).map((each) => each.outerHTML.slice(0, 200));
}
"""
LONG = "Ein-Abbild-mit-einem-Namen-der-kein-Ende-nimmt-und-keine-Lücke-hat-" * 3
ARABIC = "خادم الويب الذهبي للإنتاج"


@pytest.fixture
def world(cast):
    """Rows in many states, with names in other scripts, and a user who may do all."""
    cast.beta.grant(Role.USER_ADMIN, to=cast.alice)
    for name in (LONG, ARABIC, "画像 🐧"):
        image = ImageFactory.create(owner=cast.acme, name=name, description=name)
        ImageShareFactory.create(image=image, consumer=cast.beta, message=ARABIC)
    image = cast.image
    accepted = ImageShareFactory.create(
        image=ImageFactory.create(owner=cast.acme, name="accepted"),
        consumer=cast.beta,
        accepted=True,
    )
    share = ImageShareFactory.create(image=image, consumer=cast.beta)
    ImageShareFactory.create(image=image, rejected=True)
    for status in Image.Status:
        ImageFactory.create(owner=cast.acme, status=status, name=status.label)
    flavor = FlavorFactory.create()
    FlavorFactory.create(id="tiny", ram_mb=64)
    server = ServerFactory.create(
        account=cast.beta, flavor=flavor, image=accepted.image
    )
    schedule = ImageSchedule.objects.set_for(
        server, weekday=6, hour=2, keep=1, by=cast.bob
    )
    for name in (LONG, ARABIC):
        ImageFactory.create(
            owner=cast.beta,
            name=name,
            origin="server",
            source_server_id=server.pk,
            source_server_name=server.name,
            schedule_id=schedule.pk,
        )
    schedule.skip("The account has too many images.", now=schedule.next_at)
    for status in Server.Status:
        each = ServerFactory.create(account=cast.beta, flavor=flavor, name=ARABIC)
        Server.objects.filter(pk=each.pk).update(
            status=status, task="", ssh_host="127.0.0.1", ssh_port=22022
        )
    guest = UserFactory.create(username=LONG[:150], roles=[(cast.acme, Role.ADMIN)])
    invitation = Invitation.objects.invite(
        "new@example.com", to=cast.acme, roles=[Role.OBSERVER], by=cast.alice
    )
    return SimpleNamespace(
        alice=cast.alice,
        invitation=invitation,
        acme=cast.acme.pk,
        beta=cast.beta.pk,
        image=image.pk,
        accepted=accepted.image_id,
        share=share.pk,
        server=server.pk,
        key=SSHKeyFactory.create(account=cast.beta).pk,
        credential=ApplicationCredential.objects.make(
            cast.alice, cast.acme, name=LONG[:255], roles=[Role.USER_ADMIN]
        ).pk,
        guest=guest.pk,
        user=UserFactory.create(home_account=cast.acme).pk,
    )


@pytest.fixture
def seat(visit):
    def seat(user=None):
        visitor = visit(user, viewport=DESKTOP)
        visitor.shown |= {403, 404, 429, 500, 503}
        visitor.context.add_init_script(AXE)
        return visitor

    return seat


def faults_of(page, root="html", ways=FOUR_WAYS):
    """What axe says, and what a phone would have to scroll to the side for."""
    found = []
    for size, theme, what in ways:
        page.set_viewport_size(size)
        page.emulate_media(color_scheme=theme)
        where = f"{page.url}, {size['width']} px, {theme}"
        found += [f"{where}: {each}" for each in page.evaluate(RUN_AXE, [root, what])]
        if size is PHONE:
            found += [f"{where}: too wide: {each}" for each in page.evaluate(TOO_WIDE)]
    page.set_viewport_size(DESKTOP)
    return found


def pages_of(world):
    """The addresses that a browser gets a whole page from."""
    client = Client()
    client.force_login(world.alice)
    requests = [row.split()[1] for row in (*ACCESS.values(), *PERSONAL.values())]
    for path in requests:
        url = path.format(**vars(world) | {"invitation": world.invitation.pk})
        response = client.get(url)
        if response.status_code == 200 and is_page(response):
            yield url
    world.invitation.refresh_from_db()


def is_page(response):
    if response.streaming or "text/html" not in response["Content-Type"]:
        return False
    return response.content.lstrip().lower().startswith(b"<!doctype html")


@pytest.mark.parametrize("part", range(PARTS))
def test_every_page_and_every_dialog(seat, world, part):
    alice, found, dialogs = seat(world.alice), [], []
    urls = list(pages_of(world))[part::PARTS]
    assert len(urls) > 25 / PARTS
    for url in urls:
        alice.page.goto(url)
        found += faults_of(alice.page, ways=TWO_WAYS)
        if alice.page.locator(".sheet-page").count():
            dialogs.append(url)
    assert len(dialogs) > 8 / PARTS
    alice.page.goto(f"/{world.acme}/images/")
    for url in dialogs:
        alice.page.evaluate("url => htmx.ajax('GET', url, '#dialog')", url)
        expect(alice.dialog.get_by_role("heading").first).to_be_visible()
        # The same was looked at as a page.
        faults = faults_of(alice.page, "dialog", [DARK_PHONE])
        found += [f"{url} as a dialog: {fault}" for fault in faults]
        alice.page.keyboard.press("Escape")
        expect(alice.dialog).to_be_hidden()
    assert found == []


def test_lists_that_are_empty(seat, cast):
    empty = AccountFactory.create()
    empty.grant(Role.USER_ADMIN, to=cast.alice)
    alice, found = seat(cast.alice), []
    for page in ("images/", "offers/list/", "servers/", "servers/create/", "keys/"):
        alice.go(empty, page)
        found += faults_of(alice.page)
    alice.go(empty, q="nothing like it")
    found += faults_of(alice.page)
    assert found == []


def test_menus_that_are_open(seat, world):
    alice, found = seat(world.alice), []
    for url, menus in {
        f"/{world.acme}/images/": ["Actions for", "Acme"],
        f"/{world.beta}/images/": ["Actions for accepted", "4 offers"],
        f"/{world.beta}/servers/": ["Actions for"],
    }.items():
        alice.page.goto(url)
        for menu in menus:
            alice.page.get_by_role("button", name=menu).first.click()
            expect(alice.page.locator(".menu:popover-open")).to_be_visible()
            found += faults_of(alice.page)
            alice.page.keyboard.press("Escape")
    assert found == []


def test_the_doors(seat, world):
    stranger, found = seat(), []
    token = world.invitation.token
    references = [f"/docs/api/{name}/" for name in ("identity", "image", "compute")]
    invitations = [f"/invitations/{token}/", "/invitations/unknown/"]
    for url in ("/login/", *invitations):
        stranger.page.goto(url)
        found += faults_of(stranger.page)
    for url in references:  # long ones, by one template
        stranger.page.goto(url)
        found += faults_of(stranger.page, ways=[DARK_PHONE])
    stranger.page.goto("/login/")
    stranger.field("Username").fill("alice")
    stranger.field("Password").fill("wrong")
    stranger.button("Sign in").click()
    expect(stranger.page.get_by_role("alert").first).to_be_attached()
    found += faults_of(stranger.page)
    assert found == []


def test_the_pages_that_say_no(seat, world):
    alice, found = seat(world.alice), []
    told = {"message": "A sentence.", "missing": "Sharing needs it.", "holders": [LONG]}

    def answer(route):
        name = route.request.url.split("/")[-2]
        route.fulfill(
            status=int(name[:3]),
            content_type="text/html; charset=utf-8",
            body=render(name, **told),
        )

    alice.page.route(re.compile(f"/({'|'.join(PAGES)})/$"), answer)
    for name in PAGES:
        alice.page.goto(f"/{name}/")
        expect(alice.page.get_by_role("heading", level=1)).to_be_visible()
        found += faults_of(alice.page, ways=TWO_WAYS)
    alice.page.goto(f"/{world.acme}/images/{uuid4()}/")
    found += faults_of(alice.page)
    assert found == []


def test_forms_with_errors(seat, world):
    alice, found = seat(world.alice), []
    for url, button in {
        f"/{world.acme}/images/{world.image}/share/": "Share Image",
        f"/{world.acme}/images/upload/": "Upload Image",
        f"/{world.acme}/images/{world.image}/edit/": "Save",
        f"/{world.beta}/servers/create/": "Create Server",
        f"/{world.acme}/users/invite/": "Invite",
    }.items():
        alice.page.goto(url)
        # Otherwise the browser itself would keep an empty form back.
        alice.page.evaluate("for (const form of document.forms) form.noValidate = true")
        for field in alice.page.locator("[name=name]").all():
            field.fill("")
        alice.page.locator("main").get_by_role("button", name=button).click()
        expect(alice.page.locator("[aria-invalid=true]").first).to_be_visible()
        found += faults_of(alice.page, ways=TWO_WAYS)
    assert found == []
