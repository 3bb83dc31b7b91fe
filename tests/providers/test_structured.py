"""Which schemas are taken, and which answers fit them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from retinue.kernel import BadInput
from retinue.providers import check_schema
from retinue.providers.structured import Misfit, Wanted

OBJECT = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objekt"},
        {"type": "object", "properties": []},
        {"$ref": "http://127.0.0.1/other.json"},
        {"type": "object", "properties": {"a": {"$ref": "other.json#/a"}}},
        {"type": "object", "patternProperties": {"(a+)+$": {}}},
    ],
)
def test_what_is_not_taken(schema: dict[str, Any]) -> None:
    with pytest.raises(BadInput) as caught:
        check_schema(schema)
    assert caught.value.field == "output_schema"


@pytest.mark.parametrize("text", ['{"n": 1}', ' {"n": 1}\n', '```json\n{"n": 1}\n```', '```\n{"n": 1}\n```\n'])
def test_answers_that_fit(text: str) -> None:
    assert Wanted(OBJECT).read(text) == {"n": 1}


@pytest.mark.parametrize("text", ["", "one", '{"n": "1"}', "{}", '{"n": 1', '[{"n": 1}]', '{"value": {"n": 1}}'])
def test_answers_that_do_not(text: str) -> None:
    with pytest.raises(Misfit):
        Wanted(OBJECT).read(text)


def test_other_schemas_are_wrapped_and_unwrapped() -> None:
    wanted = Wanted({"type": "array", "items": {"type": "integer"}})
    assert wanted.schema["type"] == "object"
    assert wanted.read('{"value": [1, 2]}') == [1, 2]
    assert wanted.read("[1, 2]") == [1, 2]
    with pytest.raises(Misfit):
        wanted.read('{"value": ["a"]}')


def test_a_slow_pattern_is_stopped() -> None:
    wanted = Wanted({"type": "object", "properties": {"a": {"type": "string", "pattern": "^(?:a|aa)+$"}}})
    began = time.monotonic()
    with pytest.raises(Misfit):
        wanted.read('{"a": "' + "a" * 60 + '!"}')
    assert time.monotonic() - began < 2


def test_a_schema_that_refers_to_itself_for_ever() -> None:
    wanted = Wanted({"type": "object", "$ref": "#"})
    with pytest.raises(Misfit):
        wanted.read("{}")
