"""Numbers for ``/metrics``: runs by how they ended, model calls, tokens, money."""

from __future__ import annotations

from prometheus_client import Counter

from retinue.kernel import NANOS_PER_DOLLAR

RUNS = Counter("retinue_runs_ended", "Runs by how they ended", ["status"])
CALLS = Counter("retinue_answers", "Answers of models", ["model"])
TOKENS = Counter("retinue_answer_tokens", "Tokens read and written by models", ["model", "direction"])
COST = Counter("retinue_answer_cost_dollars", "What model calls of known price cost, in US dollars", ["model"])
UNPRICED = Counter("retinue_answers_unpriced", "Model calls whose price is not known", ["model"])

_MOST_MODELS = 200
_known: set[str] = set()


def count_run(status: str) -> None:
    """Count a run that has ended; call it once the end is committed."""
    RUNS.labels(status).inc()


def count_calls(model: str, calls: int, input_tokens: int, output_tokens: int, cost: int | None) -> None:
    """Count model calls; ``cost`` in nano-dollars, None when the price is not known."""
    name = _label(model)
    CALLS.labels(name).inc(calls)
    TOKENS.labels(name, "input").inc(input_tokens)
    TOKENS.labels(name, "output").inc(output_tokens)
    if cost is None:
        UNPRICED.labels(name).inc(calls)
    else:
        COST.labels(name).inc(cost / NANOS_PER_DOLLAR)


def _label(model: str) -> str:
    """Return the model's name, or one name for all that come late: users name models, and each is a series."""
    if model not in _known:
        if len(_known) >= _MOST_MODELS:
            return "(other)"
        _known.add(model)
    return model
