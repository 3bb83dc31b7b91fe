"""Numbers for ``/metrics``: how runs ended, what the answers they kept cost, and what was charged.

Calls, tokens and times are counted where the calls are made, by ``providers``.
"""

from __future__ import annotations

from prometheus_client import Counter

from retinue.kernel import NANOS_PER_DOLLAR

RUNS = Counter("retinue_runs_ended", "Runs by how they ended", ["status"])
COST = Counter("retinue_model_cost_dollars", "What answers of known price cost, in US dollars", ["model"])
CHARGED = Counter("retinue_charged_dollars", "What was charged besides model calls, in US dollars", ["kind"])
UNPRICED = Counter("retinue_model_answers_unpriced", "Answers whose price is not known", ["model"])

_MOST_MODELS = 200
_known: set[str] = set()


def count_run(status: str) -> None:
    """Count a run that has ended; call it once the end is committed."""
    RUNS.labels(status).inc()


def count_cost(model: str, calls: int, cost: int | None) -> None:
    """Count what calls of a model cost, in nano-dollars; None when the price is not known."""
    if cost is None:
        UNPRICED.labels(_label(model)).inc(calls)
    else:
        COST.labels(_label(model)).inc(cost / NANOS_PER_DOLLAR)


def count_charge(kind: str, cost: int) -> None:
    """Count what was charged for CPU time, memory or storage, in nano-dollars."""
    CHARGED.labels(kind).inc(cost / NANOS_PER_DOLLAR)


def _label(model: str) -> str:
    """Return the model's name, or one name for all that come late: users name models, and each is a series."""
    if model not in _known:
        if len(_known) >= _MOST_MODELS:
            return "(other)"
        _known.add(model)
    return model
