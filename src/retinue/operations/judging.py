"""What came of an attempt, by what is known once its last process is dead. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retinue.kernel import dollars
from retinue.operations import rules
from retinue.operations.driver import Finish, Verdict
from retinue.operations.events import Expected
from retinue.operations.policy import Limits

TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class ModelUse:
    """How an attempt used its models.

    Attributes:
        forbidden: calls for models that it may not use.
        used_up: whether its budget was, or its user's.
        budget: nano-dollars that it had; None: no bound of its own.
    """

    calls: int = 0
    forbidden: Sequence[str] = ()
    used_up: bool = False
    budget: int | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of it: ``kind`` is empty when it did what was asked."""

    kind: str
    text: str

    @property
    def ok(self) -> bool:
        """Whether it did what was asked."""
        return not self.kind


def by_its_end(finish: Finish, limits: Limits, *, by_grant: bool = False) -> Judged | None:
    """Judge an attempt that did not end by itself; None: it did, and its driver has a word to say.

    Args:
        finish: what is known.
        limits: what it might use.
        by_grant: whether its time was cut short by the end of its grant.
    """
    match finish.ended.reason:
        case "exited":
            return None
        case "timeout" if by_grant:
            return Judged("grant", "The grant expired while it worked.")
        case "timeout":
            return Judged(TIMEOUT, f"It did not finish within {limits.seconds:g} s.")
        case "memory":
            return Judged("memory", f"It needed more than {limits.memory:,} bytes of memory.")
        case "disk":
            return Judged("disk", f"It wrote more than {limits.disk:,} bytes to disk.")
        case "output":
            return Judged("output", f"It wrote more than {limits.output:,} bytes of output.")
        case "processes":
            return Judged("processes", f"It started more than {limits.processes} processes.")
        case _:
            return Judged("killed", "Something outside of the sandbox ended it.")


def by_its_driver(finish: Finish, verdict: Verdict, models: ModelUse, *, expects_outputs: bool) -> Judged:
    """Judge an attempt that ended by itself, by what its driver says and how it used its models.

    Args:
        finish: what is known.
        verdict: the driver's.
        models: how it used its models.
        expects_outputs: whether it did nothing when it left nothing, by its driver or by what was asked.
    """
    text = verdict.summary[: rules.LONGEST_SUMMARY]
    if verdict.ok and (finish.changed or not expects_outputs):
        return Judged("", text)
    # It did not do it. A refused model call is a better reason than that it ended with 1, or did nothing.
    if models.used_up:
        had = f"The budget of {dollars(models.budget)} USD" if models.budget is not None else "The budget"
        return Judged("budget", f"{had} for model calls is used up. {text}".strip())
    if models.forbidden:
        named = ", ".join(sorted(set(models.forbidden))[:5])
        return Judged("forbidden_model", f"It asked for models that it may not use: {named}. {text}".strip())
    if verdict.ok:
        return Judged("nothing_done", f"It said that it was done, and left nothing new or changed. {text}".strip())
    return Judged(verdict.kind or "exit_code", text or f"It ended with {finish.ended.exit_code}.")


def by_a_full_disk(judged: Judged, limits: Limits, *, is_full: bool) -> Judged:
    """Say that the disk was full of an attempt that failed with a full one: where writing fails, nothing ends it."""
    if judged.kind not in ("exit_code", "nothing_done", "expectations") or not is_full:
        return judged
    return Judged("disk", f"It used up its {limits.disk:,} bytes of disk. {judged.text}"[: rules.LONGEST_SUMMARY])


def by_what_was_expected(judged: Judged, expected: Sequence[Expected], names: Sequence[str]) -> Judged:
    """Hold what it left against what was expected; what has failed already stays as it is."""
    if not judged.ok:
        return judged
    missing = rules.missing(expected, names)
    return judged if not missing else Judged("expectations", " ".join(missing)[: rules.LONGEST_SUMMARY])


def by_schemas(judged: Judged, complaints: Sequence[str]) -> Judged:
    """Take in what is wrong with files that must fit a schema."""
    if not judged.ok or not complaints:
        return judged
    return Judged("expectations", " ".join(complaints)[: rules.LONGEST_SUMMARY])
