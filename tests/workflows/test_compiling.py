"""From YAML to a plan: what becomes of each construct, and that every mistake is named with its place."""

from __future__ import annotations

import contextlib
import copy
import textwrap
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.kernel import BadInput, Fault, PayloadTooLarge
from retinue.planning import Plan, Task
from retinue.workflows.compiling import Known, compile_workflow, mistakes_in
from retinue.workflows.document import Workflow, seconds_of
from retinue.workflows.drawing import dot, mermaid
from retinue.workflows.reading import MAX_BYTES, read_content, read_text

HEAD = "spec_version: 1\nname: example\ndefaults: {agent: Ada}\n"

EVERYTHING = (
    HEAD
    + """
inputs:
  type: object
  properties:
    n: {type: integer, default: 3}
    kind: {type: string}
    files: {type: array, items: {type: string}}
  required: [kind]
steps:
  - id: read
    tool: files_read
    arguments: {path: "${ inputs.files[0] }"}
    retry: {attempts: 3, pause: 500ms}
    timeout: 1m
    on_error:
      steps:
        - {id: excuse, value: "${ steps.read.error.kind }"}
        - {id: second, value: "${ steps.excuse.output }"}
  - id: big
    if: inputs.n > 2
    then:
      - {id: large, value: large}
      - id: inner
        if: inputs.n > 5
        then: [{id: huge, value: huge}]
    else:
      - {id: small, value: small}
  - id: which
    switch: inputs.kind
    cases:
      bug: [{id: bug, instructions: "Mend ${ inputs.kind }"}]
      '"odd\\n': [{id: odd, value: 1}]
    default: [{id: other, instructions: Look}]
  - id: both
    parallel:
      left: [{id: l1, value: 1}, {id: l2, value: "${ steps.l1.output + 1 }"}]
      right: [{id: r1, http: {url: "https://example.org/${ inputs.n }"}}]
  - id: each
    for_each: inputs.files
    most: 20
    at_once: 2
    steps:
      - {id: one, instructions: "Read ${ item } (${ index })", on_error: continue}
      - {id: two, value: "${ steps.one.status + steps.big.status }"}
    output: ${ steps.two.output }
  - {id: sub, workflow: other, inputs: {x: "${ inputs.n }"}}
  - {id: pause, wait: {duration: 2s}}
  - {id: heard, wait: {event: {type: file.saved, match: event.path == inputs.kind}}, timeout: 1h}
  - {id: until, wait: {until: timestamp('2026-01-01T00:00:00Z')}}
  - {id: ask, approval: {text: "Go on with ${ inputs.kind }?", assignees: [admin]}, timeout: 10m}
  - {id: alone, needs: [], value: free}
  - {id: last, needs: [ask, alone], when: "steps.ask.status == 'completed' // fine", value: done}
output: {text: "${ steps.last.output }"}
output_schema: {type: object}
triggers:
  - {id: daily, cron: 0 7 * * 1-5, timezone: Europe/Berlin, inputs: {kind: bug}}
  - {id: hook, webhook: true, inputs: {kind: "${ trigger.body.kind }"}}
  - {id: saved, event: {type: file.saved, match: event.path == 'a'}, inputs: {kind: "${ trigger.event.path }"}}
"""
)
OTHER = """
spec_version: 1
name: other
inputs: {type: object, properties: {x: {type: integer}, y: {default: 7}}, required: [x]}
steps: [{id: sum, value: "${ inputs.x + inputs.y }"}]
output: ${ steps.sum.output }
"""


def workflow(text: str) -> Workflow:
    found = read_text(text.encode()).workflow
    assert found is not None
    return found


OTHERS = {"other": Known(workflow(OTHER), 4)}


def compiled(text: str) -> Plan:
    return compile_workflow(read_text(text.encode(), "w.yaml"), OTHERS.get).plan


def by_id(plan: Plan) -> dict[str, Task]:
    return {task.id: task for task in plan.tasks}


def told(text: str) -> list[str]:
    return [str(one) for one in mistakes_in(read_text(textwrap.dedent(text).encode(), "w.yaml"), OTHERS.get)]


def test_every_construct_compiles() -> None:
    """The plan's own rules find nothing wrong with it, and sub-workflows come with their version."""
    result = compile_workflow(read_text(EVERYTHING.encode()), OTHERS.get)
    assert result.used == {"other": 4}
    tasks = by_id(result.plan)
    assert (tasks["read"].kind, tasks["read"].retry.attempts, tasks["read"].retry.seconds) == ("tool", 3, 0.5)
    assert tasks["read"].timeout == 60
    sub = tasks["sub"].each
    assert sub is not None
    assert (sub.inputs, sub.output, sub.most) == ({"x": "${ inputs.n }", "y": 7}, "${ steps.sum.output }", 1)
    assert sub.single
    assert tasks["r1"].call is not None
    assert tasks["r1"].call.tool == "http_fetch"
    assert tasks["last"].depends_on == ("ask", "alone")
    assert tasks["alone"].depends_on == ()
    assert tasks["ask"].question is not None
    assert (tasks["ask"].question.seconds, tasks["ask"].question.assignees) == (600, ("admin",))
    assert result.paths["l2"] == ("steps", 3, "parallel", "left", 1)


