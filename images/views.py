from django.http import HttpResponse
from django.views.decorators.http import require_GET

from accounts.access import AccountRequest, requires
from accounts.permissions import Capability
from controlpanel.http import render_page


@require_GET
@requires(Capability.VIEW_IMAGES)
def image_list(request: AccountRequest) -> HttpResponse:
    return render_page(request, "images/image_list.html", {}, partial="image-table")
