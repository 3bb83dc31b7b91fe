"""The emergency stop of a tenant and the pause of one agent: what runs leaves at its next step, and comes back."""

from __future__ import annotations

from typing import Any

from tests.story.support import Story, kinds, look_at, until
from tests.support.running import Person

TWO_STEPS = "!hold {hold}\n!tool clock {{}}\n!say back again {hold}"


async def test_a_stopped_tenant_stands_still_and_goes_on(story: Story, tag: str) -> None:
    ada, neighbour = await story.server.person(), await story.server.person()
    agent = await ada.agent(tools=["clock"], limits={"concurrency": 1})
    waiting_agent = await ada.agent(tools=["files"])
    waiting = await ada.send(waiting_agent, '!tool files_write {"path": "a", "content": "b"}')
    approval = await ada.approval(waiting["run_id"])
    running = await ada.send(agent, TWO_STEPS.format(hold=tag))
    await story.model.wait_for_requests(1, contains=tag)
    queued = await ada.send(agent, f"!say {tag} queued")

    await ada.call("POST", f"/v1/tenants/{ada.tenant_id}/stop", json={"reason": "something smells"})
    story.model.release(tag)
    run = await ada.until(running["run_id"], "waiting")
    assert [one["kind"] for one in run["waiting_on"]] == ["stop"]
    assert len(story.asked(tag)) == 1, "it went on to the next model call"
    # A decision is recorded; the run it belongs to stays where it is. What comes now is taken, and waits.
    await ada.decide(approval)
    late = await ada.send(agent, f"!say {tag} late")
    assert late["status"] == "queued"
    assert (await neighbour.ask(await neighbour.agent(), "!say fine here"))["message"]["content"] == "fine here"
    for one, status in [(waiting, "waiting"), (queued, "queued"), (late, "queued")]:
        assert (await ada.run(one["run_id"]))["status"] == status
    assert len(story.asked(tag)) == 1

    await ada.call("POST", f"/v1/tenants/{ada.tenant_id}/resume")
    for one in (running, queued, late, waiting):
        assert (await ada.until(one["run_id"]))["status"] == "completed"
    asked = story.asked(tag)
    assert len(asked) == 4
    assert not {one.fingerprint for one in asked if one.state == "answered"} & set(story.model.repeated())
    files = await ada.call("GET", f"/v1/my/chat/{waiting['session_id']}/files")
    assert [one["path"] for one in files["items"]] == ["a"]
    await _is_empty(ada, agent)


async def test_stops_and_their_ends_meet_runs_that_leave_and_none_is_left_standing(story: Story, tag: str) -> None:
    """Each stop finds runs between two steps: on their way out, with what they have locked."""
    ada = await story.server.person()
    agents = [await ada.agent(tools=["clock"], limits={"concurrency": 4}) for _ in range(3)]
    steps = "\n".join(["!tool clock {}"] * 8)
    sent = [await ada.send(agents[n % 3], f"{steps}\n!say {tag} {n}") for n in range(12)]
    for _ in range(25):
        await ada.call("POST", f"/v1/tenants/{ada.tenant_id}/stop", json={"reason": "again"})
        await ada.call("POST", f"/v1/tenants/{ada.tenant_id}/resume")
    for one in sent:
        assert (await ada.until(one["run_id"]))["status"] == "completed"
    for agent in agents:
        await _is_empty(ada, agent)


