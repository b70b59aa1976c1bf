from django.contrib import admin
from django.urls import include, path, register_converter
from django.urls.converters import StringConverter

from accounts.api.identity import api as identity
from accounts.api.reference import api_reference
from images.api.service import api as images
from servers import health
from servers.api.compute import api as compute
from sharing.api import members


class AccountNumberConverter(StringConverter):
    """A number that is a name: kept as text, and no word can be taken for it."""

    regex = "[0-9]{8}"


register_converter(AccountNumberConverter, "account")

# The services of the API, for clients.
images.add_router("", members.router)
reference = {"services": [identity, images, compute]}
services = [
    path("identity/", identity.urls),
    path("compute/", compute.urls),
    path("image/", images.urls),
]
urlpatterns = [
    *services,
    path("docs/api/", api_reference, reference, name="api-reference"),
    path("docs/api/<slug:name>/", api_reference, reference, name="api-reference"),
    path("", include("accounts.urls")),
    path("healthz", health.alive, name="alive"),
    path("readyz", health.ready, name="ready"),
    path("admin/", admin.site.urls),
    path("<account:account_number>/", include("images.urls")),
    path("<account:account_number>/", include("sharing.urls")),
    path("<account:account_number>/", include("servers.urls")),
]
handler403 = "controlpanel.errors.forbidden"
handler404 = "controlpanel.errors.not_found"
handler500 = "controlpanel.errors.server_error"
