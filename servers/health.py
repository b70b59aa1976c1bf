"""What a monitor asks: is the process up, and can the panel do its work?

Both pages are public and say nothing but yes or no. Neither has a limit, as they are
cheap: the one asks nobody, the other makes two small queries.
"""

from datetime import timedelta

from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import ImproperlyConfigured
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from procrastinate.contrib.django.models import ProcrastinateWorker
from psycopg_pool import PoolTimeout

from accounts.models import Region
from images.stores import store_for
from servers.compute.backends import compute_for
from servers.compute.base import ComputeError

# A worker says every ten seconds that it is there.
_SILENT_AFTER = timedelta(seconds=40)


@never_cache
@require_safe
@login_not_required
def alive(request: HttpRequest) -> HttpResponse:
    """This process answers, whatever else is out of order."""
    return HttpResponse("ok\n", content_type="text/plain")


@never_cache
@require_safe
@login_not_required
def ready(request: HttpRequest) -> JsonResponse:
    """Whether database, worker, image store and region are in order; 503 if not."""
    found = dict.fromkeys(["database", "worker", "store", "region"], False)
    try:
        backends = _backends()
        found["database"] = True
        found["worker"] = _has_worker()
    except (InterfaceError, OperationalError, PoolTimeout):
        backends = []
    found["store"] = bool(backends) and all(map(_store_is_ready, backends))
    found["region"] = bool(backends) and all(map(_region_is_ready, backends))
    return JsonResponse(found, status=200 if all(found.values()) else 503)


def _backends() -> list[str]:
    named = Region.objects.order_by("backend").values_list("backend", flat=True)
    return list(named.distinct())


def _has_worker() -> bool:
    seen_since = timezone.now() - _SILENT_AFTER
    return ProcrastinateWorker.objects.filter(last_heartbeat__gt=seen_since).exists()


def _store_is_ready(backend: str) -> bool:
    try:
        return not store_for(backend).unavailable_reason()
    except ImproperlyConfigured:
        return False


def _region_is_ready(backend: str) -> bool:
    try:
        return compute_for(backend).unavailable_reason() is None
    except ComputeError:
        return False