def test_errors_are_taken_up_and_what_follows_waits_for_that() -> None:
    tasks = by_id(compiled(EVERYTHING))
    assert (tasks["excuse"].runs_on, tasks["excuse"].depends_on) == ("failure", ("read",))
    assert (tasks["second"].runs_on, tasks["second"].depends_on) == ("success", ("excuse",))
    assert tasks["second"].when == tasks["excuse"].when == 'steps.read.status == "failed"'
    assert tasks["big"].depends_on == ("second",)
    body = tasks["each"].each
    assert body is not None
    assert body.body[0].optional


def test_a_sub_workflow_that_fails_is_taken_up_like_any_step() -> None:
    steps = "steps:\n- id: sub\n  workflow: other\n  inputs: {x: 1}\n  retry: {attempts: 2, pause: 3}\n"
    steps += "  on_error: {steps: [{id: mend, value: '${ steps.sub.error.detail }'}]}\n- {id: after, value: 1}\n"
    tasks = by_id(compile_workflow(read_text((HEAD + steps).encode()), OTHERS.get).plan)
    assert (tasks["sub"].retry.attempts, tasks["sub"].retry.seconds) == (2, 3)
    assert (tasks["mend"].runs_on, tasks["mend"].depends_on) == ("failure", ("sub",))
    assert tasks["after"].depends_on == ("mend",)


def test_branches_carry_their_conditions_and_what_follows_waits_for_all() -> None:
    tasks = by_id(compiled(EVERYTHING))
    assert tasks["large"].when == 'steps.big.status == "completed" && steps.big.output == true'
    assert tasks["huge"].when is not None
    assert tasks["huge"].when.count("steps.big.output == true") == 1
    assert tasks["huge"].when.count("steps.inner.output == true") == 1
    assert set(tasks["which"].depends_on) == {"big", "inner", "huge", "small"}
    assert set(tasks["both"].depends_on) == {"l2", "r1"}
    assert set(tasks["l1"].depends_on) == {"which", "bug", "odd", "other"}
    assert tasks["odd"].when is not None
    assert tasks["odd"].when.endswith(r'steps.which.output == "\"odd\\n"')


@pytest.mark.parametrize(
    "steps, expected",
    [
        ("- {id: a}", "w.yaml:6: steps[0].instructions: Field required"),
        ("- {id: a, value: 1}\n- {id: a, value: 2}", "w.yaml:7: steps[1].id: There is another step 'a'."),
        ("- {id: a, value: 1, needs: [b]}", "w.yaml:6: steps[0].needs[0]: There is no step 'b' here."),
        ("- {id: a, value: '${ 1 + }'}", "w.yaml:6: steps[0].value: The expression '1 +' is wrong"),
        ("- {id: a, value: '${ 1'}", "has no end"),
        ("- {id: a, value: '${ steps.b.output }'}", "There is no step 'b' at this level."),
        ("- {id: a, value: '${ steps.b.output }'}\n- {id: b, value: 1}", "need not have ended here"),
        ("- {id: a, value: '${ inputs.no }'}", "There is no input 'no'"),
        ("- {id: a, value: '${ item }'}", "`item` is known only"),
        ("- {id: a, value: '${ event }'}", "`event` is known only"),
        ("- {id: a, when: 'nobody', value: 1}", "w.yaml:6: steps[0].when: The expression 'nobody' is wrong"),
        ("- {id: a, value: 1, needs: [b]}\n- {id: b, value: 1, needs: [a]}", "wait for each other"),
        ("- {id: a, workflow: nothing}", "There is no workflow 'nothing'."),
        ("- {id: a, workflow: other, inputs: {x: 1}, timeout: 5}", "w.yaml:6: steps[0].timeout: It has no time of its"),
        ("- {id: a, for_each: '[1]', steps: [{id: b, value: 1}], timeout: 5}", "steps[0].timeout: It has no time of"),
        ("- {id: a, parallel: {b: [{id: c, value: 1}]}, retry: {attempts: 2}}", "put this on the steps inside"),
        ("- {id: a, parallel: {retry: 5}}", "steps[0].parallel.retry: Input should be a valid list"),
        ("- {id: a, if: 'true', then: [{id: c, value: 1}], on_error: continue}", "put this on the steps inside"),
        ("- {id: a, wait: {duration: 1}, retry: {attempts: 2}}", "steps[0].retry: A wait is not tried again"),
        ("- {id: a, value: 1, timeout: 5}", "steps[0].timeout: A value is computed at once."),
        ("- {id: a, workflow: example}", "Workflows call each other: example -> example."),
        ("- {id: a, workflow: other}", "needs the input 'x'"),
        (
            "- {id: a, workflow: other, inputs: {x: 1, z: 2}}",
            "w.yaml:6: steps[0].inputs.z: The workflow 'other' has no",
        ),
        ("- {id: a, wait: {}}", "exactly one of duration, until and event"),
        ("- {id: a, wait: {duration: soon}}", "steps[0].wait.duration: a duration is a number of seconds"),
        ("- {id: a, wait: {duration: 9999d}}", "a duration is 0 seconds to a year"),
        ("- {id: a, tool: x, typo: 1}", "w.yaml:6: steps[0].typo: Extra inputs are not permitted"),
        ("- {id: a-b, value: 1}", "steps[0].id: String should match pattern"),
        (
            "- {id: a, retry: {attempts: 99}, tool: t}",
            "steps[0].retry.attempts: Input should be less than or equal to 20",
        ),
        ("- {id: a, for_each: '[1]', steps: []}", "There is at least one step."),
        ("- id: a\n  if: 'true'\n  then:\n    - {id: b, value: '${ 1/ }'}", "w.yaml:9: steps[0].then[0].value: "),
        ("- {id: a, instructions: x, output_schema: {type: 3}}", "are not a JSON Schema"),
        ("- {id: a, http: {url: 'https://a', arguments: {b: 1}}}", "http_fetch takes a url and nothing else"),
        ("- {id: a, approval: {text: x}, timeout: 0}", "People need more than 0 seconds."),
        (
            "- {id: a, for_each: '[1]', steps: [{id: b, value: '${ steps.c.output }'}]}\n- {id: c, value: 1}",
            "ended here",
        ),
    ],
)
def test_every_mistake_names_file_line_and_path(steps: str, expected: str) -> None:
    found = told(HEAD + "\nsteps:\n" + steps)
    assert any(expected in one for one in found), found
    assert all(one.startswith("w.yaml:") for one in found)


