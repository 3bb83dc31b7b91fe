"""Fault 16: programs attack the sandbox from inside, at every level this machine offers, as root and as a plain user.

Each program in ``attacks/`` prints SUCCEEDED when it got what it wanted. Each is also run with one piece of the
sandbox left out, and must succeed then: an attack that cannot succeed proves nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from retinue.sandbox import (
    Bubblewrap,
    Landlock,
    Level,
    Limits,
    Sandbox,
    bubblewrap,
    bubblewrap_command,
    collect,
    seccomp,
)
from tests.support.sandboxes import (
    LEVELS,
    PYTHON,
    ROOT,
    Ran,
    alive,
    make_job,
    run_job,
    run_tests_as_plain_user,
    sandbox_of,
)

ATTACKS = Path(__file__).parent / "attacks"
SECRET = "the-content-of-another-tenant"
LIMITS = Limits(seconds=15, memory=128 << 20, disk=16 << 20, processes=64, output=1 << 20)
LARGE = replace(LIMITS, memory=1 << 30, disk=1 << 30, processes=1000, output=256 << 20)


@dataclass
class Machine:
    """What an attacker would like to reach on the machine outside."""

    folder: Path
    secret: Path
    port: int
    address: str
    abstract: str
    socket_file: Path
    victim: subprocess.Popen[bytes]
    token: str

    def arguments(self, name: str) -> list[str]:
        """The command line of an attack."""
        told: dict[str, list[str]] = {
            "links": [str(self.secret)],
            "other_tenants": [str(self.secret), str(self.folder / "root.key")],
            "server_environment": [self.token[::-1]],
            "networks": [f"127.0.0.1:{self.port}", f"{self.address}:{self.port}"],
            "abstract_sockets": [self.abstract, str(self.socket_file)],
            "other_processes": [str(self.victim.pid)],
            "escapes": [str(self.secret)],
            "daemon": [self.token, "60"],
        }
        return told.get(name, [])


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Another tenant's file, services on the network and on sockets, a process of this user, a secret in the server."""
    token = f"token-{os.urandom(8).hex()}"
    monkeypatch.setenv("RETINUE_TEST_SECRET", token)
    folder = tmp_path / "server"
    folder.mkdir()
    secret = folder / "secret.txt"
    for path in (secret, folder / "root.key"):
        path.write_text(SECRET)
    with ExitStack() as closing:
        service = closing.enter_context(socket.create_server(("0.0.0.0", 0)))  # noqa: S104 - every address is attacked
        named = closing.enter_context(socket.socket(socket.AF_UNIX))
        named.bind(f"\0{token}")
        named.listen()
        filed = closing.enter_context(socket.socket(socket.AF_UNIX))
        filed.bind(str(folder / "s"))
        filed.listen()
        os.chmod(folder / "s", 0o666)  # noqa: S103 - only the sandbox keeps attackers away
        victim = closing.enter_context(subprocess.Popen(["sleep", "60"], start_new_session=True))
        closing.callback(victim.kill)
        yield Machine(folder, secret, service.getsockname()[1], _address(), token, folder / "s", victim, token)


def _address() -> str:
    """An address of this machine that is not loopback, or loopback's second if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.2"


@pytest.fixture
async def sandbox(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Sandbox]:
    """A sandbox of the level that the test names."""
    found = sandbox_of(request.param, tmp_path / "jobs")
    yield found
    await found.reap_all(set())


async def attack(sandbox: Sandbox, name: str, machine: Machine, **changes: object) -> Ran:
    """Run an attack."""
    limits = changes.pop("limits", LIMITS)
    assert isinstance(limits, Limits)
    level_c = sandbox.name == "landlock"
    place = str(ATTACKS) if level_c else "/opt/attacks"
    argv = [PYTHON, "-I", "-B", f"{place}/{name}.py", *machine.arguments(name)]
    if name == "cpu_hog" and _level(sandbox) is not Level.A:
        argv.append("placed")  # whole processors: it must not even find a second one
    more: dict[str, object] = {"read_only": {ATTACKS: place}, **changes}
    return await run_job(sandbox, await make_job(sandbox, argv, limits=limits, **more))


Weakness = Callable[[pytest.MonkeyPatch, Machine], dict[str, object]]


def larger_limits(_patch: pytest.MonkeyPatch, _machine: Machine) -> dict[str, object]:
    """The limits are not what they should be."""
    return {"limits": LARGE}


def two_cores(_patch: pytest.MonkeyPatch, _machine: Machine) -> dict[str, object]:
    """Every processor is given away."""
    return {"limits": replace(LIMITS, cores=2.0)}


def no_filter(patch: pytest.MonkeyPatch, _machine: Machine) -> dict[str, object]:
    """System calls are not filtered."""
    patch.setattr(seccomp, "build", lambda **_: struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000))
    return {}


def shared_network(patch: pytest.MonkeyPatch, _machine: Machine) -> dict[str, object]:
    """The network is not apart."""
    _without(patch, "--unshare-net")
    return {}


def shared_processes(patch: pytest.MonkeyPatch, machine: Machine) -> dict[str, object]:
    """Processes are not apart, and the job has the server's user."""
    _without(patch, "--unshare-pid", "--as-pid-1", "--cap-drop", "ALL")
    patch.setattr(bubblewrap_command, "become", lambda _: [])
    no_filter(patch, machine)
    return {}


