"""What is measured: pages and deeds as a browser asks for them."""

from collections.abc import Mapping
from typing import NamedTuple

HTMX = {"HX-Request": "true"}
FORTUNES = "bare page (fortunes)"
CYCLE = "share, accept, stop sharing"


class Cast(NamedTuple):
    producer: str
    consumer: str
    producer_session: str
    consumer_session: str
    image: str


class Step(NamedTuple):
    """One request; with a form it is a POST."""

    path: str
    session: str = ""
    headers: Mapping[str, str] = {}
    form: Mapping[str, str] | None = None
    expected: tuple[int, ...] = (200,)


def scenarios(cast: Cast) -> dict[str, list[Step]]:
    images = f"/{cast.producer}/images/"
    alice = cast.producer_session
    rows = {**HTMX, "HX-Target": "image-table", "HX-Current-URL": f"http://x{images}"}
    return {
        FORTUNES: [Step("/fortunes/")],
        "Saved Images, page": [Step(images, alice)],
        "Saved Images, rows": [Step(images, alice, rows)],
        "header poll": [
            Step(f"/{cast.producer}/offers/", alice, HTMX, expected=(200, 204))
        ],
    }
