"""Everything that can go wrong on purpose.

A fault carries what an RFC 9457 problem document needs; ``web.problems`` writes it. Rooms raise faults, never HTTP
errors. ``detail`` is for a person, says what to do, and never contains secrets, SQL or another tenant's data.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar


class Fault(Exception):
    """A refusal with a stable name.

    Attributes:
        kind: the last part of the problem's ``type`` URI; stable, part of the API.
        status: the HTTP status.
        title: one short line, the same for every fault of the kind.
        detail: what happened this time and what to do about it.
        extra: further members of the problem document (RFC 9457, section 3.2).
        headers: response headers, such as ``Retry-After``.
    """

    kind: ClassVar[str] = "fault"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong"

    def __init__(
        self, detail: str, *, extra: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra: dict[str, Any] = dict(extra or {})
        self.headers: dict[str, str] = dict(headers or {})


class BadInput(Fault):
    """The request does not make sense; ``field`` names what is wrong, as a path such as ``limits.tokens``."""

    kind, status, title = "bad-input", 422, "The request is not valid"

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        errors = [{"field": field, "message": detail}] if field else []
        super().__init__(detail, extra={"errors": errors} if errors else None)
        self.field = field


class Unauthenticated(Fault):
    """Nobody is known to be asking."""

    kind, status, title = "unauthenticated", 401, "Sign in first"

    def __init__(self, detail: str = "Send a valid access token or API key.") -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class Forbidden(Fault):
    """Who asks is known and may not do this."""

    kind, status, title = "forbidden", 403, "This is not allowed"


class NotFound(Fault):
    """It does not exist, or belongs to somebody else: the answer is the same."""

    kind, status, title = "not-found", 404, "There is no such thing"

    def __init__(self, what: str) -> None:
        super().__init__(f"There is no such {what}.")


class Conflict(Fault):
    """Somebody else changed it first, or its state does not allow this."""

    kind, status, title = "conflict", 409, "The current state does not allow this"


class Gone(Fault):
    """It existed and is no longer kept."""

    kind, status, title = "gone", 410, "This is no longer kept"


class PreconditionFailed(Fault):
    """``If-Match`` names an old version; ``extra["current"]`` holds the current state."""

    kind, status, title = "precondition-failed", 412, "It was changed in the meantime"


class PayloadTooLarge(Fault):
    """The body is over the limit."""

    kind, status, title = "payload-too-large", 413, "The body is too large"


class UnsupportedMediaType(Fault):
    """The body is of a type this route does not take."""

    kind, status, title = "unsupported-media-type", 415, "This content type is not accepted"


class TooManyRequests(Fault):
    """A limit is reached; ``retry_after`` seconds from now it may work."""

    kind, status, title = "too-many-requests", 429, "Too many requests"

    def __init__(self, detail: str, *, retry_after: float) -> None:
        super().__init__(detail, headers={"Retry-After": str(max(1, round(retry_after)))})
        self.retry_after = retry_after


class BudgetExhausted(Fault):
    """The money set aside for this is used up."""

    kind, status, title = "budget-exhausted", 402, "The budget is used up"


class QuotaExhausted(Fault):
    """A month's share of something is used up; ``extra["begins_anew"]`` is the day (UTC) on which it begins anew."""

    kind, status, title = "quota-exhausted", 429, "The quota is used up"

    def __init__(self, detail: str, *, begins_anew: datetime, now: datetime) -> None:
        seconds = max(1, round((begins_anew - now).total_seconds()))
        super().__init__(
            detail, extra={"begins_anew": begins_anew.date().isoformat()}, headers={"Retry-After": str(seconds)}
        )


class Unavailable(Fault):
    """Something the server depends on does not answer; trying again later is right."""

    kind, status, title = "unavailable", 503, "The service is not available right now"

    def __init__(self, detail: str, *, retry_after: float = 1) -> None:
        super().__init__(detail, headers={"Retry-After": str(max(1, round(retry_after)))})


class StorageFull(Fault):
    """The disk or a quota of storage is full."""

    kind, status, title = "storage-full", 507, "There is no storage left"
