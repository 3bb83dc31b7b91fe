"""A conversation in the terminal: messages of one person to one agent, or to the team, in one session."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from retinue.cli.deciding import Decider
from retinue.cli.failures import ExitCode, Failure, Refusal
from retinue.cli.finding import Finder
from retinue.cli.following import RunFollower, ending
from retinue.cli.remote import Remote
from retinue.cli.screen import Column, Json, Screen
from retinue.cli.team_following import TeamFollower

_HELP = """\
/file PATH   put a file into the session's workspace
/files       list the workspace
/new         begin a new session
/help        this list
/quit        leave (the session stays: --session last goes on with it)
Ctrl-C stops an answer, Ctrl-D leaves."""

_FILES: list[Column] = [("PATH", "path"), ("BYTES", lambda file: str(file.get("size", "")))]


class Conversation:
    """Messages of one person to one agent in one session, which is made with the first of them.

    Without an agent they go to the orchestrator, who plans what the team does.
    """

    def __init__(
        self,
        cli: Remote,
        agent: str | None,
        decide: Decider,
        *,
        session: str | None = None,
        multitask: str | None = None,
    ) -> None:
        finder = Finder(cli.client)
        self._cli = cli
        self._name = agent or "your team"
        self._agent_id = finder.agent(agent) if agent is not None else None
        self._decide = decide
        self._multitask = multitask
        self._session_id = finder.session(session) if session else None

    @property
    def session_id(self) -> str:
        """The session's id; it is made now when there is none yet."""
        if self._session_id is None:
            self._session_id = str(self._cli.client.post("/v1/my/chat", {})["session_id"])
        return self._session_id

    def say(self, text: str) -> Json:
        """Send a message and return what the server accepted, without waiting for the answer."""
        body = {"content": text, "target_agent": self._agent_id, "multitask": self._multitask}
        accepted: Json = self._cli.client.post(
            f"/v1/my/chat/{self.session_id}/messages",
            {key: value for key, value in body.items() if value is not None},
        )
        return accepted

    def held(self, accepted: Json) -> str | None:
        """Return why what was accepted does not begin until somebody acts, and what to do; None when it will."""
        if accepted.get("status") != "queued":
            return None
        mine = self._cli.client.get("/v1/my/profile")["tenants"]
        here = self._cli.client.tenant
        tenant: Json = next(
            (one for one in mine if str(one["tenant_id"]) == here or (here is None and one["personal"])), {}
        )
        if tenant.get("stopped_at"):
            name = "personal" if tenant["personal"] else shlex.quote(str(tenant["name"]))
            why = f"the tenant is stopped: {tenant['stop_reason']}"
            return f"{why}; what waits goes on after: retinue tenants resume {name}"
        if self._agent_id is not None and self._cli.client.get(f"/v1/my/agents/{self._agent_id}")["status"] == "paused":
            return f"{self._name} is paused; what waits goes on after: retinue agents resume {shlex.quote(self._name)}"
        return None

    def ask(self, text: str) -> tuple[Json, RunFollower]:
        """Send a message and follow its run to the end. Ctrl-C cancels the run, a second one leaves it alone."""
        accepted = self.say(text)
        run_id = str(accepted["run_id"])
        held = self.held(accepted)
        if held:
            self._cli.screen.note(f"({held})", style="yellow")
        follower = TeamFollower(self._cli.client, self._cli.screen, self.session_id, decide=self._decide)
        after = stream_start(accepted)
        try:
            return follower.follow(run_id, after), follower
        except KeyboardInterrupt:
            follower.transcript.note("(stopping; Ctrl-C again leaves it running)", style="yellow")
            with suppress(Refusal):  # it may have ended by itself
                self._cli.client.post(f"/v1/my/runs/{run_id}/cancel", {"reason": "stopped at the terminal"})
            return follower.follow(run_id, after), follower

    def upload(self, path: Path, name: str | None = None) -> Json:
        """Put a file into the session's workspace; it gets its own name unless another one is given.

        Raises:
            Failure: the file cannot be read, or the server refuses it.
        """
        name = name or path.name
        try:
            with path.open("rb") as file:
                answer = self._cli.client.request(
                    "POST",
                    f"/v1/my/chat/{self.session_id}/files",
                    files={"file": (name, file, "application/octet-stream")},
                    form={"path": name},
                    timeout=300,
                )
        except OSError as error:
            raise Failure(f"{path} cannot be read: {error.strerror}", ExitCode.USAGE) from None
        item: Json = answer.json()
        return item

    def go_on_and_on(self) -> None:
        """Read lines from the terminal and answer them, until the person leaves."""
        screen = self._cli.screen
        if screen.as_json:
            raise Failure("A conversation has no JSON form; give a text.", ExitCode.USAGE)
        _enable_history()
        screen.note(f"Talking to {self._name}. /help lists what else you can type.", style="dim")
        while True:
            try:
                line = input("you> ").strip()
            except (EOFError, KeyboardInterrupt):
                screen.note("")
                return
            if line in ("/quit", "/exit"):
                return
            if not line:
                continue
            try:
                self._command(screen, line) if line.startswith("/") else self._turn(screen, line)
            except Failure as failure:
                if failure.code in (ExitCode.REFUSED, ExitCode.UNAVAILABLE):
                    raise
                screen.note(str(failure), style="red")

    def _turn(self, screen: Screen, line: str) -> None:
        run, follower = self.ask(line)
        if run["status"] != "completed":
            screen.note(ending(run), style="red")
        follower.transcript.aside(follower.summary(run))

    def _command(self, screen: Screen, line: str) -> None:
        command, _, rest = line.partition(" ")
        if command == "/file" and rest:
            item = self.upload(Path(rest).expanduser())
            screen.note(f"  · {item['path']} ({item['size']} bytes) is in the workspace", style="dim")
        elif command == "/files":
            path = f"/v1/my/chat/{self.session_id}/files"
            screen.table(_FILES, self._cli.client.pages(path), empty="The workspace is empty.")
        elif command == "/new":
            self._session_id = None
            screen.note("A new session.", style="dim")
        else:
            screen.note(_HELP)


def stream_start(accepted: Json) -> str | None:
    """Return the position before a message, from the stream URL the server gave with it."""
    return parse_qs(urlsplit(str(accepted.get("stream") or "")).query).get("after", [None])[0]


def _enable_history() -> None:
    with suppress(ImportError):
        import readline

        readline.set_history_length(500)
