"""Mails about shares. A job names the row and nothing else."""

from django.conf import settings
from django.core.mail import EmailMessage
from django.template.loader import render_to_string
from procrastinate.contrib.django import app as jobs

from accounts.permissions import Capability, roles_giving
from controlpanel.jobs import MAIL, Again
from sharing.models import ImageReport, ImageShare

# A mail server may be away for a day.
LATER = Again(Exception, waits=[5, 25, 125, 600, *[3600] * 24])


@jobs.task(name="sharing.tasks.tell_consumer", queue=MAIL, retry=LATER)
def tell_consumer(share_id: str) -> None:
    """Tell the consumer's admins of an image that was accepted in their name."""
    shares = ImageShare.objects.select_related("image__owner", "image__region")
    share = shares.select_related("consumer").filter(pk=share_id).first()
    if share is None or share.consumer is None:
        return  # withdrawn since
    admins = share.consumer.users_with(roles_giving(Capability.ANSWER_SHARES))
    context = {"share": share, "product_name": settings.PRODUCT_NAME}
    text = render_to_string("sharing/accepted_for_you.txt", context)
    # One each, so that nobody reads the others' addresses.
    for admin in admins.exclude(email=""):
        EmailMessage(
            subject=_one_line(f"{share.image_name} has been shared with your account"),
            body=text,
            to=[admin.email],
        ).send()


@jobs.task(name="sharing.tasks.mail_report", queue=MAIL, retry=LATER)
def mail_report(report_id: int) -> None:
    reports = ImageReport.objects.select_related("producer", "reporter")
    report = reports.get(pk=report_id)
    EmailMessage(
        subject=_one_line(f"Image reported: {report.image_name}"),
        body=render_to_string("sharing/report.txt", {"report": report}),
        to=[settings.SUPPORT_EMAIL],
    ).send()


def _one_line(subject: str) -> str:
    return " ".join(subject.split())
