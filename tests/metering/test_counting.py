"""The numbers of metering for /metrics."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.exposition import generate_latest

from retinue.database import Database
from retinue.kernel import new_id
from retinue.metering import count_run, counting
from tests.metering.support import DOLLAR, Spender, metering_services, total
from tests.support.numbers import numbers


def models() -> set[str]:
    text: bytes = generate_latest(REGISTRY)  # type: ignore[no-untyped-call]  # the library leaves it unannotated
    return {labels["model"] for labels, _ in numbers(text.decode(), "retinue_model_cost_dollars_total")}


async def test_what_is_settled_is_counted_when_it_is_committed(database: Database) -> None:
    spender = Spender(metering_services(database))
    model = f"test:{new_id()}"
    await spender.settle(new_id(), DOLLAR // 4, model=model)
    await spender.settle(new_id(), None, model=model)
    with pytest.raises(LookupError):
        await settle_and_fail(spender, model)
    assert total("retinue_model_cost_dollars_total", model=model) == 0.25
    assert total("retinue_model_answers_unpriced_total", model=model) == 1


async def settle_and_fail(spender: Spender, model: str) -> None:
    async with spender.scope() as scope:
        await spender.settle_in(scope, new_id(), DOLLAR, model=model)
        raise LookupError("planted")


def test_runs_are_counted_by_how_they_ended() -> None:
    before = total("retinue_runs_ended_total", status="completed")
    count_run("completed")
    assert total("retinue_runs_ended_total", status="completed") == before + 1


def test_names_that_users_make_up_do_not_make_series_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "_known", {f"model-{n}" for n in range(199)})
    before = models()
    for n in range(50):
        counting.count_cost(f"made-up-{n}", 1, 1)
    assert models() - before <= {"made-up-0", "(other)"}
    assert "(other)" in models()
