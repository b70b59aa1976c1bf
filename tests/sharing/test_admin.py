from django.urls import reverse

from sharing.models import ImageReport, ShareDeclaration, ShareEvent
from tests.cast import CastTestCase
from tests.factories import ImageShareFactory, UserFactory

MODELS = ["imageshare", "shareevent", "sharedeclaration", "imagereport"]


class AdminTests(CastTestCase):
    def setUp(self):
        share = ImageShareFactory.create(image=self.image, consumer=self.beta)
        event = ShareEvent.objects.received_by(self.beta).get()
        self.rows = {
            "imageshare": share,
            "shareevent": event,
            "sharedeclaration": ShareDeclaration.objects.answer(
                self.image, by=self.alice
            ),
            "imagereport": ImageReport.objects.file(
                event, account=self.beta, by=self.bob, reason="spam", text="Who?"
            ),
        }
        self.client.force_login(UserFactory.create(is_staff=True, is_superuser=True))

    def test_staff_reads_all_and_changes_nothing(self):
        for model, row in self.rows.items():
            with self.subTest(model=model):
                listed = reverse(f"admin:sharing_{model}_changelist")
                found = self.client.get(listed, {"q": self.beta.number})
                assert found.status_code == 200
                self.assertContains(self.client.get(listed), self.image.name)
                change = reverse(f"admin:sharing_{model}_change", args=[row.pk])
                assert self.client.get(change).status_code == 200
                assert self.client.post(change, {}).status_code == 403
                add = reverse(f"admin:sharing_{model}_add")
                assert self.client.get(add).status_code == 403
                delete = reverse(f"admin:sharing_{model}_delete", args=[row.pk])
                assert self.client.post(delete, {"post": "yes"}).status_code == 403

    def test_users_of_the_panel_do_not_get_in(self):
        self.client.force_login(self.bob)

        for model in MODELS:
            url = reverse(f"admin:sharing_{model}_changelist")
            assert self.client.get(url).status_code == 302
