"""What surrounds every page: drawn once, and then only filled in.

Drawn anew for each page, it would cost as much as a page's rows. It differs by the
section, the region, the account, the user and the token of its form.
"""

import re
from functools import lru_cache

from django import template
from django.conf import settings
from django.template import Context
from django.template.loader import render_to_string
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

from controlpanel.context import product

register = template.Library()

# What the kept text has in place of a value. The addresses of pages take nothing
# else than eight digits for an account's number.
MARKS = {
    "number": "00000000",
    "account_name": "\ue000account\ue000",
    "username": "\ue000user\ue000",
    "csrf_token": "\ue000token\ue000",
}
_BETWEEN = re.compile(f"({'|'.join(MARKS.values())})")


@register.simple_tag(takes_context=True)
def frame(context: Context, template_name: str) -> SafeString:
    request = context["request"]
    account = getattr(request, "account", None)
    region = getattr(request, "region", None)
    user = getattr(request, "user", None)  # none if a middleware refused earlier
    values = {
        MARKS["number"]: account.number if account else "",
        MARKS["account_name"]: escape(account.name) if account else "",
        MARKS["username"]: escape(user.get_username()) if user else "",
        MARKS["csrf_token"]: str(context.get("csrf_token", "")),
    }
    draw = _draw.__wrapped__ if settings.DEBUG else _draw
    pieces = draw(
        template_name,
        nav=context.get("nav", ""),
        region=region.code if region else "",
        has_account=account is not None,
    )
    # Each piece of text stands as it was escaped when drawn, each value as above.
    return mark_safe("".join([values.get(piece, piece) for piece in pieces]))  # noqa: S308


@lru_cache(maxsize=512)
def _draw(
    template_name: str, *, nav: str, region: str, has_account: bool
) -> tuple[str, ...]:
    context = {
        **product(),
        **MARKS,
        "nav": nav,
        "region": region,
        "has_account": has_account,
    }
    return tuple(_BETWEEN.split(render_to_string(template_name, context)))
