"""Expressions: what they give, what they refuse, and that none holds the event loop."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.kernel import BadInput
from retinue.planning import evaluation
from retinue.planning.expressions import (
    MAX_RESULT,
    MAX_TEXT,
    compile_expression,
    evaluate,
    expressions_in,
    json_value,
    render,
)

CONTEXT: dict[str, Any] = {
    "inputs": {"name": "Ada", "n": [3, 1, 2], "price": 1.5, "nothing": None, "text": "a,b", "flag": True},
    "steps": {"read": {"output": {"lines": ["x", "y"]}, "status": "completed"}, "two": {"status": "failed"}},
    "item": "one",
    "index": 2,
}


@pytest.mark.parametrize(
    "text, value",
    [
        ("1 + 2", 3),
        ("inputs.n.filter(x, x > 1).map(x, x * 2)", [6, 4]),
        ("steps.read.output.lines[index - 2] + item", "xone"),
        ('steps["read"].status == "completed" && inputs.flag', True),
        ("has(inputs.nobody) ? 1 : 2", 2),
        ("inputs.price * double(inputs.n[0])", 4.5),
        ("inputs.nothing == null", True),
        ("inputs.text.split(',').map(x, x.upperAscii()).join('-')", "A-B"),
        ("' x '.trim().replace('x', 'yy').lowerAscii()", "yy"),
        ("inputs.name.matches('^A[a-z]+$')", True),
        ("{'a': [1u, 2.5, b'x']}", {"a": [1, 2.5, b"x"]}),
        ("timestamp('2026-01-01T00:00:00Z') + duration('90m')", datetime(2026, 1, 1, 1, 30, tzinfo=UTC)),
        ("duration('1h')", timedelta(hours=1)),
        ("[{'item': 1}].map(item, item.item)", [1]),
        ("'}' + \"{\" // }", "}{"),
    ],
)
def test_what_expressions_give(text: str, value: Any) -> None:
    """CEL's own values, as plain Python ones."""
    assert evaluate(text, CONTEXT) == value


@pytest.mark.parametrize(
    "text, part",
    [
        ("1 +", "line 1, column 4"),
        ("", "Syntax error"),
        ("nobody.x", "undeclared reference to 'nobody.x'"),
        ("1 + 'a'", "no matching overload"),
        ("inputs.zz", 'Key not found in map : "zz'),
        ("1 / 0", "divide by zero"),
        ("9223372036854775807 + inputs.n[0]", "overflow"),
        ("inputs.n[7]", "index=7"),
        ("inputs.price * 2", "write double(x)"),
        ("trigger.body", "trigger is not known at this place"),
        ("type(1)", "no value but a type"),
        ("inputs.name.matches(inputs.name)", "must be written out"),
        ("matches(inputs.name, 'a')", "Write x.matches"),
        ("'a'.matches('(a{101})')", "repeats too often"),
        ("'a'.matches('(')", "invalid regular expression"),
        ("[1].join('-')", "list of texts"),
        ("(" * 40 + "1" + ")" * 40, "recursion"),
        ("[" * 2000, "recursion"),
        ("1" + "+1" * 1500, "recursion"),
        ("'" + "a" * MAX_TEXT + "'", "up to 4,096 characters"),
        ("\ud800", "surrogate"),
        ("__import__('os')", "undeclared reference"),
        ("inputs.__class__", "Key not found"),
        ("inputs.name.__class__", "cannot be evaluated"),
    ],
)
def test_what_is_wrong_is_named(text: str, part: str) -> None:
    """A person can mend the expression from the message alone."""
    with pytest.raises(BadInput) as refused:
        evaluate(text, CONTEXT)
    assert part in refused.value.detail
    assert len(refused.value.detail) < 600


def test_which_names_and_steps_are_used() -> None:
    """Workflows check these before anything runs."""
    found = compile_expression("steps.a.output + steps['b'].output + inputs.c").outline
    assert (found.names, found.steps) == (frozenset({"steps", "inputs"}), frozenset({"a", "b"}))
    assert compile_expression("steps[inputs.x].output").outline.steps is None
    assert compile_expression("steps.exists(x, x == 'a')").outline.steps is None
    assert compile_expression("'steps.a'").outline.steps == frozenset()


