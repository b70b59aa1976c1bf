"""Who gets what from every URL: a URL missing from the tables fails the build."""

# ruff: noqa: E501  # a table has lines as wide as it is

import re
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from accounts.models import ApplicationCredential, Invitation
from accounts.permissions import Role
from controlpanel.api.faults import DIALECTS
from servers.models import ImageSchedule
from tests.cast import CastTestCase
from tests.factories import ImageFactory, ImageShareFactory, UserFactory
from tests.servers.factories import FlavorFactory, ServerFactory, SSHKeyFactory
from tests.servers.fakes import FakeComputeMixin

ROLES = [
    Role.IMAGES_OBSERVER,
    Role.IMAGES_CREATOR,
    Role.IMAGES_ADMIN,
    Role.SERVERS_OBSERVER,
    Role.SERVERS_CREATOR,
    Role.SERVERS_ADMIN,
    Role.USER_ADMIN,
    Role.USER_MANAGE,
]
# Acme offers images to Beta. Every POST is an empty form: 422 says that it was read, 409
# that the server is not up yet, or the image has no file here. Rows are for htmx alone.
#    URL name                 request                              cloudImages:   nova:          identity:
#                                                                  obs. cre. adm. obs. cre. adm. adm. man. stranger
ACCESS = {
    "accounts:enter":          "GET  /{acme}/                                302  302  302  302  302  302  302  302  404",
    "accounts:account":        "GET  /{acme}/account/                        200  200  200  200  200  200  200  200  404",
    "accounts:limits":         "GET  /{acme}/limits/                         200  200  200  200  200  200  200  200  404",
    "accounts:edit":           "POST /{acme}/account/edit/                   403  403  403  403  403  403  422  403  404",
    "accounts:api-access":     "POST /{acme}/api-access/                     422  422  422  422  422  422  422  422  404",
    "accounts:clouds-yaml":    "GET  /{acme}/api-access/clouds.yaml          200  200  200  200  200  200  200  200  404",
    "accounts:delete-credential":
                               "POST /{acme}/api-access/{credential}/delete/ 404  404  404  404  404  404  404  404  404",
    "accounts:users":          "GET  /{acme}/users/                          403  403  403  403  403  403  200  200  404",
    "accounts:invite":         "POST /{acme}/users/invite/                   403  403  403  403  403  403  422  422  404",
    "accounts:user":           "POST /{acme}/users/{guest}/                  403  403  403  403  403  403  302  302  404",
    "accounts:remove-user":    "POST /{acme}/users/{guest}/remove/           403  403  403  403  403  403  302  302  404",
    "accounts:deactivate-user":"POST /{acme}/users/{user}/deactivate/        403  403  403  403  403  403  302  302  404",
    "accounts:reactivate-user":"POST /{acme}/users/{user}/reactivate/        403  403  403  403  403  403  302  302  404",
    "accounts:withdraw-invitation":
                               "POST /{acme}/invitations/{invitation}/withdraw/ 403 403 403 403 403  403  302  302  404",
    "images:list":             "GET  /{acme}/images/                         200  200  200  403  403  403  200  200  404",
    "images:upload":           "POST /{acme}/images/upload/                  403  403  422  403  403  403  422  422  404",
    "images:bulk-delete":      "POST /{acme}/images/delete/                  403  403  302  403  403  302  302  302  404",
    "images:detail":           "GET  /{acme}/images/{image}/                 200  200  200  403  403  403  200  200  404",
    "images:row":              "GET  /{acme}/images/{image}/row/             200  200  200  403  403  403  200  200  404",
    "images:edit":             "POST /{acme}/images/{image}/edit/            403  403  422  403  403  403  422  422  404",
    "images:delete":           "POST /{acme}/images/{image}/delete/          403  403  302  403  403  302  302  302  404",
    "images:download":         "GET  /{acme}/images/{image}/download/        403  403  409  403  403  403  409  409  404",
    "sharing:share":           "POST /{acme}/images/{image}/share/           403  422  422  403  403  403  422  422  404",
    "sharing:share-chosen":    "POST /{acme}/images/{image}/share/chosen/    403  422  422  403  403  403  422  422  404",
    "sharing:lookup":          "POST /{acme}/images/{image}/share/name/      403  200  200  403  403  403  200  200  404",
    "sharing:shares":          "GET  /{acme}/images/{image}/shares/          200  200  200  403  403  403  200  200  404",
    "sharing:events":          "GET  /{acme}/images/{image}/events/          200  200  200  403  403  403  200  200  404",
    "sharing:revoke":          "POST /{acme}/shares/{share}/revoke/          403  403  302  403  403  403  302  302  404",
    "sharing:again":           "POST /{acme}/shares/{share}/again/           403  403  302  403  403  403  302  302  404",
    "sharing:offers":          "GET  /{beta}/offers/                         200  200  200  403  403  403  200  200  404",
    "sharing:offers-list":     "GET  /{beta}/offers/list/                    200  200  200  403  403  403  200  200  404",
    "sharing:notifications":   "GET  /{beta}/offers/notifications/           200  200  200  200  200  200  200  200  404",
    "sharing:withdrawals":     "GET  /{beta}/offers/withdrawn/               200  200  200  403  403  403  200  200  404",
    "sharing:withdrawals-seen":"POST /{beta}/offers/withdrawn/seen/          403  403  302  403  403  403  302  302  404",
    "sharing:offer":           "GET  /{beta}/shares/{share}/                 200  200  200  403  403  403  200  200  404",
    "sharing:accept":          "POST /{beta}/shares/{share}/accept/          403  403  302  403  403  403  302  302  404",
    "sharing:reject":          "POST /{beta}/shares/{share}/reject/          403  403  302  403  403  403  302  302  404",
    "sharing:remove":          "POST /{beta}/images/{accepted}/remove/       403  403  302  403  403  403  302  302  404",
    "sharing:report":          "POST /{beta}/images/{image}/report/          422  422  422  422  422  422  422  422  404",
    "servers:list":            "GET  /{beta}/servers/                        403  403  403  200  200  200  200  200  404",
    "servers:create":          "POST /{beta}/servers/create/                 403  403  403  403  422  422  422  422  404",
    "servers:detail":          "GET  /{beta}/servers/{server}/               403  403  403  200  200  200  200  200  404",
    "servers:row":             "GET  /{beta}/servers/{server}/row/           403  403  403  302  302  302  302  302  404",
    "servers:console":         "GET  /{beta}/servers/{server}/console/       403  403  403  200  200  200  200  200  404",
    "servers:screen":          "GET  /{beta}/servers/{server}/screen/        403  403  403  404  404  404  404  404  404",
    "servers:reboot":          "POST /{beta}/servers/{server}/reboot/        403  403  403  403  403  422  422  422  404",
    "servers:power-off":       "POST /{beta}/servers/{server}/power-off/     403  403  403  403  403  409  409  409  404",
    "servers:power-on":        "POST /{beta}/servers/{server}/power-on/      403  403  403  403  403  409  409  409  404",
    "servers:rename":          "POST /{beta}/servers/{server}/rename/        403  403  403  403  403  422  422  422  404",
    "servers:rebuild":         "POST /{beta}/servers/{server}/rebuild/       403  403  403  403  403  422  422  422  404",
    "servers:resize":          "POST /{beta}/servers/{server}/resize/        403  403  403  403  403  422  422  422  404",
    "servers:create-image":    "POST /{beta}/servers/{server}/create-image/  403  403  403  403  403  409  409  409  404",
    "servers:schedule":        "POST /{beta}/servers/{server}/schedule/      403  403  403  403  403  422  422  422  404",
    "servers:stop-schedule":   "POST /{beta}/servers/{server}/schedule/stop/ 403  403  403  403  403  302  302  302  404",
    "servers:delete":          "POST /{beta}/servers/{server}/delete/        403  403  403  403  403  302  302  302  404",
    "servers:keys":            "POST /{beta}/keys/                           403  403  403  403  422  422  422  422  404",
    "servers:key-delete":      "POST /{beta}/keys/{key}/delete/              403  403  403  403  302  302  302  302  404",
}  # fmt: skip

