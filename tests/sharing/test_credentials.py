import re
from contextlib import contextmanager
from unittest import mock

from axes.models import AccessAttempt
from django.conf import settings
from django.contrib.auth.hashers import MD5PasswordHasher
from django.core import mail, signing
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from procrastinate.contrib.django.models import ProcrastinateJob

from accounts.models import Account, User
from accounts.permissions import Role
from sharing import credentials, tasks
from sharing.credentials import REFUSED
from sharing.models import ImageShare, ShareEvent
from tests.cast import CastTestCase
from tests.factories import PASSWORD, ImageFactory, ImageShareFactory, UserFactory
from tests.sharing.test_producer import ANSWERS, HTMX, limits


def without_token(response):
    """The page, without what differs each time it is drawn."""
    page = response.content.decode()
    return re.sub('name="csrfmiddlewaretoken" value="[^"]+"', "", page)


class AccessTestCase(CastTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.dora = UserFactory.create(
            username="dora",
            password=PASSWORD,
            roles=[(cls.beta, Role.IMAGES_ADMIN)],
        )

    def setUp(self):
        args = [self.acme.number, self.image.pk]
        self.url = reverse("sharing:share", args=args)
        self.chosen_url = reverse("sharing:share-chosen", args=args)
        self.client.force_login(self.alice)

    def share(self, username="dora", password=PASSWORD, **headers):
        data = ANSWERS | {
            "way": "access",
            "username": username,
            "password": password,
        }
        return self.client.post(self.url, data, headers=HTMX | headers)


class AccessTests(AccessTestCase):
    def test_the_share_is_made_and_accepted_in_one_go(self):
        response = self.share()

        share = ImageShare.objects.get()
        assert share.is_accepted
        assert share.consumer == self.beta
        self.assertContains(response, "and accepted there")
        actors = list(ShareEvent.objects.values_list("side", "actor_name"))
        assert actors == [("producer", "alice"), ("consumer", "dora")]

    def test_nobody_is_signed_in_by_it_and_nothing_of_it_is_kept(self):
        self.share()
        self.share(password="not " + PASSWORD)

        assert self.client.session["_auth_user_id"] == str(self.alice.pk)
        kept = [
            str(list(ProcrastinateJob.objects.values_list("args", flat=True))),
            str(list(AccessAttempt.objects.values())),
            str(dict(self.client.session)),
        ]
        assert PASSWORD not in "".join(kept)

    def test_the_password_is_never_sent_back(self):
        self.assertNotContains(self.share(username="x"), PASSWORD, status_code=422)

    def test_the_admins_of_the_consumer_are_told(self):
        UserFactory.create(roles=[(self.beta, Role.IMAGES_CREATOR)])
        self.share()
        job = ProcrastinateJob.objects.filter(queue_name="mail").latest("pk")
        share = ImageShare.objects.get()
        assert (job.task_name, job.args) == (
            "sharing.tasks.tell_consumer",
            {"share_id": str(share.pk)},
        )

        tasks.tell_consumer(**job.args)
        told = ProcrastinateJob.objects.filter(task_name="sharing.tasks.tell_admin")
        told = told.order_by("id")
        for each in [*told, told[0]]:
            tasks.tell_admin(**each.args)

        # The first was sent again, and is marked as the same.
        assert mail.outbox.pop().extra_headers == mail.outbox[0].extra_headers
        assert sorted(sent.to for sent in mail.outbox) == [
            ["bob@example.com"],
            ["dora@example.com"],
        ]
        assert self.image.name in mail.outbox[0].body
        assert "alice" not in mail.outbox[0].body

    def test_a_share_withdrawn_before_the_mail_is_not_told(self):
        share = ImageShareFactory.create(image=self.image)
        pk = share.pk
        share.revoke(by=self.alice)

        tasks.tell_consumer(share_id=str(pk))

        assert not mail.outbox

    def test_what_is_shared_already_is_an_error_of_the_form(self):
        ImageShareFactory.create(image=self.image, consumer=self.beta)

        self.assertContains(self.share(), "already shared", status_code=422)

    def test_both_fields_are_needed(self):
        response = self.share(username="", password="")

        self.assertContains(response, "Enter the username.", status_code=422)
        self.assertContains(response, "Enter the password.", status_code=422)
        assert not AccessAttempt.objects.exists()


class FailureTests(AccessTestCase):
    """Every failure looks alike: one sentence, the same queries, one hash."""

    def setUp(self):
        super().setUp()
        self.share(username="somebody", password="x")  # makes the hour's counter
        self.make_users()

    def make_users(self):
        def user(name, *roles, **fields):
            return UserFactory.create(
                username=name, password=PASSWORD, roles=roles, **fields
            )

        user("creator", (self.beta, Role.IMAGES_CREATOR))
        user("nova", (self.beta, Role.SERVERS_ADMIN))
        user("own", (self.acme, Role.USER_ADMIN))
        user("roleless")
        user("inactive", (self.beta, Role.ADMIN), is_active=False)
        user("asleep", (self.corp, Role.ADMIN))
        Account.objects.filter(pk=self.corp.pk).update(status="suspended")

    FAILURES = [
        ("nobody", PASSWORD),
        ("dora", "wrong"),
        ("creator", PASSWORD),
        ("nova", PASSWORD),
        ("own", PASSWORD),
        ("roleless", PASSWORD),
        ("inactive", PASSWORD),
        ("asleep", PASSWORD),
    ]

    def test_every_failure_has_the_same_answer_and_the_same_work(self):
        seen = set()
        for username, password in self.FAILURES:
            with self.subTest(username=username), self.count() as counted:
                response = self.share(username, password)
                text = without_token(response).replace(username, "x")
                assert response.status_code == 422
                assert REFUSED in text
                seen.add((text, len(counted["queries"]), counted["hashes"]))
        assert len(seen) == 1, {each[1:] for each in seen}
        assert next(iter(seen))[2] == 1
        assert not ImageShare.objects.exists()

    @contextmanager
    def count(self):
        counted = {"hashes": 0}
        encode = MD5PasswordHasher.encode

        def encode_and_count(hasher, password, salt):
            counted["hashes"] += 1
            return encode(hasher, password, salt)

        with (
            CaptureQueriesContext(connection) as queries,
            mock.patch.object(MD5PasswordHasher, "encode", encode_and_count),
        ):
            counted["queries"] = queries
            yield counted

    def test_after_many_failures_the_right_password_fails_alike(self):
        with limits(credential_checks_per_hour=100):
            for _ in range(settings.AXES_FAILURE_LIMIT):
                wrong = self.share(password="wrong")
                self.assertContains(wrong, "This did not work.", status_code=422)
            with self.count() as counted:
                response = self.share()

        self.assertContains(response, "This did not work.", status_code=422)
        assert counted["hashes"] == 1
        assert not ImageShare.objects.exists()

    def test_a_right_password_without_a_role_counts_as_a_failure(self):
        with limits(credential_checks_per_hour=100):
            for _ in range(settings.AXES_FAILURE_LIMIT):
                self.share("roleless")
        self.beta.grant(Role.ADMIN, to=User.objects.get(username="roleless"))

        self.assertContains(
            self.share("roleless"), "This did not work.", status_code=422
        )

    def test_failures_from_many_addresses_lock_a_username_too(self):
        for n in range(credentials.MOST_FAILURES):
            AccessAttempt.objects.create(
                username="dora",
                ip_address=f"192.0.2.{n}",
                user_agent="x",
                get_data="",
                post_data="",
                http_accept="",
                path_info="",
                failures_since_start=1,
            )

        self.assertContains(self.share(), "This did not work.", status_code=422)

    def test_the_checks_of_an_account_are_limited_and_the_limit_named(self):
        with limits(credential_checks_per_hour=2):
            self.share("a", "x")
            response = self.share()

        self.assertContains(
            response, "checked 2 usernames and passwords", status_code=422
        )
        assert not ImageShare.objects.exists()


class SeveralAccountsTests(AccessTestCase):
    def setUp(self):
        super().setUp()
        self.corp.grant(Role.ADMIN, to=self.dora)

    def choose(self, account, token=None):
        data = {"token": token or self.token(), "account": account}
        return self.client.post(self.chosen_url, data, headers=HTMX)

    def token(self):
        return self.share().context["form"]["token"].value()

    def test_the_account_is_chosen_after_the_check(self):
        response = self.share()

        self.assertContains(response, f"Beta ({self.beta.pk})")
        self.assertContains(response, f"Corp ({self.corp.pk})")
        assert not ImageShare.objects.exists()
        self.assertNotContains(response, PASSWORD)

        self.assertContains(self.choose(self.corp.pk), "and accepted there")
        assert ImageShare.objects.get().consumer == self.corp

    def test_no_other_account_can_be_chosen(self):
        other = Account.objects.open(name="Other", home_region=self.beta.home_region)
        for number in ["", other.pk, self.acme.pk]:
            with self.subTest(number=number):
                self.assertContains(self.choose(number), "Choose", status_code=422)
        assert not ImageShare.objects.exists()

    def test_the_choice_is_bound_to_user_image_and_time(self):
        token = self.token()
        elsewhere = ImageFactory.create(owner=self.acme)
        colleague = UserFactory.create(roles=[(self.acme, Role.ADMIN)])
        access = credentials.Access(self.dora, [])
        for wrong in [
            "",
            token[:-1],
            credentials.sign_access(access, image=elsewhere, by=self.alice),
            credentials.sign_access(access, image=self.image, by=colleague),
            signing.dumps([self.dora.pk, str(self.image.pk), self.alice.pk]),
        ]:
            with self.subTest(token=wrong):
                response = self.choose(self.beta.pk, token=wrong or " ")
                self.assertContains(response, "too old", status_code=422)
        with mock.patch.object(credentials, "TOKEN_SECONDS", -1):
            assert self.choose(self.beta.pk, token=token).status_code == 422
        assert not ImageShare.objects.exists()

    def test_a_role_lost_meanwhile_is_noticed(self):
        token = self.token()
        self.corp.withdraw(Role.ADMIN, of=self.dora)

        self.assertContains(
            self.choose(self.corp.pk, token=token), "Choose", status_code=422
        )

    def test_what_is_shared_already_is_an_error_of_the_choice(self):
        ImageShareFactory.create(image=self.image, consumer=self.corp)

        self.assertContains(
            self.choose(self.corp.pk), "already shared", status_code=422
        )


class OwnAccountTests(AccessTestCase):
    def share_with(self, account):
        data = ANSWERS | {"way": "own", "account": account}
        return self.client.post(self.url, data)

    def test_without_a_role_elsewhere_the_way_is_not_offered(self):
        self.assertNotContains(self.client.get(self.url), 'value="own"')
        assert self.share_with(self.beta.pk).status_code == 422

    def test_an_account_where_alice_may_accept_needs_no_password(self):
        self.beta.grant(Role.IMAGES_ADMIN, to=self.alice)
        self.corp.grant(Role.IMAGES_CREATOR, to=self.alice)
        page = self.client.get(self.url)
        self.assertContains(page, f"Beta ({self.beta.pk})")
        self.assertNotContains(page, "Corp")

        assert self.share_with(self.corp.pk).status_code == 422
        assert self.share_with(self.beta.pk).status_code == 302

        share = ImageShare.objects.get()
        assert share.is_accepted
        assert set(ShareEvent.objects.values_list("actor_name", flat=True)) == {"alice"}
