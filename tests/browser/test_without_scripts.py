"""The same story in a browser that runs no scripts: links, forms and whole pages."""

import pytest
from playwright.sync_api import expect

from images.models import Image
from servers.models import Server
from sharing.models import ImageShare
from tests.factories import PASSWORD, ImageFactory, ImageShareFactory
from tests.images.stores import corpus
from tests.images.stores.case import needs_qemu
from tests.servers.factories import FlavorFactory, ServerFactory
from tests.worker import work


@pytest.fixture
def without_scripts(visit):
    def seat(user=None):
        return visit(user, java_script_enabled=False)

    return seat


@pytest.fixture
def offer(cast):
    return ImageShareFactory.create(
        image=cast.image, consumer=cast.beta, offered_by=cast.alice
    )


def test_sign_in_leads_to_the_page_asked_for(without_scripts, cast):
    bob = without_scripts()
    bob.go(cast.beta)
    bob.field("Username").fill("bob")
    bob.field("Password").fill("wrong")
    bob.button("Sign in").click()
    alert = bob.page.get_by_role("alert").filter(has_text="correct username")
    expect(alert).to_be_visible()

    bob.field("Password").fill(PASSWORD)
    bob.button("Sign in").click()

    expect(bob.page.get_by_role("heading", name="No saved images yet")).to_be_visible()
    assert bob.page.url.endswith(f"/{cast.beta.number}/images/")


def test_alice_shares_by_number_from_the_gear(without_scripts, cast):
    alice = without_scripts(cast.alice)
    alice.go(cast.acme)
    alice.choose_from_gear(cast.image, "Share Image")
    heading = alice.page.get_by_role("heading", name="Share web-golden")
    expect(heading).to_be_visible()

    alice.share_with_number(cast.beta.number, "Hello")
    expect(alice.page.get_by_text("Answer this before you share")).to_have_count(3)
    expect(alice.field("Message")).to_have_value("Hello")

    alice.answer_the_questions()
    alice.button("Share Image").click()
    expect(alice.messages).to_contain_text("is offered to")
    expect(alice.row(cast.beta.number)).to_contain_text("Pending Acceptance")


def test_alice_shares_by_a_password(without_scripts, cast):
    alice = without_scripts(cast.alice)
    alice.go(cast.acme, f"images/{cast.image.pk}/share/")
    alice.answer_the_questions()
    alice.share_with_credential("bob", PASSWORD)

    expect(alice.row(cast.beta.number)).to_contain_text("Accepted")


def test_bob_accepts_then_removes(without_scripts, cast, offer):
    bob = without_scripts(cast.bob)
    bob.go(cast.beta, region="IAD")
    expect(bob.header_count).to_contain_text("1")
    bob.offers.get_by_role("link", name="Accept or reject").click()
    bob.button("Accept").click()

    expect(bob.messages).to_contain_text("web-golden")
    assert "region=IAD" in bob.page.url
    expect(bob.offers).to_have_count(0)
    expect(bob.row("web-golden")).to_contain_text("Shared Image")

    bob.choose_from_gear(cast.image, "Remove Image")
    bob.button("Remove Image").click()
    expect(bob.row("web-golden")).to_have_count(0)
    assert ImageShare.objects.get().status == "rejected"


def test_bob_rejects_and_alice_shares_again(without_scripts, cast, offer):
    bob = without_scripts(cast.bob)
    bob.go(cast.beta, "servers/create/")
    bob.offers.get_by_role("link", name="Accept or reject").click()
    bob.button("Reject").click()
    expect(bob.page.get_by_role("heading", name="Create Server")).to_be_visible()
    expect(bob.offers).to_have_count(0)

    alice = without_scripts(cast.alice)
    alice.go(cast.acme, f"images/{cast.image.pk}/")
    alice.button("Remove and share again").click()
    expect(alice.field("Account number")).to_have_value(cast.beta.number)
    alice.answer_the_questions()
    alice.button("Share Image").click()
    expect(alice.row(cast.beta.number)).to_contain_text("Pending Acceptance")


