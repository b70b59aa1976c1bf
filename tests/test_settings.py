import os
import re
import runpy
from pathlib import Path
from unittest import mock

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import SimpleTestCase

SETTINGS = Path(__file__).parents[1] / "controlpanel" / "settings.py"
PRODUCTION = {
    "SECRET_KEY": "a-key-for-these-tests-0123456789",
    "DATABASE_URL": "postgresql://app:secret@db.example.com:5433/panel?sslmode=require",
    "ALLOWED_HOSTS": "panel.example.com, www.example.com",
    "EMAIL_HOST": "mail.example.com",
}


def read(**environment):
    """The settings of a panel with just these variables."""
    with mock.patch.dict(os.environ, PRODUCTION | environment, clear=True):
        return runpy.run_path(str(SETTINGS))


class ProductionTests(SimpleTestCase):
    def test_a_panel_is_safe_unless_told_otherwise(self):
        settings = read()
        assert not settings["DEBUG"]
        assert settings["SESSION_COOKIE_SECURE"]
        assert settings["CSRF_COOKIE_SECURE"]
        assert settings["SECURE_SSL_REDIRECT"]
        assert settings["SECURE_HSTS_SECONDS"] == 31_536_000
        assert settings["MAILERS"]["default"]["OPTIONS"]["host"] == "mail.example.com"

    def test_a_monitor_needs_no_tls(self):
        [exempt] = read()["SECURE_REDIRECT_EXEMPT"]
        for path in ("healthz", "readyz"):
            assert re.search(exempt, path)
        assert not re.search(exempt, "healthz/login")

    def test_no_header_of_a_proxy_is_believed_unasked(self):
        assert "SECURE_PROXY_SSL_HEADER" not in read()
        assert "SECURE_PROXY_SSL_HEADER" in read(BEHIND_TLS_PROXY="true")

    def test_the_demo_needs_no_tls(self):
        assert "SECURE_SSL_REDIRECT" not in read(PLAIN_HTTP="true")

    def test_the_address_of_the_database_is_read_in_full(self):
        database = read()["DATABASES"]["default"]
        names = ("NAME", "USER", "PASSWORD", "HOST", "PORT")
        assert [database[name] for name in names] == [
            "panel",
            "app",
            "secret",
            "db.example.com",
            "5433",
        ]
        assert database["OPTIONS"]["sslmode"] == "require"

    def test_lists_and_ranges_are_read(self):
        settings = read(SSH_PORTS="22000-22999")
        assert settings["ALLOWED_HOSTS"] == ["panel.example.com", "www.example.com"]
        assert settings["COMPUTE"]["ssh_ports"] == (22000, 22999)


class MistakeTests(SimpleTestCase):
    def test_a_missing_or_odd_variable_is_named(self):
        for name, value in [
            ("SECRET_KEY", ""),
            ("DATABASE_URL", ""),
            ("ALLOWED_HOSTS", ""),
            ("DEBUG", "yes"),
            ("DATABASE_POOL_SIZE", "0"),
            ("OFFERS_PER_DAY", "-1"),
            ("MAX_SERVERS", "²"),
            ("LOCAL_REGION_ACCELERATOR", "xen"),
            ("SSH_PORTS", "22000"),
            ("SSH_PORTS", "22999-22000"),
        ]:
            with (
                self.subTest(name=name, value=value),
                pytest.raises(ImproperlyConfigured, match=name),
            ):
                read(**{name: value})
