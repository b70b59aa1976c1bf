import os
import subprocess
import sys
import textwrap

import pytest
from django.conf import settings
from django.test import SimpleTestCase

from controlpanel.leases import Leased, is_leased, lease

HOLD = """
    import sys, django
    django.setup()
    from controlpanel.leases import lease
    with lease(7):
        print("held", flush=True)
        sys.stdin.read()
"""


class LeaseTests(SimpleTestCase):
    def test_a_job_is_done_by_one_at_a_time(self):
        with lease(7), pytest.raises(Leased), lease(7):
            raise AssertionError

    def test_other_jobs_are_done_meanwhile(self):
        with lease(7), lease(8):
            assert is_leased(7)
            assert is_leased(8)
            assert not is_leased(9)

    def test_it_ends_with_the_job_however_that_ends(self):
        with pytest.raises(ValueError, match="fault"), lease(7):
            raise ValueError("fault")

        assert not is_leased(7)

    def test_it_ends_with_a_process_that_is_killed_and_not_before(self):
        process = hold()
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stdin.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)

        assert is_leased(7)
        with pytest.raises(Leased), lease(7):
            raise AssertionError
        process.kill()
        process.wait()
        assert not is_leased(7)


def hold() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD)],
        cwd=settings.BASE_DIR,
        env=environment(DATA_DIR=str(settings.DATA_DIR)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "DJANGO_SETTINGS_MODULE": "controlpanel.settings", **changes}
