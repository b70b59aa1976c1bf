"""Every URL is sent rubbish: no page answers with an error of ours."""

import base64
import itertools
import json
import uuid

from django.db import transaction

from accounts.models import ApplicationCredential, Invitation
from accounts.permissions import Role
from tests.cast import CastTestCase
from tests.factories import ImageFactory, ImageShareFactory, UserFactory
from tests.servers.factories import FlavorFactory, ServerFactory, SSHKeyFactory
from tests.servers.fakes import FakeComputeMixin
from tests.test_access import ACCESS, PERSONAL

ID = str(uuid.uuid4())


def cursor(*key):
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


# Percent-encoded, as they come over the wire.
RUBBISH = [
    "",
    "%00",
    "a%00b",
    f"%00|{ID}",
    "a|%00",
    "%ED%A0%80",  # half a character
    "%FF%FE",
    "-1",
    "9" * 5000,
    "%D9%A3%D9%A4",  # digits, but not ours
    "%C2%B2",
    "1e999",
    "NaN",
    "A" * 10_000,
    "%F0%9F%92%A9%E2%80%AE%1B%5B2J%0D%0AX-Injected:%201",
    "%27%20OR%201=1--",
    "%7B%7D%7B0%7D%25s%25(a)s",
    "//evil.example/",
    "all",
    "IAD",
    "image",
    ID,
    f"0001-01-01T00:00:00%2B23:59_{ID}",
    f"9999-12-31T23:59:59-23:59_{ID}",
    f"2026-01-01T00:00:00_{ID}",
    f"2026-01-01_{ID}",
    cursor("2026-01-01T00:00:00+00:00", ID),
    cursor("0002-01-01T00:00:00+23:59", ID),
    cursor("a", ID),
    cursor(2**70, ID),
    cursor(None, [ID]),
    cursor({}, {}),
]
# Without NUL and line breaks, which no web server lets through.
HEADERS = [
    {"HX-Request": "true", "HX-Current-URL": "http://["},
    {"HX-Request": "true", "HX-Current-URL": "http://testserver/%00\x85"},
    {
        "HX-Request": "true",
        "HX-Current-URL": "http%3A//testserver/%0D%0AX-Injected%3A%201",
        "HX-Current-URL-URI-AutoEncoded": "true",
    },
    {"HX-Request": "true", "HX-Boosted": "true", "HX-Target": "\xff"},
    {"HX-History-Restore-Request": "true", "HX-Request": "true"},
    {"Range": "bytes=-0"},
    {"Range": "bytes=99999999999999999999-"},
    {"Range": "bytes=9-1,2-3,-", "If-Range": "\xff"},
    {"X-Forwarded-For": "%,' ,::1", "User-Agent": "\xff" * 3000},
    {"Cookie": 'sessionid="abcdefgh\\000"'},
    {"Cookie": "sessionid=" + "x" * 8000},
    {"Cookie": 'csrftoken="\\000"; messages="\\000"'},
    {"Accept": "\xff" * 3000, "Accept-Language": "\xff", "Accept-Encoding": "\xff"},
]
TYPES = [
    "text/plain",
    "application/json",
    "application/x-www-form-urlencoded; charset=utf-16",
    "application/x-www-form-urlencoded; charset=base64",
    "multipart/form-data",
    "multipart/form-data; boundary=\x00",
    "multipart/form-data; boundary=x; charset=base64",
    "multipart/form-data; boundary=x; charset=raw_unicode_escape",
    "",
]
ASKED = "region q sort after before from seen place number tab image flavor"
FIELDS = (
    "name email roles region image flavor ssh_key new_key new_key_name token how "
    "home_region discoverable username password password1 password2 old_password "
    "new_password1 new_password2 session way account number message reason text "
    "public_key description os tags min_disk_gb min_ram_mb protected tab next "
    "may_be_distributed holds_no_secrets holds_no_malware"
)


# How often a page is asked, each time with other rubbish.
TURNS = 4
FORM = "application/x-www-form-urlencoded"


def query(names, value):
    return "&".join(f"{name}={value}" for name in names.split())


def mixed(names, turn):
    """Each name with another piece of rubbish, which the next turn moves on."""
    pieces = itertools.islice(itertools.cycle(RUBBISH), turn % len(RUBBISH), None)
    return "&".join(f"{name}={next(pieces)}" for name in names.split())


