"""Image v2, as Glance speaks it, for the images of one region: /image/<region>/v2.

The operations on members come from the layer above, which is put in beside these.
"""

from __future__ import annotations

from ninja import NinjaAPI

from accounts.api.gate import TokenAuth
from controlpanel.api import faults
from images.api import (
    actions,
    data,
    discovery,
    images,
    imports,
    listing,
    schemas,
    tags,
    tasks,
)

api = NinjaAPI(
    title="Images",
    version=discovery.NEWEST,
    description=__doc__,
    urls_namespace="image",
    openapi_url="/openapi.json",
    docs_url=None,
    auth=TokenAuth(),
)
faults.install(api, "image")

# What begins with a word comes before what could be taken for it.
for module in (
    discovery,
    schemas,
    tasks,
    listing,
    images,
    data,
    imports,
    actions,
    tags,
):
    api.add_router("", module.router)
