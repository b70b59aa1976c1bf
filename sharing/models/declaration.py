"""What a producer says of an image before sharing it."""

from __future__ import annotations

from django.db import models, transaction

from accounts.models import User
from images.models import Image
from sharing.models.status import ShareConflict


class ShareDeclarationQuerySet(models.QuerySet["ShareDeclaration"]):
    def newest(self) -> ShareDeclaration | None:
        return self.order_by("-pk").first()

    @transaction.atomic
    def answer(self, image: Image, *, by: User) -> ShareDeclaration:
        """Keep that the user has answered all three questions as sharing demands."""
        # Locked, so that it is not deleted in the meantime.
        locked = Image.objects.select_for_update(no_key=True).filter(pk=image.pk)
        if locked.first() is None:
            raise ShareConflict(f"{image} has been deleted.")
        return self.create(
            image=image,
            made_by=by.get_username(),
            may_be_distributed=True,
            holds_no_secrets=True,
            holds_no_malware=True,
        )


class ShareDeclaration(models.Model):
    """The producer's answers to the three questions before sharing an image.

    Kept for each time somebody answered; the newest one counts. The consumer is told
    that the account gave them, and when.
    """

    image = models.ForeignKey(
        Image, on_delete=models.CASCADE, related_name="declarations"
    )
    made_by = models.CharField(max_length=150)
    may_be_distributed = models.BooleanField()
    holds_no_secrets = models.BooleanField()
    holds_no_malware = models.BooleanField()
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ShareDeclarationQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.image_id} by {self.made_by}"
