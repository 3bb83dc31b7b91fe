"""The demo's story: a user, an agent, real files, a question, an approval, the answer; and what it all left behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from retinue.cli.client import Client
from retinue.cli.conversation import Conversation, stream_start
from retinue.cli.credentials import CredentialFile
from retinue.cli.deciding import Decider
from retinue.cli.demo_files import DemoFile
from retinue.cli.demo_stage import Stage
from retinue.cli.following import RunFollower
from retinue.cli.remote import Remote
from retinue.cli.screen import Json, Screen
from retinue.cli.stream import LiveEvent

TARGET = "summary.md"
_INSTRUCTIONS = (
    "You answer questions about the files in your workspace. List them, read the ones that matter, quote them and "
    "name the file each quote is from. When you are asked to write a file, write it with files_write, once."
)


@dataclass(frozen=True, slots=True)
class Told:
    """How the story went.

    Attributes:
        run: the run as it ended.
        events: everything that is recorded of it, in order.
        steps: its model and tool calls.
        written: the file it wrote, as it is in the workspace; None when it is not there.
        files: the names of all files of the workspace.
        messages: the session's messages.
    """

    run: Json
    events: list[Json]
    steps: list[Json]
    written: str | None
    files: list[str]
    messages: list[Json]


class Story:
    """Tells the story through the HTTP API of a server."""

    def __init__(self, stage: Stage, url: str, screen: Screen, decide: Decider) -> None:
        self.client = Client(url, credentials=CredentialFile(stage.data / "credentials.json"), patience=60)
        self.screen = screen
        self._cli = Remote(self.client, screen)
        self._decide = decide
        self._talk: Conversation | None = None

    def prepare(self, files: list[DemoFile], source: str, *, model: str | None) -> None:
        """Sign up, create the agent, upload the files."""
        email = f"demo-{uuid4().hex[:8]}@example.com"
        with self.screen.working(f"Signing up {email}"):
            self.client.sign_up(email, uuid4().hex, "Demo")
        with self.screen.working("Creating the agent librarian: file tools, asks before it writes"):
            agent = {"name": "librarian", "instructions": _INSTRUCTIONS, "tools": ["files"], "model": model}
            self.client.post("/v1/my/agents", {key: value for key, value in agent.items() if value is not None})
        self._talk = Conversation(self._cli, "librarian", self._decide)
        size = sum(file.size for file in files)
        with self.screen.working(f"Uploading {len(files)} files, {size / 1024:.0f} KB: {source}"):
            for file in files:
                self._talk.upload(file.path, file.name)

    def ask(self, question: str, watch: Callable[[LiveEvent], None]) -> Told:
        """Ask, follow the run to its end, and read everything it left behind."""
        assert self._talk is not None
        self.screen.note()
        self.screen.note(f"you> {question}", style="bold")
        accepted = self._talk.say(question)
        follower = RunFollower(self.client, self.screen, decide=self._decide, watch=watch)
        return self._read(follower.follow(str(accepted["run_id"]), stream_start(accepted)))

    def _read(self, run: Json) -> Told:
        path, session = f"/v1/my/runs/{run['run_id']}", f"/v1/my/chat/{run['session_id']}"
        files = [str(file["path"]) for file in self.client.pages(f"{session}/files")]
        written = self.client.request("GET", f"{session}/files/{TARGET}").text if TARGET in files else None
        return Told(
            run=run,
            events=list(self.client.pages(f"{path}/events")),
            steps=self.client.get(f"{path}/steps")["items"],
            written=written,
            files=files,
            messages=list(self.client.pages(f"{session}/messages")),
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the record proves.

    Attributes:
        problems: what is not as it must be; empty when all is well.
        repeated_model_calls: answers recorded more than once for the same step.
        effects_once: whether every effect has exactly one start and one result, and the file is there as approved.
    """

    problems: list[str]
    model_calls: int
    repeated_model_calls: int
    effects_once: bool


def judge(told: Told) -> Verdict:
    """Hold the record against what was promised: nothing lost, nothing done twice."""
    events = told.events
    steps = [event["data"]["step"] for event in events if event["type"] == "model.responded"]
    repeated = len(steps) - len(set(steps))
    effects = _effect_problems(told)
    problems = list(effects)
    if told.run["status"] != "completed":
        error = told.run.get("error") or {}
        problems.append(f"the run is {told.run['status']}: {error.get('detail', 'no cause is given')}")
    if [event["version"] for event in events] != list(range(1, len(events) + 1)):
        problems.append("the run's events have a gap")
    if repeated:
        problems.append(f"{repeated} answers of the model are recorded twice")
    if [message["role"] for message in told.messages] != ["user", "assistant"]:
        problems.append("the session does not hold exactly the question and one answer")
    return Verdict(problems, len(steps), repeated, not effects)


def _effect_problems(told: Told) -> list[str]:
    started = _by_call(told.events, "tool.started")
    completed = _by_call(told.events, "tool.completed")
    problems = [
        f"the effect {call} is recorded {len(found)} times" for call, found in completed.items() if len(found) > 1
    ]
    problems += [f"the effect {call} has no result" for call in started if call not in completed]
    writes = [found[-1] for found in started.values() if found[-1].get("tool") == "files_write"]
    if not writes:
        problems.append(f"{TARGET} was not written")
        return problems
    last: dict[str, Any] = writes[-1]["arguments"]
    if last.get("path") == TARGET and told.written != last.get("content"):
        problems.append(f"{TARGET} does not hold what was approved")
    if told.files.count(TARGET) != 1:
        problems.append(f"{TARGET} is there {told.files.count(TARGET)} times")
    return problems


def _by_call(events: list[Json], kind: str) -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = {}
    for event in events:
        if event["type"] == kind:
            found.setdefault(str(event["data"]["call_id"]), []).append(event["data"])
    return found
