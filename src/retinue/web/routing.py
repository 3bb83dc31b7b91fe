"""Routers of the rooms: every route is scoped to a cell of the permission table, or says that it is public."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, params
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from retinue.kernel import Settings
from retinue.web.body import BoundedRequest
from retinue.web.digests import body_check
from retinue.web.exchange import exchange_of

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the permission table, without the role."""

    resource: str
    action: str


def cell_of(dependant: Dependant) -> Cell | None:
    """Return the cell that a route's dependencies name, None for a public route.

    Raises:
        LookupError: the route names none and is not public; a mistake in the program, found when the server starts.
    """
    for dependency in dependant.dependencies:
        if hasattr(dependency.call, "retinue_cell"):
            found: Cell | None = getattr(dependency.call, "retinue_cell", None)
            return found
    raise LookupError(f"{dependant.path} names no cell of the permission table (scoped(...)) and is not public()")


class Route(APIRoute):
    """A route whose caller is known before its body is read, and whose body is read strictly and within limits."""

    def get_route_handler(self) -> Handler:
        """Return the handler, with the checks before it."""
        handler = super().get_route_handler()
        is_public = cell_of(self.dependant) is None
        reads_form = self.body_field is not None and isinstance(self.body_field.field_info, params.Form)
        reads_json = self.body_field is not None and not reads_form

        async def checked(request: Request) -> Response:
            exchange = exchange_of(request.scope)
            if not is_public:
                exchange.caller()
            bounded = BoundedRequest(request.scope, request.receive)
            bounded.check = body_check(exchange.credential)
            settings: Settings = request.app.state.settings
            bounded.limit = settings.body_limit if reads_json else _limit(bounded, settings)
            if reads_json:
                exchange.body = await bounded.read_json()
            response = await handler(bounded)
            exchange.answer = response
            return response

        return checked


def _limit(request: Request, settings: Settings) -> int:
    """Return the limit of a body that is not JSON: an upload may be larger than a document."""
    is_upload = request.headers.get("content-type", "").startswith(("multipart/", "application/octet-stream"))
    return settings.upload_limit if is_upload else settings.body_limit


class Router(APIRouter):
    """A room's routes. Each has a :func:`scoped` parameter or ``dependencies=[public()]``."""

    def __init__(
        self,
        *,
        prefix: str = "",
        tags: Iterable[str] = (),
        responses: dict[int | str, dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(
            prefix=prefix,
            tags=list(tags),
            responses=responses,
            route_class=Route,
            generate_unique_id_function=_operation_id,
        )


def check_route(route: BaseRoute) -> None:
    """Refuse a room's route that was not made by a :class:`Router`: its caller and body would go unchecked.

    Raises:
        LookupError: it was not, or it lies in a router inside the router.
    """
    if not isinstance(route, Route | APIWebSocketRoute):
        where = getattr(route, "path", "a router inside a router")
        raise LookupError(f"{where}: make routes with retinue.web.Router, and list each router in the manifest")


def _operation_id(route: APIRoute) -> str:
    """Name an operation for generated clients: ``agents_create``."""
    return f"{route.tags[0]}_{route.name}" if route.tags else route.name