def test_an_agent_is_named_somewhere() -> None:
    found = told("spec_version: 1\nname: a\nsteps: [{id: a, instructions: x}]")
    assert found == ["w.yaml:3: steps[0].agent: Name an agent here or in `defaults`."]


@pytest.mark.parametrize(
    "rest, expected",
    [
        ("triggers: [{id: a, cron: '* * *'}]", "five fields"),
        ("triggers: [{id: a, cron: '99 * * * *'}]", "is no cron line"),
        ("triggers: [{id: a, cron: '0 0 30 2 *'}]", "is no cron line"),
        ("triggers: [{id: a, cron: '0 0 * * *', timezone: Mars/Base}]", "There is no time zone 'Mars/Base'"),
        ("triggers: [{id: a, cron: '0 0 * * *', timezone: ../../etc/passwd}]", "There is no time zone"),
        ("triggers: [{id: a, webhook: true}, {id: a, webhook: true}]", "another trigger"),
        ("triggers: [{id: a, webhook: true, inputs: {z: 1}}]", "The workflow has no input 'z'."),
        ("triggers: [{id: a, event: {type: a.b, match: 'steps.x'}}]", "event.match: "),
        ("triggers: [{id: a, event: {type: plan.completed}}]", "sets off no workflow"),
        ("inputs: {type: 3}", "JSON Schema"),
        ("inputs: {properties: {a: {$ref: 'http://example.org/x'}}}", "refer to another document"),
        ("output: '${ steps.b.output }'", "There is no step 'b'"),
        ("spec: 1", "Extra inputs are not permitted"),
    ],
)
def test_mistakes_beside_the_steps(rest: str, expected: str) -> None:
    found = told(HEAD + "steps: [{id: x, value: 1}]\n" + rest)
    assert any(expected in one for one in found), found


def test_mistakes_inside_a_sub_workflow_are_told_where_it_is_called() -> None:
    broken = workflow("spec_version: 1\nname: broken\nsteps: [{id: a, instructions: x}]")
    source = read_text((HEAD + "steps:\n- {id: a, workflow: broken}\n").encode(), "w.yaml")
    found = [str(one) for one in mistakes_in(source, {"broken": Known(broken)}.get)]
    assert found == ["w.yaml:5: steps[0]: in the workflow 'broken': Name an agent here or in `defaults`."]


def test_circles_of_workflows_are_refused() -> None:
    a = workflow("spec_version: 1\nname: a\nsteps: [{id: x, workflow: b}]")
    b = workflow("spec_version: 1\nname: b\nsteps: [{id: x, workflow: a}]")
    known = {"a": Known(a), "b": Known(b)}
    found = mistakes_in(read_text(b"spec_version: 1\nname: c\nsteps: [{id: x, workflow: a}]"), known.get)
    assert "c -> a -> b -> a" in found[0].message


