"""Image v2, as Glance speaks it, for the images of one region: /image/<region>/v2."""

from __future__ import annotations

from accounts.api.service import Service
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

api = Service("image", title="Images", version=discovery.NEWEST, about=__doc__)

# The operations on members come from the layer above, and are put in beside these.
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
