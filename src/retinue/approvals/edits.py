"""Checks arguments that a person edited against the tool's JSON schema, which may come from an MCP server.

The tool checks them again when it is called. This check is there so that a person who makes a mistake learns of it
while the approval is still open. It leaves out what cannot be stopped once it runs: patterns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match
from jsonschema.validators import extend

_LONGEST_COMPLAINT = 500
_UNREADABLE = "they cannot be checked against the tool's schema"


def complaint(parameters: Mapping[str, Any] | None, arguments: dict[str, Any]) -> str | None:
    """Say what is wrong with the arguments, naming the field; None when nothing is.

    Args:
        parameters: the tool's JSON schema; None when it is not known, and then nothing can be edited.
    """
    if parameters is None:
        return "the tool's parameters are not known, so its arguments cannot be edited"
    try:
        if not all(reference.startswith("#") for reference in _references(parameters)):
            return _UNREADABLE  # the validator would fetch the document, from wherever that is
        Draft202012Validator.check_schema(parameters)
        error = best_match(_Validator(parameters).iter_errors(arguments))
    except Exception:  # a schema from elsewhere can be wrong, or defeat the validator by recursion
        return _UNREADABLE
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


def _unchecked(*_: object) -> Iterator[ValidationError]:
    return iter(())


def _additional(validator: Any, rule: Any, instance: object, schema: Mapping[str, Any]) -> Iterator[ValidationError]:
    if "patternProperties" not in schema:
        yield from Draft202012Validator.VALIDATORS["additionalProperties"](validator, rule, instance, schema)


_Validator = extend(  # type: ignore[no-untyped-call]  # the stubs of jsonschema leave `extend` untyped
    Draft202012Validator,
    validators={
        "pattern": _unchecked,
        "patternProperties": _unchecked,
        "unevaluatedProperties": _unchecked,
        "additionalProperties": _additional,
    },
)
