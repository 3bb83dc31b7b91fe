"""Random stories of sessions, runs and approvals against a plain model of what must be true after each step.

The model server holds every answer until the machine lets it go, so that the machine knows what can have happened.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.story.support import differences, messages, until, untruths
from tests.support.databases import Cluster
from tests.support.model_server import ModelServer
from tests.support.running import ENDED, Person, RunningServer

T = TypeVar("T")

EXAMPLES = int(os.environ.get("TEST_STORY_EXAMPLES", "5"))
STEPS = int(os.environ.get("TEST_STORY_STEPS", "15"))
SESSIONS = 3
CONCURRENCY = 2
QUEUE = 4


@dataclass
class Expected:
    """What the machine knows of one run."""

    run_id: str
    session: int
    hold: str
    asks: bool
    status: str = "queued"  # queued, running, waiting, or how it ended
    place: int = 0  # in its session's line; an interruption goes before everybody
    decided: bool = False  # nothing holds it up any more: it ends as soon as it has a place


@dataclass
class World:
    """The plain model: one lane, a line for each session, first come first served but for interruptions."""

    runs: list[Expected] = field(default_factory=list)
    active: dict[int, Expected] = field(default_factory=dict)  # the run that writes in each session

    def take_turn(self, run: Expected, *, first: bool = False) -> None:
        """Let a run write in its session, or stand in line."""
        line = [other.place for other in self.queued if other.session == run.session]
        run.place = min(line, default=0) - 1 if first else 0
        run.status = "queued"
        self.active.setdefault(run.session, run)

    def end(self, run: Expected, status: str) -> None:
        """End a run and let the first in line write: an interruption, or else the oldest."""
        run.status = status
        if self.active.get(run.session) is run:
            del self.active[run.session]
            line = [other for other in self.queued if other.session == run.session]
            if line:
                self.active[run.session] = min(line, key=lambda other: other.place)  # the oldest of equals

    @property
    def running(self) -> list[Expected]:
        return [run for run in self.runs if run.status == "running"]

    @property
    def queued(self) -> list[Expected]:
        return [run for run in self.runs if run.status == "queued"]

    def with_status(self, *wanted: str) -> list[Expected]:
        return [run for run in self.runs if run.status in wanted]

    def fill(self, *, closed: bool) -> None:
        """Give free places to the runs that are due: those whose turn it is in their session, oldest first."""
        for run in self.queued:
            if not closed and len(self.running) < CONCURRENCY and self.active[run.session] is run:
                run.status = "running"


class Stage:
    """A started server that all examples of the machine share; each example is a person of its own."""

    loop: ClassVar[asyncio.AbstractEventLoop]
    server: ClassVar[RunningServer]
    model: ClassVar[ModelServer]


@pytest.fixture
def stage(postgres: Cluster, tmp_path: Path) -> Iterator[None]:
    """Start a server on a loop that the machine drives itself: hypothesis calls its rules without one."""
    loop = asyncio.new_event_loop()
    model = ModelServer()
    loop.run_until_complete(model.start())
    given = {"OPENAI_BASE_URL": model.base_url, "RETINUE_DEFAULT_MODEL": "openai:stub-0ms"}
    server = RunningServer(tmp_path, postgres, given)
    Stage.loop, Stage.server, Stage.model = loop, server, model
    try:
        loop.run_until_complete(server.start())
        yield
    finally:
        loop.run_until_complete(server.close())
        loop.run_until_complete(model.stop())
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


class Story(RuleBasedStateMachine):
    """Sends, answers, decisions, cancels, retries and pauses in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.paused = False
        self.sessions = [str(uuid4()) for _ in range(SESSIONS)]
        self.ada: Person
        self.agent: dict[str, Any]

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return Stage.loop.run_until_complete(work)

    @initialize(asks=st.lists(st.booleans(), min_size=4, max_size=6))
    def begin(self, asks: list[bool]) -> None:
        """Begin with more than the lane takes at once, so that no step is wasted on an empty server."""

        async def begin() -> None:
            self.ada = await Stage.server.person()
            limits = {"concurrency": CONCURRENCY, "queue": QUEUE}
            self.agent = await self.ada.agent(tools=["ask_user"], limits=limits)

        self.do(begin())
        for number, one in enumerate(asks):
            self._send(number % SESSIONS, one, interrupt=False)

    @rule(session=st.integers(0, SESSIONS - 1), asks=st.booleans(), interrupt=st.booleans())
    def send(self, session: int, asks: bool, interrupt: bool) -> None:
        """Say something in a session; when it is its turn, the answer is held, or the run asks a person first."""
        self._send(session, asks, interrupt)

    def _send(self, session: int, asks: bool, interrupt: bool) -> None:
        active = self.world.active.get(session)
        hold = f"hold{uuid4().hex[:12]}"
        first = '!tool ask_user {"question": "Well?"}\n' if asks else ""
        body = {"content": f"{first}!hold {hold}\n!say done", "target_agent": self.agent["agent_id"]}
        body["multitask"] = "interrupt" if interrupt else "enqueue"
        path = f"/v1/my/chat/{self.sessions[session]}/messages"
        answer = self.do(self.ada.client.post(path, json=body))
        free = len(self.world.running) < CONCURRENCY and not self.paused and active is None
        if not free and len(self.world.queued) >= QUEUE:
            assert answer.status_code == 429, answer.text
            return
        assert answer.status_code == 202, answer.text
        run = Expected(answer.json()["run_id"], session, hold, asks)
        self.world.runs.append(run)
        self.world.take_turn(run, first=interrupt and active is not None)
        if interrupt and active is not None:
            active.decided |= active.status == "waiting"
            self._settle(active, "cancelled")
        self._follow()

    @precondition(lambda self: self.world.running)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """Let a model answer: the run asks a person or is done."""
        run = data.draw(st.sampled_from(self.world.running))
        if not run.asks:
            Stage.model.release(run.hold)
            self._settle(run, "completed")
        elif not self.paused:
            # The hold is for every turn: one release lets the question out, and the answer to it, too.
            Stage.model.release(run.hold)
            self.do(self.ada.until(run.run_id, "waiting"))
            run.status = "waiting"
            self._follow()

    @precondition(lambda self: not self.paused and self.world.with_status("waiting"))
    @rule(data=st.data(), approve=st.booleans())
    def decide(self, data: st.DataObject, approve: bool) -> None:
        """Answer the question of a waiting run: it comes back to the lane, and goes on to its end."""
        run = data.draw(st.sampled_from(self.world.with_status("waiting")))
        approval = self.do(self.ada.approval(run.run_id))
        ruling = {"answer": "so be it"} if approve else {}
        self.do(self.ada.decide(approval, "approve" if approve else "reject", **ruling))
        run.decided = True
        run.status = "queued"  # it waits for a place like any other
        self._follow()

    @precondition(lambda self: self.world.with_status("queued", "running", "waiting"))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """End a run, whatever it does."""
        run = data.draw(st.sampled_from(self.world.with_status("queued", "running", "waiting")))
        self.do(self.ada.call("POST", f"/v1/my/runs/{run.run_id}/cancel", 202))
        run.decided |= run.status == "waiting"
        self._settle(run, "cancelled")

    @precondition(lambda self: self.world.with_status(*ENDED))
    @rule(data=st.data())
    def end_twice(self, data: st.DataObject) -> None:
        """What has ended cannot be cancelled, and what has answered cannot be retried."""
        run = data.draw(st.sampled_from(self.world.with_status(*ENDED)))
        self.do(self.ada.call("POST", f"/v1/my/runs/{run.run_id}/cancel", 409))
        if run.status == "completed":
            self.do(self.ada.call("POST", f"/v1/my/runs/{run.run_id}/retry", 409))

    @precondition(lambda self: self.world.with_status("cancelled"))
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        """Let a cancelled run go on from where it was; a question that was taken back counts as declined."""
        run = data.draw(st.sampled_from(self.world.with_status("cancelled")))
        self.do(self.ada.call("POST", f"/v1/my/runs/{run.run_id}/retry", 202))
        self.world.take_turn(run)
        self._follow()

    @rule()
    def pause_or_resume(self) -> None:
        """Close the lane, or open it: what is held by a model stays, what is queued waits."""
        action = "resume" if self.paused else "pause"
        self.do(self.ada.call("POST", f"/v1/my/agents/{self.agent['agent_id']}/{action}"))
        self.paused = not self.paused
        self._follow()

    def _settle(self, run: Expected, status: str) -> None:
        """Wait until the server has come to where the model is, after ``run`` has left its place."""
        self.do(self.ada.until(run.run_id, status))
        self.world.end(run, status)
        self._follow()

    def _follow(self) -> None:
        """Give the place on; a run that comes back from a question needs no model's leave and ends at once."""
        self.world.fill(closed=self.paused)
        for run in self.world.running:
            if run.decided:
                self._settle(run, "completed")
                return

    @invariant()
    def what_is_shown_is_what_is_true(self) -> None:
        if self.world.runs:
            self.do(self._compare())

    async def _compare(self) -> None:
        await until(self._statuses, lambda shown: shown == {run.run_id: run.status for run in self.world.runs})
        view = await self.ada.call("GET", f"/v1/my/agents/{self.agent['agent_id']}")
        busy = len(self.world.running) + len(self.world.with_status("waiting"))
        assert (view["running"], view["queued"]) == (busy, len(self.world.queued))
        assert await untruths(Stage.server) == []

    async def _statuses(self) -> dict[str, str]:
        page = await self.ada.call("GET", "/v1/my/runs?limit=200")
        return {one["run_id"]: one["status"] for one in page["items"]}

    def teardown(self) -> None:
        """End what is open; then every question has one answer, and the numbers of the messages have no gap."""
        if not self.world.runs:
            return
        for run in self.world.with_status("queued", "running", "waiting"):
            self.do(self.ada.call("POST", f"/v1/my/runs/{run.run_id}/cancel", 202))
            self.do(self.ada.until(run.run_id))
        self.do(self._conversations_are_whole())

    async def _conversations_are_whole(self) -> None:
        for number, session in enumerate(self.sessions):
            if any(run.session == number for run in self.world.runs):
                said = await messages(self.ada, session)
                assert [one["ordinal"] for one in said] == list(range(1, len(said) + 1))
                asked = [one["run_id"] for one in said if one["role"] == "user"]
                replies = {one["run_id"] for one in said if one["role"] == "assistant"}
                assert len(asked) == len(set(asked)), "a question is there twice"
                assert set(asked) == replies, "a question has no answer, or an answer no question"
        assert await untruths(Stage.server) == []
        assert await differences(self.ada) == []


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("stage")
def test_random_stories_leave_the_server_true() -> None:
    machine = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        print_blob=True,
    )
    Story.TestCase.settings = machine
    Story.TestCase("runTest").debug()
