"""An emergency stop that ends while a run is on its way out: the run goes on, and does not wait for ever."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.mutants import planted
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer, Step, ToolCall
from tests.support.running import running_server
from tests.support.waiting import holds


@pytest.mark.fault
async def test_a_run_that_leaves_for_a_stop_that_has_just_ended_comes_back(postgres: Cluster) -> None:
    """The worker has seen the stop, and records that it leaves only after the stop's end."""
    async with ModelServer() as model:
        model.script(Step(hold="gate", tool_calls=(ToolCall("clock", {}),)), Step(text="back again"), by="turn")
        settings: dict[str, Any] = planted(
            "hesitates_to_leave", OPENAI_BASE_URL=model.base_url, OPENAI_API_KEY="stub-key"
        )
        async with running_server(postgres, **settings) as server:
            ada = await server.person()
            agent = await ada.agent(model="openai:stub-0ms", tools=["clock"])
            run_id = (await ada.send(agent, "What time is it?"))["run_id"]
            await model.wait_for_requests(1)
            await ada.call("POST", f"/v1/tenants/{ada.tenant_id}/stop", json={"reason": "something smells"})
            model.release("gate")
            await holds(lambda: "it hesitates" in server.log())
            await ada.call("POST", f"/v1/tenants/{ada.tenant_id}/resume")
            run = await ada.until(run_id)
            types = [event["type"] for event in await ada.events(run_id)]
    assert run["status"] == "completed"
    assert types.count("run.waiting") == 1, "it did leave"
