"""From the name of a region's backend to what runs its servers."""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Any

from django.conf import settings

from servers.compute.base import Compute, ComputeUnavailable
from servers.compute.launch import QemuSettings
from servers.compute.qemu import QemuCompute

LOCAL = "local"


def compute_for(backend_name: str) -> Compute:
    """The backend, or ComputeUnavailable if there is none of this name."""
    if backend_name != LOCAL:
        raise ComputeUnavailable(
            f"The region's backend “{backend_name}” is not known here."
        )
    names = {field.name for field in fields(QemuSettings)}
    chosen: dict[str, Any] = {
        name: value for name, value in settings.COMPUTE.items() if name in names
    }
    return _local(QemuSettings(folder=settings.DATA_DIR / "servers", **chosen))


@functools.lru_cache(maxsize=8)
def _local(chosen: QemuSettings) -> Compute:
    # One for each process, so that the answer about the region is kept.
    return QemuCompute(chosen)
