"""``ETag`` and ``If-Match`` (RFC 9110, sections 8.8.3 and 13.1.1), so that nobody overwrites changes unseen."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Header
from starlette.responses import Response

from retinue.kernel import BadInput, PreconditionFailed

_ONE = re.compile(r'"([0-9]{1,18})"')


def etag(version: int) -> str:
    """Return the entity tag of a version."""
    return f'"{version}"'


def set_etag(response: Response, version: int) -> None:
    """Say in a response which version it shows."""
    response.headers["ETag"] = etag(version)


def check_match(wanted: int | None, version: int, current: Callable[[], Any]) -> None:
    """Refuse a change that was based on an old version.

    Args:
        wanted: the version of ``If-Match``; None when any will do.
        version: the present version.
        current: makes the present state, for the problem document.

    Raises:
        PreconditionFailed: they differ; the document holds the present state as ``current``.
    """
    if wanted is not None and wanted != version:
        raise PreconditionFailed(
            f"It is at version {version} now, not {wanted}. Look at the present state and try again.",
            extra={"current": current()},
            headers={"ETag": etag(version)},
        )


async def _if_match(
    if_match: Annotated[
        str,
        Header(
            description='the ETag the change is based on, such as `"3"`; `*` for any',
            json_schema_extra={"pattern": r'^(\*|"[0-9]{1,18}")$'},
        ),
    ] = "*",
) -> int | None:
    if if_match.strip() == "*":
        return None
    found = _ONE.fullmatch(if_match.strip())
    if found is None:
        raise BadInput('Send one ETag as it was given, such as "3" with its quotes.', field="If-Match")
    return int(found[1])


IfMatch = Annotated[int | None, Depends(_if_match)]
"""A route's parameter: the version the caller's change is based on, None for any."""