_LIST = list(range(5_000))
_BIG = {
    "inputs": {
        "m": [{"name": "a" * 100, "n": at} for at in range(1_000)],
        "n": _LIST,
        "s": "a" * 100_000,
        "l": ["a" * 100] * 3_000,
        "d": {str(at): at for at in range(5_000)},
    },
    "steps": {f"s{at}": {"output": "a" * 20_000} for at in range(50)},
}
_HOSTILE = [
    "inputs.n.all(a, inputs.n.all(b, inputs.n.all(c, true)))",
    "inputs.n.map(a, inputs.n.map(b, inputs.s))",
    "inputs.n.all(a, (inputs.s + inputs.s).size() > 1)",
    "inputs.n.map(a, inputs.s + inputs.s)",
    "inputs.l.all(a, inputs.l == inputs.l)",
    "inputs.n.all(a, a in inputs.n)",
    "inputs.n.map(a, inputs.n) == inputs.n.map(a, inputs.n)",
    "(inputs.n + inputs.n + inputs.n).all(a, a in inputs.n)",
    "inputs.d.all(a, a in inputs.d) && inputs.d == inputs.d",
    "inputs.n.all(a, inputs.s.matches('(a?){90}(a?){90}(a?){90}(a?){90}b'))",
    "inputs.s.matches('((a?){90}){90}b')",
    "inputs.s.matches('(a?){100}(a?){100}(a?){100}(a?){100}a{100}a{100}a{100}a{100}b')",
    "inputs.s.replace('a', inputs.s)",
    "inputs.s.replace('', inputs.s)",
    "inputs.n.map(a, inputs.s.replace('a', 'bbbbbbbbbb'))",
    "inputs.s.split('').map(x, inputs.s.split(''))",
    "inputs.l.map(x, x.split('')).map(y, y.join(inputs.s))",
    "steps.all(a, steps.all(b, steps[a].output == steps[b].output))",
    "'" + "a" * 3_000 + "'" + ".split('').map(x, [1,2,3,4,5,6,7,8,9].map(y, x + '" + "b" * 500 + "'))",
    "[" + ",".join("[1]" for _ in range(1_000)) + "].map(x, [x, x, x].map(y, y + y + y))",
    " || ".join(f"{at} in inputs.n" for at in range(-200, 0)),
    "inputs.n.map(a, inputs.n.map(b, b)).map(c, c.map(d, [d, d, d]))",
    "['aaaaaaaaaa']" + ".map(b, b + b)" * 28,
    "['aaaaaaaaaa']" + ".map(b, [b, b])" * 28,
    "[[1, 2, 3]]" + ".map(a, a.map(b, a))" * 12,
    "[inputs.l].map(a, a.map(b, a)).map(c, c.map(d, c)) == [1]",
    "[inputs.s].map(a, a.split('').map(b, a)).size()",
    "[" + "[" * 20 + "inputs.s" + "]" * 20 + "].map(a, [a, a]) == inputs.n",
]


@pytest.mark.parametrize("text", _HOSTILE, ids=range(len(_HOSTILE)))
def test_no_expression_holds_the_event_loop(text: str) -> None:
    """A hostile expression over large values is refused or done within a second, and makes nothing huge.

    Without the bound the worst of these take from 5 seconds to longer than anybody waits, and gigabytes.
    """
    began = time.process_time()
    try:
        result = evaluate(text, _BIG)
    except BadInput:
        result = None
    assert time.process_time() - began < 1.0
    assert len(str(result)) < 8 * MAX_RESULT


