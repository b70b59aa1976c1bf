"""The consumer's side: where an offer shows, the answers, and what follows."""

import pytest
from playwright.sync_api import expect

from accounts.permissions import Role
from sharing.models import ImageReport, ImageShare
from tests.factories import (
    ImageFactory,
    ImageShareFactory,
    UserFactory,
)
from tests.servers.factories import FlavorFactory

SAVED_IMAGES, CREATE_SERVER = "images/", "servers/create/"


@pytest.fixture
def bob(visit, cast):
    return visit(cast.bob)


@pytest.fixture
def offer(cast):
    return ImageShareFactory.create(
        image=cast.image,
        consumer=cast.beta,
        offered_by=cast.alice,
        message="As we said on the phone",
    )


@pytest.fixture
def accepted(cast, offer):
    offer.accept(by=cast.bob)
    return offer


def expect_to_be_listed(bob, image):
    row = bob.page.get_by_role("row").filter(has_text=image.name)
    expect(row).to_contain_text("Shared Image")


def expect_to_be_bootable(bob, cast):
    """The image is where the article says, and can be chosen there."""
    FlavorFactory.create()
    bob.go(cast.beta, CREATE_SERVER, region=cast.image.region_id)
    bob.link("Saved Images").nth(1).click()
    bob.page.get_by_role("link", name="Shared Images 1").click()
    option = bob.page.get_by_role("radio", name=cast.image.name)
    option.check()
    expect(option).to_be_checked()
    expect(bob.page.get_by_text("/etc/passwd")).to_be_visible()


class NotificationTests:
    @pytest.mark.parametrize("place", [SAVED_IMAGES, CREATE_SERVER])
    def test_it_tells_who_offers_what_where_and_why(self, bob, cast, offer, place):
        bob.go(cast.beta, place)

        expect(bob.offers).to_contain_text(f"Acme ({cast.acme.number})")
        expect(bob.offers).to_contain_text("web-golden")
        expect(bob.offers).to_contain_text("Northern Virginia (IAD)")
        expect(bob.offers).to_contain_text("As we said on the phone")

    @pytest.mark.parametrize(
        ("place", "region", "shows"),
        [
            (SAVED_IMAGES, "All Regions (Global)", True),
            (SAVED_IMAGES, "Northern Virginia", True),
            (SAVED_IMAGES, "London", False),
            (CREATE_SERVER, "Northern Virginia (IAD)", True),
            (CREATE_SERVER, "London (LON)", False),
        ],
    )
    def test_it_goes_by_the_region_but_the_header_counts_all(
        self, bob, cast, offer, place, region, shows
    ):
        bob.go(cast.beta, place)
        if place == CREATE_SERVER:
            bob.page.get_by_label("Region", exact=True).select_option(region)
        else:
            choices = bob.page.get_by_role("navigation", name="Region")
            choices.get_by_role("link", name=region).click()
            current = choices.locator("[aria-current=true]")
            expect(current).to_contain_text(region)

        expect(bob.offers).to_have_count(1 if shows else 0)
        expect(bob.header_count).to_contain_text("1 offer")
        bob.header_count.click()
        menu = bob.page.locator("#offers-menu")
        expect(menu).to_contain_text("Northern Virginia (IAD)")
        menu.get_by_role("link", name="Northern Virginia (IAD)").click()
        expect(bob.offers).to_be_visible()

    def test_many_are_one_notification_with_a_list(self, bob, cast):
        for n in range(5):
            image = ImageFactory.create(owner=cast.acme, name=f"image {n}")
            ImageShareFactory.create(image=image, consumer=cast.beta)
        bob.go(cast.beta)

        expect(bob.offers).to_contain_text("5 images are offered to this account")
        bob.link("All 5 offers").click()
        expect(bob.page.get_by_role("row")).to_have_count(6)
        bob.link("Accept or reject image 0").click()
        bob.button("Accept").click()
        expect(bob.messages).to_contain_text("image 0")

    @pytest.mark.parametrize("place", [SAVED_IMAGES, CREATE_SERVER])
    def test_a_new_offer_shows_within_half_a_minute(self, bob, cast, place):
        bob.page.clock.install()
        bob.go(cast.beta, place)
        expect(bob.page.locator("#offers")).to_be_attached()
        assert bob.offers.count() == 0

        ImageShareFactory.create(image=cast.image, consumer=cast.beta)
        bob.page.clock.fast_forward("00:30")

        expect(bob.offers).to_contain_text("web-golden")
        expect(bob.header_count).to_contain_text("1 offer")


