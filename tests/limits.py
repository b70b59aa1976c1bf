from django.conf import settings
from django.test import override_settings


def limited(**quotas: int) -> override_settings:
    """As if these were the cloud's defaults for what an account may hold."""
    return override_settings(QUOTAS=settings.QUOTAS | quotas)
