"""What a consumer tells the support about an image."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.db import models, transaction
from procrastinate.contrib.django import app as jobs

from accounts.models import Account, LimitUse, User
from controlpanel.jobs import MAIL
from images.models import Image
from sharing.models.event import ShareEvent

REPORTS_USED_UP = (
    "This account has reported images {} times today, which is the limit. "
    "Please write to the support instead."
)


class ImageReportQuerySet(models.QuerySet["ImageReport"]):
    @transaction.atomic
    def file(
        self, event: ShareEvent, *, account: Account, by: User, reason: str, text: str
    ) -> ImageReport:
        """Report the image of a share that the account has, or had, and mail it.

        Raises TooMany when the day's reports are used up.
        """
        limit = settings.SHARING["reports_per_day"]
        LimitUse.take(
            account,
            "reports",
            limit=limit,
            per=timedelta(days=1),
            sentence=REPORTS_USED_UP.format(limit),
        )
        image = Image.objects.select_related("blob").filter(pk=event.image_id).first()
        report = self.create(
            image_id=event.image_id,
            image_name=event.image_name,
            digest=image.blob.digest if image and image.blob else "",
            producer_id=event.producer_id,
            reporter=account,
            reported_by=by.get_username(),
            reason=reason,
            text=text,
        )
        jobs.configure_task("sharing.tasks.mail_report", queue=MAIL).defer(
            report_id=report.pk
        )
        return report


class ImageReport(models.Model):
    """A consumer's word that a shared image is suspicious, for the cloud's support."""

    class Reason(models.TextChoices):
        MALWARE = "malware", "It seems to contain malicious software"
        STRANGE = "strange", "It behaves strangely"
        LICENCE = "licence", "It breaks a licence"
        SECRETS = "secrets", "It contains somebody's secrets"
        SPAM = "spam", "I have no connection with this producer"
        OTHER = "other", "Something else"

    image_id = models.UUIDField(db_index=True)
    image_name = models.CharField(max_length=255)
    digest = models.CharField("SHA-256", max_length=64, blank=True)
    producer = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="+")
    reporter = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="+")
    reported_by = models.CharField(max_length=150)
    reason = models.CharField(max_length=10, choices=Reason)
    text = models.TextField(max_length=4000, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ImageReportQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.image_name}: {self.get_reason_display()}"
