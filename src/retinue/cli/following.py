"""Follows a run live in the terminal: text as it is written, tool calls, approvals, the end."""

from __future__ import annotations

from collections.abc import Callable

from retinue.cli.answering import Answering
from retinue.cli.client import Client
from retinue.cli.deciding import Decider, decider
from retinue.cli.failures import ExitCode, Failure
from retinue.cli.remote import Remote
from retinue.cli.screen import Json, Screen, compact, duration, money, seconds_between
from retinue.cli.stream import LiveEvent, TooFarBehind, live_events
from retinue.cli.transcript import Transcript, call_words, decision_words, result_words

ENDED = frozenset({"completed", "failed", "cancelled", "timed_out", "dead_lettered"})


class RunFollower:
    """Follows one run to its end, through broken connections and restarts of the server.

    ``watch`` is called with each event as it comes, frames too, before it is printed.
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
        self._shown_calls: set[str] = set()
        self.transcript = Transcript(screen)
        self._answering = Answering(client, self.transcript, decide or decider(screen))
        self.message: Json | None = None
        self.position: str | None = None
        """Where to go on after the last event."""

        self._on: dict[str, Callable[[Json], None]] = {
            "message_delta": self.transcript.delta,
            "message_created": self._message_created,
            "approval_required": self._approval_required,
            "approval_decided": lambda payload: self.transcript.step(decision_words(payload)),
            "tool_request": self._tool,
            "task_progress": self._progress,
            "run_waiting": self._waiting,
            "budget_warning": lambda payload: self.transcript.note(f"Budget: {compact(payload)}", style="yellow"),
            "system_notice": lambda payload: self.transcript.step(compact(payload)),
        }

    @property
    def plan_ids(self) -> list[str]:
        """The plans that worked for the run, in order, as far as they are followed."""
        return []

    def summary(self, run: Json) -> str:
        """Say in one line what the run took."""
        return f"({summary(run)})"

    def follow(self, run_id: str, after: str | None = None) -> Json:
        """Print what happens until the run has ended; return it as it is then.

        Raises:
            Failure: the server refuses, or stays away for two minutes.
        """
        self.position = self.position or after
        while True:
            try:
                return self._until_end(run_id, self.position)
            except TooFarBehind:
                self.position = None  # what was missed is in the run's state, which is asked for at every connection

    def _until_end(self, run_id: str, after: str | None) -> Json:
        for event in live_events(self._client, after=after, away=self._away, **self._wanted(run_id)):
            if event is None:
                self.transcript.connected()
                # From a position on the stream misses nothing; without one, what was before must be asked for.
                run = self._state(run_id) if self.position is None else None
                if run is not None:
                    return run
                continue
            self.position = event.position or self.position
            self._watch(event)
            if self._take(event, run_id):
                return self._ended(run_id)
        raise Failure("The stream ended.", ExitCode.UNAVAILABLE)

    def _wanted(self, run_id: str) -> dict[str, str]:
        """Return what of the stream is asked for."""
        return {"run": run_id}

    def _take(self, event: LiveEvent, run_id: str) -> bool:
        """Show an event; return whether it was the run's end."""
        if event.run_id not in (None, run_id):
            return False
        handle = self._on.get(event.name)
        if handle is not None:
            handle(event.payload)
        return event.name in ("run_completed", "run_failed")

    def _state(self, run_id: str) -> Json | None:
        """Look at the run itself, and return it when it has ended already."""
        run = self._client.get(f"/v1/my/runs/{run_id}")
        if run["status"] in ENDED:
            return self._ended(run_id)
        if run["status"] == "waiting":
            for approval in self._client.pages("/v1/my/approvals", status="pending", run=run_id):
                self._approval_required(approval)
        return None

    def _ended(self, run_id: str) -> Json:
        run: Json = self._client.get(f"/v1/my/runs/{run_id}")
        if run["status"] == "completed" and self.message is None:
            self._fetch_message(run)
        self.transcript.close_line()
        return run

    def _fetch_message(self, run: Json) -> None:
        for message in self._client.pages(f"/v1/my/chat/{run['session_id']}/messages"):
            if message["run_id"] == run["run_id"] and message["role"] == "assistant":
                self._message_created(message)

    def _away(self, gone: bool) -> None:
        if gone:
            self.transcript.note("(the connection is lost; waiting for the server)", style="yellow")
        else:
            self.transcript.note("(the server is back)", style="yellow")

    def _message_created(self, message: Json) -> None:
        if message.get("role") != "assistant" or self.message is not None:
            return
        self.message = message
        if message.get("status", "completed") == "completed":  # else it only says why there is no answer
            self.transcript.message(str(message.get("content") or ""))

    def _approval_required(self, approval: Json) -> None:
        self._answering.required(approval)

    def _tool(self, payload: Json) -> None:
        self._shown_calls.add(str(payload.get("call_id")))
        self.transcript.step(call_words(payload))

    def _progress(self, payload: Json) -> None:
        if payload.get("kind") == "model":
            self.transcript.answered()
        elif payload.get("child") is not None:  # other work answers the call, and is shown for itself
            self._shown_calls.add(str(payload.get("call_id")))
        elif payload.get("kind") == "tool":
            words = result_words(payload, announced=str(payload.get("call_id")) in self._shown_calls)
            if words:
                self.transcript.step(words)
        elif payload.get("phase") == "planning":
            self.transcript.step(planning_words(payload))

    def _waiting(self, payload: Json) -> None:
        kinds = {str(item.get("kind")) for item in payload.get("on") or []}
        if "stop" in kinds:
            self.transcript.note("(the tenant or the agent is stopped; the run waits)", style="yellow")
        if "reconcile" in kinds:
            self.transcript.note(
                "(a crash left an effect in doubt; see: retinue runs show, retinue runs reconcile)", style="yellow"
            )


def finish(cli: Remote, run: Json, follower: RunFollower) -> None:
    """End a command that followed a run: print the result, and fail when the run did not succeed.

    Raises:
        Failure: exit code 6 when the run failed, was cancelled or timed out.
    """
    if cli.as_json:
        plans = {"plans": [cli.client.get(f"/v1/my/plans/{one}") for one in follower.plan_ids]}
        cli.screen.document({"run": run, "message": follower.message, **(plans if follower.plan_ids else {})})
    else:
        follower.transcript.aside(follower.summary(run))
    if run["status"] != "completed":
        raise Failure(ending(run), ExitCode.RUN_FAILED)


def summary(run: Json) -> str:
    """Say in one line what a run took."""
    took = duration(seconds_between(run.get("created_at"), run.get("ended_at")))
    tokens = (run.get("input_tokens") or 0) + (run.get("output_tokens") or 0)
    label = "demo, no model; " if run.get("demo") else ""
    calls = f"{run.get('model_calls', 0)} model calls, {run.get('tool_calls', 0)} tool calls"
    return f"{label}{calls}, {tokens:,} tokens, {money(run.get('cost'))}, {took}; run {run['run_id']}"


def planning_words(payload: Json) -> str:
    """Say in a line that the orchestrator plans, and how long at most."""
    bound = payload.get("seconds")
    return f"planning, at most {duration(float(bound))}" if bound else "planning"


def ending(run: Json) -> str:
    """Say in one line how a run ended when it did not succeed."""
    error = run.get("error")
    cause = f": {error['detail']} ({error['kind']})" if error else "."
    return f"The run {run['run_id']} is {str(run['status']).replace('_', ' ')}{cause}"
