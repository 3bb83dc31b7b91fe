"""The live stream and what is printed of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.cli.client import Client
from retinue.cli.failures import ExitCode, Failure
from retinue.cli.following import RunFollower
from retinue.cli.screen import Screen
from retinue.cli.stream import LiveEvent, TooFarBehind, live_events, parse
from tests.cli.scripted_server import Answer, Request, ScriptedServer, problem, sse
from tests.support.command_line import CommandLine

STREAM = "GET /v1/my/events/stream"
RUN = "01890000-0000-7000-8000-00000000000a"


def _bytes(texts: list[str], line_end: str) -> bytes:
    out = ""
    for position, text in enumerate(texts, 1):
        data = {"event_type": "message_created", "payload": {"text": text}, "run_id": RUN, "session_id": None}
        out += f": comment{line_end}id: {position}{line_end}event: message_created{line_end}"
        out += f"data: {json.dumps(data, ensure_ascii=False)}{line_end}{line_end}"
    return out.encode()


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5),
    st.integers(1, 20),
    st.sampled_from(["\n", "\r\n"]),
)
def test_a_stream_reads_the_same_however_it_is_cut_into_chunks(texts: list[str], size: int, line_end: str) -> None:
    raw = _bytes(texts, line_end)
    events = list(parse(raw[start : start + size] for start in range(0, len(raw), size)))
    assert [event.payload["text"] for event in events] == texts
    assert [event.position for event in events] == [str(number) for number in range(1, len(texts) + 1)]


def test_a_half_event_at_the_end_is_not_given_out() -> None:
    raw = _bytes(["a", "b"], "\n")
    assert len(list(parse([raw[:-1]]))) == 1


def test_it_resumes_after_the_last_event_and_not_after_a_frame(signed_in: ScriptedServer) -> None:
    signed_in.on(
        STREAM,
        sse(("run_started", 7, {}), ("message_delta", None, {"text": "a", "offset": 0})),
        Answer(drop=True),
        Answer(503, problem("unavailable", "Starting.")),
        sse(("run_completed", 9, {})),
    )
    seen: list[LiveEvent] = []
    moods: list[bool] = []
    with Client(signed_in.url) as client:
        for event in live_events(client, after="5", away=moods.append, run=RUN):
            if event is not None:
                seen.append(event)
            if event is not None and event.name == "run_completed":
                break
    assert [event.position for event in seen] == ["7", None, "9"]
    first, *later = signed_in.asked(STREAM)
    assert first.query == {"run": RUN, "after": "5"}
    assert [request.headers["last-event-id"] for request in later] == ["7", "7", "7"]
    assert moods == [True, False]


def test_a_place_that_is_no_longer_kept_is_reported(signed_in: ScriptedServer) -> None:
    signed_in.on(STREAM, Answer(410, problem("gone", "Too old.")))
    with Client(signed_in.url) as client, pytest.raises(TooFarBehind):
        next(live_events(client, after="1"))


def test_a_refusal_is_not_retried(signed_in: ScriptedServer) -> None:
    signed_in.on(STREAM, Answer(403, problem("forbidden", "Not yours.")))
    with Client(signed_in.url) as client, pytest.raises(Failure) as failed:
        next(live_events(client))
    assert failed.value.code is ExitCode.REFUSED
    assert len(signed_in.requests) == 1


def _run(status: str, **more: object) -> dict[str, object]:
    return {"run_id": RUN, "session_id": "s", "status": status, **more}


def _delta(text: str, offset: int, attempt: int = 1) -> tuple[str, None, dict[str, object]]:
    return ("message_delta", None, {"text": text, "offset": offset, "attempt": attempt})


def _message(content: str) -> tuple[str, int, dict[str, object]]:
    return ("message_created", 5, {"message_id": "m", "role": "assistant", "content": content})


def _follow(server: ScriptedServer, *streams: Answer, is_terminal: bool = True) -> None:
    states = iter([_run("running")] * len(streams))
    server.on(f"GET /v1/my/runs/{RUN}", lambda _: Answer(200, next(states, _run("completed"))))
    server.on(STREAM, *streams)
    with Client(server.url) as client:
        follower = RunFollower(client, Screen(is_terminal=is_terminal))
        assert follower.follow(RUN)["status"] == "completed"


def test_the_answer_is_printed_as_it_comes_and_once(
    signed_in: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    _follow(signed_in, sse(_delta("Hel", 0), _delta("lo", 3), _message("Hello."), ("run_completed", 6, {})))
    assert capsys.readouterr().out == "Hello.\n"


def test_after_a_broken_connection_the_text_so_far_is_not_repeated(
    signed_in: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    _follow(
        signed_in,
        sse(_delta("Hel", 0)),
        sse(_delta("Hello wo", 0), _delta("rld", 8), _message("Hello world"), ("run_completed", 6, {})),
    )
    # The note about the broken connection ends the line; what follows it goes on where the text was.
    assert capsys.readouterr().out == "Hel\nlo world\n"


def test_another_attempt_begins_anew(signed_in: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    events = [_delta("Wrong", 0), _delta("Right", 0, attempt=2), _message("Right"), ("run_completed", 6, {})]
    _follow(signed_in, sse(*events))
    out, err = capsys.readouterr()
    assert out == "Wrong\nRight\n"
    assert "begins again" in err


def test_a_piece_that_was_lost_is_made_good_by_the_message(
    signed_in: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    _follow(signed_in, sse(_delta("One ", 0), _delta("three", 8), _message("One two three"), ("run_completed", 6, {})))
    assert capsys.readouterr().out == "One two three\n"


def test_a_pipe_gets_the_finished_answer_only(signed_in: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    events = [_delta("I will look.", 0), _delta("Done", 0), _message("Done."), ("run_completed", 6, {})]
    _follow(signed_in, sse(*events), is_terminal=False)
    assert capsys.readouterr().out == "Done.\n"


def test_terminal_escapes_in_an_answer_are_shown_not_obeyed(
    signed_in: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "a\x1b]0;owned\x07b\u202ec"
    _follow(signed_in, sse(_delta(evil, 0), _message(evil), ("run_completed", 6, {})))
    assert capsys.readouterr().out == "a\\x1b]0;owned\\x07b\\u202ec\n"


def test_what_was_missed_too_long_ago_is_read_from_the_run(
    signed_in: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    signed_in.on(STREAM, Answer(410, problem("gone", "Too old.")), sse())
    signed_in.on(f"GET /v1/my/runs/{RUN}", Answer(200, _run("completed")))
    message = {"run_id": RUN, "role": "assistant", "content": "All done.", "message_id": "m"}
    signed_in.on("GET /v1/my/chat/s/messages", Answer(200, {"items": [message], "next_cursor": None}))
    with Client(signed_in.url) as client:
        RunFollower(client, Screen()).follow(RUN, "3")
    assert capsys.readouterr().out == "All done.\n"
    assert "after" not in signed_in.asked(STREAM)[1].query


def test_an_approval_is_decided_once_although_it_is_seen_twice(signed_in: ScriptedServer) -> None:
    approval = {"approval_id": "p", "run_id": RUN, "status": "pending", "kind": "tool", "tool": "files_write"}
    signed_in.on("GET /v1/my/approvals", Answer(200, {"items": [approval], "next_cursor": None}))
    signed_in.on("GET /v1/my/approvals/p", Answer(200, {**approval, "arguments": {"path": "a.md"}, "effect": "write"}))
    signed_in.on("POST /v1/my/approvals/p/confirm", Answer(200, {**approval, "status": "approved"}))
    states = iter([_run("waiting")])
    signed_in.on(f"GET /v1/my/runs/{RUN}", lambda _: Answer(200, next(states, _run("completed"))))
    signed_in.on(STREAM, sse(("approval_required", 4, approval), _message("Done"), ("run_completed", 6, {})))
    with Client(signed_in.url) as client:
        RunFollower(client, Screen(), decide=lambda _: {"decision": "approve"}).follow(RUN)
    assert [request.body for request in signed_in.asked("POST /v1/my/approvals/p/confirm")] == [{"decision": "approve"}]


def test_somebody_else_may_decide_first(signed_in: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    approval = {"approval_id": "p", "run_id": RUN, "status": "pending", "kind": "tool", "tool": "files_write"}
    signed_in.on("GET /v1/my/approvals/p", Answer(200, approval))
    signed_in.on("POST /v1/my/approvals/p/confirm", Answer(409, problem("conflict", "It is rejected already.")))
    states = iter([_run("running")])
    signed_in.on(f"GET /v1/my/runs/{RUN}", lambda _: Answer(200, next(states, _run("completed"))))
    signed_in.on(STREAM, sse(("approval_required", 4, approval), _message("Done"), ("run_completed", 6, {})))
    with Client(signed_in.url) as client:
        RunFollower(client, Screen(), decide=lambda _: {"decision": "approve"}).follow(RUN)
    assert "It is rejected already." in capsys.readouterr().err


def test_a_run_that_fails_ends_the_command_with_its_own_code(signed_in: ScriptedServer, retinue: CommandLine) -> None:
    error = {"kind": "timeout", "detail": "The model did not answer.", "step": 1}
    signed_in.on(f"GET /v1/my/runs/{RUN}", Answer(200, _run("failed", error=error)))
    signed_in.on(STREAM, sse())
    ended = retinue("runs", "watch", RUN, "--json")
    assert ended.code == ExitCode.RUN_FAILED
    assert json.loads(ended.out)["run"]["status"] == "failed"
    assert "The model did not answer. (timeout)" in ended.err


def test_the_login_is_renewed_for_a_stream_too(signed_in: ScriptedServer) -> None:
    def stream(request: Request) -> Answer:
        if request.headers["authorization"] != "Bearer access-2":
            return Answer(401, problem("unauthenticated", "Expired."))
        return sse(("run_completed", 2, {}))

    fresh = {"user_id": "u", "tenant_id": "t", "access_token": "access-2", "refresh_token": "r", "expires_in": 900}
    signed_in.on("POST /v1/auth/refresh", Answer(200, fresh))
    signed_in.on(STREAM, stream)
    with Client(signed_in.url) as client:
        events = live_events(client)
        assert next(events) is None
        event = next(events)
        assert event is not None
        assert event.name == "run_completed"
