"""A new disk in the place of the old one, whole or not at all.

What is new is made in a folder beside the old, `rebuilt.new`. Once it is complete and
the process has ended, that becomes `rebuilt`, which is the point of no return: before
it the old disk is as it was, after it the next deed, whichever it is, brings the
exchange to its end. `order` goes last, and tells which order has been done.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from uuid import UUID

from servers.compute import disks, life
from servers.compute.base import ComputeError, ServerSpec
from servers.compute.folder import ServerFolder, Wanted


def rebuild(folder: ServerFolder, spec: ServerSpec, seed: bytes, order: UUID) -> None:
    if folder.rebuilt_by() == order:
        return
    if spec.image is None:
        raise ComputeError("A server is rebuilt from an image.")
    draft = folder.rebuilt.with_suffix(".new")
    draft.mkdir(mode=0o700)
    disks.create_overlay(draft / folder.disk.name, spec.image, spec.disk_gb)
    folder.write(draft / folder.seed.name, seed)
    folder.write(draft / folder.order.name, str(order).encode())
    folder.save(replace(folder.state(), wanted=Wanted.OFF, reason=""))
    life.adopt(folder)
    life.end(folder)
    draft.rename(folder.rebuilt)
    put_right(folder)


def put_right(folder: ServerFolder) -> None:
    """End an exchange that was cut short."""
    if not folder.rebuilt.is_dir():
        return
    # They showed the old system.
    for old in (folder.console, folder.screen):
        old.unlink(missing_ok=True)
    for path in (folder.seed, folder.disk, folder.order):
        with contextlib.suppress(FileNotFoundError):
            (folder.rebuilt / path.name).rename(path)
    folder.rebuilt.rmdir()
