from datetime import timedelta

from axes.models import AccessAttempt
from django.utils import timezone

from accounts.models import Invitation, LimitUse, Session
from accounts.permissions import Role
from accounts.tasks import prune
from tests.cast import CastTestCase


class PruneTests(CastTestCase):
    def make(self, age):
        """One of each kind, that ran out so long ago."""
        then = timezone.now() - age
        Session.objects.create(session_key=str(age), expire_date=then)
        LimitUse.objects.create(
            account=self.acme, what="offers", since=then, until=then, limit=1
        )
        invitation = Invitation.objects.invite(
            "new@example.com", to=self.acme, roles=[Role.OBSERVER], by=self.alice
        )
        Invitation.objects.filter(pk=invitation.pk).update(expires_at=then)
        attempt = AccessAttempt.objects.create(
            username="alice",
            ip_address="::1",
            user_agent=str(age),
            failures_since_start=1,
        )
        AccessAttempt.objects.filter(pk=attempt.pk).update(attempt_time=then)

    def test_what_ran_out_goes_and_the_rest_stays(self):
        self.make(timedelta(days=365))
        self.make(-timedelta(days=1))

        prune(timestamp=0)

        for model in Session, LimitUse, Invitation, AccessAttempt:
            with self.subTest(model=model):
                assert model.objects.count() == 1
