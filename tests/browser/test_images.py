"""Saved Images: upload with its progress, the list, deleting and downloading."""

import re
from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from images.models import Image
from tests.factories import ImageFactory, RegionFactory
from tests.images.stores import corpus
from tests.images.stores.case import needs_qemu
from tests.worker import work

# The disk takes a second or two with it.
SLOW = {
    "offline": False,
    "latency": 0,
    "downloadThroughput": -1,
    "uploadThroughput": 64 << 10,
}


@pytest.fixture
def alice(visit, cast):
    return visit(cast.alice)


# Whether the browser would ask before it leaves, all being sent and not yet answered.
WOULD_ASK = """
() => {
    const bar = document.querySelector("progress[data-upload]");
    bar.value = bar.max;
    const leaving = new Event("beforeunload", {cancelable: true});
    dispatchEvent(leaving);
    return leaving.defaultPrevented;
}
"""


def expect_names(alice, *names):
    expect(alice.page.locator("tbody th bdi")).to_have_text(names)


def many_images(cast, count):
    now = timezone.now()
    images = [
        ImageFactory.create(owner=cast.acme, name=f"image {n:02}") for n in range(count)
    ]
    for n, image in enumerate(images):
        Image.objects.filter(pk=image.pk).update(
            created_at=now - timedelta(hours=n + 1)
        )
    return images


@needs_qemu
class UploadTests:
    @pytest.mark.parametrize("kind", ["raw", "qcow2"])
    def test_a_disk_comes_up_and_down_byte_for_byte(self, alice, cast, tmp_path, kind):
        path = tmp_path / f"disk.{kind}"
        if kind == "raw":
            corpus.raw_mbr(path)
        else:
            corpus.converted(path, "qcow2")
        alice.go(cast.acme)
        alice.link("Upload Image").click()
        alice.field("Name").fill("Debian für Zoë")
        alice.field("Operating system").fill("Debian 13")
        alice.field("File").set_input_files(path)
        alice.button("Upload Image").click()

        expect(alice.page.get_by_role("heading", name="Debian für Zoë")).to_be_visible()
        expect(alice.page.locator("#image-facts")).to_contain_text("Saving")
        work()
        expect(alice.page.locator("#image-facts")).to_contain_text("Active")
        alice.page.wait_for_load_state()

        alice.page.get_by_role("button", name="Actions for").click()
        with alice.page.expect_download() as downloading:
            alice.link("Download").click()
        download = downloading.value
        assert download.suggested_filename.startswith("Debian für Zoë")
        assert download.path().read_bytes() == path.read_bytes()

    def test_the_progress_is_shown_while_it_lasts(self, alice, cast, tmp_path):
        path = corpus.raw_mbr(tmp_path / "disk.raw")
        alice.go(cast.acme, "images/upload/")
        alice.field("File").set_input_files(path)
        bar = alice.page.get_by_role("progressbar", name="Upload")
        expect(bar).to_be_hidden()
        asked = []
        alice.page.on("dialog", lambda ask: asked.append(ask.type) or ask.accept())
        network = alice.context.new_cdp_session(alice.page)
        network.send("Network.enable")
        network.send("Network.emulateNetworkConditions", SLOW)
        alice.button("Upload Image").click()

        expect(bar).to_be_visible()
        expect(alice.page.get_by_text("of 8 MiB")).to_be_visible()
        assert alice.page.evaluate(WOULD_ASK) is True
        network.send(
            "Network.emulateNetworkConditions", SLOW | {"uploadThroughput": -1}
        )
        expect(alice.page.get_by_role("heading", name="disk.raw")).to_be_visible()
        assert asked == []  # the answer leads away, and nothing is lost

    def test_a_wrong_file_is_refused_beside_the_field_and_the_rest_is_kept(
        self, alice, cast, tmp_path
    ):
        path = tmp_path / "letter.txt"
        path.write_text("Dear Alice, " * 200)
        alice.go(cast.acme, "images/upload/", region="LON")
        alice.field("Name").fill("web")
        alice.field("Description").fill("For the web")
        alice.field("File").set_input_files(path)
        alice.button("Upload Image").click()

        file = alice.field("File")
        expect(file).to_have_attribute("aria-invalid", "true")
        expect(file).to_have_accessible_description(re.compile("not|no "))
        expect(alice.field("Name")).to_have_value("web")
        expect(alice.field("Description")).to_have_value("For the web")
        expect(alice.page.locator("#upload-form")).to_contain_text("London (LON)")
        assert not Image.objects.filter(name="web").exists()


