"""How the worker gives a server another disk or another size."""

from __future__ import annotations

import logging
from dataclasses import replace

from django.db import transaction

from images.stores import StoreError
from servers.compute.backends import compute_for
from servers.compute.base import Compute, ComputeError, PowerState, ServerBusy
from servers.models import NotBootable, Rebuild, Resize, Server, drop_orders
from servers.settling import fail, spec_of, start

log = logging.getLogger("panel.servers")


def rebuild(server: Server) -> None:
    order = Rebuild.objects.select_related("blob").filter(server=server).first()
    if order is None:  # the disk is exchanged
        _start_again(server)
        return
    order.server = server
    try:
        _exchange(compute_for(server.region.backend), order)
    except ServerBusy:
        raise
    except (ComputeError, StoreError, NotBootable) as error:
        log.warning("server %s was not rebuilt: %s", server.pk, error)
        _keep_running(server)
        # The region may have failed only when it could not go back any more.
        if not _is_done(order):
            order.give_up(str(error))
            return
    if order.finish():
        _start_again(Server.objects.with_parts().get(pk=server.pk))


def resize(server: Server) -> None:
    order = Resize.objects.select_related("before").filter(server=server).first()
    if order is None:  # it has its new size
        _start_again(server)
        return
    order.server = server
    try:
        compute_for(server.region.backend).resize(spec_of(server))
    except ServerBusy:
        raise
    except (ComputeError, StoreError) as error:
        log.warning("server %s was not resized: %s", server.pk, error)
        server.flavor = order.before
        _keep_running(server)
        order.give_up(str(error))
    else:
        if order.finish():
            _start_again(server)


@transaction.atomic
def keep(server: Server, reason: str) -> None:
    """One that was to be deleted, and cannot be; what else was ordered is dropped."""
    order = Rebuild.objects.select_related("blob").filter(server=server).first()
    if order and _is_done(order):
        order.server = server
        order.finish()
    if fail(server, reason):
        drop_orders(server)


def _is_done(order: Rebuild) -> bool:
    """Whether the disk is exchanged. Where that cannot be told, nothing is decided:
    data would go that the disk rests on.
    """
    try:
        compute = compute_for(order.server.region.backend)
        return compute.observe(order.server.pk).rebuilt_by == order.pk
    except ComputeError as error:
        raise ServerBusy(f"The server cannot be looked at: {error}") from error


def _exchange(compute: Compute, order: Rebuild) -> None:
    """Give the server its new disk, while the image cannot be withdrawn; nothing if an
    earlier run of the job has, for then the image is not asked for any more.
    """
    server = order.server
    if compute.observe(server.pk).rebuilt_by == order.pk:
        return
    with transaction.atomic():
        order.insist_on_image()
        # Not of the disk that it has, whose image may be lost.
        spec = replace(spec_of(server, order.blob), password_hash=order.password_hash)
        compute.rebuild(spec, order=order.pk)


def _keep_running(server: Server) -> None:
    """Start what ran before a change that comes to nothing, should this run of the job
    or one that was cut short have shut it down for it.
    """
    if server.status != Server.Status.ACTIVE:
        return
    compute = compute_for(server.region.backend)
    try:
        if compute.observe(server.pk).power_state is PowerState.SHUTDOWN:
            compute.power_on(spec_of(server))
    except ServerBusy:
        raise
    except (ComputeError, StoreError) as error:  # the next look tells of it
        log.warning("server %s was not started again: %s", server.pk, error)


def _start_again(server: Server) -> None:
    """After a change of disk or size, which has shut it down: as it was before."""
    if server.status == Server.Status.SHUTOFF:
        server.settle(None, task="", reason="")
        return
    start(server)