async def test_a_paused_agent_lets_its_runs_leave_and_takes_no_other(story: Story, tag: str) -> None:
    ada = await story.server.person()
    agent = await ada.agent(tools=["clock"], limits={"concurrency": 2})
    other = await ada.agent()
    running = [await ada.send(agent, TWO_STEPS.format(hold=f"{tag}-{n}")) for n in range(2)]
    await story.model.wait_for_requests(2, contains=tag)
    paused = await ada.call("POST", f"/v1/my/agents/{agent['agent_id']}/pause")
    assert paused["status"] == "paused"
    queued = await ada.send(agent, f"!say {tag} queued")
    story.model.release(f"{tag}-0")
    run = await ada.until(running[0]["run_id"], "waiting")
    assert [one["kind"] for one in run["waiting_on"]] == ["stop"]
    assert (await ada.ask(other, "!say not me"))["message"]["content"] == "not me"
    assert (await ada.run(queued["run_id"]))["status"] == "queued"

    # One of them had not got to its next step yet: it stays where it is, and goes on when its answer comes.
    resumed = await ada.call("POST", f"/v1/my/agents/{agent['agent_id']}/resume")
    assert resumed["status"] == "busy"
    story.model.release(f"{tag}-1")
    for one in [*running, queued]:
        assert (await ada.until(one["run_id"]))["status"] == "completed"
    assert kinds(await ada.events(running[0]["run_id"])).count("run.activated") == 2
    assert kinds(await ada.events(running[1]["run_id"])).count("run.activated") == 1
    await _is_empty(ada, agent)


async def test_what_is_stopped_can_still_be_cancelled(story: Story, tag: str) -> None:
    ada = await story.server.person()
    agent = await ada.agent(tools=["clock"], limits={"concurrency": 1})
    running = await ada.send(agent, TWO_STEPS.format(hold=tag))
    await story.model.wait_for_requests(1, contains=tag)
    queued = await ada.send(agent, f"!say {tag} queued")
    await ada.call("POST", f"/v1/my/agents/{agent['agent_id']}/pause")
    story.model.release(tag)
    await ada.until(running["run_id"], "waiting")
    for one in (running, queued):
        run = await ada.call("POST", f"/v1/my/runs/{one['run_id']}/cancel", 202)
        assert run["status"] == "cancelled"
    view = await ada.call("POST", f"/v1/my/agents/{agent['agent_id']}/resume")
    assert (view["running"], view["queued"]) == (0, 0)
    assert (await ada.ask(agent, "!say the lane is free"))["message"]["content"] == "the lane is free"


async def test_a_pause_of_a_hanging_run_does_not_outlast_its_cancelling(story: Story, tag: str) -> None:
    ada = await story.server.person()
    agent = await ada.agent(limits={"concurrency": 1})
    hanging = await ada.send(agent, f"!hang\n!say {tag}")
    await story.model.wait_for_requests(1, contains=tag)
    await ada.call("POST", f"/v1/my/agents/{agent['agent_id']}/pause")
    await ada.call("POST", f"/v1/my/runs/{hanging['run_id']}/cancel", 202)
    assert (await ada.until(hanging["run_id"], seconds=30))["status"] == "cancelled"
    await ada.call("POST", f"/v1/my/agents/{agent['agent_id']}/resume")
    await _is_empty(ada, agent)


async def test_deleting_an_agent_ends_what_it_has_open(story: Story, tag: str) -> None:
    ada = await story.server.person()
    agent = await ada.agent(tools=["files"], limits={"concurrency": 1})
    waiting = await ada.send(agent, '!tool files_write {"path": "a", "content": "b"}')
    await ada.approval(waiting["run_id"])
    running = await ada.send(agent, f"!hang\n!say {tag}")
    await story.model.wait_for_requests(1, contains=tag)
    queued = await ada.send(agent, f"!say {tag} queued")
    path = f"/v1/my/agents/{agent['agent_id']}"
    problem = await ada.call("DELETE", path, 409)
    assert set(problem["runs"]) == {one["run_id"] for one in (waiting, running, queued)}
    await ada.call("DELETE", f"{path}?force=true", 204)
    for one in (waiting, running, queued):
        assert (await ada.until(one["run_id"], seconds=30))["status"] == "cancelled"
    assert await ada.approvals() == []
    await ada.call("GET", path, 404)


async def _is_empty(ada: Person, agent: dict[str, Any]) -> None:
    view = await until(lambda: look_at(ada, agent), lambda one: not one["running"])
    assert (view["status"], view["queued"]) == ("ready", 0)