def stays_root(patch: pytest.MonkeyPatch, machine: Machine) -> dict[str, object]:
    """The job's first process does not become another user, and keeps what root may do."""
    _without(patch, "--cap-drop", "ALL")
    patch.setattr(bubblewrap_command, "become", lambda _: [])
    no_filter(patch, machine)
    return {}


def writable_root(patch: pytest.MonkeyPatch, machine: Machine) -> dict[str, object]:
    """The root is not mounted again without the right to write, and its folders belong to the job's user."""
    _without(patch, "--remount-ro", "/", "/dev", "--cap-drop", "ALL")
    patch.setattr(bubblewrap_command, "become", lambda _: [])
    return {}


def shown_files(_patch: pytest.MonkeyPatch, machine: Machine) -> dict[str, object]:
    """The server's folder is shown."""
    place = str(machine.folder)
    return {"read_only": {ATTACKS: "/opt/attacks", machine.folder: place}}


def given_environment(_patch: pytest.MonkeyPatch, machine: Machine) -> dict[str, object]:
    """The server's environment is passed on."""
    return {"env": dict(os.environ)}


def _without(patch: pytest.MonkeyPatch, *left_out: str) -> None:
    original = bubblewrap_command.options

    def options(*arguments: object) -> list[str]:
        kept: list[str] = []
        walls = original(*arguments)  # type: ignore[arg-type]
        skip = False
        for number, one in enumerate(walls):
            following = walls[number + 1] if number + 1 < len(walls) else ""
            if skip:
                skip = False
            elif one in ("--remount-ro", "--cap-drop") and one in left_out and following in left_out:
                skip = True
            elif one not in left_out or one in ("/", "/dev", "ALL", "--remount-ro", "--cap-drop"):
                kept.append(one)
        return kept

    patch.setattr(bubblewrap, "options", options)


@dataclass(frozen=True)
class Attack:
    """A program and the piece without which it succeeds. ``root_only``: the piece holds only what root could do."""

    name: str
    weakness: Weakness
    root_only: bool = False
    reasons: tuple[str, ...] = field(default=("exited",))


ATTACK_TABLE = (
    Attack("fork_bomb", larger_limits, reasons=("exited", "processes")),
    Attack("thread_bomb", larger_limits, reasons=("exited", "processes")),
    Attack("memory_hog", larger_limits, reasons=("exited", "memory")),
    Attack("memory_family", larger_limits, reasons=("exited", "memory")),
    Attack("memory_unowned", larger_limits, reasons=("exited", "memory")),
    Attack("disk_fill", larger_limits, reasons=("exited", "disk")),
    Attack("disk_unlinked", larger_limits, reasons=("exited", "disk")),
    Attack("sparse", larger_limits),
    Attack("inodes", larger_limits, reasons=("exited", "disk")),
    Attack("links", shown_files),
    Attack("devices", stays_root, root_only=True),
    Attack("other_tenants", shown_files),
    Attack("server_environment", given_environment),
    Attack("networks", shared_network),
    Attack("abstract_sockets", shared_network),
    Attack("families", no_filter),
    Attack("other_processes", shared_processes),
    Attack("escapes", shown_files),
    Attack("become_root", stays_root, root_only=True),
    Attack("namespaces", no_filter),
    Attack("machine", stays_root, root_only=True),
    Attack("kernel_parts", no_filter),
    Attack("other_machine", no_filter),
    Attack("system_files", writable_root),
    Attack("output_flood", larger_limits, reasons=("output",)),
    Attack("cpu_hog", two_cores),
)


