from datetime import timedelta
from unittest import mock

from django.conf import settings
from django.test import override_settings
from django.urls import reverse
from django.utils import timezone

from accounts.models import Account, LimitUse
from accounts.permissions import Role
from images.models import Image
from sharing.models import ImageShare, ShareDeclaration, ShareEvent
from tests.cast import CastTestCase
from tests.factories import (
    AccountFactory,
    ImageFactory,
    ImageShareFactory,
    UserFactory,
    account_number,
)

HTMX = {"HX-Request": "true"}
UNKNOWN = account_number(999)
ANSWERS = {
    "may_be_distributed": "on",
    "holds_no_secrets": "on",
    "holds_no_malware": "on",
}


def limits(**changed):
    return override_settings(SHARING=settings.SHARING | changed)


class ShareTestCase(CastTestCase):
    def setUp(self):
        args = [self.acme.number, self.image.pk]
        self.url = reverse("sharing:share", args=args)
        self.section = reverse("sharing:shares", args=args)
        self.detail = reverse("images:detail", args=args)
        self.client.force_login(self.alice)

    def offer(self, number, *, headers=None, **fields):
        data = ANSWERS | {"way": "customer", "number": number} | fields
        return self.client.post(self.url, data, headers=headers)


class QuestionsTests(ShareTestCase):
    def test_the_dialog_asks_the_three_questions_first(self):
        response = self.client.get(self.url)

        self.assertContains(response, "licence that forbids distribution")
        self.assertContains(response, "your sensitive information")
        self.assertContains(response, "malicious software")
        self.assertContains(response, "Acceptable Use Policy")
        self.assertContains(response, "has not booted a server from the image yet")
        self.assertContains(response, "<html")

    def test_nothing_is_shared_before_they_are_answered(self):
        for question in ANSWERS:
            with self.subTest(question=question):
                response = self.offer(self.beta.number, **{question: ""})

                self.assertContains(
                    response, "Answer this before you share", status_code=422
                )
        assert not ImageShare.objects.exists()
        assert not ShareDeclaration.objects.exists()

    def test_the_answers_are_kept_with_user_and_time_and_not_asked_again(self):
        self.offer(self.beta.number)

        assert ShareDeclaration.objects.get().made_by == "alice"
        response = self.client.get(self.url)
        self.assertContains(response, "were answered by <bdi>alice</bdi>")
        self.assertNotContains(response, "may_be_distributed")
        assert (
            self.client.post(
                self.url, {"way": "customer", "number": self.corp.number}
            ).status_code
            == 302
        )
        assert ShareDeclaration.objects.count() == 1

    def test_the_newest_server_from_the_image_is_told(self):
        self.image.mark_tried()
        response = self.client.get(self.url)

        self.assertContains(response, "last booted a server from the image on")

    def test_an_observer_may_not_share(self):
        observer = UserFactory.create(roles=[(self.acme, Role.IMAGES_OBSERVER)])
        self.client.force_login(observer)

        assert self.client.get(self.url).status_code == 403
        assert self.offer(self.beta.number).status_code == 403

    def test_an_image_of_another_account_is_not_found(self):
        image = ImageFactory.create(owner=self.beta)
        url = reverse("sharing:share", args=[self.acme.number, image.pk])

        assert self.client.get(url).status_code == 404
        assert self.client.post(url).status_code == 404


