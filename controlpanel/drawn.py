"""Pieces of pages that are the same text for as long as their values are the same.

Most of a page is what it was a moment ago: the bar with the offers, the choice of
regions, the head of a table. To draw them anew costs more than the rows below.
"""

from collections.abc import Hashable
from functools import lru_cache

from django.conf import settings
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from controlpanel.context import product


def draw(template: str, **values: Hashable) -> SafeString:
    """Render a template, or a partial of one, with these values and nothing else.

    Kept by its values: they must tell all that the piece shows, so there is no
    request, and no object that stays equal while it changes.
    """
    # With DEBUG a template may change at any moment.
    drawn = _draw.__wrapped__ if settings.DEBUG else _draw
    return drawn(template, **values)


@lru_cache(maxsize=4096)
def _draw(template: str, **values: Hashable) -> SafeString:
    return render_to_string(template, {**product(), **values})
