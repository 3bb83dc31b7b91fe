"""What a request for the content of an artifact is answered with, wherever it is asked for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from retinue.artifacts import opening, serving, views
from retinue.kernel import Scope

BYTES: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
"""Any bytes, for the description of a route."""

CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file", "content": {"*/*": BYTES}},
    206: {"description": "A part of it", "content": {"*/*": BYTES}},
    304: {"description": "It is the version that `If-None-Match` names"},
}
"""What such a route may answer, for its description."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; ``pieces`` are read after the scope has committed, and closed in any case. None: it has no body."""

    status: int
    headers: Mapping[str, str]
    pieces: AsyncGenerator[bytes] | None = None


async def reply(scope: Scope, artifact_id: UUID, headers: Mapping[str, str]) -> Reply:
    """Open an artifact for whoever asks: all of it, one range, or nothing new; what is opened is recorded.

    Args:
        headers: the request's, by lower-case names.

    Raises:
        NotFound, Gone: see :func:`retinue.artifacts.find`.
        RangeNotSatisfiable: the range lies outside of the file.
    """
    found = await views.locked(scope, artifact_id)
    tag = serving.tag_of(found)
    if serving.matches(headers.get("if-none-match"), tag):
        return Reply(304, {"ETag": tag, "Cache-Control": "private, no-cache"})
    part = serving.part_of(headers.get("range"), headers.get("if-range"), tag, found.size)
    start, end = (None, None) if part is None else (part.start, part.end)
    await opening.record(scope, found, "content", start=start, end=end)
    opened = await opening.unlock(scope, found)
    flowing = opening.read(scope.services, scope.tenant_id, opened, start or 0, end)
    return Reply(200 if part is None else 206, serving.content_headers(found, part), flowing)