class AnotherCustomerTests(ShareTestCase):
    def test_alice_offers_and_is_back_at_the_image(self):
        response = self.offer(self.beta.number, message="  As agreed.  ")

        self.assertRedirects(
            response, f"{self.detail}#image-sharing", fetch_redirect_response=False
        )
        share = ImageShare.objects.get()
        assert share.consumer == self.beta
        assert (share.message, share.offered_by) == ("As agreed.", "alice")

    def test_with_htmx_the_dialog_closes_and_the_section_renews_itself(self):
        response = self.offer(self.beta.number, headers=HTMX)

        assert response.status_code == 200
        assert "shares-changed" in response["HX-Trigger"]
        self.assertContains(response, f"is offered to {self.beta.number}.")
        self.assertNotContains(response, "<form")

    def test_the_answer_does_not_tell_whether_the_account_exists(self):
        # The declaration and the day's counter.
        self.offer(self.corp.number, headers=HTMX)
        answers = set()
        for number in [self.beta.number, UNKNOWN]:
            with self.subTest(number=number):
                with self.assertNumQueries(19):
                    response = self.offer(number, headers=HTMX)
                answers.add(response.content.decode().replace(number, "number"))
                page = self.client.get(self.section)
                self.assertContains(page, number)
        assert len(answers) == 1
        one, other = ImageShare.objects.exclude(consumer=self.corp)
        assert one.status == other.status == "pending"

    def test_the_section_does_not_tell_whether_the_account_exists(self):
        rows = set()
        for number in [self.beta.number, UNKNOWN]:
            share = ImageShare.objects.offer(self.image, to=number, by=self.alice)
            page = self.client.get(self.section).content.decode()
            row = page[page.index(f'id="share-{share.pk}') : page.index("</tbody>")]
            for each in [number, str(share.pk)]:
                row = row.replace(each, "x")
            rows.add(row.partition('Shared">')[0])
            share.revoke(by=self.alice)
        assert len(rows) == 1

    def test_the_name_of_a_discoverable_account_is_shown(self):
        Account.objects.filter(pk=self.beta.pk).update(discoverable=True)

        response = self.offer(self.beta.number, headers=HTMX)

        self.assertContains(response, f"is offered to Beta ({self.beta.number}).")

    def test_a_wrong_number_is_told_beside_the_field_and_the_form_kept(self):
        typo = self.beta.number[:-1] + str((int(self.beta.number[-1]) + 1) % 10)
        for number, sentence in [
            ("", "Enter the account number."),
            ("Beta", "This is no account number"),
            (typo, "check it for a typing error"),
            ("8" * 41, "at most 40 characters"),
            (self.acme.number, "This is your own account."),
        ]:
            with self.subTest(number=number):
                response = self.offer(number, headers=HTMX, message="Kept as typed")
                self.assertContains(response, sentence, status_code=422)
                self.assertContains(response, "Kept as typed", status_code=422)
                self.assertContains(response, 'aria-invalid="true"', status_code=422)
                self.assertNotContains(response, "<html", status_code=422)
        assert not ImageShare.objects.exists()

    def test_a_number_may_be_grouped_by_spaces(self):
        number = self.beta.number
        self.offer(f" {number[:4]} {number[4:]}")

        assert ImageShare.objects.get().consumer == self.beta

    def test_a_double_click_makes_one_share_and_says_so(self):
        self.offer(self.beta.number)

        response = self.offer(self.beta.number)

        self.assertContains(response, "already shared with", status_code=422)
        assert ImageShare.objects.count() == 1
        assert ShareEvent.objects.count() == 1

    def test_after_a_rejection_the_error_says_what_to_do(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta, rejected=True)

        response = self.offer(self.beta.number)

        self.assertContains(
            response, "remove the consumer, then share again", status_code=422
        )

    def test_a_message_is_at_most_280_characters_and_never_markup(self):
        response = self.offer(self.beta.number, message="x" * 281)
        self.assertContains(response, "at most 280 characters", status_code=422)

        self.offer(self.beta.number, message="<b>Hello</b>")
        self.assertContains(self.client.get(self.section), "&lt;b&gt;Hello&lt;/b&gt;")

    def test_an_image_that_is_not_active_is_refused(self):
        Image.objects.filter(pk=self.image.pk).update(status="deactivated")

        self.assertContains(self.client.get(self.url), "Only an active image")
        response = self.offer(self.beta.number)

        self.assertContains(response, "it is Deactivated", status_code=422)

    @limits(offers_per_day=1)
    def test_the_limit_of_the_day_is_named(self):
        self.offer(self.beta.number)

        response = self.offer(self.corp.number)

        self.assertContains(response, "1 times today", status_code=422)

    def test_an_unknown_way_or_none_is_refused(self):
        for way in ["", "by post"]:
            with self.subTest(way=way):
                response = self.client.post(self.url, ANSWERS | {"way": way})
                self.assertContains(response, "Choose", status_code=422)

    def test_an_empty_post_is_no_visit(self):
        assert self.client.post(self.url).status_code == 422


