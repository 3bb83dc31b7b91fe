"""What can go wrong besides the network, for which ``httpx`` has errors of its own."""

from __future__ import annotations

from typing import Any


class Refused(Exception):
    """The server did not do what was asked.

    Attributes:
        status: the HTTP status: 401 for a signature that is not accepted, 403 for what the grant does not allow.
        kind: the stable name of the problem, such as ``forbidden``.
        detail: what is wrong and what to do about it.
        trace_id: names the request in the server's log.
        problem: the whole problem document (RFC 9457).
    """

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.problem = problem
        self.kind = str(problem.get("type", "")).rpartition(":")[2]
        self.detail = str(problem.get("detail", "")) or f"the server answered {status}"
        self.trace_id = str(problem.get("trace_id", ""))
        super().__init__(self.detail)


class SealBroken(Exception):
    """A sealed file was changed, cut or extended, or is not sealed to this key."""
