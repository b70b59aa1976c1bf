from unittest import mock

from django.core import mail
from django.urls import reverse
from django.utils import timezone
from procrastinate.contrib.django.models import ProcrastinateJob

from accounts.models import Account
from accounts.permissions import Role
from images.models import Image
from sharing import tasks
from sharing.models import (
    ImageReport,
    ImageShare,
    ShareDeclaration,
    ShareEvent,
)
from sharing.offers import pending_offers
from tests.cast import CastTestCase
from tests.factories import (
    ImageFactory,
    ImageShareFactory,
    RegionFactory,
    UserFactory,
)
from tests.sharing.test_producer import HTMX, limits


class ConsumerTestCase(CastTestCase):
    def setUp(self):
        self.share = ImageShareFactory.create(
            image=self.image,
            consumer=self.beta,
            offered_by=self.alice,
            message="For our club",
        )
        self.list = reverse("images:list", args=[self.beta.number])
        self.client.force_login(self.bob)

    def url(self, name, *args, account=None):
        return reverse(f"sharing:{name}", args=[(account or self.beta).pk, *args])

    def sign_in(self, role):
        user = UserFactory.create(roles=[(self.beta, role)])
        self.client.force_login(user)
        return user


class OfferTests(ConsumerTestCase):
    def setUp(self):
        super().setUp()
        self.offer = self.url("offer", self.share.pk)

    def test_the_dialog_tells_what_is_known_and_offers_three_ways_on(self):
        ShareDeclaration.objects.answer(self.image, by=self.alice)
        Image.objects.filter(pk=self.image.pk).update(
            description="A quiet system", tags=["club"], min_disk_gb=3, min_ram_mb=96
        )
        # session with user, account with roles, share, offers
        with self.assertNumQueries(4):
            response = self.client.get(self.offer)

        blob = self.image.blob
        for text in [
            "<bdi>Acme</bdi>", self.acme.number, "For our club", self.image.name,
            "Northern Virginia", "Debian 13", "A quiet system", "club", "3 GB disk",
            "96 MB RAM", blob.digest, blob.disk_format, str(self.image.pk),
            "The account declared on", "nonstandard", "/etc/passwd", "SSH keys",
            "people you trust", "Report Image",
            ">Accept</button>", ">Reject</button>", "data-close>Close</a>",
        ]:  # fmt: skip
            with self.subTest(text=text):
                self.assertContains(response, text)

    def test_it_tells_nothing_of_other_consumers_nor_of_users(self):
        ImageShareFactory.create(image=self.image, consumer=self.corp)
        ShareDeclaration.objects.answer(self.image, by=self.alice)

        response = self.client.get(self.offer)

        for secret in ["alice", "Corp", self.corp.number]:
            self.assertNotContains(response, secret)

    def test_htmx_gets_the_dialog_alone(self):
        response = self.client.get(self.offer, headers=HTMX)

        self.assertContains(response, 'id="dialog-title"')
        self.assertNotContains(response, "<html")

    def test_a_creator_sees_the_offer_and_why_it_cannot_be_answered(self):
        self.sign_in(Role.IMAGES_CREATOR)

        response = self.client.get(self.offer)

        self.assertContains(response, "Accepting or rejecting needs cloudImages:admin.")
        self.assertContains(response, "users have it: bob.")
        self.assertNotContains(response, self.url("accept", self.share.pk))
        assert self.client.post(self.url("accept", self.share.pk)).status_code == 403
        assert self.client.post(self.url("reject", self.share.pk)).status_code == 403
        self.share.refresh_from_db()
        assert self.share.is_pending

    def test_what_is_answered_offers_no_answer(self):
        self.share.accept(by=self.bob)
        self.assertNotContains(self.client.get(self.offer), ">Accept</button>")
        self.share.remove(by=self.bob)
        response = self.client.get(self.offer)
        self.assertNotContains(response, ">Accept</button>")
        self.assertContains(response, "ask the producer to share it again")

    def test_the_image_of_a_suspended_producer_is_not_available_at_the_moment(self):
        Account.objects.filter(pk=self.acme.pk).update(status="suspended")

        self.assertContains(self.client.get(self.offer), "not available at the moment")

    def test_a_stranger_finds_nothing(self):
        self.client.force_login(self.carol)
        for account in [self.beta, self.corp]:
            url = self.url("offer", self.share.pk, account=account)
            assert self.client.get(url).status_code == 404

    def test_alice_cannot_answer_for_bob(self):
        self.client.force_login(self.alice)
        for account in [self.acme, self.beta]:
            for deed in ["accept", "reject"]:
                url = self.url(deed, self.share.pk, account=account)
                assert self.client.post(url).status_code == 404
        self.share.refresh_from_db()
        assert self.share.is_pending

    def test_a_message_is_never_markup(self):
        ImageShare.objects.update(message="<script>x</script>")

        self.assertContains(self.client.get(self.offer), "&lt;script&gt;x")


