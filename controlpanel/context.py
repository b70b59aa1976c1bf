from django.conf import settings
from django.http import HttpRequest
from django.templatetags.static import static


def product(request: HttpRequest | None = None) -> dict[str, str]:
    """The names that every template may use."""
    return {
        "product_name": settings.PRODUCT_NAME,
        "support_email": settings.SUPPORT_EMAIL,
        "icons": static("icons.svg"),
    }
