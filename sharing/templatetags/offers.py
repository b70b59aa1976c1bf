from typing import Any

from django import template
from django.template import Context

from accounts.permissions import Capability
from images.models import Image
from sharing import sections
from sharing.notifications import draw_notifications
from sharing.offers import draw_offers, offers_of

register = template.Library()


@register.simple_tag(takes_context=True)
def offer_count(context: Context) -> str:
    """The header's count of offers over all regions, for who may see them."""
    request = context["request"]
    may_see = Capability.VIEW_IMAGES in request.capabilities
    offers = offers_of(request) if may_see else None
    return draw_offers(request.account.number, offers) if offers else ""


@register.simple_tag(takes_context=True)
def offer_notifications(
    context: Context, region: str = "", place: str = "images"
) -> str:
    """The pending offers of a region: of this code, else of the one selected."""
    request = context["request"]
    selected = request.region.code if request.region else None
    return draw_notifications(request, region=region or selected, place=place)


@register.inclusion_tag("sharing/image_sharing.html", takes_context=True)
def image_sharing(context: Context, image: Image) -> dict[str, Any]:
    """The section of Image Detail: who has an own image, or who shared this one."""
    request = context["request"]
    if image.is_base:
        return {}
    section = (
        sections.image_sharing
        if image.is_owned_by(request.account)
        else sections.shared_by
    )
    names = {name: context[name] for name in ("icons", "product_name")}
    return section(request, image) | names