class AnswerTests(ConsumerTestCase):
    def setUp(self):
        super().setUp()
        self.accept = self.url("accept", self.share.pk)
        self.reject = self.url("reject", self.share.pk)

    def status(self):
        return ImageShare.objects.get().status

    def test_bob_accepts_and_is_back_at_the_list(self):
        response = self.client.post(f"{self.accept}?region=IAD")

        self.assertRedirects(
            response, f"{self.list}?region=IAD", fetch_redirect_response=False
        )
        assert self.status() == "accepted"
        assert Image.objects.usable_by(self.beta).get() == self.image
        page = self.client.get(self.url("offers-list"))
        self.assertContains(page, "is accepted. It is among your Saved Images now")

    def test_bob_rejects_and_is_back_at_the_list(self):
        response = self.client.post(self.reject)

        self.assertRedirects(response, self.list, fetch_redirect_response=False)
        assert self.status() == "rejected"
        assert not Image.objects.usable_by(self.beta).exists()

    def test_from_create_server_bob_is_back_there(self):
        response = self.client.post(f"{self.accept}?place=servers")

        self.assertRedirects(
            response,
            reverse("servers:create", args=[self.beta.number]),
            fetch_redirect_response=False,
        )

    def test_with_htmx_the_dialog_closes_and_list_and_count_renew_themselves(self):
        for url in [self.accept, self.reject]:
            with self.subTest(url=url):
                self.share.refresh_from_db()
                self.share.set_status("pending", by=self.bob)
                response = self.client.post(url, headers=HTMX)

                assert response.status_code == 200
                assert "offers-answered" in response["HX-Trigger"]
                assert "images-changed" in response["HX-Trigger"]
                self.assertContains(response, 'id="messages"')
                self.assertNotContains(response, "dialog-title")

    def test_who_is_too_late_gets_the_fresh_state(self):
        for deed, url, sentence in [
            ("accept", self.accept, "the image is accepted"),
            ("accept", self.reject, "the image is accepted"),
            ("reject", self.accept, "the image is rejected"),
            ("reject", self.reject, "the image is rejected"),
        ]:
            with self.subTest(deed=deed, url=url):
                self.share.set_status("pending", by=self.bob)
                getattr(self.share, deed)(by=self.bob)
                for headers in [HTMX, {}]:
                    response = self.client.post(url, headers=headers)
                    self.assertContains(response, sentence, status_code=409)
                    self.assertNotContains(
                        response, ">Accept</button>", status_code=409
                    )
                    assert "offers-answered" in response["HX-Trigger"]
                assert self.status() == self.share.status

    def test_an_offer_withdrawn_before_or_meanwhile_is_told(self):
        accept = ImageShare.accept

        def withdrawn_meanwhile(share, **kwargs):
            ImageShare.objects.all().delete()
            return accept(share, **kwargs)

        with mock.patch.object(ImageShare, "accept", withdrawn_meanwhile):
            meanwhile = self.client.post(self.accept, headers=HTMX)
        before = self.client.post(self.accept, headers=HTMX)
        for response in [meanwhile, before]:
            self.assertContains(
                response, "may have stopped sharing the image", status_code=404
            )

    def test_answers_are_deeds_and_no_links(self):
        assert self.client.get(self.accept).status_code == 405
        assert self.client.get(self.reject).status_code == 405

    def test_an_expired_login_leaves_the_page_instead_of_filling_the_dialog(self):
        self.client.logout()
        headers = HTMX | {"HX-Current-URL": f"http://testserver{self.list}"}

        response = self.client.post(self.accept, headers=headers)

        assert response["HX-Redirect"] == f"{reverse('login')}?next={self.list}"


