"""The digest of the examples goes on when its worker dies, and repeats nothing that is done."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.support.databases import Cluster
from tests.support.model_server import ModelServer, Step
from tests.support.running import running_server
from tests.workflows.test_story import EXAMPLES, apply, graph, start, states, until

FILES = {"a.txt": "The roof is slate.", "b.txt": "The cellar is dry.", "c.txt": "The door is oak."}


@pytest.mark.fault
async def test_a_workflow_goes_on_when_its_worker_dies(postgres: Cluster) -> None:
    async with (
        ModelServer() as model,
        running_server(
            postgres,
            worker=False,
            OPENAI_BASE_URL=model.base_url,
            OPENAI_API_KEY="stub-key",
            RETINUE_DEFAULT_MODEL="openai:stub-0ms",
        ) as server,
    ):
        model.script(Step(text="slate"), contains="the file a.txt", then="repeat")
        model.script(Step(text="dry", hold="late"), contains="the file b.txt", then="repeat")
        model.script(Step(text="oak", hold="late"), contains="the file c.txt", then="repeat")
        ada = await server.person()
        await ada.agent("Reader", tools=["files"])
        await apply(ada, (EXAMPLES / "digest.yaml").read_text())
        session = (await ada.call("POST", "/v1/my/chat", 201, json={"title": "house"}))["session_id"]
        for name, text in FILES.items():
            await ada.call("POST", f"/v1/my/chat/{session}/files", 201, files={"file": (name, text.encode())})
        server.start_worker()
        plan = await start(ada, "digest", session_id=session, inputs={"about": "the house"})
        # Killed while one text is read and two are being read side by side.
        await until(ada, plan, lambda one: states(one).get("each[0].look") == "completed")
        await model.wait_for_requests(1, contains="the file b.txt")
        await model.wait_for_requests(1, contains="the file c.txt")
        await server.kill_workers()
        model.release("late")
        server.start_worker()
        # Killed again while it waits for a person.
        await until(ada, plan, lambda one: states(one).get("write") == "running")
        run_id = next(one["run_id"] for one in (await graph(ada, plan))["nodes"] if one["id"] == "write")
        asked = await ada.approval(run_id)
        await server.kill_workers()
        await ada.decide(asked)
        server.start_worker()
        done = await until(ada, plan)
        assert done["status"] == "completed", (done["error"], states(done))
        written = (await ada.client.get(f"/v1/my/chat/{session}/files/digest.md")).text
        assert all(word in written for word in ("slate", "dry", "oak"))
        assert written == asked["arguments"]["content"]
        events = (await ada.call("GET", f"/v1/my/plans/{plan['plan_id']}/events?limit=200"))["items"]
        ends = Counter(one["data"]["task_id"] for one in events if one["type"] == "task.completed")
        begun = Counter(one["data"]["task_id"] for one in events if one["type"] == "task.started")
        assert set(ends.values()) == {1}
        assert set(begun.values()) == {1}, "a run that was cut off goes on; the task does not begin again"
        answered = Counter(one.user for one in model.requests if "the file a.txt" in one.user)
        assert set(answered.values()) == {1}, "what was recorded is not asked again"
