"""The command line of bubblewrap for a job: what the program sees, and nothing else."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from retinue.kernel import BadInput
from retinue.sandbox import bridge
from retinue.sandbox.identities import Identity
from retinue.sandbox.jobs import GATEWAY_PORT, HOME, WORK, Job
from retinue.sandbox.workspaces import BEGIN, FOLDERS_OF_ETC

BRIDGE = "/run/retinue/bridge.py"
SOCKET = "/run/retinue/gateway"
PATH = "/usr/local/bin:/usr/bin:/bin"
TEMPORARY = "/tmp"
SHARED = "/dev/shm"

INSIDE = 1000
"""The user and group inside, where a user namespace gives them numbers of its own."""

_ROOTS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# What a plain user's job could read about that user's keys. What only root could read needs no cover.
_HIDDEN = ("/proc/keys", "/proc/key-users")
_TAKEN = (WORK, HOME, TEMPORARY, SHARED, "/proc", "/etc", BRIDGE, "/usr/bin", *(f"/{name}" for name in _ROOTS))

# The first process inside is a shell that waits: it reaps orphans, and the program is not process 1, for which
# signals work in another way. It starts the program by "exec", because "echo" or "exit" would be words of its own.
# Where root builds the walls it stays root, without a way to use that: a signal at the death of its parent is only
# delivered if the parent might have sent it, and that one is root.
#
# Bubblewrap takes the end of the server for the word to begin. So the shell looks for a file that the server makes when
# the limits are set; it ends at once if there is none.
_WAIT = ["/bin/sh", "-c", f'[ -e /etc/{BEGIN} ] && cd {WORK} || exit 126; (exec "$@"); exit $?', "sh"]


class Walls:
    """The options as they grow: a folder that leads to something shown is made once, and can be passed through."""

    def __init__(self) -> None:
        self.options: list[str] = []
        self._made = {"/", "/dev", "/etc"}

    def add(self, *options: str) -> None:
        """Add options as they are."""
        self.options += options

    def folder(self, inside: str) -> None:
        """Make a folder with all that lead to it."""
        if inside not in self._made:
            self.folder(os.path.dirname(inside))
            self._made.add(inside)
            # Bubblewrap's own way is mode 0700 and owner root: a job's user could not pass.
            self.options += ["--perms", "0755", "--dir", inside]

    def show(self, source: str, inside: str, *, writable: bool = False) -> None:
        """Show something of this machine."""
        self.folder(os.path.dirname(inside))
        self._made.add(inside)
        self.options += ["--bind" if writable else "--ro-bind", source, inside]


def options(job: Job, identity: Identity, etc: Path) -> list[str]:
    """Return bubblewrap's options for the walls. Raises BadInput for a job that asks for what cannot be shown."""
    walls = Walls()
    _apart(walls, identity)
    _system(walls, etc, () if identity.private else _HIDDEN)
    space = job.workspace
    for source, inside in (
        (space.work, WORK),
        (space.home, HOME),
        (space.temporary, TEMPORARY),
        (space.shared, SHARED),
    ):
        walls.show(str(source), inside, writable=True)
    for source, inside in job.read_only.items():
        walls.show(str(source), allowed(inside))
    if job.socket is not None:
        _connection(walls, job.socket)
    # Without this "/" and "/dev" are file systems in memory that nobody counts, and anybody may fill.
    walls.add("--remount-ro", "/dev", "--remount-ro", "/", "--clearenv")
    for name, value in environment(job).items():
        walls.add("--setenv", name, value)
    return walls.options


def environment(job: Job) -> dict[str, str]:
    """Return the program's whole environment."""
    return {"PATH": PATH, "HOME": HOME, "TMPDIR": TEMPORARY, "LANG": "C.UTF-8", "USER": "agent", **job.env}


def command(job: Job, identity: Identity) -> list[str]:
    """Return the command of the first process inside: it starts the program, and ends with its code."""
    bridged = [] if job.socket is None else [interpreter(), "-I", "-S", "-E", BRIDGE, SOCKET, str(GATEWAY_PORT)]
    return [*_WAIT, *become(identity), *bridged, *job.argv]


def become(identity: Identity) -> list[str]:
    """Return the command that turns a process into the job's user, who can never become anybody else."""
    if not identity.private:
        return []
    user = ["--reuid", str(identity.uid), "--regid", str(identity.gid), "--clear-groups"]
    return ["/usr/bin/setpriv", *user, "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--"]


def _apart(walls: Walls, identity: Identity) -> None:
    walls.add("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try")
    walls.add("--die-with-parent", "--new-session", "--as-pid-1", "--hostname", "sandbox", "--cap-drop", "ALL")
    if identity.private:
        # Root builds the walls without a user namespace: it can reach folders that the job's user cannot. Three
        # capabilities are left to become that user, and go with it, before anything of the job runs.
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
            walls.add("--cap-add", capability)
    else:
        walls.add("--unshare-user", "--uid", str(INSIDE), "--gid", str(INSIDE))


def _system(walls: Walls, etc: Path, hidden: Iterable[str]) -> None:
    # Every mount takes time at the start of every job: so one folder for /etc, and not a file after the other.
    walls.show("/usr", "/usr")
    for name in _ROOTS:
        path = Path("/", name)
        if path.is_symlink():
            walls.add("--symlink", os.readlink(path), str(path))
        elif path.is_dir():
            walls.show(str(path), str(path))
    walls.add("--proc", "/proc", "--dev", "/dev")
    for one in hidden:
        if os.path.exists(one):
            walls.add("--ro-bind", "/dev/null", one)
    walls.show(str(etc), "/etc")
    for folder in FOLDERS_OF_ETC:
        if os.path.isdir(f"/etc/{folder}"):
            walls.add("--ro-bind", f"/etc/{folder}", f"/etc/{folder}")


def allowed(inside: str) -> str:
    """Return a place inside where something may be shown; BadInput if it would cover what is there already."""
    covers = inside == "/" or any(f"{one}/".startswith(f"{inside}/") for one in _TAKEN)
    if not inside.startswith("/") or os.path.normpath(inside) != inside or covers or inside.startswith("/proc/"):
        raise BadInput(f"A file cannot be shown to a sandbox as {inside}.", field="read_only")
    return inside


def _connection(walls: Walls, socket: Path) -> None:
    for path in interpreter_files():
        if not path.startswith("/usr/"):
            walls.show(path, path)
    walls.show(str(Path(bridge.__file__)), BRIDGE)
    walls.show(str(socket), SOCKET)


def interpreter() -> str:
    """Return the server's own interpreter, without its virtual environment."""
    return os.path.realpath(sys.executable)


def interpreter_files() -> list[str]:
    """Return what the interpreter needs to run a program of the standard library alone."""
    library = sysconfig.get_config_var("LIBDIR") or ""
    shared = [str(path) for path in Path(library).glob("libpython*.so*")] if library else []
    # Not those of the virtual environment, which hold the server's packages.
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    folders = {os.path.realpath(sysconfig.get_path(name, vars=base)) for name in ("stdlib", "platstdlib")}
    return [interpreter(), *sorted(folders), *shared]