class RemoveTests(ConsumerTestCase):
    def setUp(self):
        super().setUp()
        self.remove = self.url("remove", self.image.pk)
        self.share.accept(by=self.bob)

    def test_the_confirmation_says_what_it_means(self):
        response = self.client.get(self.remove)

        self.assertContains(response, "rejects the image for the whole account")
        self.assertContains(response, "keep running")
        self.assertContains(response, "to share it again")

    def test_bob_removes_and_the_image_leaves_the_list(self):
        response = self.client.post(self.remove)

        self.assertRedirects(response, self.list, fetch_redirect_response=False)
        assert ImageShare.objects.get().is_rejected
        assert not Image.objects.usable_by(self.beta).exists()
        event = ShareEvent.objects.latest("pk")
        assert (event.actor_name, event.from_status) == ("bob", "accepted")

    def test_with_htmx_the_list_renews_itself(self):
        response = self.client.post(self.remove, headers=HTMX)

        assert "images-changed" in response["HX-Trigger"]

    def test_on_image_detail_the_whole_page_changes(self):
        detail = reverse("images:detail", args=[self.beta.number, self.image.pk])
        headers = HTMX | {"HX-Current-URL": f"http://testserver{detail}?region=IAD"}

        response = self.client.post(f"{self.remove}?region=IAD", headers=headers)
        assert response["HX-Redirect"] == f"{self.list}?region=IAD"

        self.share.refresh_from_db()
        self.share.set_status("pending", by=self.bob)
        accept = self.url("accept", self.share.pk)
        assert self.client.post(accept, headers=headers)["HX-Redirect"] == detail

    def test_removing_twice_is_a_conflict(self):
        self.client.post(self.remove)

        response = self.client.post(self.remove)

        self.assertContains(response, "Ask the producer", status_code=409)

    def test_a_pending_one_is_answered_and_not_removed(self):
        self.share.set_status("pending", by=self.bob)

        assert self.client.post(self.remove).status_code == 409
        self.assertContains(self.client.get(self.remove), ">Accept</button>")

    def test_an_own_or_foreign_image_is_not_found(self):
        for image in [
            ImageFactory.create(owner=self.beta),
            ImageFactory.create(owner=self.corp),
            ImageFactory.create(owner=None),
        ]:
            assert self.client.post(self.url("remove", image.pk)).status_code == 404
            assert self.client.get(self.url("remove", image.pk)).status_code == 404

    def test_a_creator_may_not(self):
        self.sign_in(Role.IMAGES_CREATOR)

        assert self.client.post(self.remove).status_code == 403


