"""When a tool call needs a person: one table, read by the run loop before every call."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct

from retinue.tools.labels import Effect, Labels


class Autonomy(StrEnum):
    """How much an agent may do on its own; an agent never raises its own."""

    MANUAL = "manual"
    SUPERVISED = "supervised"
    TRUSTED = "trusted"
    AUTONOMOUS = "autonomous"


class Verdict(StrEnum):
    """What happens to a call: it runs, a person is asked, or it is refused."""

    ALLOW = "allow"
    ASK = "ask"
    DENY = "deny"


class Decision(Struct, frozen=True):
    """A verdict and, for the person who is asked and for the events, why."""

    verdict: Verdict
    reason: str


_READ, _FETCH, _WRITE, _EGRESS = Effect.READ, Effect.FETCH, Effect.WRITE, Effect.EGRESS

# The effects that ask, by autonomy: of a clean run, and of one that has read untrusted text.
# Fetching counts as egress, because a URL can carry data out. Whoever makes an agent autonomous has answered the
# question for good, tainted or not; only tools that nobody labelled still ask (see `needs_approval`).
_ASKS: Mapping[Autonomy, tuple[frozenset[Effect], frozenset[Effect]]] = {
    Autonomy.MANUAL: (frozenset(Effect), frozenset(Effect)),
    Autonomy.SUPERVISED: (frozenset({_FETCH, _WRITE, _EGRESS}), frozenset({_FETCH, _WRITE, _EGRESS})),
    Autonomy.TRUSTED: (frozenset(), frozenset({_FETCH, _WRITE, _EGRESS})),
    Autonomy.AUTONOMOUS: (frozenset(), frozenset()),
}


def needs_approval(
    labels: Labels, autonomy: Autonomy, override: Verdict | None = None, *, tainted: bool = False
) -> Decision:
    """Decide whether a call runs, asks a person or is refused.

    Args:
        labels: the labels of the tool.
        autonomy: the agent's autonomy.
        override: what the agent's definition says about this tool by name. ``deny`` and ``ask`` always hold.
            ``allow`` holds too, except that it cannot let a tainted run fetch or send: there the table decides.
        tainted: whether the run has read untrusted text.
    """
    if override is Verdict.DENY:
        return Decision(Verdict.DENY, "the agent's definition denies this tool")
    if labels.waits:
        return Decision(Verdict.ALLOW, "the call is itself a question to a person")
    if override is Verdict.ASK:
        return Decision(Verdict.ASK, "the agent's definition asks for this tool")
    if override is Verdict.ALLOW and not (tainted and labels.effect in (_FETCH, _EGRESS)):
        return Decision(Verdict.ALLOW, "the agent's definition allows this tool")
    if labels.assumed:
        return Decision(Verdict.ASK, "nobody has labelled this tool, so it may do anything")
    return _by_the_table(labels.effect, autonomy, tainted)


def _by_the_table(effect: Effect, autonomy: Autonomy, tainted: bool) -> Decision:
    clean_asks, tainted_asks = _ASKS[autonomy]
    if effect in clean_asks:
        return Decision(Verdict.ASK, f"{_a(autonomy)} agent asks before {_a(effect)} call")
    if tainted and effect in tainted_asks:
        return Decision(
            Verdict.ASK, f"the run has read untrusted text, so {_a(autonomy)} agent asks before {_a(effect)} call"
        )
    return Decision(Verdict.ALLOW, f"{_a(autonomy)} agent may make {_a(effect)} call")


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
