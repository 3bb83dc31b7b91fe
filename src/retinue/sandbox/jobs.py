"""What is run in a sandbox, within which limits, and what came of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from retinue.kernel import BadInput, Fault
from retinue.sandbox.levels import Level

GATEWAY_PORT = 8808
"""The port of 127.0.0.1 inside a sandbox where the model gateway answers."""

WORK = "/work"
"""The workspace as the program sees it."""

HOME = "/home/agent"
"""``HOME`` as the program sees it; never collected."""

Stream = Literal["stdout", "stderr"]
Reason = Literal["exited", "timeout", "memory", "disk", "processes", "output", "killed"]
OnOutput = Callable[[Stream, bytes], Awaitable[None] | None]

_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


class SandboxRefused(Fault):
    """The machine cannot hold a program as well as is asked for: nothing was started."""

    kind, status, title = "sandbox-refused", 503, "No sandbox here is good enough"


class SandboxFailed(Fault):
    """The sandbox could not be built, though it could before; nothing of the program was run."""

    kind, status, title = "sandbox-failed", 503, "The sandbox could not be started"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one job may use.

    Attributes:
        seconds: time on the clock from the start.
        memory: bytes of all processes together.
        disk: bytes on disk of all it writes: workspace, home and temporary files together.
        processes: processes and threads at once.
        cores: processors; a whole number is used where no control group divides one.
        output: bytes of standard output and standard error together; a job that writes more is ended.
    """

    seconds: float = 600.0
    memory: int = 2 << 30
    disk: int = 1 << 30
    processes: int = 256
    cores: float = 1.0
    output: int = 16 << 20


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folders of one job on this machine. The server fills them before the start and reads them after the end.

    ``work`` is ``/work`` inside, ``home`` is ``/home/agent``, ``temporary`` is ``/tmp``. ``shared`` is ``/dev/shm``.
    """

    folder: Path

    @property
    def job_id(self) -> str:
        """The job's id, which names the folder."""
        return self.folder.name

    @property
    def volume(self) -> Path:
        """The folder whose size is limited; everything the program may write lies in it."""
        return self.folder / "volume"

    @property
    def work(self) -> Path:
        """The files that the program works on, and where it leaves its results."""
        return self.volume / "work"

    @property
    def home(self) -> Path:
        """The program's home: its configuration, caches and sessions."""
        return self.volume / "home"

    @property
    def temporary(self) -> Path:
        """Temporary files."""
        return self.volume / "tmp"

    @property
    def shared(self) -> Path:
        """Shared memory, which is on disk here so that it is counted."""
        return self.volume / "shm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A program and everything it may know of the machine. ``BadInput`` for a command or environment that cannot be.

    Attributes:
        job_id: names the job's folder; letters, digits, ``-`` and ``_``. One attempt of one operation.
        argv: the command as it is called inside; the first is a path inside, or a name to be found on ``PATH``.
        env: its whole environment; ``PATH``, ``HOME``, ``TMPDIR``, ``LANG`` and ``USER`` are set unless given.
        workspace: what :meth:`Sandbox.prepare` returned.
        read_only: files and folders of this machine -> their absolute place inside.
        socket: a unix socket of this machine, reachable inside as ``http://127.0.0.1:<GATEWAY_PORT>``.
        limits: what it may use.
        stdin: what it reads on standard input; None: nothing.
        minimum: the level below which it must not be started.
    """

    job_id: str
    argv: Sequence[str]
    workspace: Workspace
    env: Mapping[str, str] = field(default_factory=dict)
    read_only: Mapping[Path, str] = field(default_factory=dict)
    socket: Path | None = None
    limits: Limits = field(default_factory=Limits)
    stdin: bytes | None = None
    minimum: Level = Level.C

    def __post_init__(self) -> None:
        if not self.argv or not self.argv[0]:
            raise BadInput("A command has at least the name of a program.", field="argv")
        for name, value in self.env.items():
            if not name or "=" in name:
                raise BadInput("The name of an environment variable is not empty and has no =.", field="env")
            _check_text(value, "env")
            _check_text(name, "env")
        for word in self.argv:
            _check_text(word, "argv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a job used: all of its processes together.

    Attributes:
        seconds: time on the clock.
        cpu_seconds: processor time, user and system.
        peak_memory: the most bytes at once. Read by a control group where there is one, otherwise the largest sample.
        memory_byte_seconds: bytes held times the seconds they were held.
    """

    seconds: float
    cpu_seconds: float
    peak_memory: int
    memory_byte_seconds: float


