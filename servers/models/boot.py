"""Whether an image may become a server, and stays so while that is done."""

from __future__ import annotations

from uuid import UUID

from accounts.models import Account
from controlpanel.http import Conflict
from images.models import Image


class NotBootable(Conflict):
    """The image cannot become a server of the account, or not any more."""


def lock_bootable(image_id: UUID, account: Account) -> Image:
    """The image if it may become a server of the account, and stays so until the end
    of the transaction: neither deleted nor withdrawn meanwhile.
    """
    # The image before its share, as everywhere. A withdrawal deletes the share's row,
    # a removal writes it: both wait.
    locked = Image.objects.select_for_update(of=["self"], no_key=True)
    image = locked.select_related("region").filter(pk=image_id).first()
    if image is None:
        raise NotBootable("The image has been deleted.")
    if image.owner_id not in {None, account.pk}:
        shares = account.received_shares.accepted().filter(image=image)
        if not shares.select_for_update().first():
            raise NotBootable(f"{image} is no longer shared with this account.")
    if not image.is_active:
        state = image.get_status_display().lower()
        raise NotBootable(f"{image} cannot be booted: it is {state}.")
    if image.unbootable_reason:
        raise NotBootable(f"{image} cannot be booted. {image.unbootable_reason}")
    if not Image.objects.bootable_by(account).filter(pk=image.pk).exists():
        raise NotBootable(f"{image} cannot be booted at present.")
    return image