def test_the_list_that_an_answer_brings_waits_for_an_open_menu(bob, cast, offer):
    own = ImageFactory.create(owner=cast.beta, name="our own")
    page = bob.go(cast.beta)
    held, goes_on = [], []

    def hold(route):
        route.continue_() if goes_on else held.append(route)

    page.route("**/images/", hold)
    bob.review(cast.image)
    bob.button("Accept").click()
    expect(bob.dialog).to_be_hidden()
    page.get_by_role("button", name=f"Actions for {own.name}").click()
    menu = page.locator(".menu:popover-open")
    expect(menu).to_be_visible()
    goes_on.append(True)
    with page.expect_response("**/images/"):
        held.pop().continue_()

    page.wait_for_load_state("networkidle")
    expect(menu).to_be_visible()
    expect(bob.row(cast.image.name)).to_have_count(0)
    page.keyboard.press("Escape")
    expect_to_be_listed(bob, cast.image)


def test_the_list_shows_what_somebody_else_has_changed(bob, cast, offer):
    page = bob.page
    page.clock.install()
    bob.go(cast.beta)
    expect(bob.row(cast.image.name)).to_have_count(0)
    offer.accept(by=cast.bob)
    page.clock.fast_forward(30_000)
    expect_to_be_listed(bob, cast.image)
    offer.revoke(by=cast.alice)
    page.clock.fast_forward(30_000)
    expect(page.get_by_role("heading", name="An image was taken back")).to_be_visible()
    expect(bob.row(cast.image.name)).to_have_count(0)


@pytest.mark.parametrize("place", [SAVED_IMAGES, CREATE_SERVER])
class AnswerTests:
    def test_accept(self, bob, cast, offer, place):
        bob.go(cast.beta, place)
        bob.review(cast.image)
        expect(bob.dialog).to_contain_text("nonstandard")
        bob.button("Accept").click()

        expect(bob.dialog).to_be_hidden()
        expect(bob.offers).to_have_count(0)
        expect(bob.header_count).to_have_accessible_name("No offers")
        if place == SAVED_IMAGES:
            expect_to_be_listed(bob, cast.image)
        else:
            bob.page.get_by_role("link", name="Saved Images").nth(1).click()
            shared = bob.page.get_by_role("link", name="Shared Images 1")
            expect(shared).to_be_visible()
        expect_to_be_bootable(bob, cast)

    def test_reject(self, bob, visit, cast, offer, place):
        bob.go(cast.beta, place)
        bob.review(cast.image)
        bob.button("Reject").click()

        expect(bob.dialog).to_be_hidden()
        expect(bob.offers).to_have_count(0)
        bob.go(cast.beta)
        expect(bob.page.get_by_role("heading", name="No saved images")).to_be_visible()
        alice = visit(cast.alice)
        alice.go(cast.acme, f"images/{cast.image.pk}/")
        expect(alice.row(cast.beta.number)).to_contain_text("Rejected")

    @pytest.mark.parametrize("way", ["Close button", "Cross", "Escape"])
    def test_to_close_is_to_postpone(self, bob, cast, offer, place, way):
        bob.go(cast.beta, place)
        bob.review(cast.image)
        if way == "Escape":
            bob.page.keyboard.press("Escape")
        else:
            bob.link("Close").nth(0 if way == "Cross" else 1).click()

        expect(bob.dialog).to_be_hidden()
        expect(bob.offers).to_be_visible()
        bob.page.reload()
        expect(bob.offers).to_be_visible()
        assert ImageShare.objects.get().status == "pending"


