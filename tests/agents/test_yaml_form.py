"""Agents as YAML: what is exported is read back the same, and what is hostile is refused cheaply."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.agents import yaml_form
from retinue.agents.events import AgentDefinition, Limits
from retinue.agents.shapes import definition_of
from retinue.kernel import BadInput, PayloadTooLarge, YamlLoader

letters = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.text(letters, max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(letters, max_size=10), inner, max_size=3),
    max_leaves=8,
)
definitions = st.builds(
    AgentDefinition,
    name=st.text(letters, min_size=1, max_size=100),
    instructions=st.text(letters, max_size=300),
    model=st.none() | st.just("openai:gpt-5-mini"),
    fallbacks=st.lists(st.text(letters, min_size=1, max_size=20), max_size=3).map(tuple),
    tools=st.lists(st.text(letters, min_size=1, max_size=20), max_size=3).map(tuple),
    autonomy=st.sampled_from(["manual", "supervised", "trusted", "autonomous"]),
    tool_policy=st.dictionaries(
        st.text(letters, min_size=1, max_size=20), st.sampled_from(["allow", "ask", "deny"]), max_size=3
    ),
    limits=st.builds(Limits, budget=st.none() | st.integers(0, 10**15), tokens=st.none() | st.integers(1, 10**9)),
    output_schema=st.none() | st.dictionaries(st.text(letters, max_size=10), json_values, max_size=3),
    temperature=st.none() | st.floats(0, 2),
)


@given(definitions)
def test_what_is_written_is_read_back_the_same(definition: AgentDefinition) -> None:
    text = yaml_form.written(definition)
    assert definition_of(yaml_form.parsed(text.encode())) == definition


def test_long_instructions_are_a_readable_block() -> None:
    text = yaml_form.written(AgentDefinition(name="Ada", instructions="First line.\nSecond: with a colon.\n"))
    assert text.startswith(
        "spec_version: 1\nname: Ada\ndescription: ''\ninstructions: |\n  First line.\n  Second: with a colon.\n"
    )


def test_a_short_document_is_enough() -> None:
    definition = definition_of(yaml_form.parsed(b"spec_version: 1\nname: Ada\n"))
    assert definition == AgentDefinition(name="Ada")


LAUGHS = b"spec_version: 1\nname: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"k%d: &%c [%b]\n" % (n, 98 + n, b",".join([b"*%c" % (97 + n)] * 9)) for n in range(9)
)


@pytest.mark.parametrize(
    "document, complaint",
    [
        (LAUGHS, "anchor"),
        (b"spec_version: 1\nname: *x\n", "alias"),
        (b"spec_version: 1\nname: !!python/object/apply:os.system ['true']\n", "tag"),
        (b"spec_version: 1\nname: !!binary aGk=\n", "tag"),
        (b"spec_version: 1\nname: a\nname: b\n", "twice"),
        (b"spec_version: 1\nname: a\nlimits: {steps: 1, steps: 2}\n", "twice"),
        (b"spec_version: 1\nname: a\n---\nname: b\n", "more than one document"),
        (b"spec_version: 1\nname: " + b"[" * 40_000, "nested"),
        (b"spec_version: 1\nname: a\noutput_schema: {a: " + b"[" * 40 + b"]" * 40 + b"}\n", "nested"),
        (b"spec_version: 1\ntools: [" + b"a," * 30_000 + b"a]\n", "too much"),
        (b'spec_version: 1\nname: "nul \\0"\n', "NUL"),
        (b'spec_version: 1\nname: "half \\ud800"\n', "body"),
        (b"spec_version: 1\npriority: " + b"9" * 5_000 + b"\n", "cannot be read"),
        (b"spec_version: 1\npriority: 9223372036854775808\n", "64 bits"),
        (b"spec_version: 1\ntemperature: .nan\n", "no JSON form"),
        (b"spec_version: 1\n? [a, b]\n: c\n", "body"),
        (b"spec_version: 1\n1: c\n", "must be text"),
        (b"name: a\n", "spec_version"),
        (b"spec_version: 2\nname: a\n", "spec_version"),
        (b"spec_version: true\nname: a\n", "spec_version"),
        (b"- a\n", "mapping"),
        (b"just text", "mapping"),
        (b"", "mapping"),
        (b"a: [", "cannot be read"),
        (b"\tname: a", "cannot be read"),
        (b"name: \xff\xfe", "UTF-8"),
        (b"name: \x01", "cannot be read"),
    ],
)
def test_what_is_not_plain_bounded_yaml_is_refused(document: bytes, complaint: str) -> None:
    started = time.process_time()
    with pytest.raises(BadInput) as refusal:
        yaml_form.read(document)
    assert complaint in f"{refusal.value.detail} {refusal.value.field}"
    assert time.process_time() - started < 2  # generous: what it guards against takes minutes


def test_a_document_over_the_limit_is_refused() -> None:
    with pytest.raises(PayloadTooLarge):
        yaml_form.read(b"x" * (yaml_form.MAX_BYTES + 1))


def test_dates_stay_text() -> None:
    assert yaml_form.read(b"spec_version: 1\nname: 2026-11-20\n") == {"name": "2026-11-20"}


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    with contextlib.suppress(BadInput):
        yaml_form.read(raw)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = yaml_form.read(b"spec_version: 1\n" + text.encode("utf-8", "replace"))
    except BadInput:
        return
    msgspec.json.encode(found)


def test_the_guard_against_aliases_is_needed() -> None:
    """Without it the loader itself would take the aliases, so the test above tests something."""
    loader = YamlLoader("a: &x [1]\nb: *x\n")
    assert loader.get_single_data() == {"a": [1], "b": [1]}
