"""Follows a run and all that works for it: plans with their tasks, and runs that it hands calls on to."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from retinue.cli.below import Below
from retinue.cli.client import Client
from retinue.cli.deciding import Decider
from retinue.cli.following import RunFollower, planning_words, summary
from retinue.cli.live_graphs import LiveGraphs
from retinue.cli.screen import Json, Screen
from retinue.cli.stream import LiveEvent


class TeamFollower(RunFollower):
    """Follows one run of a session to its end, and whatever works for it on the way.

    What is asked below is asked here, too. Plans move in the terminal while they go on. ``watch`` is called with each
    event of the session.
    """

    def __init__(
        self,
        client: Client,
        screen: Screen,
        session_id: str,
        *,
        decide: Decider | None = None,
        watch: Callable[[LiveEvent], None] = lambda event: None,
    ) -> None:
        super().__init__(client, screen, decide=decide, watch=watch)
        self._session_id = session_id
        self._graphs = LiveGraphs(screen, self.transcript)
        self._below = Below(client, self.transcript, self._graphs, self._answering)

    @property
    def plan_ids(self) -> list[str]:
        """The plans that worked for the run, in order, as far as they are followed."""
        return list(self._below.plans)

    def summary(self, run: Json) -> str:
        """Say in one line what the run took, and in another what its plans did."""
        graphs = self._below.plans.values()
        if not graphs:
            return super().summary(run)
        tasks = sum(len(graph.nodes) for graph in graphs)
        cost = sum((Decimal(graph.cost or 0) for graph in graphs), Decimal(0))
        tokens = sum(graph.tokens for graph in graphs)
        return f"(the team: {tasks} tasks, {tokens:,} tokens, ${cost:f})\n({summary(run)})"

    def follow(self, run_id: str, after: str | None = None) -> Json:
        """Print what happens until the run has ended; return it as it is then."""
        try:
            return super().follow(run_id, after)
        finally:
            self._graphs.close()

    def _wanted(self, run_id: str) -> dict[str, str]:
        return {"session": self._session_id}

    def _take(self, event: LiveEvent, run_id: str) -> bool:
        if self._below.take(event, run_id) or event.run_id != run_id:
            return False
        if event.name in ("message_delta", "message_created", "run_completed", "run_failed"):
            self._graphs.rest()
        if event.payload.get("phase") == "planning":
            self._graphs.say(planning_words(event.payload))
            return False
        return super()._take(event, run_id)

    def _state(self, run_id: str) -> Json | None:
        run = self._client.get(f"/v1/my/runs/{run_id}")
        for wait in run.get("waiting_on") or ():
            if wait.get("of") == "plan":
                self._below.add_plan(str(wait["id"]))
            elif wait.get("of") == "run":
                self._below.add_run(str(wait["id"]), "delegate")
        self._below.ask_what_is_open()
        return super()._state(run_id)

    def _approval_required(self, approval: Json) -> None:
        with self._graphs.paused():
            super()._approval_required(approval)

    def _away(self, gone: bool) -> None:
        with self._graphs.paused():
            super()._away(gone)
