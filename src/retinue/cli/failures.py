"""How a command ends when it does not succeed: one clear line and an exit code that scripts can use."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any


class ExitCode(IntEnum):
    """What ``$?`` says; part of the interface."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    UNAVAILABLE = 5
    RUN_FAILED = 6


class Failure(Exception):
    """The command cannot go on; ``str()`` is the line for the person, ``code`` the exit code."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code


class Refusal(Failure):
    """The server answered with a problem document (RFC 9457).

    Attributes:
        status: the HTTP status.
        kind: the last part of the problem's type, such as ``conflict``.
        problem: the whole document.
    """

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(one_line(status, problem), _code(status))
        self.status = status
        self.kind = str(problem.get("type", "")).rpartition(":")[2].rpartition("/")[2]
        self.problem = dict(problem)


def one_line(status: int, problem: Mapping[str, Any]) -> str:
    """Write a problem document as one line: what, which fields, and for a server's error the trace to look for."""
    text = str(problem.get("detail") or problem.get("title") or f"The server answered {status}.")
    fields = [
        f"{error.get('field')}: {error.get('message')}"
        for error in problem.get("errors") or []
        if isinstance(error, Mapping) and str(error.get("message")) not in text
    ]
    if fields:
        text = f"{text} ({'; '.join(fields)})"
    if status >= 500 and problem.get("trace_id"):
        text = f"{text} (trace {problem['trace_id']})"
    return " ".join(text.split())


def _code(status: int) -> ExitCode:
    if status in (404, 410):
        return ExitCode.NOT_FOUND
    if status in (401, 403):
        return ExitCode.REFUSED
    if status == 429 or status in (502, 503, 504, 507):
        return ExitCode.UNAVAILABLE
    return ExitCode.FAILED
