"""Expressions in CEL, the Common Expression Language, as plans and workflows use them. Pure, and bounded.

The library is CEL's own (C++): it checks types, allows 10,000 rounds of macros in one evaluation and 32 levels of
nesting. It cannot be interrupted, so what a round may touch is bounded before: :func:`evaluate` estimates from the
text and the sizes of what it names how much work there is at most, and refuses what could hold the event loop.

Names: ``inputs``, ``steps.<id>.output|status|error``, ``item``, ``index``, ``trigger``, ``event``. Beside CEL's own
functions there are ``split``, ``join``, ``replace``, ``trim``, ``lowerAscii`` and ``upperAscii``.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from cel_expr_python import cel  # type: ignore[import-untyped]  # it brings stubs, and no py.typed

from retinue.kernel import BadInput
from retinue.planning.weighing import MAX_DEPTH, MOST_WORK, NAMES, ROUNDS, Outline, outline, shown, work

MAX_TEXT = 4_096
"""Characters of one expression."""
MAX_RESULT = 1_000_000
"""Characters and values of a result, together."""

_MADE = 1_000_000
_ERRORS = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): ([^\n]*)")


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression.

    Attributes:
        text: as it was written.
        outline: what it names, and what its work depends on.
        program: the library's.
    """

    text: str
    outline: Outline
    program: Any


def compile_expression(text: str) -> Expression:
    """Check an expression; the same text is checked once.

    Raises:
        BadInput: it is not CEL, uses unknown names or the wrong types, or is over a bound; ``detail`` says where.
    """
    if len(text) > MAX_TEXT:
        raise BadInput(f"An expression may have up to {MAX_TEXT:,} characters; this one has {len(text):,}.")
    return _compiled(text)


@lru_cache(maxsize=2_048)
def _compiled(text: str) -> Expression:
    try:
        text.encode()
        program = _environment().compile(text)
    except UnicodeEncodeError:
        raise BadInput("The expression holds half a surrogate pair.") from None
    except RuntimeError as error:
        raise BadInput(f"The expression {shown(text)} is wrong: {_first_error(str(error))}.") from None
    return Expression(text, outline(text), program)


def evaluate(expression: str | Expression, context: Mapping[str, Any]) -> Any:
    """Return the value of an expression: None, bool, int, float, text, bytes, a time with zone (``datetime``), a
    duration (``timedelta``), or lists and maps of these.

    Args:
        expression: as text, or compiled.
        context: JSON values by name; see :data:`NAMES`.

    Raises:
        BadInput: it is wrong (see :func:`compile_expression`), does not fit the values it meets, or would take too
            much work or make too much.
    """
    compiled = compile_expression(expression) if isinstance(expression, str) else expression
    return spend(compiled, context, [MOST_WORK])


def spend(compiled: Expression, context: Mapping[str, Any], budget: list[int]) -> Any:
    """Evaluate, and take the work from ``budget``, which several expressions may share; see :func:`evaluate`."""
    given = {name: _pruned(compiled, name, context[name]) for name in compiled.outline.names if name in context}
    budget[0] -= work(compiled.outline, given)
    if budget[0] < 0:
        raise BadInput(
            f"The expression {shown(compiled.text)} would take too much work on values of this size: "
            "nest fewer macros, or make the lists and texts smaller first."
        )
    _made.characters = 0
    try:
        result = compiled.program.eval(data=given)
        value = result.plain_value()
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise BadInput(f"The expression {shown(compiled.text)} cannot be evaluated: {_reason(str(error))}.") from None
    if result.type() in (cel.Type.ERROR, cel.Type.UNKNOWN):
        raise BadInput(f"The expression {shown(compiled.text)} cannot be evaluated: {_reason(str(value))}.")
    return _checked(value, compiled.text)


def _pruned(compiled: Expression, name: str, value: Any) -> Any:
    """Leave out the steps that the expression does not name: turning values into CEL's costs time."""
    if name == "steps" and compiled.outline.steps is not None and isinstance(value, Mapping):
        return {step: value[step] for step in compiled.outline.steps if step in value}
    return value


