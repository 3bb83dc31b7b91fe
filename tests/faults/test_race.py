"""Fault 13, over HTTP: approving, rejecting and cancelling race; one decides, and the effect happens iff approved."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.faults.checks import views_that_differ
from tests.faults.effects import effect_settings, effects
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import Person, running_server

RACES = 40


async def _race(ada: Person, run_id: str) -> list[str]:
    """Decide in three ways at once; return what won (a cancel may win beside an approval that was first)."""
    approval = await ada.approval(run_id)
    confirm = f"/v1/my/approvals/{approval['approval_id']}/confirm"

    async def attempt(name: str, path: str, body: dict[str, Any]) -> str | None:
        answer = await ada.client.post(path, json=body)
        assert answer.status_code in (200, 202, 409), answer.text
        return name if answer.is_success else None

    results = await asyncio.gather(
        attempt("approve", confirm, {"decision": "approve"}),
        attempt("reject", confirm, {"decision": "reject"}),
        attempt("approve", confirm, {"decision": "approve"}),
        attempt("cancel", f"/v1/my/runs/{run_id}/cancel", {}),
    )
    return [result for result in results if result is not None]


@pytest.mark.fault
async def test_exactly_one_decision_counts(postgres: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "effects"
    async with ModelServer() as model:
        settings = effect_settings(file, OPENAI_BASE_URL=model.base_url)
        async with running_server(postgres, worker=True, **settings) as server:
            ada = await server.person()
            agent = await ada.agent(model="openai:stub-0ms", tools=["note_once"], limits={"concurrency": 8})
            for n in range(RACES):
                run_id = (await ada.send(agent, f'!tool note_once {{"text": "{n}"}}'))["run_id"]
                won = await _race(ada, run_id)
                assert sum(name in ("approve", "reject") for name in won) <= 1, won
                run = await ada.until(run_id)
                (approval,) = (await ada.call("GET", f"/v1/my/approvals?run={run_id}"))["items"]
                assert approval["status"] in ("approved", "rejected", "cancelled")
                happened = sum(1 for line in effects(file) if line.startswith(f"once {run_id}:"))
                if approval["status"] != "approved":
                    assert happened == 0, (won, approval["status"])
                elif run["status"] == "completed":
                    assert happened == 1, (won, run["status"])
                assert await views_that_differ(ada, [run_id]) == []
