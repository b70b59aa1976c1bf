from django import template
from django.template import Context

from accounts.permissions import Capability, roles_for

register = template.Library()


@register.simple_tag(takes_context=True)
def refusal(context: Context, doing: str, capability: str) -> str:
    """Why the user's roles do not allow it, and who can; empty when they do."""
    request, needed = context["request"], Capability(capability)
    if needed in request.capabilities:
        return ""
    asked = request.__dict__.setdefault("holders", {})
    if needed not in asked:  # one query a page and capability, and none for an admin
        asked[needed] = request.account.holders_of(needed)
    holders = ", ".join(asked[needed])
    whom = (
        f"On this account these users have it: {holders}."
        if holders
        else "On this account nobody has it."
    )
    return f"{doing} needs {roles_for(needed)}. {whom}"
