"""Servers, as Bob sees them come, change and go. Machines are left out: what a real
one does is told in tests/servers/test_story.py.
"""

import contextlib
import re

import pytest
from playwright.sync_api import expect

from images.models import Image
from servers import tasks
from servers.models import ImageSchedule, Server, ServerEvent
from tests.factories import ImageFactory, ImageShareFactory
from tests.servers.factories import FlavorFactory, ServerFactory
from tests.servers.fakes import FakeCompute, without_machines


@pytest.fixture
def compute():
    compute = FakeCompute()
    with contextlib.ExitStack() as stack:
        without_machines(compute, stack)
        yield compute


@pytest.fixture
def bob(cast, compute, visit):
    FlavorFactory.create(id="tiny", ram_mb=64, disk_gb=1)
    FlavorFactory.create(id="small", ram_mb=512, disk_gb=2)
    return visit(cast.bob)


def test_bob_creates_a_server_and_watches_it_start(cast, compute, bob):
    ImageFactory.create(owner=None, name="Tiny Linux", min_ram_mb=96)
    page = bob.go(cast.beta, "servers/create/")
    bob.field("Server name").fill("web-1")
    page.get_by_role("radio", name="Tiny Linux").check()
    # The pages of the selector come and go, and what was typed and chosen stays.
    expect(page.get_by_role("radio", name="Tiny 64 MB")).to_be_disabled()
    expect(page.get_by_text("needs at least 96 MB RAM")).to_be_visible()
    page.get_by_role("radio", name="Small").check()
    bob.link("Saved Images").last.click()
    expect(page.get_by_text("This account has no active image")).to_be_visible()
    expect(page.get_by_role("radio", name="Tiny Linux")).to_be_checked()
    expect(page.get_by_role("radio", name="Small")).to_be_checked()
    expect(bob.field("Server name")).to_have_value("web-1")

    # Two clicks make one server, and the password is seen.
    page.get_by_role("button", name="Create Server").dblclick()
    expect(page.get_by_role("heading", name="web-1 is being built")).to_be_visible()
    expect(page.locator(".secret")).not_to_be_empty()
    server = Server.objects.get()

    bob.link("Go to the server").click()
    state = page.locator("#server-state .state")
    expect(state).to_have_text("Building")
    tasks.build(server_id=str(server.pk))
    compute.consoles[server.pk] = "Hello from the machine"
    expect(state).to_have_text("Active")
    expect(page.get_by_text("Hello from the machine")).to_be_visible()
    expect(page.locator("#server-events")).to_contain_text("Running")


def test_an_image_of_the_gear_is_chosen_and_comes_with_advice(cast, bob):
    ImageShareFactory.create(image=cast.image, consumer=cast.beta, accepted=True)
    page = bob.go(cast.beta)
    bob.choose_from_gear(cast.image, "Create Server with Image")

    expect(page.get_by_role("radio", name=cast.image.name)).to_be_checked()
    expect(page.get_by_text("A shared image is a nonstandard image")).to_be_visible()


def test_the_search_finds_as_bob_types_and_keeps_the_focus(cast, bob):
    for name in ["apple", "pear"]:
        ImageFactory.create(owner=None, name=name)
    page = bob.go(cast.beta, "servers/create/")
    search = page.get_by_role("searchbox")
    search.press_sequentially("pea")

    expect(page.get_by_role("radio", name="apple")).to_have_count(0)
    expect(page.get_by_role("radio", name="pear")).to_be_visible()
    expect(search).to_be_focused()
    expect(page).to_have_url(re.compile("q=pea"))


def test_what_is_typed_while_an_answer_is_awaited_stays(cast, bob):
    for name in ["apple", "pear"]:
        ImageFactory.create(owner=None, name=name)
    page = bob.go(cast.beta, "servers/create/")
    held = []

    def hold(route):
        held.append(route)

    page.route("**/servers/create/?*", hold, times=1)
    search = page.get_by_role("searchbox")
    with page.expect_request("**/servers/create/?*"):
        search.press_sequentially("p")
    search.press_sequentially("ea")
    held[0].continue_()

    expect(page.get_by_role("radio", name="apple")).to_have_count(0)
    expect(search).to_have_value("pea")
    expect(search).to_be_focused()


def test_another_region_has_other_images(cast, bob):
    ImageFactory.create(owner=None, name="Near")
    far = ImageFactory.create(owner=None, name="Far")
    Image.objects.filter(pk=far.pk).update(region="LON")
    page = bob.go(cast.beta, "servers/create/")
    page.get_by_role("radio", name="Near").check()
    page.get_by_label("Region").select_option("LON")

    expect(page.get_by_role("radio", name="Far")).to_be_visible()
    expect(page.get_by_role("radio", name="Near")).to_have_count(0)