class ImageDetailTests(ConsumerTestCase):
    def detail(self):
        url = reverse("images:detail", args=[self.beta.number, self.image.pk])
        return self.client.get(url)

    def test_it_says_who_shared_the_image_with_advice_and_deeds(self):
        self.share.accept(by=self.bob)
        ShareDeclaration.objects.answer(self.image, by=self.alice)
        ImageShareFactory.create(image=self.image, consumer=self.corp)

        response = self.detail()

        for text in [
            "Shared by <bdi>Acme</bdi>", self.acme.number, "The account declared on",
            "/etc/passwd", "nonstandard", "Accepted", "by <bdi>bob</bdi>",
            self.url("remove", self.image.pk), self.url("report", self.image.pk),
        ]:  # fmt: skip
            with self.subTest(text=text):
                self.assertContains(response, text)
        for secret in ["alice", "Corp", self.corp.number]:
            self.assertNotContains(response, secret)

    def test_an_observer_sees_why_it_cannot_be_removed(self):
        self.share.accept(by=self.bob)
        self.sign_in(Role.IMAGES_OBSERVER)

        self.assertContains(self.detail(), "Removing needs cloudImages:admin.")

    def test_the_image_of_a_suspended_producer_is_not_available_at_the_moment(self):
        self.share.accept(by=self.bob)
        Account.objects.filter(pk=self.acme.pk).update(status="suspended")

        self.assertContains(self.detail(), "not available at the moment")

    def test_alice_sees_her_consumers_and_a_base_image_has_no_sharing(self):
        self.client.force_login(self.alice)
        for image, shown in [(self.image, 1), (ImageFactory.create(owner=None), 0)]:
            url = reverse("images:detail", args=[self.acme.number, image.pk])
            self.assertContains(self.client.get(url), 'id="image-sharing"', count=shown)


class ReportTests(ConsumerTestCase):
    def setUp(self):
        super().setUp()
        self.report = self.url("report", self.image.pk)

    def send(self, **fields):
        return self.client.post(self.report, {"reason": "malware"} | fields)

    def test_a_report_is_kept_and_mailed_to_the_support(self):
        self.share.accept(by=self.bob)
        response = self.send(text="It mines.")

        self.assertRedirects(response, self.list, fetch_redirect_response=False)
        report = ImageReport.objects.get()
        assert report.digest == self.image.blob.digest
        assert (report.producer, report.reporter) == (self.acme, self.beta)
        job = ProcrastinateJob.objects.filter(queue_name="mail").latest("pk")
        assert job.args == {"report_id": report.pk}
        tasks.mail_report(**job.args)
        (sent,) = mail.outbox
        assert sent.to == ["support@example.com"]
        for text in [
            "It mines.", self.acme.number, self.beta.number, report.digest, "malicious",
        ]:  # fmt: skip
            assert text in sent.body

    def test_a_name_with_line_breaks_is_no_mail_header(self):
        Image.objects.update(name="x\nBcc: all@example.com")
        ShareEvent.objects.update(image_name="x\nBcc: all@example.com")
        self.send()

        tasks.mail_report(report_id=ImageReport.objects.get().pk)

        assert mail.outbox[0].subject == "Image reported: x Bcc: all@example.com"

    def test_what_is_pending_or_withdrawn_can_be_reported_too(self):
        assert self.send().status_code == 302
        self.image.delete_with_shares(by=self.alice)
        assert self.send().status_code == 302

        digests = ImageReport.objects.order_by("pk").values_list("digest", flat=True)
        assert list(map(bool, digests)) == [True, False]

    def test_who_has_servers_only_may_report_what_they_do(self):
        self.sign_in(Role.SERVERS_OBSERVER)

        assert self.client.get(self.report).status_code == 200
        assert self.send().status_code == 302

    def test_a_reason_is_needed_and_the_text_kept(self):
        for reason in ["", "dislike"]:
            response = self.send(reason=reason, text="Kept as typed")
            self.assertContains(response, "Kept as typed", status_code=422)
        assert not ImageReport.objects.exists()

    @limits(reports_per_day=1)
    def test_the_limit_of_the_day_is_named(self):
        self.send()

        self.assertContains(self.send(), "1 times today", status_code=422)

    def test_what_was_never_shared_with_the_account_is_not_found(self):
        image = ImageFactory.create(owner=self.acme)

        assert self.client.get(self.url("report", image.pk)).status_code == 404
        self.client.force_login(self.carol)
        url = self.url("report", self.image.pk, account=self.corp)
        assert self.client.get(url).status_code == 404


