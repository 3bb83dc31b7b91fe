"""Follows a run live in the terminal: text as it is written, tool calls, approvals, the end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from retinue.cli.client import Client
from retinue.cli.deciding import Decider, decider
from retinue.cli.failures import ExitCode, Failure, Refusal
from retinue.cli.remote import Remote
from retinue.cli.screen import Json, Screen, compact, duration, money, plain, seconds_between
from retinue.cli.stream import LiveEvent, TooFarBehind, live_events

ENDED = frozenset({"completed", "failed", "cancelled", "timed_out", "dead_lettered"})


class Transcript:
    """Prints what a run does. The answer goes to standard output, everything else to standard error.

    Where standard output is no terminal, the answer is printed once, when it is finished.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._live = screen.is_terminal and not screen.as_json
        self._text = ""
        self._attempt = 0
        self._joined = True
        self._answered = False
        self._open_line = False

    def connected(self) -> None:
        """A new connection begins with the text so far, which is here already."""
        self._joined = True

    def delta(self, payload: Json) -> None:
        """Take a frame: ``text`` at ``offset`` of the current text, which offset 0 begins anew."""
        text, offset = str(payload.get("text") or ""), int(payload.get("offset") or 0)
        attempt = int(payload.get("attempt") or 1)
        if offset == 0:
            known = self._text if self._joined and attempt == self._attempt else ""
            if known and text.startswith(known):
                text = text[len(known) :]
            elif self._text:
                self._begin_anew()
            self._attempt, self._joined, self._answered = attempt, False, False
        elif offset < len(self._text):
            text = text[len(self._text) - offset :]
        elif offset > len(self._text):
            return  # something is missing; the finished message has it all
        self._text += text
        self._write(text)

    def _begin_anew(self) -> None:
        self.close_line()
        if not self._answered:
            self.note("(the answer broke off; it begins again)", style="dim")
        self._text = ""

    def answered(self) -> None:
        """The model has finished what it was saying; text that comes now is something else."""
        self._answered = True

    def message(self, content: str) -> None:
        """The finished answer: print what is not on the screen yet."""
        if not content.startswith(self._text):
            self.close_line()
            self._text = ""
        rest = content[len(self._text) :]
        if self._live:
            self._write(rest)
        elif not self._screen.as_json:
            sys.stdout.write(plain(content) + "\n")
            sys.stdout.flush()
        self.close_line()
        self._text = ""

    def step(self, text: str) -> None:
        """A step of the run, such as a tool call."""
        self.note(f"  · {text}", style="dim")

    def note(self, text: str, style: str = "") -> None:
        """A message beside the answer."""
        self.close_line()
        self._screen.note(text, style=style)

    def close_line(self) -> None:
        """End the line the answer is on."""
        if self._open_line:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._open_line = False

    def _write(self, text: str) -> None:
        if text and self._live:
            sys.stdout.write(plain(text))
            sys.stdout.flush()
            self._open_line = not text.endswith("\n")


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
        self._decide = decide or decider(screen)
        self._asked: set[str] = set()
        self._shown_calls: set[str] = set()
        self.transcript = Transcript(screen)
        self.message: Json | None = None
        self.events: list[LiveEvent] = []
        """What came over the stream, without the frames."""

        self.position: str | None = None
        """Where to go on after the last event."""

        self._on: dict[str, Callable[[Json], None]] = {
            "message_delta": self.transcript.delta,
            "message_created": self._message_created,
            "approval_required": self._approval_required,
            "approval_decided": self._approval_decided,
            "tool_request": self._tool,
            "task_progress": self._progress,
            "run_waiting": self._waiting,
            "budget_warning": lambda payload: self.transcript.note(f"Budget: {compact(payload)}", style="yellow"),
            "system_notice": lambda payload: self.transcript.step(compact(payload)),
        }

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
        for event in live_events(self._client, after=after, away=self._away, run=run_id):
            if event is None:
                self.transcript.connected()
                # From a position on the stream misses nothing; without one, what was before must be asked for.
                run = self._state(run_id) if self.position is None else None
                if run is not None:
                    return run
                continue
            if event.run_id not in (None, run_id):
                continue
            if event.position:
                self.position = event.position
                self.events.append(event)
            self._watch(event)
            handle = self._on.get(event.name)
            if handle is not None:
                handle(event.payload)
            if event.name in ("run_completed", "run_failed"):
                return self._ended(run_id)
        raise Failure("The stream ended.", ExitCode.UNAVAILABLE)

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
        approval_id = str(approval["approval_id"])
        if approval_id in self._asked:
            return
        self._asked.add(approval_id)
        self.transcript.close_line()
        # The event may be old, and it need not show everything: the approval itself counts.
        current = self._client.get(f"/v1/my/approvals/{approval_id}")
        if current["status"] != "pending":
            return
        body = self._decide(current)
        if body is None:
            return
        try:
            self._client.post(f"/v1/my/approvals/{approval_id}/confirm", body)
        except Refusal as refusal:
            if refusal.status != 409 and refusal.status != 422:
                raise
            self.transcript.note(f"    {refusal}", style="red")
            if refusal.status == 422:  # edited arguments that do not fit: ask again
                self._asked.discard(approval_id)
                self._approval_required(approval)

    def _approval_decided(self, payload: Json) -> None:
        self.transcript.step(f"{payload.get('status')}{_because(payload)}")

    def _tool(self, payload: Json) -> None:
        self._shown_calls.add(str(payload.get("call_id")))
        self.transcript.step(f"{payload.get('name')}({_arguments(payload.get('arguments'))})")

    def _progress(self, payload: Json) -> None:
        if payload.get("kind") == "model":
            self.transcript.answered()
            return
        if payload.get("failed"):
            self.transcript.step(f"{payload.get('name')} failed: {compact(payload.get('content'), 120)}")
        elif str(payload.get("call_id")) not in self._shown_calls:
            took = duration(float(payload.get("milliseconds") or 0) / 1000)
            self.transcript.step(f"{payload.get('name')} ({took})")

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
        cli.screen.document({"run": run, "message": follower.message})
    else:
        follower.transcript.note(summary(run), style="dim")
    if run["status"] != "completed":
        raise Failure(ending(run), ExitCode.RUN_FAILED)


def summary(run: Json) -> str:
    """Say in one line what a run took."""
    took = duration(seconds_between(run.get("created_at"), run.get("ended_at")))
    tokens = (run.get("input_tokens") or 0) + (run.get("output_tokens") or 0)
    label = "demo, no model; " if run.get("demo") else ""
    calls = f"{run.get('model_calls', 0)} model calls, {run.get('tool_calls', 0)} tool calls"
    return f"({label}{calls}, {tokens} tokens, {money(run.get('cost'))}, {took}; run {run['run_id']})"


def ending(run: Json) -> str:
    """Say in one line how a run ended when it did not succeed."""
    error = run.get("error")
    cause = f": {error['detail']} ({error['kind']})" if error else "."
    return f"The run {run['run_id']} is {str(run['status']).replace('_', ' ')}{cause}"


def _because(payload: Json) -> str:
    return f": {payload['comment']}" if payload.get("comment") else ""


def _arguments(arguments: Any) -> str:
    if isinstance(arguments, dict):
        return ", ".join(f"{name}={compact(value, 60)}" for name, value in arguments.items())
    return compact(arguments, 100) if arguments else ""
