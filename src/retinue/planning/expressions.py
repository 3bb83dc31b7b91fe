"""Expressions in CEL, alone and in texts: ``Hello ${ inputs.name }``. Pure, and bounded as a whole.

How one expression is checked and evaluated: ``evaluation.py``. How much work it may be: ``weighing.py``.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from retinue.kernel import BadInput
from retinue.planning.evaluation import MAX_RESULT, MAX_TEXT, Expression, compile_expression, evaluate, spend
from retinue.planning.weighing import MAX_DEPTH, MOST_WORK, NAMES, TOKEN, shown

__all__ = [
    "MAX_RESULT",
    "MAX_TEXT",
    "NAMES",
    "Expression",
    "compile_expression",
    "evaluate",
    "expressions_in",
    "json_value",
    "render",
]


def render(value: Any, context: Mapping[str, Any]) -> Any:
    """Return a JSON value with every ``${ CEL }`` in its texts replaced; names of fields stay as they are.

    A text that is one expression and nothing else becomes the value; in any other text the value is written out
    (texts as they are, everything else as JSON). ``$${`` stands for ``${``. Times become RFC 3339, durations seconds
    with an ``s``, bytes base64.

    Raises:
        BadInput: an expression is wrong or cannot be evaluated, or the result is over :data:`MAX_RESULT`.
    """
    budget, work = [MAX_RESULT], [MOST_WORK]

    def walk(one: Any, depth: int) -> Any:
        made = _rendered(one, context, work) if isinstance(one, str) else one
        budget[0] -= 1 + (_weight(made) if isinstance(one, str) else 0)
        if budget[0] < 0 or depth > MAX_DEPTH:
            raise BadInput("What the expressions give is too large or nested too deep.")
        if isinstance(one, Mapping):
            return {name: walk(inside, depth + 1) for name, inside in one.items()}
        if isinstance(one, list | tuple):
            return [walk(inside, depth + 1) for inside in one]
        return made

    return walk(value, 0)


def expressions_in(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield path and text of every ``${ CEL }`` in a JSON value, unchecked.

    Raises:
        BadInput: one has no end; its path is the field.
    """
    if isinstance(value, str):
        try:
            parts = _parts(value)
        except BadInput as error:
            raise BadInput(error.detail, field=path or None) from None
        for is_expression, part in parts:
            if is_expression:
                yield path, part
    elif isinstance(value, Mapping):
        for name, inside in value.items():
            yield from expressions_in(inside, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple):
        for at, inside in enumerate(value):
            yield from expressions_in(inside, f"{path}.{at}" if path else str(at))


def json_value(value: Any) -> Any:
    """Return a value of :func:`evaluate` as JSON has it; see :func:`render` for times, durations and bytes.

    Raises:
        BadInput: a number that JSON does not have (infinite, or none).
    """
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.9f}".rstrip("0").rstrip(".") + "s"
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        raise BadInput("An expression gives a number that is infinite or none at all; JSON has no such number.")
    if isinstance(value, dict):
        return {_name(name): json_value(inside) for name, inside in value.items()}
    if isinstance(value, list):
        return [json_value(inside) for inside in value]
    return value


def _name(name: Any) -> str:
    return name if isinstance(name, str) else json.dumps(json_value(name))


def _rendered(text: str, context: Mapping[str, Any], work: list[int]) -> Any:
    if "${" not in text:
        return text
    parts = _parts(text)
    if len(parts) == 1 and parts[0][0]:
        return json_value(spend(compile_expression(parts[0][1]), context, work))
    written: list[str] = []
    length = 0
    for is_expression, part in parts:
        found = json_value(spend(compile_expression(part), context, work)) if is_expression else part
        written.append(found if isinstance(found, str) else json.dumps(found, ensure_ascii=False))
        length += len(written[-1])
        if length > MAX_RESULT:
            raise BadInput("What the expressions give is too large.")
    return "".join(written)


def _parts(text: str) -> list[tuple[bool, str]]:
    """Take a text apart: (True, an expression) or (False, plain text)."""
    parts: list[tuple[bool, str]] = []
    plain, at = "", 0
    while (found := text.find("${", at)) >= 0:
        if found > at and text[found - 1] == "$":
            plain, at = plain + text[at : found - 1] + "${", found + 2
            continue
        end = _end(text, found + 2)
        if plain or found > at:
            parts.append((False, plain + text[at:found]))
        parts.append((True, text[found + 2 : end].strip()))
        plain, at = "", end + 1
    if plain or at < len(text):
        parts.append((False, plain + text[at:]))
    return parts


def _end(text: str, start: int) -> int:
    """Return where the bracket that closes ``${`` stands: brackets inside of texts do not count."""
    depth = 0
    for token in TOKEN.finditer(text, start, min(len(text), start + MAX_TEXT + 2)):
        if token.lastgroup == "sign" and token.group() == "{":
            depth += 1
        elif token.lastgroup == "sign" and token.group() == "}":
            if depth == 0:
                return token.start()
            depth -= 1
    raise BadInput(f"The expression {shown(text[start - 2 :])} has no end: }} is missing, or it is too long.")


def _weight(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(1 + len(name) + _weight(inside) for name, inside in value.items())
    return sum(1 + _weight(inside) for inside in value) if isinstance(value, list) else 1