class NotificationTests(ConsumerTestCase):
    def notifications(self, query="", **kwargs):
        return self.client.get(self.url("notifications") + query, **kwargs)

    def test_it_tells_who_offers_what_where_and_when(self):
        response = self.notifications()

        for text in [
            "An image is offered to this account", "<bdi>Acme</bdi>", self.acme.number,
            f"<bdi>{self.image.name}</bdi>", "Northern Virginia (IAD)", "For our club",
            timezone.now().strftime("%Y"), self.url("offer", self.share.pk),
        ]:  # fmt: skip
            with self.subTest(text=text):
                self.assertContains(response, text)
        self.assertNotContains(response, "alice")
        self.assertNotContains(response, "<html")

    def test_it_shows_in_its_region_and_in_all_regions_only(self):
        RegionFactory.create(code="LON")

        for query, shown in [("", 1), ("?region=all", 1), ("?region=IAD", 1),
                             ("?region=LON", 0)]:  # fmt: skip
            with self.subTest(query=query):
                self.assertContains(self.notifications(query), "Acme", count=shown)

    def test_an_offer_of_another_region_does_not_come_along(self):
        lon = ImageFactory.create(region=RegionFactory.create(code="LON"))
        ImageShareFactory.create(image=lon, consumer=self.beta)

        response = self.notifications("?region=IAD")

        self.assertContains(response, "An image is offered to this account")
        self.assertContains(response, self.image.name)
        self.assertNotContains(response, lon.name)

    def test_what_is_answered_is_not_notified(self):
        self.share.accept(by=self.bob)
        self.assertNotContains(self.notifications(), "Acme")
        self.share.remove(by=self.bob)
        self.assertNotContains(self.notifications(), "Acme")

    def test_of_many_there_is_one_with_the_count_and_a_list(self):
        ImageShareFactory.create_batch(4, consumer=self.beta)

        # session with user, account with roles, offers, shares
        with self.assertNumQueries(4):
            response = self.notifications()

        self.assertContains(response, "5 images are offered to this account")
        self.assertContains(response, "Accept or reject<", count=3)
        self.assertContains(response, "All 5 offers")

    def test_without_offers_the_shares_are_not_even_asked_for(self):
        self.share.accept(by=self.bob)
        with self.assertNumQueries(3):
            self.notifications()

    def test_who_may_not_see_images_sees_no_offers(self):
        self.sign_in(Role.SERVERS_ADMIN)

        self.assertNotContains(self.notifications(), "Acme")

    def test_saved_images_and_create_server_show_it_for_their_region(self):
        RegionFactory.create(code="LON")
        create = reverse("servers:create", args=[self.beta.number])
        for page, shown in [
            (self.list, 1),
            (f"{self.list}?region=IAD", 1),
            (f"{self.list}?region=LON", 0),
            (create, 1),  # the home region
            (f"{create}?region=IAD", 1),
            (f"{create}?region=LON", 0),
        ]:
            with self.subTest(page=page):
                response = self.client.get(page)
                self.assertContains(response, "<bdi>Acme</bdi>", count=shown)

    def test_names_in_any_script_keep_to_themselves(self):
        Account.objects.filter(pk=self.acme.pk).update(name="شركة <b>")

        self.assertContains(self.notifications(), "<bdi>شركة &lt;b&gt;</bdi>")