# Outside an account: what anybody gets who is signed in, whatever their roles.
PERSONAL = {
    "home": "GET /",
    "logout": "POST /logout/",
    "accounts:switch": "GET /switch/",
    "accounts:security": "GET /security/",
    "accounts:change-password": "GET /security/password/",
    "accounts:end-session": "POST /security/sessions/end/",
    "accounts:end-others": "POST /security/sessions/end-others/",
    "accounts:accept": "POST /invitations/unknown/accept/",
}
# A message that tells why nothing was done goes into the session.
WRITES = '(INSERT INTO|UPDATE|DELETE FROM) "(?!accounts_session")'
PUBLIC = {
    "api-reference",
    "login",
    "accounts:invitation",
    "accounts:join",
    "alive",
    "ready",
}


def url_names(
    patterns: list[URLPattern | URLResolver], prefix: str = ""
) -> Iterator[str]:
    """All but those of Django's admin, which asks for its own rights, and the API's."""
    for pattern in patterns:
        if isinstance(pattern, URLPattern):
            yield f"{prefix}{pattern.name}"
        elif pattern.namespace not in {"admin", *DIALECTS}:
            namespace = f"{pattern.namespace}:" if pattern.namespace else ""
            yield from url_names(pattern.url_patterns, prefix + namespace)


