"""Mails about shares. A job names the row and nothing else."""

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import transaction
from django.db.models import QuerySet
from django.template.loader import render_to_string
from procrastinate.contrib.django import app as jobs

from accounts.models import Account, User
from accounts.permissions import Capability, roles_giving
from controlpanel.jobs import MAIL, Again
from sharing.models import ImageReport, ImageShare

# A mail server may be away for a day.
LATER = Again(Exception, waits=[5, 25, 125, 600, *[3600] * 24])


@jobs.task(name="sharing.tasks.tell_consumer", queue=MAIL, retry=LATER)
@transaction.atomic
def tell_consumer(share_id: str) -> None:
    """Tell the consumer's admins of an image that was accepted in their name.

    By a job for each, so that one whose mail is not taken has the others told once.
    """
    share = _shares().filter(pk=share_id).first()
    if share is None or share.consumer is None:
        return  # withdrawn since
    for admin in _admins(share.consumer):
        tell_admin.defer(share_id=share_id, user_id=admin.pk)


@jobs.task(name="sharing.tasks.tell_admin", queue=MAIL, retry=LATER)
def tell_admin(share_id: str, user_id: int) -> None:
    share = _shares().filter(pk=share_id).first()
    if share is None or share.consumer is None:
        return
    admin = _admins(share.consumer).filter(pk=user_id).first()
    if admin is None:
        return  # not an admin any more
    context = {"share": share, "product_name": settings.PRODUCT_NAME}
    EmailMessage(
        subject=_one_line(f"{share.image_name} has been shared with your account"),
        body=render_to_string("sharing/accepted_for_you.txt", context),
        to=[admin.email],
        headers=_marked(f"share-{share_id}-{user_id}"),
    ).send()


@jobs.task(name="sharing.tasks.mail_report", queue=MAIL, retry=LATER)
def mail_report(report_id: int) -> None:
    reports = ImageReport.objects.select_related("producer", "reporter")
    report = reports.get(pk=report_id)
    EmailMessage(
        subject=_one_line(f"Image reported: {report.image_name}"),
        body=render_to_string("sharing/report.txt", {"report": report}),
        to=[settings.SUPPORT_EMAIL],
        headers=_marked(f"report-{report_id}"),
    ).send()


def _shares() -> QuerySet[ImageShare]:
    related = ("image__owner", "image__region", "consumer")
    return ImageShare.objects.select_related(*related)


def _admins(consumer: Account) -> QuerySet[User]:
    admins = consumer.users_with(roles_giving(Capability.ANSWER_SHARES))
    return admins.exclude(email="")


def _marked(about: str) -> dict[str, str]:
    """The same mark when a mail is sent again, as by a worker that was killed before it
    had noted the first sending: mail programs show such a mail once."""
    host = settings.DEFAULT_FROM_EMAIL.rpartition("@")[2].strip(" >")
    return {"Message-ID": f"<{about}@{host}>"}


def _one_line(subject: str) -> str:
    return " ".join(subject.split())