def test_the_bound_is_what_stops_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: without the estimate, an expression of 45 characters takes seconds."""
    monkeypatch.setattr(evaluation, "MOST_WORK", 10**15)
    began = time.process_time()
    evaluate("inputs.n.all(a, (inputs.s + inputs.s).size() > 1)", _BIG)
    assert time.process_time() - began > 0.4


@pytest.mark.parametrize(
    "text",
    [
        "inputs.m.filter(x, x.name != 'b').map(x, x.name + '!').size()",
        "inputs.m.filter(x, x.n % 2 == 0 && x.n > 100).size()",
        "inputs.n.all(x, x >= 0)",
        "inputs.s.size() > 10 && inputs.s.contains('ab')",
        "steps.s1.output + steps.s2.output",
        "inputs.s.matches('^a+$')",
        "inputs.n.exists(x, x == inputs.d['7'])",
        "[1, 2, 3].map(x, [4, 5, 6].map(y, x * y))",
    ],
)
def test_honest_expressions_over_large_values_are_done(text: str) -> None:
    """The bound leaves room for real work."""
    evaluate(text, _BIG)


def test_deep_and_odd_values_are_refused() -> None:
    """Values come from models and callers: whatever they are, the answer is a named fault."""
    deep: Any = 1
    for _ in range(5_000):
        deep = [deep]
    odd = (2**70, "\ud800", object(), {"a": object()}, deep, {"a": {1: object()}})
    for value in odd:
        with pytest.raises(BadInput):
            evaluate("inputs", {"inputs": value})


@pytest.mark.parametrize(
    "value, made",
    [
        ("plain", "plain"),
        ("${ inputs.n }", [3, 1, 2]),
        ("Hello ${inputs.name}, ${ 1 + 1 } of ${inputs.n}", "Hello Ada, 2 of [3, 1, 2]"),
        ("${ {'a': {'b': '}'}} }", {"a": {"b": "}"}}),
        ("x ${ '}' } y", "x } y"),
        ("$${ inputs.name } costs $5", "${ inputs.name } costs $5"),
        ("${ inputs.nothing }", None),
        ("is ${ inputs.nothing }", "is null"),
        ({"a": ["${ item }", 1, None, True], "${ k }": "${ index }"}, {"a": ["one", 1, None, True], "${ k }": 2}),
        ("${ timestamp('2026-01-01T00:00:00Z') }", "2026-01-01T00:00:00Z"),
        ("${ [duration('90s'), duration('1500ms')] }", ["90s", "1.5s"]),
        ("${ {2: b'x', true: 2} }", {"2": "eA==", "true": 2}),
    ],
)
def test_texts_with_expressions(value: Any, made: Any) -> None:
    """One expression alone keeps its value; among other text it is written out."""
    assert render(value, CONTEXT) == made


@pytest.mark.parametrize(
    "value",
    ["${ 1", "${ '}", "a ${", "${ " + "1 " * 3_000 + "}", "${ double('inf') }", "${}", "${ double('nan') } x"],
)
def test_wrong_texts_are_refused(value: str) -> None:
    """No end, nothing inside, and numbers that JSON does not have."""
    with pytest.raises(BadInput):
        render(value, CONTEXT)


def test_rendering_is_bounded_as_a_whole() -> None:
    """Many expressions share one bound on work and one on the result."""
    began = time.process_time()
    with pytest.raises(BadInput):
        render(["${ inputs.s }"] * 100, _BIG)
    with pytest.raises(BadInput):
        render(["${ inputs.n.filter(x, x > 1).size() }"] * 10_000, _BIG)
    assert time.process_time() - began < 2.0


def test_expressions_are_found_with_their_paths() -> None:
    """Workflows check every one of them before anything runs."""
    found = list(expressions_in({"a": ["x ${ 1 } ${ 2 }", {"b": "${3}"}], "c": 1}))
    assert found == [("a.0", "1"), ("a.0", "2"), ("a.1.b", "3")]
    with pytest.raises(BadInput) as refused:
        list(expressions_in({"a": ["${ 1"]}))
    assert refused.value.field == "a.0"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(), inside, max_size=4),
    max_leaves=10,
)
_WORDS = st.sampled_from(
    [
        "inputs",
        ".a",
        "steps",
        "[",
        "]",
        "(",
        ")",
        "{",
        "}",
        "${",
        "+",
        "'",
        '"',
        "map",
        "x,",
        "1",
        "\\",
        "r'",
        "//",
        " ",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.lists(_WORDS, max_size=25).map("".join), _JSON)
def test_any_text_over_any_value_gives_a_value_or_a_named_fault(text: str, value: Any) -> None:
    """Nothing but a named fault comes out of anything."""
    for do in (evaluate, render):
        with contextlib.suppress(BadInput):
            json_value(do(text, {"inputs": value, "steps": {"a": {"output": value}}}))
