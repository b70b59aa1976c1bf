"""A service of the API: its gate, its dialect, and its OpenAPI document."""

from __future__ import annotations

from typing import Any

from ninja import NinjaAPI
from ninja.openapi.schema import OpenAPISchema

from accounts.api.gate import TokenAuth
from accounts.permissions import Capability, roles_for
from controlpanel.api import faults
from controlpanel.api.describe import JSON, REFUSALS, describe
from controlpanel.api.dispatch import REQUEST_ID

ERROR = "#/components/schemas/Error"
ID = {"description": "Names this request to the support", "schema": {"type": "string"}}


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