class AccessTests(FakeComputeMixin, CastTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.invitation = Invitation.objects.invite(
            "new@example.com", to=cls.acme, roles=[Role.OBSERVER], by=cls.alice
        )
        cls.guest = UserFactory.create(roles=[(cls.acme, Role.ADMIN)])
        cls.user = UserFactory.create(home_account=cls.acme)
        cls.share = ImageShareFactory.create(image=cls.image, consumer=cls.beta)
        cls.accepted = ImageShareFactory.create(
            image=ImageFactory.create(owner=cls.acme), consumer=cls.beta, accepted=True
        )
        cls.server = ServerFactory.create(
            account=cls.beta, flavor=FlavorFactory.create(), name="web"
        )
        ImageSchedule.objects.set_for(
            cls.server, weekday=None, hour=2, keep=7, by=cls.bob
        )
        cls.credential = ApplicationCredential.objects.make(
            cls.alice, cls.acme, name="deploy", roles=[Role.USER_ADMIN]
        )
        cls.key = SSHKeyFactory.create(account=cls.beta)

    def ask(self, name, method=None, **changes):
        """Make the table's request."""
        table_method, path, *_ = ACCESS[name].split()
        keys = {
            "acme": self.acme.pk,
            "beta": self.beta.pk,
            "image": self.image.pk,
            "accepted": self.accepted.image_id,
            "share": self.share.pk,
            "server": self.server.pk,
            "key": self.key.pk,
            "credential": self.credential.pk,
            "guest": self.guest.pk,
            "user": self.user.pk,
            "invitation": self.invitation.pk,
        }
        path = path.format(**keys | changes)
        response = self.client.generic(method or table_method, path)
        assert response.resolver_match.view_name == name
        return response

    def test_the_tables_name_every_url(self):
        names = set(url_names(get_resolver().url_patterns))
        assert names == {*ACCESS, *PERSONAL} | PUBLIC

    def test_every_role_gets_what_the_table_says(self):
        users = {
            account: [UserFactory.create(roles=[(account, role)]) for role in ROLES]
            for account in (self.acme, self.beta)
        }
        for name, row in ACCESS.items():
            _, path, *statuses = row.split()
            account = self.acme if "{acme}" in path else self.beta
            asking = [*users[account], self.carol]
            for user, status in zip(asking, map(int, statuses), strict=True):
                who = "stranger" if user == self.carol else ROLES[asking.index(user)]
                with self.subTest(url=name, who=who), self.undone():
                    self.client.force_login(user)
                    assert self.ask(name).status_code == status

    @contextmanager
    def undone(self):
        """Take back what is done inside, so that the next one finds the same."""
        before = transaction.savepoint_create()
        try:
            yield
        finally:
            transaction.savepoint_rollback(before)

    def test_who_is_not_signed_in_must_sign_in(self):
        login = reverse("login")
        for name in ACCESS:
            with self.subTest(url=name):
                assert self.ask(name)["Location"].startswith(login)
        for name, request in PERSONAL.items():
            with self.subTest(url=name):
                method, path = request.split()
                response = self.client.generic(method, path)
                assert response["Location"].startswith(login)

    def test_who_has_no_role_gets_the_pages_of_a_user(self):
        nobody = UserFactory.create()
        for request in PERSONAL.values():
            with self.subTest(request=request):
                self.client.force_login(nobody)
                method, path = request.split()
                response = self.client.generic(method, path)
                allowed = {404} if "unknown" in path else {200, 302}
                assert response.status_code in allowed

    def test_no_deed_is_done_by_a_get(self):
        self.client.force_login(self.alice)
        self.beta.grant(Role.USER_ADMIN, to=self.alice)
        for name, row in ACCESS.items():
            if row.startswith("POST"):
                with self.subTest(url=name):
                    with CaptureQueriesContext(connection) as asked:
                        assert self.ask(name, method="GET").status_code in {
                            200,
                            302,
                            405,
                        }
                    written = [q for q in asked if re.match(WRITES, q["sql"])]
                    assert not written

    def test_a_superuser_has_no_special_way(self):
        self.client.force_login(UserFactory.create(is_superuser=True, is_staff=True))
        for name in ACCESS:
            with self.subTest(url=name):
                assert self.ask(name).status_code == 404

    def test_what_belongs_to_another_account_is_not_found(self):
        self.client.force_login(self.carol)
        for name, row in ACCESS.items():
            if row.split()[1].count("{") == 2:
                with self.subTest(url=name):
                    own = self.corp.pk
                    answer = self.ask(name, acme=own, beta=own)
                    # 286 ends the polling for a row that is not there.
                    assert answer.status_code in {404, 286}