def _checked(value: Any, text: str) -> Any:
    """Hand on CEL's own values only, as plain Python ones."""
    budget = [MAX_RESULT]

    def plain(one: Any, depth: int) -> Any:
        budget[0] -= 1 + (len(one) if isinstance(one, str | bytes | bytearray) else 0)
        if budget[0] < 0 or depth > MAX_DEPTH:
            raise BadInput(f"The result of the expression {shown(text)} is too large or nested too deep.")
        if one is None or isinstance(one, bool | int | float | str | datetime | timedelta):
            return one
        if isinstance(one, bytes | bytearray):
            return bytes(one)
        if isinstance(one, list):
            return [plain(inside, depth + 1) for inside in one]
        if isinstance(one, dict):
            return {plain(name, depth + 1): plain(inside, depth + 1) for name, inside in one.items()}
        raise BadInput(f"The result of the expression {shown(text)} is no value but a type.")

    return plain(value, 0)


# Functions on texts. The library's own ones can make gigabytes of a few characters; these count what they make.


class _Made(threading.local):
    """What the functions have made in this evaluation; evaluations do not wait, so one at a time in a thread."""

    characters = 0


_made = _Made()


def _count(characters: int) -> None:
    _made.characters += characters
    if _made.characters > _MADE:
        raise ValueError("split, join, replace and the like make too much")


def _split(text: str, separator: str) -> list[str]:
    _count(len(text) + 10 * (1 + text.count(separator)))
    return text.split(separator) if separator else list(text)


def _join(parts: list[Any], separator: str) -> str:
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("join takes a list of texts; string(x) makes a text")
    _count(sum(len(part) for part in parts) + len(separator) * len(parts))
    return separator.join(parts)


def _replace(text: str, old: str, new: str) -> str:
    _count(len(text) + text.count(old) * len(new))
    return text.replace(old, new)


def _trim(text: str) -> str:
    _count(len(text))
    return text.strip()


def _lower(text: str) -> str:
    _count(len(text))
    return "".join(chr(ord(one) + 32) if "A" <= one <= "Z" else one for one in text)


def _upper(text: str) -> str:
    _count(len(text))
    return "".join(chr(ord(one) - 32) if "a" <= one <= "z" else one for one in text)


@lru_cache(maxsize=1)
def _environment() -> Any:
    text, texts = cel.Type.STRING, cel.Type.List(cel.Type.STRING)
    declared = [
        ("split", [text, text], texts, _split),
        ("join", [cel.Type.List(cel.Type.DYN), text], text, _join),
        ("replace", [text, text, text], text, _replace),
        ("trim", [text], text, _trim),
        ("lowerAscii", [text], text, _lower),
        ("upperAscii", [text], text, _upper),
    ]
    functions = [
        cel.FunctionDecl(
            name,
            [cel.Overload(f"{name}_texts", return_type=gives, parameters=takes, is_member=True, impl=do)],
        )
        for name, takes, gives, do in declared
    ]
    return cel.NewEnv(variables=dict.fromkeys(NAMES, cel.Type.DYN), functions=functions)


def _first_error(message: str) -> str:
    found = _ERRORS.findall(message)
    if not found:
        return _reason(message)
    line, column, what = found[-1] if "recursion" in found[-1][2] else found[0]
    what = what.split(" expecting {")[0].replace(" (in container '')", "").removesuffix(".")
    return f"{what} (line {line}, column {column})" if int(line) > 0 else what


def _reason(message: str) -> str:
    what = re.sub(r"^[A-Z_]+: ", "", message.strip()).split("\n")[0].strip("'\"")
    what = re.sub(r"\s*\[[A-Z_]+\]$", "", what).removesuffix(".")
    if "found in Activation" in what:
        return re.sub(r'No value with name "(\w+)" found in Activation', r"\1 is not known at this place", what)
    if "Iteration budget" in what:
        return f"it goes round more than {ROUNDS:,} times"
    if "No matching overloads" in what and "double" in what and "int64" in what:
        return f"{what}; whole numbers and others do not mix: write double(x)"
    return what[:300] or "there is something wrong"
