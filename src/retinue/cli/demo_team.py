"""`retinue demo --team`: a request to nobody by name, a plan, its approval, tasks side by side, an effect, an end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import uuid4

from retinue.cli.agents import merged
from retinue.cli.client import Client
from retinue.cli.conversation import Conversation, stream_start
from retinue.cli.credentials import CredentialFile
from retinue.cli.deciding import Decider
from retinue.cli.demo_files import DemoFile
from retinue.cli.demo_stage import Stage
from retinue.cli.demo_story import TARGET
from retinue.cli.remote import Remote
from retinue.cli.screen import Json, Screen
from retinue.cli.stream import LiveEvent
from retinue.cli.team_following import TeamFollower

ORCHESTRATOR = "orchestrator"


@dataclass(frozen=True, slots=True)
class Part:
    """A run of the story: whose it is (a task, or the orchestrator), how it ended, and all that is recorded of it."""

    name: str
    run: Json
    events: list[Json]
    steps: list[Json]


@dataclass(frozen=True, slots=True)
class TeamTold:
    """How the story went.

    Attributes:
        lead: the orchestrator's run.
        plans: the plans it made, as they ended.
        plan_events: everything recorded of each plan, in order, by its id.
        parts: the runs of the plans' tasks, in the order they began.
        written: the file the team wrote, as it is in the workspace; None when it is not there.
        files: the names of all files of the workspace.
        messages: the session's messages.
    """

    lead: Part
    plans: list[Json]
    plan_events: dict[str, list[Json]]
    parts: list[Part]
    written: str | None
    files: list[str]
    messages: list[Json]

    @property
    def runs(self) -> list[Part]:
        """Every run of the story."""
        return [self.lead, *self.parts]

    @property
    def cost(self) -> Json:
        """What all of it cost, as the API shows a cost."""
        costs = [part.run["cost"] for part in self.runs]
        amount = sum((Decimal(cost["amount"]) for cost in costs), Decimal(0))
        unpriced = sum(int(cost["unpriced_calls"]) for cost in costs)
        return {"amount": f"{amount:f}", "currency": "USD", "unpriced_calls": unpriced}

    def recorded(self) -> Iterator[tuple[str, Json]]:
        """Yield every event with the name of the run or plan it is of, in the order of the ledger."""
        found = [(part.name, event) for part in self.runs for event in part.events]
        found += [("plan", event) for events in self.plan_events.values() for event in events]
        yield from sorted(found, key=lambda one: int(one[1]["position"] or 0))


class TeamStory:
    """Tells the story through the HTTP API of a server."""

    def __init__(self, stage: Stage, url: str, screen: Screen, decide: Decider) -> None:
        self.client = Client(url, credentials=CredentialFile(stage.data / "credentials.json"), patience=60)
        self.screen = screen
        self._decide = decide
        self._talk = Conversation(Remote(self.client, screen), None, decide)

    def prepare(self, files: Sequence[DemoFile], source: str, *, model: str | None) -> None:
        """Sign up, install the team, upload the files. ``model``: for every agent, instead of the server's."""
        email = f"demo-{uuid4().hex[:8]}@example.com"
        with self.screen.working(f"Signing up {email}"):
            self.client.sign_up(email, uuid4().hex, "Demo")
        with self.screen.working("Installing the team: seven agents and the orchestrator that leads them"):
            agents = self.client.post("/v1/my/agents/templates/install", {})["items"]
            for agent in agents if model else ():
                self._set_model(str(agent["agent_id"]), str(model))
        size = sum(file.size for file in files)
        with self.screen.working(f"Uploading {len(files)} files, {size / 1024:.0f} KB: {source}"):
            for file in files:
                self._talk.upload(file.path, file.name)

    def _set_model(self, agent_id: str, model: str) -> None:
        path = f"/v1/my/agents/{agent_id}"
        agent = self.client.get(path)
        self.client.put(path, merged(agent, {"model": model}), if_match=f'"{agent["version"]}"')

    def ask(self, question: str, watch: Callable[[LiveEvent], None]) -> TeamTold:
        """Ask nobody by name, follow what comes of it to the end, and read everything it left behind."""
        self.screen.note()
        self.screen.note(f"you> {question}", style="bold")
        accepted = self._talk.say(question)
        session_id = str(accepted["session_id"])
        follower = TeamFollower(self.client, self.screen, session_id, decide=self._decide, watch=watch)
        run = follower.follow(str(accepted["run_id"]), stream_start(accepted))
        return self._read(run, follower.plan_ids)

    def _read(self, run: Json, plan_ids: Sequence[str]) -> TeamTold:
        session = f"/v1/my/chat/{run['session_id']}"
        files = [str(file["path"]) for file in self.client.pages(f"{session}/files")]
        written = self.client.request("GET", f"{session}/files/{TARGET}").text if TARGET in files else None
        plan_events = {one: list(self.client.pages(f"/v1/my/plans/{one}/events")) for one in plan_ids}
        started = [
            (str(event["data"]["task_id"]), str(event["data"]["run_id"]))
            for events in plan_events.values()
            for event in events
            if event["type"] == "task.started" and event["data"].get("run_id")
        ]
        return TeamTold(
            lead=self._part(ORCHESTRATOR, run),
            plans=[self.client.get(f"/v1/my/plans/{one}") for one in plan_ids],
            plan_events=plan_events,
            parts=[self._part(task, self.client.get(f"/v1/my/runs/{run_id}")) for task, run_id in started],
            written=written,
            files=files,
            messages=list(self.client.pages(f"{session}/messages")),
        )

    def _part(self, name: str, run: Json) -> Part:
        path = f"/v1/my/runs/{run['run_id']}"
        return Part(name, run, list(self.client.pages(f"{path}/events")), self.client.get(f"{path}/steps")["items"])
