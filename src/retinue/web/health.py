"""``/health/live``, ``/health/ready`` and ``/health/startup``, for whoever decides about restarts and traffic."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

CHECK_SECONDS = 2.0

Check = Callable[[], Awaitable[str | None]]


class Health:
    """What must be well for this process to do its work; a service. The composition root adds the checks.

    Attributes:
        started: True once every room has started.
    """

    def __init__(self) -> None:
        self.started = False
        self._checks: dict[str, Check] = {}

    def add(self, name: str, check: Check) -> None:
        """Add a check: it returns None when all is well, else one line that says what is wrong."""
        self._checks[name] = check

    async def look(self) -> dict[str, str]:
        """Run every check, all at once; return ``"ok"`` or what is wrong, by name."""
        names = list(self._checks)
        results = await asyncio.gather(*(self._run(name) for name in names))
        return dict(zip(names, results, strict=True))

    async def _run(self, name: str) -> str:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                return await self._checks[name]() or "ok"
        except TimeoutError:
            return f"no answer within {CHECK_SECONDS:g} s"
        except Exception as error:
            # Anybody may ask for the health: the kind of the error must do, its text may name hosts.
            return f"failed: {type(error).__name__}"


router = APIRouter(prefix="/health", tags=["health"])


def _answer(status: int, state: str, **more: object) -> Response:
    return Response(orjson.dumps({"status": state, **more}), status, media_type="application/json")


@router.get("/live", responses={200: {"description": "The process is alive"}})
async def live() -> Response:
    """Say that the process is alive. A failure here is a reason to restart it; the database being away is none."""
    return _answer(200, "ok")


@router.get(
    "/ready",
    responses={200: {"description": "It can do its work"}, 503: {"description": "It cannot; `checks` says why"}},
)
async def ready(request: Request) -> Response:
    """Say whether the process can do its work: database, migrations, worker."""
    health: Health = request.app.state.services.get(Health)
    checks = await health.look()
    well = health.started and all(result == "ok" for result in checks.values())
    return _answer(200 if well else 503, "ok" if well else "unavailable", checks=checks)


@router.get(
    "/startup", responses={200: {"description": "It has started"}, 503: {"description": "It is still starting"}}
)
async def startup(request: Request) -> Response:
    """Say whether the process has started."""
    health: Health = request.app.state.services.get(Health)
    return _answer(200, "ok") if health.started else _answer(503, "starting")
