"""What has run out is thrown away at night."""

from datetime import timedelta

from axes.models import AccessAttempt
from django.utils import timezone
from procrastinate.contrib.django import app as jobs

from accounts.models import Invitation, LimitUse, Session, Token
from controlpanel.jobs import HOUSEKEEPING, ONLY_IF_INTERRUPTED

KEEP_INVITATIONS = timedelta(days=90)
KEEP_FAILED_SIGN_INS = timedelta(days=30)


@jobs.periodic(cron="23 3 * * *")
@jobs.task(
    queue=HOUSEKEEPING, queueing_lock="prune-accounts", retry=ONLY_IF_INTERRUPTED
)
def prune(timestamp: int) -> None:
    now = timezone.now()
    Session.objects.filter(expire_date__lt=now).delete()
    LimitUse.objects.filter(until__lt=now).delete()
    Token.objects.filter(expires_at__lt=now).delete()
    Invitation.objects.filter(expires_at__lt=now - KEEP_INVITATIONS).delete()
    old = AccessAttempt.objects.filter(attempt_time__lt=now - KEEP_FAILED_SIGN_INS)
    old.delete()
