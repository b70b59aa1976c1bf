"""Tasks, of which there are none: an import is told by the image's own status."""

from uuid import UUID

from django.http import HttpResponse
from ninja import Router

from accounts.api.gate import ApiRequest, requires
from accounts.permissions import Capability
from controlpanel.api.describe import describe
from controlpanel.api.faults import NotFound
from images.api.bodies import answer_json
from images.api.rows import find

router = Router(tags=["Tasks"])


@router.get(
    "/{region}/v2/tasks",
    summary="List tasks",
    openapi_extra=describe(answer={"type": "object"}),
)
@requires(Capability.VIEW_IMAGES)
def list_tasks(request: ApiRequest, region: str) -> HttpResponse:
    """Always none: what the panel works on is seen by the status of an image."""
    nothing = {"tasks": [], "first": "/v2/tasks", "schema": "/v2/schemas/tasks"}
    return answer_json(nothing)


@router.get(
    "/{region}/v2/tasks/{task_id}",
    summary="Show a task",
    openapi_extra=describe(),
)
@requires(Capability.VIEW_IMAGES)
def show_task(request: ApiRequest, region: str, task_id: str) -> HttpResponse:
    raise NotFound(f"Task with the given id {task_id[:100]} was not found")


@router.get(
    "/{region}/v2/images/{uuid:image_id}/tasks",
    summary="List the tasks of an image",
    openapi_extra=describe(answer={"type": "object"}),
)
@requires(Capability.VIEW_IMAGES)
def list_image_tasks(request: ApiRequest, region: str, image_id: UUID) -> HttpResponse:
    find(request.account, region, image_id)
    return answer_json({"tasks": []})
