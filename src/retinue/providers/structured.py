"""Structured answers: the schema a model is given, and whether what it wrote fits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import regex
from jsonschema import Draft202012Validator, SchemaError, ValidationError
from jsonschema.exceptions import best_match
from jsonschema.validators import extend

from retinue.kernel import BadInput

_WRAP = "value"
_LONGEST_COMPLAINT = 500
_PATTERN_SECONDS = 0.1
_FENCED = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n\s*```\s*\Z", re.DOTALL)
# Names of properties given as patterns: no provider takes them, and matching them cannot be stopped.
_NOT_TAKEN = ("patternProperties", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef")


class Misfit(Exception):
    """The answer does not fit; the text says where, in words a model can act on."""


class Wanted:
    """What an answer must look like.

    Providers take schemas of objects only, so any other schema is wrapped in one on the way out and unwrapped on
    the way back.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        """Compile the schema, which is a tenant's text.

        Raises:
            BadInput: it is no JSON schema (draft 2020-12), or uses what is not taken; ``field`` is ``output_schema``.
        """
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise BadInput(f"This is not a JSON schema: {error.message[:200]}", field="output_schema") from error
        for trouble in _troubles(schema):
            raise BadInput(trouble, field="output_schema")
        self._validator = _Validator(schema)
        self._wrapped = schema.get("type") != "object"
        self.schema = (
            {"type": "object", "properties": {_WRAP: schema}, "required": [_WRAP], "additionalProperties": False}
            if self._wrapped
            else schema
        )

    def read(self, text: str) -> Any:
        """Return the data in an answer.

        Raises:
            Misfit: it is no JSON, or does not fit the schema.
        """
        fenced = _FENCED.match(text)
        try:
            value = msgspec.json.decode(fenced.group(1) if fenced else text)
        except msgspec.DecodeError as error:
            raise Misfit(f"The answer is not JSON: {error}") from error
        if self._wrapped and isinstance(value, dict) and value.keys() == {_WRAP}:
            value = value[_WRAP]
        try:
            worst = best_match(self._validator.iter_errors(value))
        except RecursionError:
            raise Misfit("The schema refers to itself without end.") from None
        if worst is not None:
            raise Misfit(f"At {worst.json_path}: {worst.message}"[:_LONGEST_COMPLAINT])
        return value


def check_schema(schema: dict[str, Any]) -> None:
    """Refuse what cannot be asked for as a structured answer.

    Raises:
        BadInput: see :class:`Wanted`.
    """
    Wanted(schema)


def _troubles(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key in _NOT_TAKEN:
                yield f"{key} is not taken here."
            if key == "$ref" and isinstance(value, str) and not value.startswith("#"):
                # The validator would fetch it, from wherever it points to.
                yield f"The schema refers to another document: {value[:100]!r}."
            yield from _troubles(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _troubles(item)


def _pattern(_validator: Any, pattern: str, instance: object, _schema: object) -> Iterator[ValidationError]:
    # `re`, which the library matches with, cannot be stopped, so a slow pattern would hold the whole server.
    if isinstance(instance, str):
        try:
            found = regex.search(pattern, instance, timeout=_PATTERN_SECONDS)
        except (TimeoutError, regex.error):
            found = None
        if found is None:
            yield ValidationError(f"{instance!r} does not match {pattern!r}")


_Validator = extend(  # type: ignore[no-untyped-call]  # the stubs of jsonschema leave `extend` untyped
    Draft202012Validator, validators={"pattern": _pattern}
)
