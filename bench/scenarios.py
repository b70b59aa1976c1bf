"""What is measured: pages and deeds as a browser asks for them, and the API's calls."""

import json
from collections.abc import Mapping
from typing import NamedTuple

HTMX = {"HX-Request": "true"}
FORTUNES = "bare page (fortunes)"
CYCLE = "share, accept, stop sharing"
API_CYCLE = "API: add member, accept, remove"
SHARE = "SHARE"  # in a path: the id of the share that the step before has made
OFFER = {
    "may_be_distributed": "on",
    "holds_no_secrets": "on",
    "holds_no_malware": "on",
    "way": "customer",
}


class Cast(NamedTuple):
    producer: str
    consumer: str
    producer_session: str
    consumer_session: str
    image: str
    region: str  # of the image
    producer_token: str
    consumer_token: str
    seen: str  # what the producer's header shows, as the poll says it


class Step(NamedTuple):
    """One request; with a form it is a POST, unless another method is named."""

    path: str
    session: str = ""
    headers: Mapping[str, str] = {}
    form: Mapping[str, str] | None = None
    expected: tuple[int, ...] = (200,)
    method: str = ""
    # The body of a call of the API, in place of a form.
    body: str = ""

    def about(self, share: str) -> "Step":
        return self._replace(path=self.path.replace(SHARE, share))


def calls(cast: Cast) -> dict[str, list[Step]]:
    """Of the API; a call has its token in a header and no session."""
    images = f"/image/{cast.region}/v2/images"
    token = {"X-Auth-Token": cast.producer_token}
    subject = token | {"X-Subject-Token": cast.producer_token}
    answer = {"X-Auth-Token": cast.consumer_token, "Content-Type": "application/json"}
    members = f"{images}/{cast.image}/members"
    member = f"{members}/{cast.consumer}"
    offer = json.dumps({"member": cast.consumer})
    accept = json.dumps({"status": "accepted"})
    return {
        "API: list 25": [Step(f"{images}?limit=25", headers=token)],
        "API: show": [Step(f"{images}/{cast.image}", headers=token)],
        "API: members": [Step(members, headers=token)],
        "API: validate a token": [Step("/identity/v3/auth/tokens", headers=subject)],
        API_CYCLE: [
            Step(members, headers=answer | token, method="POST", body=offer),
            Step(member, headers=answer, method="PUT", body=accept),
            Step(member, headers=token, method="DELETE", expected=(204,)),
        ],
    }


def scenarios(cast: Cast) -> dict[str, list[Step]]:
    images = f"/{cast.producer}/images/"
    alice = cast.producer_session
    offer = {**OFFER, "number": cast.consumer}
    rows = {**HTMX, "HX-Target": "image-table", "HX-Current-URL": f"http://x{images}"}
    return {
        FORTUNES: [Step("/fortunes/")],
        "Saved Images, page": [Step(images, alice)],
        "Saved Images, rows": [Step(images, alice, rows)],
        "header poll": [
            Step(
                f"/{cast.producer}/offers/?seen={cast.seen}",
                alice,
                HTMX,
                expected=(204,),
            )
        ],
        CYCLE: [
            Step(f"{images}{cast.image}/share/", alice, form=offer, expected=(302,)),
            Step(
                f"/{cast.consumer}/shares/{SHARE}/accept/",
                cast.consumer_session,
                form={},
                expected=(302,),
            ),
            Step(
                f"/{cast.producer}/shares/{SHARE}/revoke/",
                alice,
                form={},
                expected=(302,),
            ),
        ],
        **calls(cast),
    }
