"""Checks the arguments of a call against the tool's JSON Schema, without trusting the schema either."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import regex
from jsonschema import Draft202012Validator, SchemaError, ValidationError
from jsonschema.exceptions import best_match
from jsonschema.validators import extend

_PATTERN_SECONDS = 0.1
"""How long one pattern of a schema may be matched: a schema from an MCP server could hold a slow one."""

_SECONDS = 0.5
"""Processor time that a check may take: references that double their work hold the event loop for ever otherwise."""

_LONGEST_COMPLAINT = 500


class _TooLong(Exception):
    """The check has taken its time."""


_until: ContextVar[float] = ContextVar("_until")
"""The thread's processor time at which the check that is under way is given up."""


class ArgumentCheck:
    """A compiled schema.

    Args:
        schema: a JSON Schema of an object.
        seconds: processor time that a check may take. What takes longer does not pass.

    Raises:
        ValueError: it is not a JSON Schema of an object, or refers to a document elsewhere.
    """

    def __init__(self, schema: Mapping[str, Any], *, seconds: float = _SECONDS) -> None:
        self._seconds = seconds
        if schema.get("type") != "object":
            raise ValueError('the parameters must be a JSON Schema with "type": "object"')
        for reference in _references(schema):
            if not reference.startswith("#"):
                # The validator would fetch it, from wherever it points to.
                raise ValueError(f"the parameters refer to another document: {reference[:100]!r}")
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"the parameters are not a JSON Schema: {error.message[:200]}") from None
        self._validator = _Validator(schema)

    def complaint(self, arguments: object) -> str | None:
        """Say what is wrong with the arguments, naming the field; None when nothing is."""
        if (field := _unencodable(arguments, "")) is not None:
            return f"{field or 'a name'} holds a character that is not valid Unicode"
        began = _until.set(time.thread_time() + self._seconds)
        try:
            error = best_match(self._validator.iter_errors(arguments))
        except _TooLong:
            return "it takes too long to hold this against its schema"
        except Exception as why:  # a schema that refers to itself without end, or to a part that is not there
            return f"it cannot be checked against its schema: {type(why).__name__}"
        finally:
            _until.reset(began)
        if error is None:
            return None
        field = error.json_path.removeprefix("$").removeprefix(".")
        message = error.message if len(error.message) <= _LONGEST_COMPLAINT else f"does not match {error.validator!r}"
        return f"{field}: {message}" if field else message


def _references(schema: object) -> Iterator[str]:
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            else:
                yield from _references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _references(item)


def _unencodable(value: object, path: str) -> str | None:
    """Find the path of a text that has no UTF-8 form (a lone surrogate); None when there is none."""
    if isinstance(value, str):
        return None if value.isascii() or _has_utf8(value) else path
    children: Iterator[tuple[str, object]]
    if isinstance(value, dict):
        if not all(_has_utf8(key) for key in value if isinstance(key, str)):
            return path
        children = ((f"{path}.{key}".lstrip("."), child) for key, child in value.items())
    elif isinstance(value, list):
        children = ((f"{path}[{index}]", child) for index, child in enumerate(value))
    else:
        return None
    return next((found for name, child in children if (found := _unencodable(child, name)) is not None), None)


def _has_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _left() -> float:
    """Return the seconds that the check under way still has; raise :class:`_TooLong` when there are none."""
    left = _until.get() - time.thread_time()
    if left <= 0:
        raise _TooLong
    return left


def _in_time(keyword: Callable[..., Any]) -> Callable[..., Iterator[ValidationError]]:
    """Have a keyword look at the clock before it looks at anything."""

    def timed(validator: Any, rule: Any, instance: object, schema: Any) -> Iterator[ValidationError]:
        _left()
        yield from keyword(validator, rule, instance, schema) or ()

    return timed


def _found(pattern: str, text: str) -> bool:
    try:
        return regex.search(pattern, text, timeout=min(_PATTERN_SECONDS, _left())) is not None
    except (TimeoutError, regex.error):
        # The tool itself has the last word on what it takes.
        return True


def _pattern(_validator: Any, pattern: str, instance: object, _schema: object) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _found(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _unique(_validator: Any, wanted: Any, instance: object, _schema: object) -> Iterator[ValidationError]:
    """As the library's, which compares each with each."""
    if not wanted or not isinstance(instance, list):
        return
    if len({json.dumps(one, sort_keys=True) for one in instance}) < len(instance):
        yield ValidationError("it has non-unique elements")


def _additional(validator: Any, rule: Any, instance: object, schema: Mapping[str, Any]) -> Iterator[ValidationError]:
    if "patternProperties" not in schema:
        yield from Draft202012Validator.VALIDATORS["additionalProperties"](validator, rule, instance, schema)


def _unchecked(*_: object) -> Iterator[ValidationError]:
    return iter(())


# `re`, which the library matches with, cannot be stopped, so a slow pattern would hold the whole server. Texts are
# matched with a time limit instead; names of properties are left to the tool. Every keyword
# looks at the clock: what is applied to many things, or by references to references, adds up.
_Validator = extend(  # type: ignore[no-untyped-call]  # the stubs of jsonschema leave `extend` untyped
    Draft202012Validator,
    validators={
        name: _in_time(keyword)
        for name, keyword in {
            **Draft202012Validator.VALIDATORS,
            "pattern": _pattern,
            "patternProperties": _unchecked,
            "additionalProperties": _additional,
            "unevaluatedProperties": _unchecked,
            "uniqueItems": _unique,
        }.items()
    },
)
