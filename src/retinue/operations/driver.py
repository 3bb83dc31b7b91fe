"""What a driver is: how one kind of headless agent is started, listened to and judged.

A driver knows a command line and its output, and nothing else. It opens no file and starts no process: the room lays
the files out, the sandbox runs the program, and the driver says what came of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from retinue.kernel import Settings
from retinue.sandbox import Ended

Stream = Literal["stdout", "stderr"]


class DriverMissing(Exception):
    """The driver cannot work on this machine; the text says what to install, and how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one attempt at an operation gives to its driver.

    Attributes:
        goal: what is to be done, in the words of who asked.
        parameters: the driver's own; they fit its ``parameters`` schema.
        model: ``provider:model`` that was asked for or is the policy's default; None: the driver uses no model.
        workspace: the folder with the files as the program sees it; it is the working directory.
        home: ``HOME`` as the program sees it; writable, empty but for ``Launch.files``, and never collected.
        gateway: the model gateway's address as the program sees it, without a path (``http://127.0.0.1:8080``);
            None: the driver uses no model. OpenAI's form is at ``/v1``, Anthropic's at ``/``, Gemini's at ``/``.
        seconds: how long the program may take.
        inputs: the names of the files in the workspace.
        settings: the server's; ``settings.data`` is where drivers are installed.
    """

    goal: str
    parameters: Mapping[str, Any]
    model: str | None
    workspace: str
    home: str
    gateway: str | None
    seconds: float
    inputs: Sequence[str]
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How the program is started.

    Attributes:
        argv: the command, as it is called inside the sandbox; the first is a path, or a name to be found on ``PATH``.
        env: all of its environment beside ``HOME`` and ``PATH``, which the room sets unless they are given here.
        read_only: folders and files of this machine that it needs, each with its place inside.
        files: small files that the room writes into the home before the start: path below the home -> content.
        stdin: what it reads; None: nothing.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    read_only: Mapping[Path, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    stdin: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Something that the agent says or does, for whoever watches.

    Attributes:
        text: the piece; it is shown as it is, so a whole line ends with a line feed.
        kind: what it is: words of the agent, its thoughts, a tool it uses, plain output, or an error.
    """

    text: str
    kind: Literal["text", "thought", "tool", "output", "error"] = "output"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """What is known once the last process is dead.

    Attributes:
        ended: the sandbox's word on how it ended.
        stdout: the last 64 KiB of its output.
        stderr: likewise.
        changed: the names of the files that it made or changed, those that can be collected.
        model_calls: the calls that the model gateway let through.
    """

    ended: Ended
    stdout: str
    stderr: str
    changed: Sequence[str]
    model_calls: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of it, as far as the driver can tell.

    The room has looked at limits, budget and forbidden models before, and looks at what was expected afterwards.

    Attributes:
        ok: the program says that it did what it was asked.
        kind: what went wrong, one of ``exit_code``, ``nothing_done`` or a stable name of the driver's own.
        summary: the agent's last words, or what went wrong, for a person; at most 4,000 characters are kept.
    """

    ok: bool
    summary: str = ""
    kind: str = ""


class Attempt(Protocol):
    """One attempt at an operation, as its driver sees it. Its methods are called one after the other."""

    def prepare(self) -> Launch:
        """Say how the program is started.

        Raises:
            DriverMissing: it is not installed, or is too old.
            BadInput: the task makes no sense to this driver.
        """
        ...

    def read(self, stream: Stream, chunk: bytes) -> Sequence[Progress]:
        """Take a piece of output; return what a person should see of it.

        Pieces end anywhere, also within a character or a line. It must not wait and must not raise on odd output.
        """
        ...

    def judge(self, finish: Finish) -> Verdict:
        """Say what came of it."""
        ...


@runtime_checkable
class Interactive(Protocol):
    """An attempt that talks with its program (ACP) instead of only listening to it."""

    async def converse(
        self,
        send: Callable[[bytes], Awaitable[None]],
        received: AsyncIterator[bytes],
        say: Callable[[Progress], None],
    ) -> None:
        """Talk until the work is done; then return, and the program's input is closed.

        Args:
            send: writes to its standard input.
            received: the pieces of its standard output; it ends when the program does.
            say: shows something to whoever watches.
        """
        ...


class Driver(Protocol):
    """A kind of agent that operations can name.

    Attributes:
        name: as in requests, such as ``qwen``.
        title: one line for people.
        uses_model: whether it needs the model gateway.
        expects_outputs: whether a program that ends well without having made or changed a file did nothing.
        parameters: the JSON Schema (draft 2020-12) of ``Task.parameters``, an object.
    """

    name: str
    title: str
    uses_model: bool
    expects_outputs: bool
    parameters: Mapping[str, Any]

    def complaint(self, settings: Settings) -> str | None:
        """Say why it cannot work on this machine and what to do; None: it can. Quick, and does not raise."""
        ...

    def attempt(self, task: Task) -> Attempt:
        """Return a fresh attempt at a task."""
        ...
