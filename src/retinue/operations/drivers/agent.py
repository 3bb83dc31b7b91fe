"""What the drivers of command-line agents share: their parameters, their briefing, and how they are started.

Such an agent is a Node program without anybody in front of it. Normally it is given its task on standard input and
writes lines of JSON. In the mode ``acp`` it is talked to instead (``retinue.operations.drivers.talking``).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from retinue.kernel import Settings
from retinue.operations.driver import DriverMissing, Finish, Launch, Progress, Stream, Task, Verdict
from retinue.operations.drivers.listening import Lines, as_object
from retinue.operations.drivers.transcript import Transcript
from retinue.operations.installing import NODE, Part, missing, place

TURNS = 100

KINDS_OF_TOOL = ("read", "edit", "delete", "move", "search", "execute", "think", "fetch", "switch_mode", "other")
"""The kinds of tools that the Agent Client Protocol knows."""

BRIEFING = """\
You work alone on the files in the folder {workspace}. Nobody can answer questions, and there is no network.
Write what you make into that folder. When you are done, say in a few sentences what you did.

The task:
{goal}
"""

# The gateway knows who calls by the socket; the agents insist on a key.
KEY = "none-is-needed"

_TURNS_EXIT = 53

# Node does not wait for a pipe's reader when a program ends by process.exit, as these do. What they said last, which is
# how it went, would be lost whenever we are slower than they are.
_PRELOAD = ".retinue/writes-wait.cjs"
_WRITES_WAIT = b"for (const one of [process.stdout, process.stderr]) one._handle?.setBlocking?.(true);\n"


# They read shell commands with a parser in WebAssembly. To optimize it, Node takes up to 2 GB for seconds, and an agent
# uses it for moments: 1,960 MB and 12 s became 285 MB and 6 s.
_PLAIN_WASM = "--liftoff-only"


def as_file(document: Mapping[str, Any]) -> bytes:
    """Return a settings file."""
    return json.dumps(document, indent=2).encode()


class CommandLineAgent(ABC):
    """A driver for an agent that is installed by ``retinue operations install``."""

    name: str
    title: str
    part: Part
    uses_model = True
    expects_outputs = True
    wire: str
    """The provider whose format it speaks: a model of this one is called by its own name."""

    parameters: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "turns": {
                "type": "integer",
                "minimum": 1,
                "maximum": 10_000,
                "default": TURNS,
                "description": "answers of the model at most",
            },
            "mode": {
                "enum": ["headless", "acp"],
                "default": "headless",
                "description": "acp: talk to it by the Agent Client Protocol, so that `allow` holds",
            },
            "allow": {
                "type": "array",
                "items": {"enum": list(KINDS_OF_TOOL)},
                "uniqueItems": True,
                "description": "with mode acp: kinds of tools that it may use when it asks; all when left out",
            },
        },
        "dependentSchemas": {"allow": {"properties": {"mode": {"const": "acp"}}, "required": ["mode"]}},
        "additionalProperties": False,
    }

    def complaint(self, settings: Settings) -> str | None:
        """Say what is not installed."""
        return missing(settings, NODE, self.part)

    def attempt(self, task: Task) -> HeadlessAttempt | TalkingAttempt:
        """Return a fresh attempt."""
        return (TalkingAttempt if task.parameters.get("mode") == "acp" else HeadlessAttempt)(self, task)

    def launch(self, task: Task, arguments: Sequence[str], stdin: bytes | None = None) -> Launch:
        """Say how it is started with these arguments.

        Raises:
            DriverMissing: it is not installed.
        """
        complaint = self.complaint(task.settings)
        if complaint:
            raise DriverMissing(complaint)
        node, program = place(task.settings, NODE), place(task.settings, self.part)
        options = [_PLAIN_WASM, f"--require={task.home}/{_PRELOAD}"]
        # Every sandbox can show a folder at its own path, also one that cannot move it.
        return Launch(
            argv=[str(node / NODE.entry), *options, str(program / self.part.entry), *arguments],
            env={"NO_COLOR": "1", "TERM": "dumb", "CI": "1", **self.environment(task)},
            read_only={node / "bin": str(node / "bin"), program: str(program)},
            files={_PRELOAD: _WRITES_WAIT, **self.files(task)},
            stdin=stdin,
        )

    def model(self, task: Task) -> str:
        """Return the model as the agent calls it; the gateway reads ``default`` as the one it has been told."""
        provider, _, name = (task.model or "").partition(":")
        if not name:
            return task.model or "default"
        return name if provider == self.wire else f"{provider}:{name}"

    def gateway(self, task: Task) -> str:
        """Return the gateway's address."""
        if task.gateway is None:
            raise DriverMissing(f"{self.name} needs a model gateway.")
        return task.gateway.rstrip("/")

    @abstractmethod
    def environment(self, task: Task) -> Mapping[str, str]:
        """Return its environment."""

    @abstractmethod
    def files(self, task: Task) -> Mapping[str, bytes]:
        """Return its settings, by path below the home."""

    def words(self, task: Task) -> str:
        """Return what it reads from standard input when it is headless."""
        return briefing(task)

    @abstractmethod
    def headless(self, task: Task) -> Sequence[str]:
        """Return the arguments with which it reads its task from standard input and writes lines of JSON."""

    @abstractmethod
    def talking(self, task: Task) -> Sequence[str]:
        """Return the arguments with which it speaks the Agent Client Protocol."""

    @abstractmethod
    def hear(self, transcript: Transcript, event: Mapping[str, Any]) -> list[Progress]:
        """Take one line of its output."""