class ListTests:
    def test_search_as_you_type(self, alice, cast):
        ImageFactory.create(owner=cast.acme, name="mail-server")
        alice.go(cast.acme)
        expect(alice.row("web-golden")).to_be_visible()

        search = alice.page.get_by_role("searchbox", name="Search by name")
        search.press_sequentially("MAIL")

        expect(alice.row("web-golden")).to_have_count(0)
        expect(alice.row("mail-server")).to_be_visible()
        expect(search).to_be_focused()
        expect(alice.page).to_have_url(re.compile("q=MAIL"))
        alice.page.reload()
        expect(search).to_have_value("MAIL")
        expect(alice.row("web-golden")).to_have_count(0)

        search.fill("nothing like it")
        expect(alice.page.get_by_role("heading", name="No image has")).to_be_visible()

    def test_sort_and_back(self, alice, cast):
        ImageFactory.create(owner=cast.acme, name="a mail server")
        alice.go(cast.acme)
        expect_names(alice, "a mail server", "web-golden")

        alice.page.get_by_role("columnheader", name="Name").get_by_role("link").click()
        head = alice.page.get_by_role("columnheader", name="Name")
        expect(head).to_have_attribute("aria-sort", "ascending")
        head.get_by_role("link").click()
        expect(head).to_have_attribute("aria-sort", "descending")
        expect_names(alice, "web-golden", "a mail server")

        alice.page.go_back()
        expect(head).to_have_attribute("aria-sort", "ascending")
        expect_names(alice, "a mail server", "web-golden")

    def test_the_region_narrows_the_list(self, alice, cast):
        london = RegionFactory.create(code="LON")
        ImageFactory.create(owner=cast.acme, name="london-calling", region=london)
        alice.go(cast.acme)
        regions = alice.page.get_by_role("navigation", name="Region")
        expect(regions).to_contain_text("All Regions (Global) 2")

        regions.get_by_role("link", name="London 1").click()

        expect(alice.row("london-calling")).to_be_visible()
        expect(alice.row("web-golden")).to_have_count(0)

    def test_pages_by_key_there_and_back(self, alice, cast):
        many_images(cast, 59)
        alice.go(cast.acme)
        pager = alice.page.get_by_role("navigation", name="Pages")
        expect(alice.page.locator("tbody th bdi").first).to_have_text("web-golden")

        pager.get_by_role("link", name="Next").click()
        expect(alice.row("image 24")).to_be_visible()
        pager.get_by_role("link", name="Next").click()
        expect(alice.row("image 58")).to_be_visible()
        expect(alice.page.locator("tbody th bdi")).to_have_count(10)
        expect(pager.get_by_role("link", name="Next")).to_have_count(0)

        pager.get_by_role("link", name="Previous").click()
        expect(alice.row("image 24")).to_be_visible()
        pager.get_by_role("link", name="First page").click()
        expect(alice.row("web-golden")).to_be_visible()
        alice.page.go_back()
        expect(alice.row("image 24")).to_be_visible()

    def test_several_are_deleted_at_once_but_none_that_is_protected(self, alice, cast):
        many_images(cast, 2)
        Image.objects.filter(pk=cast.image.pk).update(protected=True)
        alice.go(cast.acme)
        delete = alice.page.get_by_role("button", name="Delete")
        expect(delete).to_be_disabled()

        alice.page.get_by_label("Choose all on this page").check()
        expect(delete).to_have_text("Delete (3)")
        delete.click()
        expect(alice.row("web-golden")).to_contain_text("Stays")
        alice.button("Delete").click()

        expect(alice.messages).to_contain_text("2 images have been deleted.")
        expect_names(alice, "web-golden")

    def test_a_changed_description_is_saved(self, alice, cast):
        alice.go(cast.acme)
        alice.choose_from_gear(cast.image, "Edit")
        alice.field("Name").fill("")
        alice.button("Save").click()
        expect(alice.field("Name")).to_be_focused()

        alice.field("Name").fill("خادم الويب")
        alice.field("Tags").fill("web, rtl")
        alice.button("Save").click()

        expect(alice.messages).to_contain_text("has been saved")
        expect(alice.row("خادم الويب")).to_be_visible()

    def test_one_is_deleted_from_its_gear(self, alice, cast):
        alice.go(cast.acme, f"images/{cast.image.pk}/")
        alice.page.get_by_role("button", name="Actions for").click()
        alice.page.locator(".menu").get_by_role("link", name="Delete").click()
        alice.button("Delete").click()

        expect(alice.messages).to_contain_text("web-golden has been deleted.")
        expect(
            alice.page.get_by_role("heading", name="No saved images")
        ).to_be_visible()

    def test_an_image_on_its_way_is_followed_in_the_list(self, alice, cast):
        Image.objects.filter(pk=cast.image.pk).update(status="saving")
        alice.page.clock.install()
        alice.go(cast.acme)
        expect(alice.row("web-golden")).to_contain_text("Saving")

        Image.objects.filter(pk=cast.image.pk).update(status="active")
        alice.page.clock.fast_forward("00:05")

        expect(alice.row("web-golden")).to_contain_text("Active")