class LookupTests(ShareTestCase):
    def look_up(self, number):
        url = reverse("sharing:lookup", args=[self.acme.number, self.image.pk])
        return self.client.post(url, {"number": number}, headers=HTMX)

    def test_only_a_discoverable_account_is_named(self):
        AccountFactory.create(number=account_number(901), discoverable=True, name="Me")
        self.look_up(self.corp.number)  # makes the day's counter

        answers = set()
        for number in [self.beta.number, UNKNOWN]:
            with self.assertNumQueries(6):
                answers.add(self.look_up(number).content)
        assert answers == {b"\n"}
        self.assertContains(self.look_up(account_number(901)), "<bdi>Me</bdi>")

    def test_a_typing_error_is_not_looked_up(self):
        self.look_up("12345678")

        assert not LimitUse.objects.exists()

    @limits(lookups_per_day=1)
    def test_the_limit_of_the_day_is_named(self):
        self.look_up(self.beta.number)

        self.assertContains(self.look_up(self.beta.number), "looked up 1 names today")


class SectionTests(ShareTestCase):
    def test_the_number_of_queries_does_not_grow_with_the_shares(self):
        ImageShareFactory.create_batch(5, image=self.image)
        ImageShareFactory.create_batch(5, image=self.image, accepted=True)

        # session with user, account with roles, image, shares, events, offers, use
        with self.assertNumQueries(7):
            response = self.client.get(self.section)

        self.assertContains(response, '<tr id="share-', count=10)

    def test_alice_reads_her_name_but_not_the_name_of_bob(self):
        share = ImageShareFactory.create(
            image=self.image, consumer=self.beta, offered_by=self.alice
        )
        share.accept(by=self.bob)

        response = self.client.get(self.section)

        self.assertContains(response, "by <bdi>alice</bdi>")
        self.assertContains(response, "Accepted")
        self.assertContains(response, self.beta.number)
        self.assertNotContains(response, ">bob<")
        self.assertNotContains(response, "Beta")

    def test_the_open_section_hears_of_an_answer_and_else_gets_204(self):
        share = ImageShareFactory.create(image=self.image, consumer=self.beta)
        section = self.client.get(self.section, headers=HTMX)
        seen = section.context["version"]
        self.assertContains(section, f"seen={seen}")
        url = f"{self.section}?seen={seen}"

        assert self.client.get(url, headers=HTMX).status_code == 204
        share.accept(by=self.bob)
        fresh = self.client.get(url, headers=HTMX)

        self.assertContains(fresh, "Accepted")
        self.assertNotContains(fresh, "<html")

    def test_what_waits_long_gets_the_hint_to_check_the_number(self):
        share = ImageShareFactory.create(image=self.image, consumer=self.beta)
        self.assertNotContains(self.client.get(self.section), "before you send")
        long_ago = timezone.now() - timedelta(days=4)
        ImageShare.objects.filter(pk=share.pk).update(created_at=long_ago)

        self.assertContains(self.client.get(self.section), "before you send a reminder")

    def test_an_observer_sees_the_consumers_and_why_they_cannot_be_changed(self):
        ImageShareFactory.create_batch(2, image=self.image)
        observer = UserFactory.create(roles=[(self.acme, Role.IMAGES_OBSERVER)])
        self.client.force_login(observer)

        response = self.client.get(self.section)

        self.assertContains(response, "Sharing needs cloudImages:creator.")
        self.assertContains(response, "Removing needs cloudImages:admin.")
        self.assertContains(response, "users have it: alice.")
        self.assertNotContains(response, "data-dialog")

    def test_an_image_of_another_account_is_not_found(self):
        image = ImageFactory.create(owner=self.beta)
        url = reverse("sharing:shares", args=[self.acme.number, image.pk])

        assert self.client.get(url).status_code == 404


