from django import template
from django.template import Context

from accounts import access

register = template.Library()


@register.simple_tag(takes_context=True)
def link(context: Context, view: str, *args: object) -> str:
    """The address of a page of this account; it keeps the region."""
    return access.link(context["request"], view, *args)