@pytest.mark.parametrize("sandbox", LEVELS, indirect=True, ids=lambda level: f"level-{level}")
@pytest.mark.parametrize("one", ATTACK_TABLE, ids=lambda one: one.name)
async def test_an_attack_is_held(sandbox: Sandbox, one: Attack, machine: Machine) -> None:
    ran = await attack(sandbox, one.name, machine)
    assert b"SUCCEEDED" not in ran.output, ran.output[-2000:]
    assert ran.ended.reason in one.reasons, ran.errors
    assert len(ran.output) + len(ran.errors) <= LIMITS.output
    # Nothing was harmed, nothing is left, nothing was carried out.
    assert machine.victim.poll() is None
    assert machine.secret.read_text() == SECRET
    assert alive("attacks/") == []
    with collect(ran.workspace.work) as collection:
        assert not any(_read(collection.open(found)).count(SECRET.encode()) for found in collection.found)
    assert ran.ended.level is _level(sandbox)


@pytest.mark.parametrize("one", [one for one in ATTACK_TABLE if ROOT or not one.root_only], ids=lambda one: one.name)
async def test_without_its_piece_the_sandbox_does_not_hold_it(
    one: Attack, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = sandbox_of(Level.B, tmp_path / "jobs")
    changes = one.weakness(monkeypatch, machine)
    if one.weakness is larger_limits and one.name == "memory_unowned":
        no_filter(monkeypatch, machine)
    ran = await attack(sandbox, one.name, machine, **changes)
    assert b"SUCCEEDED" in ran.output, (ran.output[-500:], ran.errors[-2000:], ran.ended)


@pytest.mark.parametrize("sandbox", LEVELS, indirect=True, ids=lambda level: f"level-{level}")
async def test_a_daemon_is_dead_when_the_program_has_ended(sandbox: Sandbox, machine: Machine) -> None:
    ran = await asyncio.wait_for(attack(sandbox, "daemon", machine), 20)
    assert ran.output == b"left\n", ran.errors
    assert alive(machine.token) == []


def test_without_a_sandbox_the_daemon_lives_on(machine: Machine) -> None:
    subprocess.run([PYTHON, str(ATTACKS / "daemon.py"), machine.token, "60"], check=True, stdout=subprocess.DEVNULL)
    left = alive(machine.token)
    for pid in left:
        os.kill(pid, 9)
    assert len(left) == 1


@pytest.mark.parametrize("sandbox", LEVELS, indirect=True, ids=lambda level: f"level-{level}")
@pytest.mark.parametrize("targets", ["near", "all"])
async def test_whoever_watches_cannot_be_killed_from_inside(sandbox: Sandbox, targets: str, machine: Machine) -> None:
    place = str(ATTACKS) if sandbox.name == "landlock" else "/opt/attacks"
    job = await make_job(sandbox, [PYTHON, "-I", "-B", f"{place}/parents.py", targets], limits=LIMITS)
    ran = await asyncio.wait_for(run_job(sandbox, replace(job, read_only={ATTACKS: place})), 20)
    assert ran.ended.exit_code in (0, 143), (ran.ended, ran.errors)
    assert machine.victim.poll() is None


@pytest.mark.parametrize("sandbox", LEVELS, indirect=True, ids=lambda level: f"level-{level}")
@pytest.mark.parametrize("name", ["hostile_names", "deep_folders"])
async def test_only_files_with_decent_names_are_taken(sandbox: Sandbox, name: str, machine: Machine) -> None:
    ran = await attack(sandbox, name, machine)
    with collect(ran.workspace.work) as collection:
        assert {found.name for found in collection.found} == (
            {"good.txt", "Grüße, 世界.txt", "n" * 255} if name == "hostile_names" else set()
        )
        for skipped in collection.skipped:
            assert skipped.name.isprintable()
            skipped.name.encode("utf-8")
    if name == "hostile_names":
        assert len(collection.skipped) > 10
    await sandbox.wipe(ran.workspace)
    assert not ran.workspace.folder.exists()


def _level(sandbox: Sandbox) -> Level:
    if isinstance(sandbox, Landlock):
        return Level.C
    assert isinstance(sandbox, Bubblewrap)
    return Level.B if sandbox._means is not None and sandbox._means.groups is None else Level.A


def _read(number: int) -> bytes:
    with open(number, "rb") as file:
        return file.read()


if ROOT:

    @pytest.mark.timeout(900)
    @pytest.mark.slow
    def test_the_same_attacks_are_held_for_a_plain_user() -> None:
        done = run_tests_as_plain_user("tests/security/test_sandbox_attacks.py")
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert "skipped" not in done.stdout
