"""The Image API as Alice, Bob and Carol call it, for tests."""

from typing import Any
from uuid import UUID

from accounts.permissions import Role
from tests.api.client import ApiTestCase
from tests.factories import UserFactory

V2 = "/image/IAD/v2"
PATCH = "application/openstack-images-v2.1-json-patch"
JSON = "application/json"


class ImagesTestCase(ApiTestCase):
    """Calls are Alice's, for Acme, unless another is named."""

    def setUp(self) -> None:
        super().setUp()
        self.tokens: dict[str, str] = {}

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        by: str = "alice",
        **headers: str,
    ) -> Any:
        if by not in self.tokens:
            accounts = {"alice": self.acme, "bob": self.beta, "carol": self.corp}
            self.tokens[by] = self.token(getattr(self, by), accounts[by])
        address = path if path.startswith("/image/") else f"{V2}{path}"
        return self.api(
            method, address, body, self.tokens[by], **{"Accept": JSON} | headers
        )

    def send(
        self,
        method: str,
        path: str,
        data: bytes | str,
        kind: str,
        by: str = "alice",
        **headers: str,
    ) -> Any:
        """A body of another media type."""
        self.call("GET", "/schemas/image", by=by)  # has the token made
        sent = {"X-Auth-Token": self.tokens[by], "Accept": JSON} | {
            name.replace("_", "-"): text for name, text in headers.items()
        }
        return self.client.generic(
            method, f"{V2}{path}", data, content_type=kind, headers=sent
        )

    def act_as(self, *roles: Role) -> None:
        """Give Alice exactly these roles on Acme."""
        self.alice = UserFactory.create(roles=[(self.acme, role) for role in roles])
        self.tokens.pop("alice", None)

    def listed(self, query: str = "", by: str = "alice") -> list[str]:
        answer = self.call("GET", f"/images{query}", by=by)
        assert answer.status_code == 200, answer.text
        return [each["name"] for each in answer.json()["images"]]

    def at(self, image: Any, rest: str = "") -> str:
        pk = image if isinstance(image, UUID | str) else image.pk
        return f"/images/{pk}{rest}"