class GarbageTests(FakeComputeMixin, CastTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        for account in (cls.acme, cls.beta):
            account.grant(Role.USER_ADMIN, to=cls.alice)
        invitation = Invitation.objects.invite(
            "new@example.com", to=cls.acme, roles=[Role.OBSERVER], by=cls.alice
        )
        accepted = ImageShareFactory.create(
            image=ImageFactory.create(owner=cls.acme), consumer=cls.beta, accepted=True
        )
        flavor = FlavorFactory.create()
        keys = {
            "acme": cls.acme.pk,
            "beta": cls.beta.pk,
            "image": cls.image.pk,
            "accepted": accepted.image_id,
            "share": ImageShareFactory.create(image=cls.image, consumer=cls.beta).pk,
            "server": ServerFactory.create(account=cls.beta, flavor=flavor).pk,
            "credential": ApplicationCredential.objects.make(
                cls.alice, cls.acme, name="deploy", roles=[Role.USER_ADMIN]
            ).pk,
            "key": SSHKeyFactory.create(account=cls.beta).pk,
            "guest": UserFactory.create(roles=[(cls.acme, Role.ADMIN)]).pk,
            "user": UserFactory.create(home_account=cls.acme).pk,
            "invitation": invitation.pk,
        }
        pages = {
            name: row.split()[1].format(**keys)
            for name, row in (ACCESS | PERSONAL).items()
        }
        link = f"/invitations/{invitation.token}/"
        pages |= {"login": "/login/", "invitation": link, "join": f"{link}join/"}
        cls.pages = list(pages.values())
        # What reads headers or a body by itself, and one page besides.
        names = ("images:list", "images:upload", "images:download", "login", "join")
        cls.special = [pages[name] for name in names]

    def setUp(self):
        super().setUp()
        self.client.force_login(self.alice)
        self.cookies = self.client.cookies.output(header="", sep=";")

    def check(self, method, path, data="", content_type=FORM, **headers):
        """Send it, and take back what it does; an exception fails the test."""
        before = transaction.savepoint_create()
        self.client.cookies.load(self.cookies)
        # No subtests, which are thousands here and would take longer than the requests.
        sent = f"{method} {path[:120]} {content_type} {headers}"
        try:
            answer = self.client.generic(
                method, path, data, content_type, headers=headers
            )
        except Exception as error:
            error.add_note(sent)
            raise
        assert answer.status_code < 500, sent
        transaction.savepoint_rollback(before)
        return answer

    def turns(self):
        """Of each page some, so that neighbours, which share their code, see all."""
        for number, page in enumerate(self.pages):
            for turn in range(TURNS):
                yield page, number + turn * (len(RUBBISH) // TURNS)

    def test_rubbish_in_the_query(self):
        for page, turn in self.turns():
            self.check("GET", f"{page}?{mixed(ASKED, turn)}")

    def test_one_rubbish_in_all_of_the_query(self):
        for page in self.special:
            for value in RUBBISH:
                self.check("GET", f"{page}?{query(ASKED, value)}")

    def test_rubbish_for_a_page_in_each_order(self):
        for sort in ("name", "-size", "%00"):
            for value in RUBBISH:
                for page in ("after", "before"):
                    asked = f"?sort={sort}&{page}={value}"
                    self.check("GET", f"/{self.acme.pk}/images/{asked}")

    def test_rubbish_in_the_form(self):
        for page, turn in self.turns():
            self.check("POST", page, mixed(FIELDS, turn))

    def test_one_rubbish_in_all_of_the_form(self):
        for page in self.special:
            for value in RUBBISH:
                self.check("POST", page, query(FIELDS, value))

    def test_rubbish_in_the_headers(self):
        for page in self.special:
            for headers in HEADERS:
                for method in ("GET", "POST"):
                    self.check(method, page, **headers)

    def test_rubbish_from_a_stranger(self):
        self.cookies = ""
        self.client.logout()
        for headers in HEADERS:
            for page in self.special:
                self.check("GET", page, **headers)

    def test_bodies_of_other_types(self):
        for page in self.special:
            for content_type in TYPES:
                # With a query, Django itself fails at a codec that gives no text.
                asked = "" if "base64" in content_type else "?q=%5Cud800"
                self.check("POST", f"{page}{asked}", "a=%5Cud800", content_type)

    def test_other_methods(self):
        for page in self.pages:
            for method in ("HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "\x00"):
                self.check(method, page)

    def test_rubbish_in_the_path(self):
        number, big = self.acme.pk, "9" * 40
        for path in (
            "/%00",
            "/%ED%A0%80/",
            "/invitations/%00/",
            "/invitations/%F0%9F%92%A9/",
            f"/{number}/%00",
            f"/{number}/users/{big}/",
            f"/{number}/invitations/{big}/withdraw/",
            f"/{number}/users/0/",
            "/١٢٣٤٥٦٧٨/images/",
            "//evil.example/%2e%2e/",
        ):
            for method in ("GET", "POST"):
                self.check(method, path)
