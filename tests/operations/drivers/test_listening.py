"""What drivers make of output that no agent should write: it may not raise, grow without bound, or be believed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from retinue.kernel import Settings
from retinue.operations.driver import Finish, Progress, Task
from retinue.operations.drivers import Drivers
from retinue.operations.drivers.agent import HeadlessAttempt
from retinue.operations.drivers.gemini import GeminiDriver
from retinue.operations.drivers.listening import Lines
from retinue.operations.drivers.qwen import QwenDriver
from retinue.operations.drivers.talking import Conversation
from retinue.operations.drivers.transcript import Transcript, kind_of
from retinue.sandbox import Ended, Level, Usage

DRIVERS = [QwenDriver(), GeminiDriver()]
BOTH = pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)

# Whatever a program may say instead of what is expected, in every place where something is expected.
ODD: list[Any] = [None, 0, -1.5, True, "", "x", [], [1], [None], {}, {"type": 1}, {"text": {}}, [{"type": "text"}]]


def task(tmp_path: Any, **parameters: Any) -> Task:
    return Task(
        goal="Do it.",
        parameters=parameters,
        model="openai:gpt",
        workspace="/work",
        home="/home/agent",
        gateway="http://127.0.0.1:8808",
        seconds=60,
        inputs=[],
        settings=Settings(data=tmp_path),
    )


def finish(code: int | None = 0, stderr: str = "") -> Finish:
    usage = Usage(seconds=0, cpu_seconds=0, peak_memory=0, memory_byte_seconds=0)
    ended = Ended(exit_code=code, reason="exited", usage=usage, level=Level.B)
    return Finish(ended=ended, stdout="", stderr=stderr, changed=[])


def heard(driver: QwenDriver | GeminiDriver, *events: Any, tmp_path: Any) -> tuple[HeadlessAttempt, list[Progress]]:
    attempt = driver.attempt(task(tmp_path))
    assert isinstance(attempt, HeadlessAttempt)
    shown = list(attempt.read("stdout", b"".join(json.dumps(one).encode() + b"\n" for one in events)))
    return attempt, shown


def test_lines_come_whole_however_they_are_cut() -> None:
    text = "first\nzwölf\n\nlast\nrest".encode()
    for size in range(1, len(text) + 1):
        lines = Lines()
        found = [line for at in range(0, len(text), size) for line in lines.feed(text[at : at + size])]
        assert found == [b"first", "zwölf".encode(), b"", b"last"]


def test_a_line_without_end_is_not_kept() -> None:
    """The planted fault is a bound that is never reached: there the same flood is held whole."""

    def flooded(longest: int) -> tuple[int, list[bytes]]:
        lines = Lines(longest)
        found = [line for _ in range(100) for line in lines.feed(b"x" * 1000)]
        held = len(lines._rest)
        return held, [*found, *lines.feed(b"\nnext\n")]

    assert flooded(2000) == (0, [b"next"])
    assert flooded(1 << 30)[0] == 100_000


@BOTH
def test_odd_output_is_no_reason_to_fail(driver: Any, tmp_path: Any) -> None:
    types = ["assistant", "user", "result", "message", "tool_use", "tool_result", "error", "system", None]
    names = [
        "message",
        "content",
        "role",
        "tool_name",
        "parameters",
        "status",
        "error",
        "is_error",
        "result",
        "severity",
    ]
    events: list[Any] = [*ODD, {"message": {"content": ODD}, "type": "assistant"}]
    events += [{"type": kind, name: odd} for kind in types for name in names for odd in ODD]
    attempt, _ = heard(driver, *events, tmp_path=tmp_path)
    attempt.read("stdout", b"\xff\xfe\x00 no json {]\n" + b"[" * 100_000 + b"\n" + b'{"a":' * 50_000 + b"\n")
    attempt.judge(finish())


@BOTH
def test_nothing_said_at_all_is_no_success(driver: Any, tmp_path: Any) -> None:
    attempt, shown = heard(driver, tmp_path=tmp_path)
    verdict = attempt.judge(finish())
    assert (verdict.ok, verdict.kind, shown) == (False, "no_answer", [])


def test_a_result_of_success_after_an_error_is_not_believed(tmp_path: Any) -> None:
    """Gemini CLI says so when it had too many turns, or went in circles."""
    for message, kind in (("Maximum session turns exceeded", "turns"), ("Loop detected, stopping execution", "loop")):
        severity = "error" if kind == "turns" else "warning"
        events = [
            {"type": "message", "role": "assistant", "content": "Once more."},
            {"type": "error", "severity": severity, "message": message},
            {"type": "result", "status": "success"},
        ]
        attempt, _ = heard(GeminiDriver(), *events, tmp_path=tmp_path)
        verdict = attempt.judge(finish())
        assert (verdict.ok, verdict.kind, verdict.summary) == (False, kind, message)


@BOTH
def test_a_success_with_a_bad_exit_code_is_none(driver: Any, tmp_path: Any) -> None:
    events = [
        {"type": "result", "status": "success", "is_error": False, "result": "All is well."},
    ]
    attempt, _ = heard(driver, *events, tmp_path=tmp_path)
    verdict = attempt.judge(finish(1, "TypeError: cannot read\n"))
    assert (verdict.ok, verdict.kind) == (False, "exit_code")
    assert "TypeError: cannot read" in verdict.summary
    assert attempt.judge(finish(53)).kind == "turns"


@pytest.mark.parametrize(
    "message, kind",
    [
        ("[API Error: 402 The budget is used up.]", "budget"),
        ('[API Error: {"error":{"code":402,"message":"used up","status":"budget_exhausted"}}]', "budget"),
        ("402 The budget is used up.", "budget"),
        ("[API Error: 403 not allowed]", "forbidden_model"),
        ("[API Error: 429 slow down]", "model_busy"),
        ("[API Error: 500 oops]", "model_error"),
        ("[API Error: Connection error.]", "model_error"),
        ("Maximum session turns exceeded", "turns"),
        ("Loop detection halted the run (consecutive_identical_tool_calls).", "loop"),
        ("The file has 402 lines.", None),
        ("something else", None),
    ],
)
def test_errors_have_kinds(message: str, kind: str | None) -> None:
    assert kind_of(message) == kind


def test_what_is_shown_and_kept_is_bounded(tmp_path: Any) -> None:
    long = "x" * 1_000_000
    call = {"type": "tool_use", "name": long, "input": {"command": long}}
    events = [
        {"type": "assistant", "message": {"content": [{"type": "text", "text": long}, call]}},
        {"type": "user", "message": {"content": [{"type": "tool_result", "is_error": True, "content": long}]}},
        {"type": "result", "result": long},
    ]
    attempt, shown = heard(QwenDriver(), *events, tmp_path=tmp_path)
    assert sum(len(one.text) for one in shown) < 10_000
    assert len(attempt.judge(finish()).summary) <= 16_000


@BOTH
def test_parameters_are_checked_before_anything_is_started(driver: Any) -> None:
    drivers = Drivers(entries=[])
    taken: list[dict[str, object]] = [
        {},
        {"turns": 5},
        {"mode": "headless"},
        {"mode": "acp"},
        {"mode": "acp", "allow": ["read"]},
    ]
    refused: list[dict[str, object]] = [
        {"turns": 0},
        {"mode": "x"},
        {"allow": ["read"]},
        {"mode": "acp", "allow": ["all"]},
        {"more": 1},
    ]
    assert [drivers.complaint(driver.name, one) for one in taken] == [None] * len(taken)
    assert None not in [drivers.complaint(driver.name, one) for one in refused]


@pytest.mark.parametrize(
    "model, qwen, gemini",
    [
        ("openai:gpt-5", "gpt-5", "openai:gpt-5"),
        ("google:gemini-2.5-pro", "google:gemini-2.5-pro", "gemini-2.5-pro"),
        ("ollama:qwen3:8b", "ollama:qwen3:8b", "ollama:qwen3:8b"),
        (None, "default", "default"),
    ],
)
def test_a_model_is_called_so_that_the_gateway_knows_it(
    model: str | None, qwen: str, gemini: str, tmp_path: Any
) -> None:
    told = task(tmp_path)
    told = Task(**{name: getattr(told, name) for name in Task.__slots__} | {"model": model})
    assert QwenDriver().model(told) == qwen
    assert GeminiDriver().model(told) == gemini


class Stranger:
    """A program on the other end of the protocol, which says what it is told to."""

    def __init__(self, *answers: bytes) -> None:
        self.got: list[dict[str, Any]] = []
        self._answers = list(answers)
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()

    async def send(self, data: bytes) -> None:
        message = json.loads(data)
        self.got.append(message)
        if "method" in message and "id" in message:
            answer = self._answers.pop(0) if self._answers else b""
            self._queue.put_nowait(answer.replace(b'"ID"', str(message["id"]).encode()))

    async def received(self) -> AsyncIterator[bytes]:
        while chunk := await self._queue.get():
            yield chunk


def reply(result: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": "ID", "result": result}).encode() + b"\n"


def asks(method: str, params: Any, number: int | None = None) -> bytes:
    message = {"jsonrpc": "2.0", "method": method, "params": params} | ({} if number is None else {"id": number})
    return json.dumps(message).encode() + b"\n"


async def talked(stranger: Stranger, allowed: Sequence[str] = ("read",), turns: int = 5) -> Transcript:
    transcript = Transcript()
    conversation = Conversation(transcript, folder="/work", prompt="Do it.", allowed=allowed, turns=turns)
    async with asyncio.timeout(10):
        await conversation.hold(stranger.send, stranger.received(), lambda _progress: None)
    return transcript


async def test_a_stranger_who_says_odd_things_breaks_nothing() -> None:
    odd = b"".join(asks("session/update", value) + asks("session/update", {"update": value}) for value in ODD)
    odd += b"".join(asks("session/request_permission", value, 900 + at) for at, value in enumerate(ODD))
    odd += b"no json\n" + asks("fs/read_text_file", {"path": "/etc/passwd"}, 77) + asks("terminal/create", {}, 78)
    odd += b'{"id": {}, "result": 1}\n{"method": 5}\n[]\n{"id": 12345, "result": {}}\n{"id": 0}\n'
    stranger = Stranger(reply({}), reply({"sessionId": "s"}), odd + reply({"stopReason": "end_turn"}))

    transcript = await talked(stranger)

    assert transcript.ended
    assert not transcript.failed
    refused = {one["id"]: one.get("error", {}).get("code") for one in stranger.got if "method" not in one}
    assert refused[77] == refused[78] == -32601, "no files and no terminals of ours"


async def test_a_stranger_who_goes_away_has_not_finished() -> None:
    for stranger in (Stranger(), Stranger(reply({})), Stranger(reply({}), reply({"sessionId": "s"}))):
        transcript = await talked(stranger)
        assert not transcript.ended
        assert transcript.verdict(finish()).kind == "no_answer"


async def test_leave_is_given_for_once_and_by_kind() -> None:
    options = [
        {"optionId": "always", "kind": "allow_always"},
        {"optionId": "once", "kind": "allow_once"},
        {"optionId": "no", "kind": "reject_once"},
    ]
    asked = b"".join(
        asks("session/request_permission", {"toolCall": {"toolCallId": kind, "kind": kind}, "options": options}, at)
        for at, kind in enumerate(("read", "execute", "unheard of"), 50)
    )
    stranger = Stranger(reply({}), reply({"sessionId": "s"}), asked + reply({"stopReason": "end_turn"}))

    await talked(stranger)

    given = {one["id"]: one["result"]["outcome"].get("optionId") for one in stranger.got if one.get("id", 0) >= 50}
    assert given == {50: "once", 51: "no", 52: "no"}


@pytest.mark.parametrize(
    "reason, kind",
    [("max_turn_requests", "turns"), ("refusal", "refused"), ("max_tokens", "model_error"), ("x", "agent_failed")],
)
async def test_other_ends_of_a_conversation_are_no_success(reason: str, kind: str) -> None:
    transcript = await talked(Stranger(reply({}), reply({"sessionId": "s"}), reply({"stopReason": reason})))
    assert transcript.verdict(finish()).kind == kind


async def test_a_stranger_who_uses_tools_for_ever_is_stopped() -> None:
    calls = b"".join(
        asks("session/update", {"update": {"sessionUpdate": "tool_call", "toolCallId": str(at), "title": "read"}})
        for at in range(20)
    )
    stranger = Stranger(reply({}), reply({"sessionId": "s"}), calls + reply({"stopReason": "cancelled"}))

    transcript = await talked(stranger, turns=5)

    assert [one["method"] for one in stranger.got if one.get("method") == "session/cancel"] == ["session/cancel"]
    assert transcript.verdict(finish()).kind == "turns"
