"""How plans are shown in the terminal: the graph that events keep up to date, its drawing, and the plan as YAML."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from retinue.cli.client import Client
from retinue.cli.deciding import describe
from retinue.cli.deciding_plans import as_text, from_text
from retinue.cli.graph import Graph, of_created, of_plan
from retinue.cli.graph_view import GraphView
from retinue.cli.screen import Screen
from retinue.cli.stream import LiveEvent
from retinue.cli.team_following import TeamFollower
from tests.cli.scripted_server import Answer, ScriptedServer, problem, sse

PLAN = "01890000-0000-7000-8000-0000000000aa"
RUN = "01890000-0000-7000-8000-00000000000a"
CHILD = "01890000-0000-7000-8000-00000000000b"
STREAM = "GET /v1/my/events/stream"


def event(name: str, **payload: Any) -> LiveEvent:
    return LiveEvent(name, "1", {"plan_id": PLAN, **payload}, None, None, "2026-11-21T12:00:01+00:00")


def graph(*tasks: dict[str, Any]) -> Graph:
    return of_created({"plan_id": PLAN, "title": "Tea", "tasks": list(tasks)}, "2026-11-21T12:00:00+00:00")


def drawn(what: Graph, width: int = 80, **options: Any) -> list[str]:
    console = Console(width=width, highlight=False, soft_wrap=True, emoji=False, force_terminal=False)
    with console.capture() as capture:
        console.print(GraphView(what, **options), soft_wrap=False)
    return capture.get().splitlines()


A_TO_C = ({"id": "c", "agent": "x", "depends_on": ["a", "b"]}, {"id": "a", "agent": "x"}, {"id": "b", "agent": "y"})


def test_events_bring_a_graph_up_to_date() -> None:
    it = graph(*A_TO_C)
    it.take(event("task_started", task_id="a", run_id=RUN))
    it.take(event("task_started", task_id="b"))
    it.take(event("task_completed", task_id="a", tokens=7, cost=1_500_000))
    it.take(event("task_progress", status="failed", kind="timeout", task_id="b", detail="Too slow."))
    it.take(event("task_progress", status="skipped", task_id="c", reason="dependency"))
    assert [node.status for node in it.nodes.values()] == ["skipped", "completed", "failed"]
    assert (it.tokens, it.cost, it.nodes["a"].cost) == (7, "0.001500000", "0.001500000")
    it.take(event("run_failed", status="failed", kind="task", detail="b failed"))
    assert it.ended
    lines = "\n".join(drawn(it))
    assert "failed: Too slow." in lines
    assert "left out: what it depends on failed" in lines
    assert "failed · 1 of 3 tasks" in lines


def test_events_that_are_seen_twice_count_once() -> None:
    it = graph(*A_TO_C)
    for _ in range(2):
        it.take(event("task_started", task_id="a"))
        it.take(event("task_completed", task_id="a", tokens=7, cost=5))
    assert it.nodes["a"].status == "completed"
    assert it.tokens == 7
    it.take(event("task_started", task_id="a", attempt=2))
    assert it.nodes["a"].status == "running", "a person had it tried again"


def test_what_events_do_not_tell_is_asked_for() -> None:
    it = graph(*A_TO_C)
    it.take(event("plan_request"))
    it.take(event("task_started", task_id="a"))
    assert it.outdated, "whoever approved it may have edited it"
    it = graph(*A_TO_C)
    it.take(event("task_progress", status="expanded", task_id="a", items=3))
    assert it.outdated


def test_tasks_come_after_those_they_wait_for() -> None:
    assert [node.id for node in graph(*A_TO_C).in_order()] == ["a", "b", "c"]
    circle = graph({"id": "a", "depends_on": ["b"]}, {"id": "b", "depends_on": ["a"]})
    assert [node.id for node in circle.in_order()] == ["a", "b"]


def test_bodies_lie_below_their_task() -> None:
    nodes: list[dict[str, Any]] = [{"id": "each", "kind": "each", "status": "running"}]
    for index in range(2):
        name = f"each[{index}]"
        nodes += [
            {"id": f"{name}.b", "parent": "each", "index": index, "depends_on": [f"{name}.a"]},
            {"id": f"{name}.a", "parent": "each", "index": index},
        ]
    lines = drawn(of_plan({"plan_id": PLAN, "title": "All", "nodes": nodes}))
    names = [re.sub(r"^[│├└─ ·◐]+", "", line).split()[0] for line in lines[1:]]
    assert names == ["each", "[0].a", "[0].b", "[1].a", "[1].b"]
    assert lines[2].startswith("   ├─")


TEXT = st.text(max_size=60)
TASK = st.fixed_dictionaries(
    {
        "id": st.text("abcdefghij_-", min_size=1, max_size=64),
        "title": TEXT,
        "agent": TEXT,
        "status": st.sampled_from(["waiting", "running", "retrying", "completed", "failed", "skipped"]),
        "depends_on": st.lists(st.text("abc", min_size=1, max_size=3), max_size=3),
        "error": st.none() | st.fixed_dictionaries({"detail": TEXT}),
        "tokens": st.integers(0, 10**9),
        "run_id": st.none() | st.just(RUN),
        "cost": st.none() | st.just("123.456789"),
    }
)


@given(st.lists(TASK, max_size=12), st.sampled_from([40, 80, 120, 200]), st.booleans(), st.none() | st.integers(4, 12))
def test_a_drawing_keeps_to_the_terminal(
    tasks: list[dict[str, Any]], width: int, moving: bool, most_lines: int | None
) -> None:
    it = of_plan({"plan_id": PLAN, "title": "x" * 300, "nodes": tasks})
    lines = drawn(it, width, moving=moving, most_lines=most_lines)
    assert max(cell_len(line) for line in lines) <= width
    assert not [line for line in lines if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", line)]
    if most_lines is not None:
        assert len(lines) <= most_lines


@pytest.mark.parametrize("code", [0x0A, 0x0D, 0x85, 0x2028, 0x2029], ids=hex)
@pytest.mark.parametrize("field", ["title", "agent"])
def test_what_others_have_named_breaks_no_line(field: str, code: int) -> None:
    nodes = [{"id": "a", "agent": "x"}, {"id": "b", "agent": "x", field: f"one{chr(code)}two"}]
    assert len(drawn(of_plan({"plan_id": PLAN, "title": f"All{chr(code)}of it", "nodes": nodes}))) == 3


def test_what_is_done_makes_room_for_what_goes_on() -> None:
    nodes = [
        {"id": f"t{n}", "status": "completed" if n < 30 else "running" if n < 32 else "waiting"} for n in range(60)
    ]
    nodes[3]["status"] = "failed"
    lines = drawn(of_plan({"plan_id": PLAN, "title": "Many", "nodes": nodes}), moving=True, most_lines=8)
    text = "\n".join(lines)
    assert len(lines) <= 8
    for shown in ("t3 ", "t30", "t31"):
        assert shown in text
    assert "29 more are done" in text


# Deciding


def approval(**arguments: Any) -> dict[str, Any]:
    tasks = [
        {"id": "look", "title": "Look", "agent": "reader", "instructions": "Look.", "risk": "low", "confidence": 0.9},
        {"id": "send", "agent": "sender", "instructions": "Send it.", "depends_on": ["look"], "risk": "high"},
    ]
    agents = {
        "reader": {"tools": {"files_read": "read, alone", "files_write": "write, never"}},
        "sender": {"tools": {"http_post": "egress, alone", "notes: *": "anything its server offers"}},
    }
    estimate = {"tasks": 2, "tokens": 1200, "cost": "0.02"}
    plan = {"title": "Send tea", "tasks": tasks, "agents": agents, "estimate": estimate, "on_failure": "stop"}
    return {"approval_id": "p", "kind": "plan", "arguments": {**plan, **arguments}, "reason": "its risk is high"}


def test_a_person_sees_what_a_plan_may_do(capsys: pytest.CaptureFixture[str]) -> None:
    describe(Screen(), approval())
    shown = capsys.readouterr().err
    for line in (
        "? May your team carry out this plan: Send tea",
        "estimate: 2 tasks, about 1,200 tokens, about $0.02; if a task fails, the plan stops",
        "reader may use files_read alone",
        "sender may use http_post (egress) alone; ask to use notes: * (anything its server offers)",
        "why you are asked: its risk is high",
        "high risk",
    ):
        assert line in shown, line
    assert "files_write" not in shown, "what it never may is no power"


def test_escapes_in_a_plan_are_shown_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "a\x1b]0;owned\x07"
    task = {"id": "a", "title": evil, "agent": evil, "instructions": evil}
    describe(Screen(), approval(title=evil, tasks=[task], agents={evil: {"tools": {evil: "read, alone"}}}))
    assert "\x1b" not in capsys.readouterr().err


def test_a_plan_goes_to_yaml_and_back() -> None:
    text = as_text(approval())
    assert "risk" not in text.partition("tasks:")[2], "only what can be changed is there to be changed"
    edited, mistake = from_text(text)
    assert mistake == ""
    assert edited is not None
    assert [task["id"] for task in edited["tasks"]] == ["look", "send"]
    assert edited["tasks"][1] == {
        "id": "send",
        "title": "",
        "agent": "sender",
        "instructions": "Send it.",
        "depends_on": ["look"],
        "expected": "",
    }


@pytest.mark.parametrize(
    "text, said",
    [("tasks: [a\n  b: c", "line"), ("tasks: []", "at least one"), ("- a", "mapping"), ("tasks: &a [*a]", "anchor")],
)
def test_yaml_that_is_no_plan_is_named(text: str, said: str) -> None:
    edited, mistake = from_text(text)
    assert edited is None
    assert said in mistake


# Following


def _team(server: ScriptedServer, **options: Any) -> TeamFollower:
    client = Client(server.url)
    return TeamFollower(client, Screen(is_terminal=False), "s", **options)


def test_after_a_gap_in_the_stream_the_plan_is_read_and_its_open_questions_are_asked(
    signed_in: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = {
        "run_id": RUN,
        "session_id": "s",
        "status": "waiting",
        "waiting_on": [{"kind": "child", "of": "plan", "id": PLAN}],
    }
    states = iter([waiting, waiting])
    ended = {"run_id": RUN, "session_id": "s", "status": "completed"}
    node = {"id": "write", "agent": "writer", "status": "running", "run_id": CHILD}
    asked = {"approval_id": "p", "run_id": CHILD, "status": "pending", "kind": "tool", "tool": "files_write"}
    other = {**asked, "approval_id": "q", "run_id": "somebody else's"}
    signed_in.on(STREAM, Answer(410, problem("gone", "Too old.")), sse(("run_completed", 6, {}), run_id=RUN))
    signed_in.on(f"GET /v1/my/runs/{RUN}", lambda _: Answer(200, next(states, ended)))
    signed_in.on(
        f"GET /v1/my/plans/{PLAN}",
        Answer(200, {"plan_id": PLAN, "title": "Tea", "status": "running", "nodes": [node]}),
    )
    signed_in.on("GET /v1/my/approvals", lambda r: Answer(200, {"items": [] if "run" in r.query else [asked, other]}))
    signed_in.on("GET /v1/my/approvals/p", Answer(200, asked))
    signed_in.on("POST /v1/my/approvals/p/confirm", Answer(200, {**asked, "status": "approved"}))
    message = {"run_id": RUN, "role": "assistant", "content": "All done.", "message_id": "m"}
    signed_in.on("GET /v1/my/chat/s/messages", Answer(200, {"items": [message], "next_cursor": None}))
    seen: list[str] = []

    def decide(approval: dict[str, Any]) -> dict[str, Any]:
        seen.append(str(approval["asked_by"]))
        return {"decision": "approve"}

    assert _team(signed_in, decide=decide).follow(RUN, "3")["status"] == "completed"
    assert seen == ["write (writer)"]
    out, err = capsys.readouterr()
    assert out == "All done.\n"
    assert "write" in err


def test_the_end_of_a_plan_or_of_another_run_is_not_the_end_of_the_run(
    signed_in: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    signed_in.on(f"GET /v1/my/runs/{RUN}", Answer(200, {"run_id": RUN, "session_id": "s", "status": "completed"}))
    created = {"plan_id": PLAN, "title": "Tea", "tasks": [{"id": "a", "agent": "x"}]}
    message = {"message_id": "m", "role": "assistant", "content": "Yes."}
    body = b"".join(
        bytes(sse(*events, run_id=run_id).body)
        for run_id, events in (
            (RUN, [("task_plan_created", 1, created)]),
            (RUN, [("task_started", 2, {"plan_id": PLAN, "task_id": "a", "run_id": CHILD})]),
            (CHILD, [("message_delta", None, {"text": "Nobody asked you.", "offset": 0})]),
            (CHILD, [("run_completed", 3, {"status": "completed"})]),
            (RUN, [("task_completed", 4, {"plan_id": PLAN, "task_id": "a"})]),
            (None, [("run_completed", 5, {"plan_id": PLAN, "status": "completed"})]),
            (RUN, [("message_created", 6, message)]),
            (RUN, [("run_completed", 7, {"status": "completed"})]),
        )
    )
    signed_in.on(STREAM, Answer(200, body, {"Content-Type": "text/event-stream"}))
    follower = _team(signed_in)
    assert follower.follow(RUN, "0")["status"] == "completed"
    assert follower.plan_ids == [PLAN]
    out, err = capsys.readouterr()
    assert out == "Yes.\n"
    assert err.count("completed · 1 of 1 tasks") == 1


def test_what_a_run_asks_that_work_was_handed_on_to_is_asked_here(
    signed_in: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    signed_in.on(f"GET /v1/my/runs/{RUN}", Answer(200, {"run_id": RUN, "session_id": "s", "status": "completed"}))
    asked = {"approval_id": "p", "run_id": CHILD, "status": "pending", "kind": "tool", "tool": "files_write"}
    stranger = {**asked, "approval_id": "q", "run_id": PLAN}
    for approval in (asked, stranger):
        signed_in.on(f"GET /v1/my/approvals/{approval['approval_id']}", Answer(200, approval))
        signed_in.on(f"POST /v1/my/approvals/{approval['approval_id']}/confirm", Answer(200, approval))
    handed = {"kind": "tool", "name": "delegate", "call_id": "c", "child": {"kind": "run", "id": CHILD}}
    done = {"kind": "tool", "name": "delegate", "call_id": "c", "content": "Done.", "milliseconds": 5}
    message = {"message_id": "m", "role": "assistant", "content": "Yes."}
    body = b"".join(
        bytes(sse(*events, run_id=run_id).body)
        for run_id, events in (
            (RUN, [("task_progress", 1, handed)]),
            (CHILD, [("approval_required", 2, asked)]),
            (PLAN, [("approval_required", 3, stranger)]),
            (CHILD, [("tool_request", 4, {"name": "files_write", "call_id": "d", "arguments": {"path": "a.md"}})]),
            (CHILD, [("run_completed", 5, {})]),
            (RUN, [("task_progress", 6, done)]),
            (RUN, [("message_created", 7, message)]),
            (RUN, [("run_completed", 8, {})]),
        )
    )
    signed_in.on(STREAM, Answer(200, body, {"Content-Type": "text/event-stream"}))
    _team(signed_in, decide=lambda _: {"decision": "approve"}).follow(RUN, "0")
    assert len(signed_in.asked("POST /v1/my/approvals/p/confirm")) == 1
    assert signed_in.asked("POST /v1/my/approvals/q/confirm") == [], "another run of the session is not ours"
    err = capsys.readouterr().err
    assert "delegate: files_write(path=a.md)" in err
    assert "delegate (" not in err
