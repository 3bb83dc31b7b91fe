"""The table that says when a person is asked."""

from __future__ import annotations

from itertools import product

import pytest

from retinue.tools import UNLABELLED, Autonomy, Effect, Labels, Trust, Verdict, needs_approval

READ, FETCH, WRITE, EGRESS = Effect.READ, Effect.FETCH, Effect.WRITE, Effect.EGRESS
ALLOW, ASK, DENY = Verdict.ALLOW, Verdict.ASK, Verdict.DENY
STRICTNESS = {ALLOW: 0, ASK: 1, DENY: 2}

# autonomy -> verdicts for read, fetch, write, egress: in a clean run, and in a tainted one.
TABLE = {
    Autonomy.MANUAL: ((ASK, ASK, ASK, ASK), (ASK, ASK, ASK, ASK)),
    Autonomy.SUPERVISED: ((ALLOW, ASK, ASK, ASK), (ALLOW, ASK, ASK, ASK)),
    Autonomy.TRUSTED: ((ALLOW, ALLOW, ALLOW, ALLOW), (ALLOW, ASK, ASK, ASK)),
    Autonomy.AUTONOMOUS: ((ALLOW, ALLOW, ALLOW, ALLOW), (ALLOW, ALLOW, ALLOW, ALLOW)),
}

CASES = list(product(Autonomy, Effect, [False, True]))


def labelled(effect: Effect) -> Labels:
    return Labels(effect=effect, output=Trust.UNTRUSTED)


@pytest.mark.parametrize("autonomy, effect, tainted", CASES)
def test_the_table(autonomy: Autonomy, effect: Effect, tainted: bool) -> None:
    expected = TABLE[autonomy][tainted][[READ, FETCH, WRITE, EGRESS].index(effect)]
    decision = needs_approval(labelled(effect), autonomy, tainted=tainted)
    assert decision.verdict is expected
    assert decision.reason


@pytest.mark.parametrize("autonomy, effect, tainted", CASES)
def test_deny_and_ask_always_hold(autonomy: Autonomy, effect: Effect, tainted: bool) -> None:
    for labels in (labelled(effect), Labels(effect=effect, assumed=True)):
        assert needs_approval(labels, autonomy, DENY, tainted=tainted).verdict is DENY
        assert needs_approval(labels, autonomy, ASK, tainted=tainted).verdict is ASK


@pytest.mark.parametrize("autonomy, effect, tainted", CASES)
def test_allow_cannot_let_a_tainted_run_send(autonomy: Autonomy, effect: Effect, tainted: bool) -> None:
    labels = labelled(effect)
    verdict = needs_approval(labels, autonomy, ALLOW, tainted=tainted).verdict
    if tainted and effect in (FETCH, EGRESS):
        assert verdict is needs_approval(labels, autonomy, tainted=True).verdict
    else:
        assert verdict is ALLOW


@pytest.mark.parametrize("autonomy", Autonomy)
def test_an_unlabelled_tool_asks_whatever_the_autonomy(autonomy: Autonomy) -> None:
    assert needs_approval(UNLABELLED, autonomy).verdict is ASK
    assert needs_approval(UNLABELLED, autonomy, tainted=True).verdict is ASK
    assert needs_approval(UNLABELLED, autonomy, ALLOW).verdict is ALLOW
    assert needs_approval(UNLABELLED, autonomy, ALLOW, tainted=True).verdict is ASK


@pytest.mark.parametrize("autonomy, tainted", product(Autonomy, [False, True]))
def test_a_question_is_not_asked_about(autonomy: Autonomy, tainted: bool) -> None:
    question = Labels(effect=READ, output=Trust.TRUSTED, waits=True)
    assert needs_approval(question, autonomy, tainted=tainted).verdict is ALLOW
    assert needs_approval(question, autonomy, DENY, tainted=tainted).verdict is DENY


@pytest.mark.parametrize("effect, override", product(Effect, [None, *Verdict]))
def test_taint_never_loosens_and_autonomy_never_tightens(effect: Effect, override: Verdict | None) -> None:
    labels = labelled(effect)
    for autonomy in Autonomy:
        clean = needs_approval(labels, autonomy, override).verdict
        tainted = needs_approval(labels, autonomy, override, tainted=True).verdict
        assert STRICTNESS[tainted] >= STRICTNESS[clean]
    for tainted_run in (False, True):
        steps = [STRICTNESS[needs_approval(labels, level, override, tainted=tainted_run).verdict] for level in Autonomy]
        assert steps == sorted(steps, reverse=True)


def test_no_label_means_egress_untrusted_private() -> None:
    labels = Labels()
    assert (labels.effect, labels.output, labels.private, labels.idempotent) == (EGRESS, Trust.UNTRUSTED, True, False)
    assert not labels.repeatable
    assert Labels(effect=WRITE, idempotent=True).repeatable
    assert Labels(effect=READ).repeatable
    assert Labels(effect=FETCH).repeatable
    assert not Labels(effect=WRITE).repeatable
