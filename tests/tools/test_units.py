import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "docs" / "systemd"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd")
def test_systemd_finds_no_fault_in_the_units(tmp_path):
    for unit in UNITS.iterdir():
        # No checkout lies where the units expect one.
        text = re.sub(
            r"/opt/controlpanel/\.venv/bin/\w+", "/bin/true", unit.read_text()
        )
        (tmp_path / unit.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *tmp_path.iterdir()],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_unit_reads_the_same_settings():
    services = sorted(UNITS.glob("*.service"))
    assert len(services) == 3
    for unit in services:
        assert "EnvironmentFile=/etc/controlpanel.env\n" in unit.read_text()
        assert "User=controlpanel\n" in unit.read_text()