class EventsTests(ShareTestCase):
    def events(self, account, image=None):
        url = reverse("sharing:events", args=[account.pk, (image or self.image).pk])
        return self.client.get(url)

    def test_each_side_reads_its_own_users_only_also_when_the_image_is_gone(self):
        share = ImageShareFactory.create(
            image=self.image, consumer=self.beta, offered_by=self.alice
        )
        share.accept(by=self.bob)
        gone = Image.objects.get(pk=self.image.pk)
        self.image.delete_with_shares(by=self.alice)

        sent = self.events(self.acme, gone)
        self.assertContains(sent, "by <bdi>alice</bdi>", count=2)
        self.assertNotContains(sent, ">bob<")
        self.client.force_login(self.bob)
        received = self.events(self.beta, gone)
        self.assertContains(received, "by <bdi>bob</bdi>", count=1)
        self.assertContains(received, f'account <span class="num">{self.acme.pk}')
        self.assertNotContains(received, "alice")

    def test_a_consumer_reads_nothing_of_other_consumers(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta)
        ImageShareFactory.create(image=self.image, consumer=self.corp)
        self.client.force_login(self.bob)

        self.assertNotContains(self.events(self.beta), self.corp.number)

    def test_of_somebody_elses_image_there_is_nothing(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta)
        self.client.force_login(self.carol)

        assert self.events(self.corp).status_code == 404

    def test_they_are_paged_by_key(self):
        with mock.patch("sharing.producer.EVENTS_A_PAGE", 2):
            share = ImageShareFactory.create(image=self.image, consumer=self.beta)
            share.accept(by=self.bob)
            share.remove(by=self.bob)
            first = self.events(self.acme)
            self.assertNotContains(first, "Shared ·")
            second = self.client.get(
                first.request["PATH_INFO"], {"before": first.context["next"]}
            )

        self.assertContains(second, "Shared ·")
        self.assertContains(second, "Newest")
        assert second.context["next"] is None

    def test_an_unknown_page_gives_a_clear_message(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta)
        url = reverse("sharing:events", args=[self.acme.pk, self.image.pk])

        self.assertContains(
            self.client.get(url, {"before": "x"}), "There is no such page"
        )
        assert self.client.get(url, {"before": "9" * 30}).status_code == 200
        assert self.client.get(url, {"before": "0"}).status_code == 200


class RevokeTests(ShareTestCase):
    def setUp(self):
        super().setUp()
        self.share = ImageShareFactory.create(
            image=self.image, consumer=self.beta, accepted=True
        )
        args = [self.acme.number, self.share.pk]
        self.revoke = reverse("sharing:revoke", args=args)
        self.again = reverse("sharing:again", args=args)

    def test_the_confirmation_says_what_it_means(self):
        self.assertContains(
            self.client.get(self.revoke), "is told that you stopped sharing"
        )

    def test_alice_revokes_and_bob_loses_the_image(self):
        response = self.client.post(self.revoke)

        self.assertRedirects(
            response, f"{self.detail}#image-sharing", fetch_redirect_response=False
        )
        assert not Image.objects.usable_by(self.beta).exists()

    def test_with_htmx_the_dialog_closes_and_the_section_renews_itself(self):
        response = self.client.post(self.revoke, headers=HTMX)

        assert "shares-changed" in response["HX-Trigger"]
        self.assertContains(response, f"no longer shared with {self.beta.number}.")

    def test_a_creator_may_share_but_not_take_back(self):
        creator = UserFactory.create(roles=[(self.acme, Role.IMAGES_CREATOR)])
        self.client.force_login(creator)

        assert self.client.get(self.url).status_code == 200
        assert self.client.post(self.revoke).status_code == 403
        assert self.client.post(self.again).status_code == 403
        assert ImageShare.objects.exists()

    def test_bob_cannot_revoke_what_alice_shares(self):
        self.client.force_login(self.bob)
        url = reverse("sharing:revoke", args=[self.beta.number, self.share.pk])

        assert self.client.post(url).status_code == 404

    def test_a_share_revoked_before_is_not_found(self):
        self.client.post(self.revoke)

        assert self.client.post(self.revoke).status_code == 404

    def test_a_share_revoked_meanwhile_is_a_conflict(self):
        revoke = ImageShare.revoke

        def revoked_meanwhile(share, **kwargs):
            ImageShare.objects.all().delete()
            return revoke(share, **kwargs)

        for deed in ["revoke", "again"]:
            share = ImageShareFactory.create(image=self.image, consumer=self.corp)
            url = reverse(f"sharing:{deed}", args=[self.acme.number, share.pk])
            with mock.patch.object(ImageShare, "revoke", revoked_meanwhile):
                response = self.client.post(url, headers=HTMX)
            self.assertContains(response, "removed already", status_code=409)

    def test_remove_and_share_again_opens_the_dialog_with_the_number(self):
        response = self.client.post(self.again, headers=HTMX)

        assert not ImageShare.objects.exists()
        self.assertContains(response, f'value="{self.beta.number}"')
        assert "shares-changed" in response["HX-Trigger"]

    def test_without_htmx_it_leads_to_the_form_with_the_number(self):
        response = self.client.post(f"{self.again}?region=IAD")

        url = f"{self.url}?region=IAD&number={self.beta.number}"
        self.assertRedirects(response, url)
        self.assertContains(self.client.get(url), f'value="{self.beta.number}"')
