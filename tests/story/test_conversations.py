"""Conversations: who may speak when, what an agent is told of what was said before, and files."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any
from uuid import uuid4

from tests.story.support import Story, messages
from tests.support.model_server import Recorded


def told(request: Recorded) -> list[tuple[str, str]]:
    """Return what a model was told of the conversation: role and text, instructions left out."""
    return [(one["role"], _text(one["content"])) for one in request.body["messages"] if one["role"] != "system"]


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


async def test_accepted_means_where_to_look_and_where_to_listen(story: Story) -> None:
    ada = await story.server.person()
    agent = await ada.agent()
    session = str(uuid4())
    accepted = await ada.send(agent, "!say hello", session)
    assert accepted["session_id"] == session
    assert accepted["url"] == f"/v1/my/runs/{accepted['run_id']}"
    await ada.until(accepted["run_id"], "completed")
    question, answer = await messages(ada, session)
    assert (question["message_id"], question["content"]) == (accepted["message_id"], "!say hello")
    assert (answer["message_id"], answer["content"]) == (accepted["reply_id"], "hello")
    assert [question["ordinal"], answer["ordinal"]] == [1, 2]
    by_name = await ada.send(agent | {"agent_id": agent["name"].upper()}, "!say by name", session)
    assert (await ada.until(by_name["run_id"]))["status"] == "completed"


async def test_a_session_without_a_title_is_named_after_its_first_message(story: Story) -> None:
    ada = await story.server.person()
    agent = await ada.agent()
    named = (await ada.call("POST", "/v1/my/chat", 201, json={"title": "The release"}))["session_id"]
    nameless, long = str(uuid4()), str(uuid4())
    files = {"file": ("notes.txt", b"a note")}
    await ada.call("POST", f"/v1/my/chat/{nameless}/files", 201, files=files, data={"path": "notes.txt"})
    for session, text in (
        (named, "!say a"),
        (nameless, "\n  \n !say\t hello \nand more"),
        (nameless, "!say again"),
        (long, "!say " + "word " * 30),
    ):
        await ada.ask(agent, text, session)
    titles = {one["session_id"]: one["title"] for one in (await ada.call("GET", "/v1/my/chat"))["items"]}
    assert titles[named] == "The release"
    assert titles[nameless] == "!say hello"
    assert titles[long] == "!say " + "word " * 10 + "word…"


async def test_waiting_for_an_answer_ends_with_it_or_with_the_time(story: Story, tag: str) -> None:
    ada = await story.server.person()
    agent = await ada.agent()
    path = f"/v1/my/chat/{uuid4()}/messages?wait=true&timeout=0.3"
    body = {"content": f"!hold {tag}\n!say late", "target_agent": agent["agent_id"]}
    accepted = await ada.call("POST", path, 202, json=body)
    story.model.release(tag)
    assert (await ada.until(accepted["run_id"]))["status"] == "completed"
    answered = await ada.ask(agent, "!say in time")
    assert (answered["run"]["status"], answered["message"]["content"]) == ("completed", "in time")
    failed = await ada.ask(agent, "!status 400")
    assert (failed["run"]["status"], failed["message"]["status"]) == ("failed", "failed")


async def test_a_message_to_a_busy_session_waits_for_its_turn(story: Story, tag: str) -> None:
    ada = await story.server.person()
    agent = await ada.agent(limits={"concurrency": 5})
    session = str(uuid4())
    first = await ada.send(agent, f"!hold {tag}\n!say answer 0", session)
    others = [await ada.send(agent, f"!say answer {n} {tag}", session) for n in (1, 2, 3)]
    await story.model.wait_for_requests(1, contains=tag)
    assert [(await ada.run(one["run_id"]))["status"] for one in others] == ["queued"] * 3
    elsewhere = await ada.ask(agent, "!say another session does not wait")
    assert elsewhere["run"]["status"] == "completed"
    story.model.release(tag)
    for one in [first, *others]:
        assert (await ada.until(one["run_id"]))["status"] == "completed"
    said = [f"!hold {tag}\n!say answer 0", *(f"!say answer {n} {tag}" for n in (1, 2, 3))]
    answers = ["answer 0", *(f"answer {n} {tag}" for n in (1, 2, 3))]
    # Each run was told all that was said before its own question, question by question, and nothing of later ones.
    for n, request in enumerate(story.asked(tag)):
        pairs = [pair for q, a in zip(said[:n], answers[:n], strict=True) for pair in (("user", q), ("assistant", a))]
        assert told(request) == [*pairs, ("user", said[n])]
    listed = await messages(ada, session)
    assert [one["ordinal"] for one in listed] == list(range(1, 9))
    assert [one["content"] for one in listed if one["role"] == "assistant"] == answers


async def test_a_busy_session_can_refuse(story: Story, tag: str) -> None:
    ada = await story.server.person()
    agent = await ada.agent()
    session = str(uuid4())
    first = await ada.send(agent, f"!hold {tag}", session)
    path = f"/v1/my/chat/{session}/messages"
    body = {"content": "!say quick", "target_agent": agent["agent_id"], "multitask": "reject"}
    problem = await ada.call("POST", path, 409, json=body)
    assert problem["detail"].startswith("The session is busy")
    assert len(await messages(ada, session)) == 1
    story.model.release(tag)
    await ada.until(first["run_id"], "completed")
    await ada.call("POST", path, 202, json=body)


async def test_an_interruption_cancels_what_runs_and_is_next(story: Story, tag: str) -> None:
    ada = await story.server.person()
    agent = await ada.agent(limits={"concurrency": 1})
    session = str(uuid4())
    hanging = await ada.send(agent, f"!hang\n!say {tag}", session)
    await story.model.wait_for_requests(1, contains=tag)
    better = await ada.send(agent, f"!say better {tag}", session, multitask="interrupt")
    cancelled = await ada.until(hanging["run_id"], seconds=30)
    assert cancelled["status"] == "cancelled"
    assert (await ada.until(better["run_id"]))["status"] == "completed"
    listed = [(one["role"], one["status"]) for one in await messages(ada, session)]
    assert listed == [("user", "sent"), ("user", "sent"), ("assistant", "cancelled"), ("assistant", "completed")]
    assert told(story.asked(f"better {tag}")[-1])[0] == ("user", f"!hang\n!say {tag}")


async def test_an_interruption_goes_before_those_that_wait_and_they_stay_in_line(story: Story, tag: str) -> None:
    ada = await story.server.person()
    agent = await ada.agent()
    session = str(uuid4())
    hanging = await ada.send(agent, f"!hang\n!say {tag}", session)
    patient = [await ada.send(agent, f"!hold {tag}\n!say patient {n}", session) for n in range(2)]
    await story.model.wait_for_requests(1, contains=tag)
    urgent = [await ada.send(agent, f"!hold {tag}\n!say urgent {n}", session, multitask="interrupt") for n in range(2)]
    story.model.release(tag)
    for one in (*patient, urgent[1]):
        assert (await ada.until(one["run_id"]))["status"] == "completed"
    assert (await ada.until(hanging["run_id"]))["status"] == "cancelled"
    answers = [one for one in await messages(ada, session) if one["role"] == "assistant"]
    said = [one["content"] for one in answers if one["status"] == "completed"]
    assert said[0] == "urgent 1"
    assert said[-2:] == ["patient 0", "patient 1"]


async def test_an_interruption_of_a_waiting_run_takes_its_question_back(story: Story) -> None:
    ada = await story.server.person()
    agent = await ada.agent(tools=["files"])
    session = str(uuid4())
    waiting = await ada.send(agent, '!tool files_write {"path": "a", "content": "x"}', session)
    await ada.approval(waiting["run_id"])
    better = await ada.send(agent, "!say never mind", session, multitask="interrupt")
    assert (await ada.run(waiting["run_id"]))["status"] == "cancelled"
    assert (await ada.until(better["run_id"]))["status"] == "completed"
    assert await ada.approvals() == []


async def test_messages_sent_at_once_all_find_a_place(story: Story) -> None:
    ada = await story.server.person()
    agent = await ada.agent(limits={"concurrency": 10})
    session = str(uuid4())
    accepted = await asyncio.gather(*(ada.send(agent, f"!say {n}", session) for n in range(8)))
    for one in accepted:
        assert (await ada.until(one["run_id"]))["status"] == "completed"
    listed = await messages(ada, session)
    assert [one["ordinal"] for one in listed] == list(range(1, 17))
    questions = [one["content"].removeprefix("!say ") for one in listed if one["role"] == "user"]
    assert [one["content"] for one in listed if one["role"] == "assistant"] == questions


async def test_a_deleted_conversation_is_gone_and_so_are_its_runs(story: Story, tag: str) -> None:
    ada = await story.server.person()
    agent = await ada.agent(limits={"concurrency": 1})
    session = str(uuid4())
    running = await ada.send(agent, f"!hang\n!say {tag}", session)
    blocked = await ada.send(agent, f"!say {tag} blocked", session)
    await story.model.wait_for_requests(1, contains=tag)
    await ada.call("DELETE", f"/v1/my/chat/{session}", 204)
    for one in (running, blocked):
        assert (await ada.until(one["run_id"], seconds=30))["status"] == "cancelled"
    await ada.call("GET", f"/v1/my/chat/{session}", 404)
    body = {"content": "anybody?", "target_agent": agent["agent_id"]}
    await ada.call("POST", f"/v1/my/chat/{session}/messages", 404, json=body)
    assert (await ada.ask(agent, "!say free"))["message"]["content"] == "free"


async def test_files_go_up_and_come_down_as_they_were(story: Story) -> None:
    ada, eve = await story.server.person("ada"), await story.server.person("eve")
    session = str(uuid4())
    content = bytes(range(256)) * 1000
    path = f"/v1/my/chat/{session}/files"
    stored = await ada.call("POST", path, 201, files={"file": ("x.bin", content)}, data={"path": "deep/x.bin"})
    assert (stored["path"], stored["size"]) == ("deep/x.bin", len(content))
    assert stored["sha256"] == hashlib.sha256(content).hexdigest()
    answer = await ada.client.get(f"{path}/deep/x.bin")
    assert answer.content == content
    assert answer.headers["x-content-type-options"] == "nosniff"
    for outside in ("../x.bin", "/etc/passwd", "a/../../x"):
        await ada.call("POST", path, 422, files={"file": ("x.bin", b"x")}, data={"path": outside})
    for url in (path, f"{path}/deep/x.bin"):
        await eve.call("GET", url, 404)
    # In her own tenant the same id is another conversation.
    await eve.call("POST", path, 201, files={"file": ("x.bin", b"mine")})
    for person, expected in ((ada, ["deep/x.bin"]), (eve, ["x.bin"])):
        assert [one["path"] for one in (await person.call("GET", path))["items"]] == expected
    agent = await ada.agent(tools=["files"])
    seen = await ada.ask(agent, "!tool files_list {}", session)
    assert "deep" in seen["message"]["content"]
