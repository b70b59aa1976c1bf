"""A service of the API: its gate, its dialect, and its OpenAPI document."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from ninja import NinjaAPI
from ninja.openapi.schema import OpenAPISchema
from ninja.parser import Parser

from accounts.api.gate import TokenAuth
from accounts.permissions import Capability, roles_for
from controlpanel.api import faults
from controlpanel.api.bodies import read_json
from controlpanel.api.describe import JSON, REFUSALS, describe
from controlpanel.api.dispatch import REQUEST_ID

ERROR = "#/components/schemas/Error"
# What stands in the paths.
PLACES = {
    "region": "The code of a region, as the catalog has it",
    "image_id": "The ID of an image",
    "member_id": "The number of an account",
    "tag": "The tag itself",
    "task_id": "The ID of a task",
    "user_id": "The ID of the token's user",
    "project_id": "The number of an account",
    "domain_id": "default",
    "credential_id": "The ID of an application credential",
    "server_id": "The ID of a server",
    "flavor_id": "The ID of a flavor",
    "name": "The name of it",
}
ID = {"description": "Names this request to the support", "schema": {"type": "string"}}


class JsonParser(Parser):
    """Reads the bodies that ninja checks as all others are read."""

    def parse_body(self, request: HttpRequest) -> Any:
        return read_json(request)


class Service(NinjaAPI):
    """Ninja's, where the document also tells what every operation may answer."""

    def __init__(
        self,
        name: str,
        *,
        title: str,
        version: str,
        about: str,
        also: dict[str, Any] | None = None,
    ) -> None:
        """`also`, as of `describe`, holds for all that needs a token."""
        super().__init__(
            title=title,
            version=version,
            description=about,
            urls_namespace=name,
            openapi_url="/openapi.json",
            docs_url=None,
            auth=TokenAuth(),
            parser=JsonParser(),
        )
        faults.install(self, name)
        self.name = name
        self._also = also or describe()

    def get_openapi_schema(self, **given: Any) -> OpenAPISchema:
        document = super().get_openapi_schema(**given)
        document["components"].setdefault("schemas", {})["Error"] = faults.SCHEMAS[
            self.name
        ]
        gates = self._gates()
        for path, operations in document["paths"].items():
            for operation in operations.values():
                if operation.get("security"):
                    operation["parameters"] += self._also["parameters"]
                    operation["responses"] |= self._also["responses"]
                _complete(path, operation, gates.get(operation["operationId"]))
        return document

    def _gates(self) -> dict[str, Capability]:
        """What each operation needs, by the operation's ID."""
        return {
            self.get_openapi_operation_id(operation): operation.view_func.capability
            for router in self._get_bound_routers()
            for view in router.path_operations.values()
            for operation in view.operations
            if hasattr(operation.view_func, "capability")
        }


def _complete(path: str, operation: dict[str, Any], needs: Capability | None) -> None:
    """Say what no operation says itself, since it holds for all of them."""
    codes = {400, 503}
    if operation.get("security"):
        codes |= {401, 403, 429}
    if "{" in path:
        codes.add(404)
    if "requestBody" in operation:
        codes.add(413)
    for parameter in operation["parameters"]:
        parameter["schema"] = _without_null(parameter["schema"])
        if parameter["in"] == "path":
            parameter["description"] = PLACES[parameter["name"]]
    if needs:
        operation["x-roles"] = roles_for(needs)
    responses = operation["responses"]
    for code in codes - responses.keys():
        responses[code] = {"description": REFUSALS[code]}
    for code, answer in list(responses.items()):
        told = dict(answer)
        if int(code) >= 400:
            told["description"] = REFUSALS[int(code)]
            told["content"] = {JSON: {"schema": {"$ref": ERROR}}}
        responses[code] = told | {"headers": {REQUEST_ID: ID}}
    operation["responses"] = dict(sorted(responses.items()))


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Of what a query may leave out: it cannot say null."""
    kinds: list[dict[str, Any]] = [
        kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}
    ]
    if len(kinds) != 1:
        return schema
    rest = {name: each for name, each in schema.items() if name != "anyOf"}
    return rest | kinds[0]
