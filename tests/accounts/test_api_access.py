import json
import re
from datetime import timedelta
from urllib.parse import unquote

from django.utils import timezone

from accounts.models import ApplicationCredential
from accounts.permissions import Role
from tests.cast import CastTestCase
from tests.factories import RegionFactory, UserFactory


class ApiAccessTests(CastTestCase):
    def setUp(self):
        self.client.force_login(self.alice)
        self.url = f"/{self.acme.pk}/api-access/"

    def make(self, **changes):
        form = {"name": "deploy", "roles": ["identity:user-admin"], "days": "30"}
        return self.client.post(self.url, form | changes)

    def test_the_secret_is_shown_once_and_opens_the_credential(self):
        response = self.make()
        secret = response.context["secret"]
        made = ApplicationCredential.objects.get()
        assert made.is_opened_by(secret)
        assert not made.is_opened_by(f"{secret}x")
        month = timezone.now() + timedelta(days=30)
        assert abs(made.expires_at - month) < timedelta(minutes=1)
        assert secret not in self.client.get(self.url).text
        assert "no-store" in response["Cache-Control"]

    def test_its_file_signs_in_by_the_credential(self):
        response = self.make(name='a "name": {odd}')
        address = re.search(r'href="data:[^,]*,([^"]*)"', response.text)[1]
        text = unquote(address)
        made = ApplicationCredential.objects.get()
        assert f'application_credential_id: "{made.pk.hex}"' in text
        assert response.context["secret"] in text
        assert "auth_type: v3applicationcredential" in text

    def test_the_other_file_holds_no_password(self):
        response = self.client.get(f"{self.url}clouds.yaml")
        assert response["Content-Disposition"].endswith('"clouds.yaml"')
        assert 'username: "alice"' in response.text
        assert f'project_id: "{self.acme.pk}"' in response.text
        assert "password:" not in response.text

    def test_the_clients_find_each_region_in_it_and_take_the_chosen_one(self):
        RegionFactory.create(code="LON")
        for query, regions in (("", ["IAD", "LON"]), ("?region=LON", ["LON", "IAD"])):
            with self.subTest(query=query):
                file = self.client.get(f"{self.url}clouds.yaml{query}").text
                assert f"    regions: {json.dumps(regions)}\n" in file
                assert f'    region_name: "{regions[0]}"\n' in file

    def test_what_is_wrong_is_said_beside_the_field(self):
        self.make()
        for changes in (
            {"name": ""},
            {"name": "deploy"},  # taken
            {"name": "a\nb"},
            {"roles": []},
            {"roles": ["nova:observer"]},  # not one's own
            {"days": "9999"},
        ):
            with self.subTest(changes=changes):
                assert self.make(**changes).status_code == 422
        assert ApplicationCredential.objects.count() == 1

    def test_one_sees_and_deletes_only_one_s_own(self):
        other = UserFactory.create(roles=[(self.acme, Role.ADMIN)])
        theirs = ApplicationCredential.objects.make(
            other, self.acme, name="theirs", roles=[Role.ADMIN]
        )
        self.make()
        mine = ApplicationCredential.objects.get(name="deploy")
        assert "theirs" not in self.client.get(self.url).text
        assert self.client.post(f"{self.url}{theirs.pk}/delete/").status_code == 404
        assert self.client.get(f"{self.url}{mine.pk}/delete/").status_code == 200
        assert self.client.post(f"{self.url}{mine.pk}/delete/").status_code == 302
        assert ApplicationCredential.objects.get() == theirs

    def test_they_are_so_many_and_no_more(self):
        for number in range(100):
            self.make(name=f"key {number}")
        response = self.make(name="one more")
        assert response.status_code == 422
        assert "at most 100 credentials" in response.text
