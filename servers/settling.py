"""Between a server's row and its region: what the region is told of the server, and
what the row is told of the region's answer.
"""

from __future__ import annotations

from typing import Any

from django.utils import timezone

from images.models import Blob
from images.stores import StoreError, store_for
from servers.compute.backends import compute_for
from servers.compute.base import (
    ComputeError,
    ImageFile,
    Observed,
    PowerState,
    ServerBusy,
    ServerSpec,
)
from servers.models import Server, What


def spec_of(server: Server, blob: Blob | None = None) -> ServerSpec:
    """On its own disk, or on one that is made from the blob."""
    return ServerSpec(
        id=server.pk,
        hostname=server.hostname,
        memory_mb=server.flavor.ram_mb,
        vcpus=server.flavor.vcpus,
        disk_gb=server.flavor.disk_gb,
        image=_file_of(server, blob or server.blob),
        password_hash=server.password_hash,
        public_keys=(server.public_key,) if server.public_key else (),
    )


def _file_of(server: Server, blob: Blob | None) -> ImageFile | None:
    if blob is None:
        return None
    path = store_for(server.region.backend).path(blob.digest)
    raw = blob.disk_format == "raw"
    return ImageFile(path=path, format="raw" if raw else "qcow2")


def start(server: Server) -> None:
    """Power it on, and settle its row by what comes of that."""
    try:
        compute = compute_for(server.region.backend)
        found = compute.power_on(spec_of(server))
    except ServerBusy:
        raise
    except (ComputeError, StoreError) as error:
        fail(server, str(error))
    else:
        settle_started(server, found)


def settle_started(server: Server, found: Observed, **changes: Any) -> None:
    if found.power_state is not PowerState.RUNNING:
        settle_stopped(server, found.reason, **changes)
        return
    server.settle(
        What.STARTED,
        status=Server.Status.ACTIVE,
        task="",
        reason=found.reason,
        ssh_host=found.ssh_host,
        ssh_port=found.ssh_port,
        started_at=timezone.now(),
        prompt_at=None,
        **changes,
    )


def settle_stopped(server: Server, reason: str, **changes: Any) -> None:
    server.settle(
        What.STOPPED,
        note=reason,
        status=Server.Status.SHUTOFF,
        task="",
        reason=reason[:500],
        **changes,
    )


def fail(server: Server, reason: str) -> bool:
    return server.settle(
        What.FAILED,
        note=reason,
        status=Server.Status.ERROR,
        task="",
        reason=reason[:500],
    )