def test_an_answer_that_comes_too_late_changes_nothing(cast, bob):
    ImageFactory.create(owner=None, name="Near")
    far = ImageFactory.create(owner=None, name="Far")
    Image.objects.filter(pk=far.pk).update(region="LON")
    held = []
    page = bob.go(cast.beta, "servers/create/")

    def hold(route):
        held.append(route)

    page.route("**/servers/create/?*", hold, times=1)
    page.get_by_role("radio", name="Near").check()
    page.get_by_label("Region").select_option("LON")
    expect(page.get_by_role("radio", name="Far")).to_be_visible()

    held[0].continue_()
    page.wait_for_timeout(300)

    expect(page.get_by_role("radio", name="Far")).to_be_visible()
    expect(page.get_by_role("radio", name="Near")).to_have_count(0)


def test_a_row_changes_and_goes_by_itself(cast, bob):
    server = ServerFactory.create(account=cast.beta, name="web-1", active=True)
    page = bob.go(cast.beta, "servers/")
    bob.choose_from_gear(server, "Power off")
    bob.button("Power off").click()

    expect(bob.row("web-1")).to_contain_text("Powering off")
    tasks.power_off(server_id=str(server.pk))
    expect(bob.row("web-1")).to_contain_text("Shut off")

    bob.choose_from_gear(server, "Delete")
    bob.button("Delete").click()
    expect(bob.row("web-1")).to_contain_text("Deleting")
    tasks.delete(server_id=str(server.pk))
    expect(page.get_by_role("link", name="web-1")).to_have_count(0)


def test_news_of_a_row_wait_until_its_menu_is_closed(cast, bob):
    server = ServerFactory.create(account=cast.beta, name="web-1", active=True)
    server.power_off(by=cast.bob)
    page = bob.go(cast.beta, "servers/")
    page.get_by_role("button", name="Actions for web-1").click()
    tasks.power_off(server_id=str(server.pk))

    # A row that has been swapped asks no second time: it is settled.
    for _ in range(2):
        with page.expect_response(
            lambda answer: "/row/?" in answer.url and answer.status == 200
        ):
            pass
    expect(page.locator(".menu:popover-open")).to_be_visible()
    expect(bob.row("web-1")).to_contain_text("Powering off")

    page.keyboard.press("Escape")
    expect(bob.row("web-1")).to_contain_text("Shut off")


def test_another_image_is_chosen_for_a_server(cast, bob):
    server = ServerFactory.create(account=cast.beta, name="web-1", active=True)
    ImageFactory.create(owner=cast.beta, name="our own")
    page = bob.go(cast.beta, f"servers/{server.pk}/rebuild/", tab="mine")
    page.get_by_role("radio", name="our own").check()
    expect(page.get_by_text("A saved image is a nonstandard image")).to_be_visible()
    page.get_by_role("link", name="Base Images").click()
    expect(page.get_by_role("radio", name="our own")).to_be_checked()
    page.get_by_label("I know that all data").check()
    page.get_by_role("button", name="Rebuild").dblclick()
    expect(page.get_by_role("heading", name="web-1 is being rebuilt")).to_be_visible()


def test_a_dialog_s_page_of_its_own_is_left_when_it_is_done(cast, bob):
    server = ServerFactory.create(account=cast.beta, name="web-1", active=True)
    page = bob.go(cast.beta, f"servers/{server.pk}/rename/")
    bob.field("Name").fill("web-2")
    bob.button("Rename").click()
    expect(page.get_by_role("heading", name="web-2", exact=True)).to_be_visible()
    expect(bob.messages).to_contain_text("web-2")


def test_two_clicks_are_one_deed(cast, bob):
    server = ServerFactory.create(account=cast.beta, name="web-1", active=True)
    bob.go(cast.beta, f"servers/{server.pk}/")
    bob.page.get_by_role("button", name="Actions").click()
    bob.link("Rename").click()
    bob.field("Name").fill("web-2")
    bob.button("Rename").dblclick()
    expect(bob.page.get_by_role("heading", name="web-2", exact=True)).to_be_visible()
    assert ServerEvent.objects.filter(server_id=server.pk, what="rename").count() == 1