def test_too_many_steps_are_refused() -> None:
    inner = "".join(f"- {{id: s{at}, value: 1}}\n" for at in range(100))
    known = {"many": Known(workflow("spec_version: 1\nname: many\nsteps:\n" + inner))}
    outer = "".join(f"- {{id: s{at}, workflow: many}}\n" for at in range(6))
    found = mistakes_in(read_text((HEAD + "steps:\n" + outer).encode()), known.get)
    assert "more than 500 steps" in found[0].message


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20)
)


@pytest.mark.parametrize(
    "text, expected",
    [
        (BOMB, "anchor"),
        ("a: " + "[" * 5_000 + "]" * 5_000, "nested too deep"),
        ("- 1", "one YAML mapping"),
        ("a: !!python/object/apply:os.system [ls]", "tag"),
        ("a: 1\na: 2", "given twice"),
        ("a: [1", "line 2"),
        ("\x00", "cannot be read"),
        ("steps:\n" + "- {}\n" * 21_000, "holds too much"),
        ("---\na: 1\n---\nb: 2", "one document"),
        ("", "one YAML mapping"),
    ],
)
def test_hostile_yaml_is_refused_at_once(text: str, expected: str) -> None:
    began = time.process_time()
    found = mistakes_in(read_text(text.encode(), "w.yaml"))
    assert len(found) == 1
    assert expected in found[0].message
    assert time.process_time() - began < 2


def test_ten_megabytes_are_refused() -> None:
    with pytest.raises(PayloadTooLarge):
        read_text(b"#" * (MAX_BYTES + 1))


@pytest.mark.parametrize("text, seconds", [(5, 5), ("1h30m", 5400), ("500ms", 0.5), ("2d", 172_800), (0.5, 0.5)])
def test_durations(text: str | float, seconds: float) -> None:
    assert seconds_of(text) == seconds


def test_graphs_are_drawn() -> None:
    plan = compiled(EVERYTHING)
    chart, graph = mermaid(plan), dot(plan)
    assert 'n_read[["read: files_read"]]' in chart
    assert "n_read -. failed .-> n_excuse" in chart
    assert 'subgraph n_each["each: for each"]' in chart
    assert '"read" -> "excuse" [style=dashed, label=failed];' in graph
    assert graph.count("{") == graph.count("}")


def test_titles_cannot_break_out_of_a_graph() -> None:
    text = HEAD + """steps: [{id: a, value: 1, title: 'x"]; click n_a "javascript:1"'}]"""
    plan = compiled(text)
    assert "click n_a &quot;" not in mermaid(plan)
    assert mermaid(plan).count('"') == 2
    assert r"x\"]; click" in dot(plan)


# Properties

_LEAVES = st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=10)
_WORDS = st.sampled_from(
    ["id", "steps", "name", "spec_version", "if", "then", "else", "value", "tool", "needs", "when", "inputs", "a", "b",
     "for_each", "parallel", "switch", "cases", "workflow", "other", "on_error", "triggers", "cron", "type", "output"]
)  # fmt: skip
_ANY = st.recursive(
    _LEAVES | _WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_WORDS | st.text(max_size=5), inner, max_size=5),
    max_leaves=25,
)


def _compiles_or_says_why(content: Any) -> None:
    source = read_content(content)
    with contextlib.suppress(BadInput):
        result = compile_workflow(source, OTHERS.get)
        mermaid(result.plan)
        dot(result.plan)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(_WORDS, _ANY, max_size=6))
def test_anything_compiles_or_gets_a_named_fault(content: dict[str, Any]) -> None:
    _compiles_or_says_why(content)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_are_read_or_get_a_named_fault(raw: bytes) -> None:
    with contextlib.suppress(Fault):
        compile_workflow(read_text(raw), OTHERS.get)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inside in children:
        found += _places(inside, (*path, name))
    return found


_CONTENT = dict(read_text(EVERYTHING.encode()).content)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_mutated_workflows_compile_or_get_a_named_fault(data: st.DataObject) -> None:
    """A whole workflow with something in it replaced, removed, or moved."""
    content = copy.deepcopy(_CONTENT)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(_places(content)))
        parent = content
        for part in path[:-1]:
            parent = parent[part]
        change = data.draw(st.sampled_from(["replace", "remove", "copy"]))
        if change == "replace":
            parent[path[-1]] = data.draw(_ANY)
        elif change == "remove":
            del parent[path[-1]]
        else:
            other: Any = _CONTENT
            for part in data.draw(st.sampled_from(_places(_CONTENT))):
                other = other[part]
            parent[path[-1]] = copy.deepcopy(other)
        if not content:
            break
    _compiles_or_says_why(content)
