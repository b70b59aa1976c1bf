"""What is measured: pages and deeds as a browser asks for them."""

from collections.abc import Mapping
from typing import NamedTuple

HTMX = {"HX-Request": "true"}
FORTUNES = "bare page (fortunes)"
CYCLE = "share, accept, stop sharing"
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
    seen: str  # what the producer's header shows, as the poll says it


class Step(NamedTuple):
    """One request; with a form it is a POST."""

    path: str
    session: str = ""
    headers: Mapping[str, str] = {}
    form: Mapping[str, str] | None = None
    expected: tuple[int, ...] = (200,)

    def about(self, share: str) -> "Step":
        return self._replace(path=self.path.replace(SHARE, share))


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
    }