class ConflictTests:
    def test_of_two_tabs_the_second_gets_the_conflict_in_its_dialog(
        self, bob, cast, offer
    ):
        bob.go(cast.beta)
        bob.review(cast.image)
        first = bob.page
        bob.page = bob.context.new_page()
        bob.go(cast.beta)
        bob.review(cast.image)
        bob.button("Reject").click()
        expect(bob.dialog).to_be_hidden()

        bob.page = first
        bob.button("Accept").click()

        expect(bob.dialog.get_by_role("alert").filter(has_text="ask")).to_be_visible()
        expect(bob.button("Accept")).to_have_count(0)
        bob.link("Close").first.click()
        expect(bob.dialog).to_be_hidden()
        expect(bob.offers).to_have_count(0)
        assert ImageShare.objects.get().status == "rejected"

    def test_an_offer_that_was_withdrawn_is_told_of(self, bob, cast, offer):
        bob.shown.add(404)
        bob.go(cast.beta)
        bob.review(cast.image)
        offer.revoke(by=cast.alice)
        bob.button("Accept").click()

        alert = bob.dialog.get_by_role("alert").filter(has_text="no such offer")
        expect(alert).to_be_visible()
        bob.page.keyboard.press("Escape")
        expect(bob.offers).to_have_count(0)


class AcceptedTests:
    def test_remove_image(self, bob, cast, accepted):
        bob.go(cast.beta)
        expect_to_be_listed(bob, cast.image)
        bob.choose_from_gear(cast.image, "Remove Image")
        expect(bob.dialog).to_contain_text("This rejects the image")
        bob.button("Remove Image").click()

        expect(bob.dialog).to_be_hidden()
        expect(bob.page.get_by_role("heading", name="No saved images")).to_be_visible()
        assert ImageShare.objects.get().status == "rejected"

    def test_report_image(self, bob, cast, accepted):
        bob.go(cast.beta)
        bob.choose_from_gear(cast.image, "Report Image")
        bob.dialog.get_by_role("radio").first.check()
        bob.field("What did you see?").fill("A strange user in /etc/passwd")
        bob.button("Report Image").click()

        expect(bob.messages).to_contain_text("is reported to the support")
        report = ImageReport.objects.get()
        assert report.text == "A strange user in /etc/passwd"
        assert report.image_id == cast.image.pk

    def test_the_detail_tells_by_whom_and_what_to_look_at(self, bob, cast, accepted):
        bob.go(cast.beta)
        bob.page.get_by_role("row").get_by_role("link", name="web-golden").click()

        shared_by = bob.page.get_by_role("region", name="Shared by Acme")
        expect(shared_by).to_contain_text("/etc/passwd")
        expect(shared_by.get_by_role("link", name="Report Image")).to_be_visible()
        expect(bob.page.get_by_role("link", name="Download")).to_have_count(0)


class RoleTests:
    def test_a_creator_sees_the_offer_and_whom_to_ask(self, visit, cast, offer):
        role = Role.IMAGES_CREATOR
        carol = visit(UserFactory.create(username="carol", roles=[(cast.beta, role)]))
        carol.go(cast.beta)
        carol.review(cast.image)

        expect(carol.button("Accept")).to_be_disabled()
        expect(carol.button("Reject")).to_be_disabled()
        reason = "Accepting or rejecting needs cloudImages:admin"
        expect(carol.dialog).to_contain_text(reason)
        expect(carol.dialog).to_contain_text("bob")

    def test_without_a_role_for_images_there_is_no_count(self, visit, cast, offer):
        role = Role.SERVERS_ADMIN
        dave = visit(UserFactory.create(username="dave", roles=[(cast.beta, role)]))
        dave.go(cast.beta, CREATE_SERVER)

        expect(dave.page.get_by_role("heading", name="Create Server")).to_be_visible()
        expect(dave.header_count).to_have_count(0)


class SessionTests:
    def test_an_ended_session_leads_to_sign_in_and_back(self, bob, cast, offer):
        bob.go(cast.beta, region="IAD")
        bob.sign_out()
        bob.offers.get_by_role("link").first.click()

        expect(bob.page.get_by_role("heading", name="Sign in")).to_be_visible()
        bob.field("Username").fill("bob")
        bob.field("Password").fill("a long pass phrase for tests")
        bob.button("Sign in").click()

        expect(bob.offers).to_be_visible()
        assert bob.page.url.endswith(f"/{cast.beta.number}/images/?region=IAD")

    def test_a_poll_takes_no_form_away_when_the_session_has_ended(
        self, bob, cast, offer
    ):
        bob.page.clock.install()
        bob.go(cast.beta)
        bob.review(cast.image)
        bob.sign_out()
        bob.page.clock.fast_forward("00:30")

        alert = bob.dialog.get_by_role("alert").filter(has_text="signed out")
        expect(alert.get_by_role("link", name="Sign in again")).to_be_visible()
        expect(bob.button("Accept")).to_be_visible()
