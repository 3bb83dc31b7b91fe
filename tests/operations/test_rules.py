"""The decisions about operations, as plain functions."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.kernel import BadInput
from retinue.ledger import Meta, Recorded, decode
from retinue.operations import judging, rules
from retinue.operations.driver import Finish, Verdict
from retinue.operations.drivers.command import CommandDriver
from retinue.operations.events import (
    Expected,
    OperationCancelRequested,
    OperationCompleted,
    OperationFailed,
    OperationProgressed,
    OperationRequested,
    OperationRetried,
    OperationStarted,
)
from retinue.operations.judging import ModelUse
from retinue.operations.policy import (
    LEVELS,
    Limits,
    OperationPolicy,
    PolicyChanged,
    granted,
    is_enough,
    stricter,
)
from retinue.operations.rules import OperationStatus
from retinue.sandbox import Ended, Level, Usage

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def state_after(*facts: object) -> rules.OperationState:
    requested = OperationRequested(owner_id=uuid4(), run_id=uuid4(), driver="command", goal="x", limits=Limits())
    recorded = [
        Recorded(uuid4(), number, "operation:x", number, "", fact, Meta(), NOW)  # type: ignore[type-var]
        for number, fact in enumerate((requested, *facts), 1)
    ]
    return rules.fold(recorded)  # type: ignore[arg-type]


def started(attempt: int) -> OperationStarted:
    return OperationStarted(attempt=attempt, worker_id=uuid4(), level="B", sandbox="bubblewrap")


def ended(reason: str = "exited", code: int | None = 0) -> Ended:
    usage = Usage(seconds=1.0, cpu_seconds=1.0, peak_memory=1, memory_byte_seconds=1.0)
    return Ended(exit_code=code, reason=reason, usage=usage, level=Level.B)  # type: ignore[arg-type]


def finish(*changed: str, reason: str = "exited", code: int | None = 0) -> Finish:
    return Finish(ended=ended(reason, code), stdout="", stderr="", changed=changed)


# The fold


def test_an_operation_is_what_its_events_say() -> None:
    assert state_after().status is OperationStatus.QUEUED
    found = state_after(started(1), OperationProgressed(attempt=1, phase="running"))
    assert (found.status, found.attempt, found.phase, found.level) == (OperationStatus.RUNNING, 1, "running", "B")
    found = state_after(started(1), started(2), OperationCompleted(attempt=2))
    assert (found.status, found.attempt, found.tries, found.phase) == (OperationStatus.COMPLETED, 2, 2, "")


def test_a_retry_forgets_the_end_and_counts_attempts_anew() -> None:
    run_id = uuid4()
    found = state_after(
        started(1),
        OperationCancelRequested(reason="no"),
        OperationFailed(attempt=1, kind="store"),
        OperationRetried(run_id=run_id),
    )
    assert (found.status, found.attempt, found.tries, found.run_id) == (OperationStatus.QUEUED, 1, 0, run_id)
    assert found.cancel is None
    assert found.ending is None


def test_a_stream_that_does_not_begin_with_a_request_is_none() -> None:
    with pytest.raises(ValueError, match="begins with"):
        rules.fold([Recorded(uuid4(), 1, "operation:x", 1, "", started(1), Meta(), NOW)])


def test_events_keep_the_names_that_they_were_stored_with() -> None:
    """The API says ``retention_seconds``; what is stored under ``retention`` is a promise, and read for ever."""
    stored = '{"owner_id":"%s","run_id":"%s","driver":"command","goal":"x","limits":{"seconds":5.0},"retention":60}'
    stored = stored % (UUID(int=1), UUID(int=2))
    asked = decode("operation.requested", 1, stored)
    assert isinstance(asked, OperationRequested)
    assert (asked.retention_seconds, asked.limits.seconds) == (60, 5.0)
    assert msgspec.json.decode(msgspec.json.encode(asked)) == msgspec.json.decode(stored)
    stored = '{"policy":{"retention":120,"failed_retention":30}}'
    changed = decode("operations.policy_changed", 1, stored)
    assert isinstance(changed, PolicyChanged)
    assert (changed.policy.retention_seconds, changed.policy.failed_retention_seconds) == (120, 30)
    assert msgspec.json.encode(changed).decode() == stored


# Limits


def test_what_is_asked_for_is_granted_within_the_policy_and_the_grant() -> None:
    holds = OperationPolicy()
    assert granted(holds, {}) == holds.limits
    assert granted(holds, {"seconds": 3.0}).seconds == 3.0
    assert granted(holds, {}, seconds=60).seconds == 60
    with pytest.raises(BadInput, match=r"limits\.seconds"):
        granted(holds, {"seconds": 61.0}, seconds=60)
    with pytest.raises(BadInput, match=r"limits\.memory"):
        granted(holds, {"memory": holds.most.memory + 1})


@given(st.sampled_from(LEVELS), st.sampled_from(LEVELS))
def test_a_level_is_enough_where_it_is_as_strict(one: str, other: str) -> None:
    assert is_enough(stricter(one, other), one)
    assert is_enough(stricter(one, other), other)
    assert is_enough(one, other) == Level(one).reaches(Level(other))  # the room and the workshop agree


# Names


@given(st.text(max_size=300))
def test_a_name_that_is_taken_is_one_entry_of_a_folder(name: str) -> None:
    try:
        found = rules.checked_name(name, "name")
    except BadInput:
        return
    assert "/" not in found
    assert found not in (".", "..")
    assert "\x00" not in found
    assert len(found.encode()) <= 255


# Judgement


@pytest.mark.parametrize("reason", ["timeout", "memory", "disk", "output", "processes", "killed"])
def test_what_did_not_end_by_itself_has_the_name_of_its_end(reason: str) -> None:
    found = judging.by_its_end(finish("out", reason=reason, code=None), Limits())
    assert found is not None
    assert found.kind == reason
    assert judging.by_its_end(finish("out"), Limits()) is None


def test_the_end_of_a_grant_is_no_timeout() -> None:
    found = judging.by_its_end(finish(reason="timeout", code=None), Limits(), by_grant=True)
    assert found is not None
    assert found.kind == "grant"


GOOD, BAD = Verdict(ok=True, summary="done"), Verdict(ok=False, kind="exit_code", summary="no")


@pytest.mark.parametrize(
    "verdict, changed, models, expects, kind",
    [
        (GOOD, ("a",), ModelUse(), True, ""),
        (GOOD, (), ModelUse(), False, ""),
        (GOOD, (), ModelUse(), True, "nothing_done"),
        (BAD, ("a",), ModelUse(), False, "exit_code"),
        (BAD, (), ModelUse(forbidden=("openai:big",)), True, "forbidden_model"),
        (GOOD, (), ModelUse(forbidden=("openai:big",)), True, "forbidden_model"),
        (BAD, (), ModelUse(used_up=True, forbidden=("openai:big",)), True, "budget"),
        # It did what it was asked all the same: a refused call on the way is no failure.
        (GOOD, ("a",), ModelUse(forbidden=("openai:big",), used_up=True), True, ""),
    ],
    ids=["good", "nothing-asked", "nothing-done", "exit", "forbidden", "forbidden-quietly", "budget", "all-the-same"],
)
def test_what_ended_by_itself_is_judged(
    verdict: Verdict, changed: tuple[str, ...], models: ModelUse, expects: bool, kind: str
) -> None:
    found = judging.by_its_driver(finish(*changed), verdict, models, expects_outputs=expects)
    assert found.kind == kind


def test_expectations_are_names_patterns_and_numbers() -> None:
    good = judging.Judged("", "done")
    names = ["a.json", "b.json", "report.md", "sub/c.txt"]
    for one in (Expected(name="report.md"), Expected(name="*.json", at_least=2), Expected(name="sub/*")):
        assert judging.by_what_was_expected(good, [one], names).ok
    for one in (Expected(name="other"), Expected(name="*.json", at_least=3)):
        assert judging.by_what_was_expected(good, [one], names).kind == "expectations"
    assert judging.by_what_was_expected(good, [Expected(name="a[1]")], ["a[1]"]).ok  # a name, whatever it looks like


@given(st.binary(max_size=200))
def test_no_content_breaks_the_check_of_a_schema(content: bytes) -> None:
    schemas = rules.Schemas([Expected(name="*", schema={"type": "object", "required": ["a"]})])
    assert schemas.concern("x")
    schemas.complaint("x", content)


def test_a_deep_document_is_told_from_a_good_one() -> None:
    schemas = rules.Schemas([Expected(name="x", schema={"type": "array"})])
    assert schemas.complaint("x", b"[1]") is None
    assert schemas.complaint("x", b"[" * 100_000) is not None
    with pytest.raises(BadInput, match=r"expected\.0\.schema"):
        rules.Schemas([Expected(name="x", schema={"type": "nothing"})])


# The driver `command`


def test_the_command_driver_shows_letters_that_were_cut_in_two() -> None:
    from retinue.kernel import Settings
    from retinue.operations.driver import Task

    task = Task(
        goal="g", parameters={"argv": ["/bin/true"], "success": [0, 3], "stdin": "in"}, model=None, workspace="/work",
        home="/home/agent", gateway=None, seconds=1.0, inputs=(), settings=Settings(),
    )  # fmt: skip
    attempt = CommandDriver().attempt(task)
    launch = attempt.prepare()
    assert (list(launch.argv), launch.stdin, launch.env["RETINUE_GOAL"]) == (["/bin/true"], b"in", "g")
    whole = "naïve ☃".encode()
    shown = "".join(p.text for n in range(len(whole)) for p in attempt.read("stdout", whole[n : n + 1]))
    assert shown == "naïve ☃"
    assert attempt.read("stderr", b"\xff")[0].kind == "error"
    assert attempt.judge(finish(code=3)).ok
    assert attempt.judge(finish(code=4)).kind == "exit_code"


def test_what_is_missing_is_told_in_a_sentence() -> None:
    wanted = [Expected(name="a.md"), Expected(name="*.json"), Expected(name="*.csv", at_least=2)]
    assert rules.missing(wanted, ["b.md", "1.csv"]) == [
        "It left no file 'a.md', which was expected.",
        "It left no file like '*.json', which was expected.",
        "It left 1 of at least 2 files like '*.csv' that were expected.",
    ]
