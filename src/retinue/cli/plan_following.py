"""Follows a plan live in the terminal: its tree while it goes on, what it asks, its end."""

from __future__ import annotations

from collections.abc import Callable

from retinue.cli.answering import Answering
from retinue.cli.below import Below
from retinue.cli.client import Client
from retinue.cli.deciding import Decider, decider
from retinue.cli.failures import ExitCode, Failure
from retinue.cli.live_graphs import LiveGraphs
from retinue.cli.screen import Json, Screen
from retinue.cli.stream import LiveEvent, TooFarBehind, live_events
from retinue.cli.transcript import Transcript


class PlanFollower:
    """Follows one plan, and the runs of its tasks, to its end; through broken connections and restarts of the server.

    ``watch`` is called with each event as it comes, frames too, before it is shown.
    """

    def __init__(
        self,
        client: Client,
        screen: Screen,
        *,
        decide: Decider | None = None,
        watch: Callable[[LiveEvent], None] = lambda event: None,
    ) -> None:
        self._client = client
        self._watch = watch
        self._transcript = Transcript(screen)
        self._graphs = LiveGraphs(screen, self._transcript)
        answering = Answering(client, self._transcript, decide or decider(screen))
        self._below = Below(client, self._transcript, self._graphs, answering)

    def follow(self, plan_id: str) -> Json:
        """Show what happens until the plan has ended; return it as it is then.

        Raises:
            Failure: the server refuses, or stays away for two minutes.
        """
        session_id = str(self._client.get(f"/v1/my/plans/{plan_id}")["session_id"])
        try:
            while True:
                try:
                    self._until_end(plan_id, session_id)
                    break
                except TooFarBehind:
                    continue  # the plan itself says what was missed
        finally:
            self._graphs.close()
        plan: Json = self._client.get(f"/v1/my/plans/{plan_id}")
        return plan

    def _until_end(self, plan_id: str, session_id: str) -> None:
        for event in live_events(self._client, away=self._away, session=session_id):
            if event is None:
                # Of a plan that is new here, what was before must be asked for; and it may have ended meanwhile.
                graph = self._below.add_plan(plan_id)
                if graph.ended:
                    self._graphs.end(graph)
                    return
                self._below.ask_what_is_open()
                continue
            self._watch(event)
            self._below.take(event)
            if self._below.plans[plan_id].ended:
                return
        raise Failure("The stream ended.", ExitCode.UNAVAILABLE)

    def _away(self, gone: bool) -> None:
        with self._graphs.paused():
            words = "(the connection is lost; waiting for the server)" if gone else "(the server is back)"
            self._transcript.note(words, style="yellow")
