"""What a task's run said, as the value that other tasks see. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from retinue.planning.graph import Task
from retinue.tools import ArgumentCheck

DEEPEST = 32
"""Levels of a JSON text from outside; what is deeper could be read here and written nowhere."""

_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)\n?```", re.DOTALL)


class NotAsAsked(Exception):
    """The result does not fit the task's ``output_schema``; the text says why."""


def output_of(task: Task, text: str) -> Any:
    """Return a run's text as the task's result.

    With an ``output_schema`` it is read as JSON and checked. A tool's result that is a JSON object or list is read as
    one, so that expressions can look into it. Everything else stays text.

    Raises:
        NotAsAsked: it does not fit the task's ``output_schema``.
    """
    if task.output_schema is not None:
        return fitting(task.output_schema, _json(text))
    if task.kind == "tool" and text.lstrip()[:1] in ("{", "["):
        try:
            return read_json(text)
        except ValueError:
            return text
    return text


def read_json(text: str | bytes) -> Any:
    """Return the value of a JSON text that somebody outside may have written.

    Raises:
        ValueError: it is no JSON, or nested deeper than :data:`DEEPEST` levels.
    """
    try:
        found = msgspec.json.decode(text)
    except RecursionError:
        raise ValueError("too deep") from None
    level = [found]
    for _ in range(DEEPEST):
        level = [one for each in level for one in _inside(each) if isinstance(one, dict | list)]
    if level:
        raise ValueError("too deep")
    return found


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _json(text: str) -> Any:
    fenced = _FENCED.search(text)
    for candidate in (text, fenced.group(1) if fenced else ""):
        try:
            return read_json(candidate.strip())
        except ValueError:
            continue
    raise NotAsAsked("The answer is not JSON.")


def fitting(schema: Mapping[str, Any], value: Any) -> Any:
    """Return a value that fits a JSON Schema.

    Raises:
        NotAsAsked: it does not fit; says why.
    """
    whole = schema if schema.get("type") == "object" else {"type": "object", "properties": {"result": schema}}
    try:
        complaint = ArgumentCheck(whole).complaint(value if whole is schema else {"result": value})
    except ValueError as error:
        raise NotAsAsked(f"The output_schema cannot be used: {error}") from None
    if complaint is not None:
        raise NotAsAsked(f"The result does not fit the output_schema: {complaint}")
    return value
