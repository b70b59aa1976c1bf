import re
import unittest
from pathlib import Path

ROOT = Path(__file__).parents[2]


class EnvExampleTests(unittest.TestCase):
    def test_it_lists_every_variable_that_the_settings_read_and_no_other(self):
        read = set()
        for name in ("settings.py", "env.py"):
            source = (ROOT / "controlpanel" / name).read_text()
            read |= set(re.findall(r'\b(?:env\.)?[a-z]+\(\s*"([A-Z_]+)"', source))
        example = (ROOT / ".env.example").read_text()
        assert set(re.findall(r"^#?([A-Z_]+)=", example, re.MULTILINE)) == read