def test_a_server_can_be_rebuilt_as_soon_as_it_is_let_alone(cast, bob):
    server = ServerFactory.create(account=cast.beta, name="web-1", active=True)
    server.power_off(by=cast.bob)
    page = bob.go(cast.beta, f"servers/{server.pk}/rebuild/")
    rebuild = page.get_by_role("button", name="Rebuild")
    expect(rebuild).to_be_disabled()
    page.get_by_label("I know that all data").check()
    tasks.power_off(server_id=str(server.pk))

    expect(rebuild).to_be_enabled()
    expect(page.get_by_label("I know that all data")).to_be_checked()
    Server.objects.get(pk=server.pk).power_on(by=cast.bob)
    rebuild.click()
    refusal = page.get_by_text("Powering on is under way")
    expect(refusal).to_be_visible()
    tasks.power_on(server_id=str(server.pk))
    expect(rebuild).to_be_enabled()
    expect(refusal).to_have_count(0)


def test_a_deed_that_comes_too_late_says_so_in_the_dialog(cast, bob):
    server = ServerFactory.create(account=cast.beta, name="web-1", active=True)
    bob.go(cast.beta, f"servers/{server.pk}/")
    bob.page.get_by_role("button", name="Actions").click()
    bob.link("Reboot").click()
    server.power_off(by=cast.alice)
    bob.button("Reboot").click()

    expect(bob.dialog.get_by_role("alert").last).to_contain_text(
        "Powering off is under way"
    )


def test_the_page_of_a_server_that_is_deleted_elsewhere_says_so(cast, bob):
    server = ServerFactory.create(account=cast.beta, active=True)
    page = bob.go(cast.beta, f"servers/{server.pk}/")
    server.delete_later(by=cast.bob)
    tasks.delete(server_id=str(server.pk))

    expect(page.get_by_text("This server has been deleted")).to_be_visible()
    expect(page.locator("#console")).to_have_count(0)


def test_bob_keeps_a_copy_of_the_image_that_is_shared_with_him(
    cast, compute, bob, settings, tmp_path
):
    settings.DATA_DIR = tmp_path
    ImageShareFactory.create(image=cast.image, consumer=cast.beta, accepted=True)
    page = bob.go(cast.beta, f"images/{cast.image.pk}/")
    expect(page.get_by_text("Boot a server from this image first")).to_be_visible()
    server = ServerFactory.create(
        account=cast.beta, name="web-1", image=cast.image, active=True
    )

    page.reload()
    page.get_by_role("link", name="Create Image of web-1").click()
    expect(bob.dialog).to_contain_text("your own copy")
    expect(bob.dialog).to_contain_text("as if the power were cut now")
    bob.field("Name").fill("our own web")
    bob.button("Keep your own copy").click()
    expect(bob.messages).to_contain_text("our own web is being made")
    expect(page.locator("#server-state .state").first).to_have_text("Creating an image")
    copy = Image.objects.get(name="our own web")
    expect(page.locator("#server-state")).to_contain_text("our own web")

    # The row of the image counts up by itself.
    bob.go(cast.beta)
    expect(bob.row("our own web")).to_contain_text("web-1")
    Image.objects.filter(pk=copy.pk).update(progress=40)
    expect(bob.row("our own web")).to_contain_text("Saving 40 %")
    Image.objects.filter(pk=copy.pk).update(
        status="active", progress=100, blob=cast.image.blob
    )
    expect(bob.row("our own web")).to_contain_text("Active")

    # From the gear of the list, while another one is being made.
    tasks.snapshot(server_id=str(server.pk))
    Image.objects.filter(pk=copy.pk).update(status="saving")
    bob.go(cast.beta, "servers/")
    page.get_by_role("button", name="Actions for web-1").click()
    page.get_by_role("link", name="Keep your own copy").click()
    bob.button("Keep your own copy").click()
    expect(bob.dialog.get_by_role("alert").last).to_contain_text(
        "is being made already"
    )


def test_bob_has_images_made_every_week_and_the_open_page_tells(cast, compute, bob):
    server = ServerFactory.create(account=cast.beta, name="web-1", active=True)
    page = bob.go(cast.beta, f"servers/{server.pk}/")
    section = page.get_by_role("region", name="Scheduled images")
    section.get_by_role("link", name="Schedule Image").click()
    bob.field("Day").select_option("Every Sunday")
    bob.field("Images to keep").fill("2")
    bob.button("Schedule Image").click()
    expect(section).to_contain_text("Every Sunday at 02:00 UTC")

    # Its moment comes while the page is open.
    schedule = ImageSchedule.objects.get()
    schedule.run(now=schedule.next_at)
    Image.objects.get(schedule_id=schedule.pk).fail("The disk cannot be read.")
    expect(section).to_contain_text("The disk cannot be read.")
    expect(page.locator("#server-events")).to_contain_text(
        "Create Image by the schedule"
    )
    bob.link("Stop the schedule").click()
    bob.button("Stop the schedule").click()
    expect(section).to_contain_text("None.")
