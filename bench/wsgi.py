"""The panel and the bare page in one process, so that both share server and machine.

The bare page has no middleware at all; the panel has all of its own.
"""

import os
from typing import Any

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlpanel.settings")
django.setup()
settings.ROOT_URLCONF = "bench.urls"
settings.TEMPLATES[0] |= {
    "DIRS": [settings.BASE_DIR / "templates", settings.BASE_DIR / "bench" / "templates"]
}

panel = WSGIHandler()
middleware, settings.MIDDLEWARE = settings.MIDDLEWARE, []
bare = WSGIHandler()
settings.MIDDLEWARE = middleware


def application(environ: dict[str, Any], start_response: Any) -> Any:
    handler = bare if environ["PATH_INFO"] == "/fortunes/" else panel
    return handler(environ, start_response)