def briefing(task: Task) -> str:
    """Return the task in words for the agent. It never begins with a sign that agents take for a command."""
    goal = task.goal.replace("\x00", "").encode(errors="replace").decode()
    return BRIEFING.format(workspace=task.workspace, goal=goal)


class HeadlessAttempt:
    """One start of an agent that only listens and tells."""

    def __init__(self, agent: CommandLineAgent, task: Task) -> None:
        self._agent = agent
        self._task = task
        self._lines = Lines()
        self._transcript = Transcript()

    def prepare(self) -> Launch:
        """Return the agent with its task on standard input."""
        arguments = self._agent.headless(self._task)
        return self._agent.launch(self._task, arguments, self._agent.words(self._task).encode())

    def read(self, stream: Stream, chunk: bytes) -> Sequence[Progress]:
        """Show what it says and which tools it uses. Its standard error is for its makers."""
        if stream == "stderr":
            return []
        told: list[Progress] = []
        for line in self._lines.feed(chunk):
            event = as_object(line)
            if event is not None:
                told += self._agent.hear(self._transcript, event)
        return told

    def judge(self, finish: Finish) -> Verdict:
        """Go by what it told last."""
        # The last line has no end when it was cut off, and then it is no JSON.
        return self._transcript.verdict(finish, told=[_TURNS_EXIT])


class TalkingAttempt:
    """One start of an agent that is talked to by the Agent Client Protocol."""

    def __init__(self, agent: CommandLineAgent, task: Task) -> None:
        # The protocol's package takes half a second to import, and most servers never talk.
        from retinue.operations.drivers.talking import Conversation

        self._agent = agent
        self._task = task
        self._transcript = Transcript()
        parameters = task.parameters
        self._conversation = Conversation(
            self._transcript,
            folder=task.workspace,
            prompt=briefing(task),
            allowed=parameters.get("allow", KINDS_OF_TOOL),
            turns=parameters.get("turns", TURNS),
        )
        self.converse = self._conversation.hold

    def prepare(self) -> Launch:
        """Return the agent, waiting to be talked to."""
        return self._agent.launch(self._task, self._agent.talking(self._task))

    def read(self, stream: Stream, chunk: bytes) -> Sequence[Progress]:
        """Show nothing: the conversation shows what is said."""
        return []

    def judge(self, finish: Finish) -> Verdict:
        """Go by what the conversation came to."""
        return self._transcript.verdict(finish)