def test_the_second_of_two_answers_is_told_so(without_scripts, cast, offer):
    bob = without_scripts(cast.bob)
    bob.go(cast.beta, f"shares/{offer.pk}/")
    offer.reject(by=cast.bob)
    bob.button("Accept").click()

    expect(bob.page.get_by_role("alert").filter(has_text="answered")).to_be_visible()


@needs_qemu
def test_alice_uploads(without_scripts, cast, tmp_path):
    alice = without_scripts(cast.alice)
    alice.go(cast.acme, "images/upload/")
    wrong = tmp_path / "letter.txt"
    wrong.write_text("Dear Alice, " * 200)
    alice.field("Name").fill("web")
    alice.field("File").set_input_files(wrong)
    alice.button("Upload Image").click()
    expect(alice.field("File")).to_have_attribute("aria-invalid", "true")
    expect(alice.field("Name")).to_have_value("web")

    alice.field("File").set_input_files(corpus.raw_mbr(tmp_path / "disk.raw"))
    alice.button("Upload Image").click()
    expect(alice.page.get_by_role("heading", name="web")).to_be_visible()
    work()
    alice.page.reload()
    expect(alice.page.locator("#image-facts")).to_contain_text("Active")


def test_search_sort_and_pages(without_scripts, cast):
    for n in range(26):
        ImageFactory.create(owner=cast.acme, name=f"image {n:02}")
    alice = without_scripts(cast.alice)
    alice.go(cast.acme)
    alice.link("Next").click()
    expect(alice.row("web-golden")).to_be_visible()

    alice.page.get_by_role("columnheader", name="Name").get_by_role("link").click()
    expect(alice.page.locator("tbody th").first).to_contain_text("image 00")

    alice.page.get_by_role("searchbox").fill("golden")
    alice.page.keyboard.press("Enter")
    expect(alice.page.locator("tbody th")).to_have_count(1)


def test_several_are_deleted_at_once(without_scripts, cast):
    ImageFactory.create(owner=cast.acme, name="mail")
    alice = without_scripts(cast.alice)
    alice.go(cast.acme)
    alice.page.get_by_label("Choose mail").check()
    alice.page.get_by_label("Choose web-golden").check()
    alice.button("Delete").click()
    expect(alice.page.get_by_role("heading", name="Delete 2 images?")).to_be_visible()
    alice.button("Delete").click()

    expect(alice.messages).to_contain_text("2 images have been deleted.")
    assert not Image.objects.filter(owner=cast.acme).exists()


def test_bob_orders_a_server_from_the_image_he_accepted(without_scripts, cast, offer):
    offer.accept(by=cast.bob)
    FlavorFactory.create()
    bob = without_scripts(cast.bob)
    bob.go(cast.beta)
    bob.choose_from_gear(cast.image, "Create Server with Image")
    expect(bob.page.get_by_role("radio", name="web-golden")).to_be_checked()
    bob.page.get_by_role("radio", name="Small").check()
    bob.field("Server name").fill("web-1")
    bob.button("Create Server").click()

    expect(bob.page.get_by_role("heading", name="web-1 is being built")).to_be_visible()
    assert Server.objects.get().image == cast.image


def test_bob_schedules_images_and_stops_it(without_scripts, cast):
    server = ServerFactory.create(account=cast.beta, name="web-1")
    bob = without_scripts(cast.bob)
    bob.go(cast.beta, f"servers/{server.pk}/")
    section = bob.page.get_by_role("region", name="Scheduled images")
    section.get_by_role("link", name="Schedule Image").click()
    bob.field("Day").select_option("Every Friday")
    bob.field("At").select_option("23:00 UTC")
    bob.button("Schedule Image").click()
    expect(section).to_contain_text("Every Friday at 23:00 UTC")

    bob.link("Stop the schedule").click()
    bob.button("Stop the schedule").click()
    expect(section).to_contain_text("None.")
