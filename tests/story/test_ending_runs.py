"""Runs that are ended, fail or run out of time; and how they go on from where they were."""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

from tests.faults.effects import ALLOWED, effects
from tests.story.support import Story, kinds, look_at, messages, steps
from tests.support.model_server import Step, ToolCall


async def test_a_running_run_ends_at_its_cancelling_and_not_with_its_model(story: Story, tag: str) -> None:
    ada = await story.server.person()
    agent = await ada.agent(limits={"concurrency": 1})
    session = str(uuid4())
    hanging = await ada.send(agent, f"!hang\n!say {tag}", session)
    next_one = await ada.send(agent, f"!say {tag} next")
    await story.model.wait_for_requests(1, contains=tag)
    await ada.call("POST", f"/v1/my/runs/{hanging['run_id']}/cancel", 202, json={"reason": "changed my mind"})
    run = await ada.until(hanging["run_id"], seconds=30)
    assert run["status"] == "cancelled"
    await story.model.wait_for_requests(1, state="cut_by_client", contains=tag)
    events = await ada.events(hanging["run_id"])
    assert kinds(events)[-2:] == ["run.cancel_requested", "run.cancelled"]
    assert events[-2]["data"]["reason"] == "changed my mind"
    # Its place went to the next one, and the conversation knows.
    assert (await ada.until(next_one["run_id"]))["status"] == "completed"
    reply = (await messages(ada, session))[-1]
    assert (reply["role"], reply["status"], reply["run_id"]) == ("assistant", "cancelled", hanging["run_id"])
    problem = await ada.call("POST", f"/v1/my/runs/{hanging['run_id']}/cancel", 409)
    assert problem["detail"] == "The run has ended already: it is cancelled."


async def test_a_running_run_ends_within_a_second_of_its_cancelling(story: Story, tag: str) -> None:
    """The quickest of five counts: a machine with other work may hold one up, and a server that waits holds up all."""
    ada = await story.server.person()
    agent = await ada.agent()
    took = []
    for number in range(1, 6):
        hanging = await ada.send(agent, f"!hang\n!say {tag}")
        await story.model.wait_for_requests(number, contains=tag)
        began = time.monotonic()
        await ada.call("POST", f"/v1/my/runs/{hanging['run_id']}/cancel", 202)
        assert (await ada.until(hanging["run_id"]))["status"] == "cancelled"
        await story.model.wait_for_requests(number, state="cut_by_client", contains=tag)
        took.append(time.monotonic() - began)
    assert min(took) < 1


async def test_a_queued_run_that_is_cancelled_never_asks_a_model(story: Story, tag: str) -> None:
    ada = await story.server.person()
    agent = await ada.agent(limits={"concurrency": 1})
    first = await ada.send(agent, f"!hold {tag}\n!say {tag} first")
    queued = await ada.send(agent, f"!say {tag} queued")
    last = await ada.send(agent, f"!say {tag} last")
    run = await ada.call("POST", f"/v1/my/runs/{queued['run_id']}/cancel", 202)
    assert run["status"] == "cancelled"
    assert (await look_at(ada, agent))["queued"] == 1
    story.model.release(tag)
    await ada.until(first["run_id"], "completed")
    await ada.until(last["run_id"], "completed")
    assert [one.user.splitlines()[-1] for one in story.asked(tag)] == [f"!say {tag} first", f"!say {tag} last"]
    view = await look_at(ada, agent)
    assert (view["running"], view["queued"]) == (0, 0)


async def test_a_waiting_run_that_is_cancelled_takes_its_question_along(story: Story) -> None:
    ada = await story.server.person()
    agent = await ada.agent(tools=["files"])
    accepted = await ada.send(agent, '!tool files_write {"path": "a.txt", "content": "x"}')
    approval = await ada.approval(accepted["run_id"])
    run = await ada.call("POST", f"/v1/my/runs/{accepted['run_id']}/cancel", 202)
    assert run["status"] == "cancelled"
    assert (await ada.call("GET", f"/v1/my/approvals/{approval['approval_id']}"))["status"] == "cancelled"
    path = f"/v1/my/approvals/{approval['approval_id']}/confirm"
    problem = await ada.call("POST", path, 409, json={"decision": "approve"})
    assert problem["outcome"] == "cancelled"
    assert (await ada.call("GET", f"/v1/my/chat/{accepted['session_id']}/files"))["items"] == []


