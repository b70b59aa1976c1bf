"""Another disk for a server, and another size.

What is ordered stands in a row of its own until the worker has done it, so that a job
that is cut short and run again knows what was wanted, and what was before.
"""

from __future__ import annotations

import uuid

from django.db import models, transaction

from accounts.models import Quota, User
from images.models import Image
from servers.compute.backends import compute_for
from servers.models.boot import NotBootable, lock_bootable
from servers.models.event import What
from servers.models.flavor import GIB, Flavor
from servers.models.server import Server, ServerConflict
from servers.models.source import MadeFrom, made_from


class DoesNotFit(ServerConflict):
    """The image or the flavor is not for this server; the text says why."""


class Rebuild(MadeFrom):
    """A new disk that a server is to have, in place of the one that it has.

    Its data is held from the order on: once the disk is exchanged it is needed,
    whatever becomes of the image.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    server = models.OneToOneField(
        Server, on_delete=models.CASCADE, related_name="rebuild_order"
    )
    password_hash = models.CharField(max_length=128, editable=False)

    def __str__(self) -> str:
        return f"{self.server} from {self.image_name}"

    @classmethod
    @transaction.atomic
    def order(
        cls, server: Server, image: Image, *, password_hash: str, by: User
    ) -> Rebuild:
        """Throw the server's disk away, and make a new one from the image.

        It keeps its ID, name, flavor, address and SSH key. Raises NotBootable,
        DoesNotFit or ServerConflict.
        """
        image = lock_bootable(image.pk, server.account)
        if image.region_id != server.region_id:
            raise DoesNotFit(
                f"{image} lies in {image.region}, and {server} in {server.region}."
            )
        if refusal := server.flavor.why_not(image):
            raise DoesNotFit(f"{server} is too small. {refusal}")
        if not compute_for(server.region.backend).capacity().free_bytes:
            raise ServerConflict(
                f"There is too little disk space in {server.region.name} at present. "
                f"{server} stays as it is; try again later."
            )
        server.begin(
            Server.Task.REBUILDING,
            Server.Status.ACTIVE,
            Server.Status.SHUTOFF,
            Server.Status.ERROR,
            by=by,
            note=f"From {image.name}",
            launched_at__isnull=False,
            # For these the image and the server fit together.
            flavor=server.flavor,
        )
        if image.owner_id == server.account_id:
            image.mark_tried()
        return cls.objects.create(
            server=server, password_hash=password_hash, **made_from(image)
        )

    def insist_on_image(self) -> None:
        """Keep the image from being withdrawn until the transaction ends; raises
        NotBootable if it has been.
        """
        if self.image_id is None:
            raise NotBootable("The image has been deleted.")
        lock_bootable(self.image_id, self.server.account)

    @transaction.atomic
    def finish(self) -> bool:
        """The new disk is in place. False if the server is being deleted meanwhile."""
        before = self.server.blob
        # The image before the server, as everywhere; it may have been deleted by now.
        images = Image.objects.select_for_update(no_key=True)
        self.image = images.filter(pk=self.image_uuid, blob=self.blob_id).first()
        rebuilt = self.server.settle(
            What.REBUILT,
            note=f"From {self.image_name}",
            password_hash=self.password_hash,
            started_at=None,
            prompt_at=None,
            withdrawn_at=None,
            withdrawn_how="",
            detach_tried_at=None,
            detach_problem="",
            **self.source,
        )
        if rebuilt:
            self.delete()
            if before:
                before.release()
        return rebuilt

    @transaction.atomic
    def give_up(self, reason: str) -> None:
        """The server keeps the disk that it has."""
        if self.server.settle(
            What.FAILED, note=f"It was not rebuilt. {reason}", task=""
        ):
            self.delete()
            if self.blob:
                self.blob.release()


class Resize(models.Model):
    """Another flavor that a server is to have. It has it from the order on, so that
    what it needs is taken; until it is done, this keeps the one before.
    """

    server = models.OneToOneField(
        Server, on_delete=models.CASCADE, related_name="resize_order"
    )
    before = models.ForeignKey(
        Flavor, on_delete=models.PROTECT, related_name="+", db_index=False
    )

    def __str__(self) -> str:
        return f"{self.server} from {self.before}"

    @classmethod
    @transaction.atomic
    def order(cls, server: Server, flavor: Flavor, *, by: User) -> Resize:
        """Give the server another flavor. One that runs is shut down and started.

        Raises DoesNotFit, QuotaReached, NoCapacity or ServerConflict.
        """
        before = server.flavor
        if refusal := why_not_resize(server, flavor):
            raise DoesNotFit(refusal)
        more = flavor.ram_mb - before.ram_mb
        if more > 0:
            server.account.make_room({Quota.MEMORY_MB: more})
            Server.objects.take_place(server.region, flavor.ram_mb, but=server)
        server.begin(
            Server.Task.RESIZING,
            Server.Status.ACTIVE,
            Server.Status.SHUTOFF,
            by=by,
            note=f"{before} to {flavor}",
            flavor=before,
            image_uuid=server.image_uuid,
        )
        Server.objects.filter(pk=server.pk).update(flavor=flavor)
        server.flavor = flavor
        return cls.objects.create(server=server, before=before)

    @transaction.atomic
    def finish(self) -> bool:
        """It has its new size. False if the server is being deleted meanwhile."""
        note = f"{self.before} to {self.server.flavor}"
        resized = self.server.settle(What.RESIZED, note=note)
        if resized:
            self.delete()
        return resized

    @transaction.atomic
    def give_up(self, reason: str) -> None:
        """The server keeps the flavor that it had."""
        note = f"It was not resized. {reason}"
        if self.server.settle(What.FAILED, note=note, task="", flavor=self.before):
            self.delete()


@transaction.atomic
def drop_orders(server: Server) -> None:
    """Of a server that was to be deleted instead, and cannot be."""
    for rebuild in Rebuild.objects.select_related("blob").filter(server=server):
        rebuild.delete()
        if rebuild.blob:
            rebuild.blob.release()
    for resize in Resize.objects.filter(server=server):
        resize.delete()
        Server.objects.filter(pk=server.pk).update(flavor=resize.before)


def why_not_resize(server: Server, flavor: Flavor) -> str:
    """Why the server cannot have the flavor, as a sentence; empty if it can."""
    if flavor == server.flavor:
        return f"{server} has this flavor."
    if flavor.disk_gb * GIB < server.disk_size:
        have = -(-server.disk_size // GIB)
        return f"The server's disk has {have} GB, and a disk is never made smaller."
    if flavor.ram_mb < server.image_min_ram_mb:
        return f"The server's image needs at least {server.image_min_ram_mb} MB RAM."
    return ""
