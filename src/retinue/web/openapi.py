"""``/v1/openapi.json``: the API's description, completed with what every route has in common.

The framework describes parameters, bodies and successes. Added here: problem documents for every status a route can
answer, the credentials, and the headers that all routes understand.
"""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from retinue.web.problems import Problem, problems
from retinue.web.routing import Cell, Route, cell_of

PATH = "/v1/openapi.json"
_METHODS = ("get", "put", "post", "patch", "delete")
_TEMPLATE = "#/components/schemas/{model}"
_DESCRIPTION = """\
A self-hosted server that runs teams of AI agents on a durable, replayable ledger of events.

Errors are problem documents (RFC 9457). Lists come in pages. Every POST of a signed-in caller takes an
`Idempotency-Key`. Requests are limited; the `RateLimit` headers say what is left."""

_TENANT = {
    "name": "Retinue-Tenant",
    "in": "header",
    "required": False,
    "description": "the tenant to work in; by default the caller's personal one, or the API key's",
    "schema": {"type": "string", "format": "uuid"},
}
_IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "makes the request safe to repeat for 24 hours: the same key gets the same answer. Use a random one "
    "for each thing to make, such as a UUID",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!#-~]+$"},
}


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of the application."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=_DESCRIPTION,
        routes=app.routes,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        separate_input_output_schemas=False,
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for leftover in ("HTTPValidationError", "ValidationError"):
        schemas.pop(leftover, None)
    problem = Problem.model_json_schema(ref_template=_TEMPLATE)
    schemas.update(problem.pop("$defs", {}))
    schemas["Problem"] = problem
    components["securitySchemes"] = {
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "an access token of `/v1/auth/login`, a token of the configured issuer, or an API key",
        }
    }
    for route in app.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            for method in sorted(route.methods or ()):
                _complete(document["paths"][route.path_format][method.lower()], route, method)
    document["paths"] = dict(sorted(document["paths"].items()))
    return document


def _complete(operation: dict[str, Any], route: APIRoute, method: str) -> None:
    """Add what the route does not say itself."""
    cell = cell_of(route.dependant) if isinstance(route, Route) else None
    operation["responses"].pop("422", None)
    for status, response in problems(*_statuses(route, method, cell)).items():
        operation["responses"].setdefault(str(status), response)
    operation["responses"] = dict(sorted(operation["responses"].items()))
    if cell is None:
        operation["security"] = []
        return
    operation["security"] = [{"bearer": []}]
    operation["x-permission"] = f"{cell.resource}:{cell.action}"
    parameters = operation.setdefault("parameters", [])
    parameters.append(_TENANT)
    if method == "POST":
        parameters.append(_IDEMPOTENCY)


def _statuses(route: APIRoute, method: str, cell: Cell | None) -> list[int]:
    if not isinstance(route, Route):  # health: no database, no body, nobody asked for
        return [422, 500]
    found = [422, 429, 500, 503]
    if route.body_field is not None:
        found += [400, 413, 415]
    if cell is not None:
        found += [401, 403, 404]
    elif "{" in route.path:
        found.append(404)
    if method != "GET":
        found.append(507)
    if method == "POST" and cell is not None:
        found.append(409)  # the idempotency key's first answer could not be kept
    return found


def install(app: FastAPI) -> None:
    """Serve the document. It is made at its first use: importing it costs start-up time that few need."""
    written: list[bytes] = []

    async def openapi(request: Request) -> Response:
        if not written:
            written.append(orjson.dumps(describe(app)))
        return Response(written[0], media_type="application/json", headers={"cache-control": "max-age=60"})

    app.router.add_route(PATH, openapi, include_in_schema=False)