async def test_a_run_has_so_much_time_and_no_more(story: Story, tag: str) -> None:
    ada = await story.server.person()
    agent = await ada.agent(limits={"seconds": 1})
    began = time.monotonic()
    run = await ada.until((await ada.send(agent, f"!hang\n!say {tag}"))["run_id"])
    assert 1 <= time.monotonic() - began < 30
    assert run["status"] == "timed_out"
    assert run["error"]["kind"] == "deadline"
    assert run["error"]["detail"] == "The run used up its 1 seconds."
    await story.model.wait_for_requests(1, state="cut_by_client", contains=tag)
    # It failed last, and says so until it does better.
    assert (await look_at(ada, agent))["status"] == "error"
    await ada.ask(agent, "!say quick")
    assert (await look_at(ada, agent))["status"] == "ready"


async def test_waiting_for_a_person_uses_up_no_time(story: Story) -> None:
    ada = await story.server.person()
    agent = await ada.agent(tools=["ask_user"], limits={"seconds": 1})
    accepted = await ada.send(agent, '!tool ask_user {"question": "Which colour?"}\n!say as you like')
    approval = await ada.approval(accepted["run_id"])
    await asyncio.sleep(1.2)  # longer than the run may take: that is what is tested
    await ada.decide(approval, answer="green")
    assert (await ada.until(accepted["run_id"]))["status"] == "completed"


async def test_a_retry_goes_on_from_the_step_that_failed(story: Story, tag: str) -> None:
    ada = await story.server.person()
    agent = await ada.agent(tools=list(ALLOWED), tool_policy=ALLOWED)
    story.model.script(
        Step(tool_calls=(ToolCall("note_blindly", {"text": tag}),)),
        Step(status=400, message="your conversation is not to my taste"),
        Step(text="all is noted"),
        contains=tag,
    )
    session = str(uuid4())
    accepted = await ada.send(agent, f"note {tag}", session)
    failed = await ada.until(accepted["run_id"])
    assert failed["status"] == "failed"
    assert failed["error"]["step"] == 2
    assert "not to my taste" in failed["error"]["detail"]
    assert "not to my taste" in (await messages(ada, session))[-1]["content"]

    retried = await ada.call("POST", f"/v1/my/runs/{accepted['run_id']}/retry", 202)
    assert retried["error"] is None
    done = await ada.until(accepted["run_id"])
    assert done["status"] == "completed"
    assert [one.turn for one in story.asked(tag)] == [0, 1, 1], "the first step was asked for again"
    assert sum(tag in line for line in effects(story.effects).elements()) == 1
    assert [(one["kind"], one["status"]) for one in await steps(ada, done["run_id"])] == [
        ("model", "done"),
        ("tool", "done"),
        ("model", "done"),
    ]
    said = [(one["role"], one["status"]) for one in await messages(ada, session)]
    assert said == [("user", "sent"), ("assistant", "failed"), ("assistant", "completed")]
    await ada.call("POST", f"/v1/my/runs/{accepted['run_id']}/retry", 409)
    # What it was, it still is, as of that version.
    before = await ada.call("GET", f"/v1/my/runs/{accepted['run_id']}?at={failed['version']}")
    assert (before["status"], before["error"]) == ("failed", failed["error"])


async def test_too_many_steps_and_tokens_end_a_run_with_their_own_kind(story: Story) -> None:
    ada = await story.server.person()
    task = "!tool clock {}\n" * 5 + "!usage 600 1"
    for limits, kind in [({"steps": 2}, "too_many_steps"), ({"tokens": 1000}, "too_many_tokens")]:
        agent = await ada.agent(tools=["clock"], limits=limits)
        run = await ada.until((await ada.send(agent, task))["run_id"])
        assert (run["status"], run["error"]["kind"], run["model_calls"]) == ("failed", kind, 2)