class OffersListTests(ConsumerTestCase):
    def test_it_is_paged_by_key_and_its_queries_do_not_grow(self):
        ImageShareFactory.create_batch(29, consumer=self.beta)
        url = self.url("offers-list")
        # session with user, account with roles, shares, offers
        with self.assertNumQueries(4):
            first = self.client.get(url)
        self.assertContains(first, "data-dialog>Accept or reject", count=25)

        (older,) = [
            line.partition('href="')[2].partition('"')[0]
            for line in first.content.decode().split("<a ")
            if ">Older<" in line
        ]
        second = self.client.get(older.replace("&amp;", "&"))

        self.assertContains(second, "data-dialog>Accept or reject", count=5)
        self.assertNotContains(second, "Older")
        self.assertContains(second, "Newest")

    def test_the_region_is_kept(self):
        lon = ImageFactory.create(region=RegionFactory.create(code="LON"))
        ImageShareFactory.create(image=lon, consumer=self.beta)
        response = self.client.get(self.url("offers-list") + "?region=LON")

        self.assertContains(response, lon.name)
        self.assertNotContains(response, self.image.name)

    def test_an_unknown_page_gives_a_clear_message(self):
        for key in ["x", "2026-01-01_x", "_", "2026-13-01T00:00:00_" + "0" * 32]:
            with self.subTest(key=key):
                response = self.client.get(self.url("offers-list"), {"before": key})
                self.assertContains(response, "There is no such page")
                self.assertContains(response, self.image.name)

    def test_without_offers_it_says_so(self):
        self.share.accept(by=self.bob)

        self.assertContains(
            self.client.get(self.url("offers-list")), "No image is waiting"
        )


class HeaderTests(ConsumerTestCase):
    def poll(self, seen="", **kwargs):
        return self.client.get(
            self.url("offers"), {"seen": seen}, headers=HTMX, **kwargs
        )

    def offers(self):
        return pending_offers(self.beta.number, self.bob)

    def seen(self):
        return self.offers().version

    def test_the_count_is_over_all_regions_with_a_breakdown(self):
        lon = RegionFactory.create(code="LON")
        for _ in range(2):
            ImageShareFactory.create(image=ImageFactory(region=lon), consumer=self.beta)

        page = self.client.get(self.url("offers-list") + "?region=IAD")

        offers = self.offers()
        assert offers.count == "3"
        assert [(r.code, r.count) for r in offers.regions] == [
            ("LON", "2"),
            ("IAD", "1"),
        ]
        self.assertContains(page, "London (LON)")

    def test_nothing_new_costs_two_queries_and_no_page(self):
        seen = self.seen()
        # session with user, right and news together
        with self.assertNumQueries(2):
            response = self.poll(seen)

        assert response.status_code == 204
        assert response.content == b""

    def test_a_new_offer_an_answer_and_a_withdrawal_are_all_news(self):
        def offer():
            ImageShareFactory.create(consumer=self.beta)

        def withdraw():
            ImageShare.objects.pending().order_by("pk")[0].revoke(by=self.alice)

        for deed in [offer, lambda: self.share.accept(by=self.bob), offer, withdraw]:
            seen = self.seen()
            deed()
            response = self.poll(seen)
            assert response.status_code == 200
            assert "offers-changed" in response["HX-Trigger"]
            self.assertContains(response, 'id="offers"')
            assert self.poll(self.seen()).status_code == 204

    def test_one_withdrawn_and_another_offered_is_news_too(self):
        seen = self.seen()
        self.share.revoke(by=self.alice)
        ImageShareFactory.create(consumer=self.beta)

        assert self.poll(seen).status_code == 200

    def test_very_many_are_not_counted_on(self):
        with mock.patch("sharing.offers.MOST", 2):
            ImageShareFactory.create_batch(4, consumer=self.beta)

            assert self.offers().count == "2+"

    def test_who_may_not_see_images_gets_no_count(self):
        self.sign_in(Role.SERVERS_ADMIN)

        assert self.poll().status_code == 403
        assert self.poll("0").status_code == 403

    def test_a_suspended_account_gets_none(self):
        seen = self.seen()
        Account.objects.filter(pk=self.beta.pk).update(status="suspended")

        assert self.poll().status_code == 403
        assert self.poll(seen).status_code == 403

    def test_a_stranger_finds_nothing(self):
        seen = self.seen()
        self.client.force_login(self.carol)

        assert self.poll().status_code == 404
        assert self.poll(seen).status_code == 404

    def test_who_is_not_signed_in_must_sign_in(self):
        self.client.logout()

        assert self.poll()["HX-Redirect"].startswith(reverse("login"))
