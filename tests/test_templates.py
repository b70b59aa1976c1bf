import re
from pathlib import Path

from django.conf import settings
from django.template.loader import get_template
from django.test import SimpleTestCase

FOLDER = Path(settings.BASE_DIR, "templates")
TEMPLATES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.*"))
APPS = ["controlpanel", "accounts", "images", "sharing", "servers"]

# The Content Security Policy forbids these: a page would look broken, not fail.
INLINE = re.compile(r"<script(?![^>]*\ssrc=)|<style|\s(?:on[a-z]+|style)=\"", re.I)

# An icon of the sprite, as templates write it and as they pass it on.
ICON = re.compile(r"icons }}#([\w-]+)|icon=\"([\w-]+)\"")

# Django looks for these by name.
FOUND_BY_DJANGO = re.compile(r"^(?:django/|admin/|registration/|\d{3}\w*\.html$)")


def sources() -> str:
    code = [p for app in APPS for p in Path(settings.BASE_DIR, app).rglob("*.py")]
    pages = [FOLDER / name for name in TEMPLATES]
    return "\n".join(path.read_text() for path in [*code, *pages])


class TemplateTests(SimpleTestCase):
    def test_every_template_compiles(self):
        assert len(TEMPLATES) > 50
        for name in TEMPLATES:
            with self.subTest(template=name):
                get_template(name)

    def test_no_template_holds_script_or_style(self):
        for name in TEMPLATES:
            with self.subTest(template=name):
                assert not INLINE.search((FOLDER / name).read_text())

    def test_every_template_is_used(self):
        everything = sources()
        for name in TEMPLATES:
            if not FOUND_BY_DJANGO.match(name):
                with self.subTest(template=name):
                    assert f'"{name}' in everything

    def test_every_icon_is_in_the_sprite(self):
        sprite = Path(settings.BASE_DIR, "static", "icons.svg").read_text()
        used = {name for pair in ICON.findall(sources()) for name in pair if name}
        assert len(used) > 20
        for name in used:
            with self.subTest(icon=name):
                assert f'id="{name}"' in sprite