OnUsage = Callable[[Usage], None]
"""Gets what a job used, once, when no process of it is alive: also when it was cancelled. Not if nothing was run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a job ended. When this is returned, no process of it is alive.

    Attributes:
        exit_code: the program's, 128 + n if signal n ended it; None when the sandbox ended it.
        reason: ``exited`` by itself; or what it was ended for. ``killed``: something outside of the job ended it.
        usage: what it used.
        level: the level that really held it.
    """

    exit_code: int | None
    reason: Reason
    usage: Usage
    level: Level


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: whether it is there, and what it is or what is missing."""

    what: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Probe:
    """What this machine offers, found by trying it."""

    level: Level
    findings: tuple[Finding, ...]

    @property
    def missing(self) -> str:
        """What is missing, in one line; empty if nothing is."""
        return "; ".join(f"{one.what}: {one.detail}" for one in self.findings if not one.ok)


class Interactive(Protocol):
    """A running program that the caller talks to. Leave the ``async with`` and everything in it is dead."""

    async def write(self, data: bytes) -> None:
        """Write to its standard input; waits while the program does not read. ``BrokenPipeError`` once it has ended."""
        ...

    async def close_input(self) -> None:
        """End its standard input."""
        ...

    async def read(self, size: int = 65536) -> bytes:
        """Return up to ``size`` bytes of its standard output; empty at the end."""
        ...

    async def readline(self, limit: int = 16 << 20) -> bytes:
        """Return one line with its end; empty at the end. ``ValueError`` for a line over ``limit`` bytes."""
        ...

    async def ended(self) -> Ended:
        """Wait for its end."""
        ...

    async def __aenter__(self) -> Interactive: ...

    async def __aexit__(self, *exc_info: object) -> None: ...


class Sandbox(ABC):
    """A place where a program runs that nobody trusts.

    The order for one job: :meth:`prepare`, fill the workspace, :meth:`run` or :meth:`interactive`,
    ``collect(workspace)``, :meth:`wipe`. After a crash: :meth:`reap`.
    """

    name: str

    @abstractmethod
    async def probe(self) -> Probe:
        """Try out what this machine offers."""

    @abstractmethod
    async def prepare(self, job_id: str, limits: Limits) -> Workspace:
        """Make the empty folders of a job. Whatever an earlier job of this id left is killed and wiped first."""

    @abstractmethod
    async def run(self, job: Job, on_output: OnOutput, on_usage: OnUsage | None = None) -> Ended:
        """Run a job to its end; return once nothing of it is alive.

        ``on_output(stream, data)`` gets each piece in order; while it waits, the program waits too. If it raises, the
        job is ended and the exception goes on. Cancelling the awaiting task ends everything before it returns;
        ``on_usage`` has been told by then.

        Raises:
            SandboxRefused: the level that can be kept now is below ``job.minimum``.
            SandboxFailed: the sandbox could not be built.
        """

    @abstractmethod
    async def interactive(
        self, job: Job, on_error: OnOutput | None = None, on_usage: OnUsage | None = None
    ) -> Interactive:
        """Start a job whose input and output the caller holds; standard error goes to ``on_error``. Raises as run."""

    @abstractmethod
    async def wipe(self, workspace: Workspace) -> None:
        """Remove a job's folders, whatever the program left there."""

    @abstractmethod
    async def reap(self, job_id: str) -> None:
        """Kill and wipe whatever a dead worker left of a job on this machine. Nothing there: nothing is done."""

    @abstractmethod
    async def reap_all(self, alive: set[str]) -> list[str]:
        """Reap every job that is here but for ``alive``, the ids of those that are still wanted; return their ids.

        A job that another living server on this machine holds is left alone.
        """

    def inside(self, workspace: Workspace) -> tuple[str, str]:
        """Return the workspace and the home as the program sees them: ``/work`` and ``/home/agent`` but at level C."""
        return WORK, HOME

    async def close(self) -> None:
        """Let go of connections."""
        return None


def _check_text(text: str, field: str) -> None:
    """Refuse what cannot be handed to a program: a zero byte, or half of a character."""
    try:
        whole = b"\0" not in text.encode("utf-8")
    except UnicodeEncodeError:
        whole = False
    if not whole:
        raise BadInput("Text for a program has no zero byte and is UTF-8.", field=field)


def check_job_id(job_id: str) -> str:
    """Return the id; ``BadInput`` if it could be anything but a name of a folder."""
    if not 0 < len(job_id) <= 100 or not set(job_id) <= _NAME:
        raise BadInput("A job's id has 1 to 100 letters, digits, - and _.", field="job_id")
    return job_id
