"""Installing agents: pinned, atomic, repaired, without their scripts. Small packages stand in for the large ones."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from retinue.kernel import Settings
from retinue.operations import fetching, installing
from retinue.operations.drivers import Drivers
from retinue.operations.drivers.qwen import QwenDriver
from retinue.operations.fetching import InstallFailed, fetch_node, fetch_package
from retinue.operations.installing import AGENTS, GEMINI, NODE, QWEN, Part, drivers_folder, install, missing, place
from tests.support.installed_agents import DRIVERS
from tests.support.running import RETINUE

TINY = Part("tiny", "tiny-agent", "node_modules/tiny-agent/index.js")


class Registry:
    """An npm registry with one package, on this machine.

    Attributes:
        folder: what it serves.
        asked: the paths that were asked for.
    """

    def __init__(self, folder: Path, node: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        handler = partial(_Handler, self, directory=str(folder))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self._publish(node)

    def _publish(self, node: Path) -> None:
        """Pack a package whose script, if it were run, would leave a mark."""
        source = self.folder / "source"
        source.mkdir()
        mark = "require('node:fs').writeFileSync('SCRIPT_RAN', '')"
        (source / "index.js").write_text("console.log('tiny')\n")
        (source / "package.json").write_text(
            json.dumps({"name": "tiny-agent", "version": "1.0.0", "scripts": {"postinstall": f'node -e "{mark}"'}})
        )
        npm = [str(node / "bin/node"), str(node / "lib/node_modules/npm/bin/npm-cli.js")]
        packed = subprocess.run(
            [*npm, "pack", "--json", "--ignore-scripts"], cwd=source, check=True, capture_output=True, text=True
        )
        told = json.loads(packed.stdout)
        [found] = told if isinstance(told, list) else told.values()
        self.integrity = found["integrity"]
        shutil.move(source / found["filename"], self.folder / "tiny-agent.tgz")
        shutil.rmtree(source)
        dist = {"tarball": f"{self.url}/tiny-agent.tgz", "integrity": self.integrity}
        version = {"name": "tiny-agent", "version": "1.0.0", "hasInstallScript": True, "dist": dist}
        (self.folder / "tiny-agent").write_text(
            json.dumps({"name": "tiny-agent", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}})
        )

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, registry: Registry, *given: object, directory: str) -> None:
        self._registry = registry
        super().__init__(*given, directory=directory)  # type: ignore[arg-type]  # as the server hands them over

    def do_GET(self) -> None:
        self._registry.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def registry(tmp_path: Path, installed: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    (tmp_path / "registry").mkdir()
    found = Registry(tmp_path / "registry", place(installed, NODE))
    monkeypatch.setenv("npm_config_registry", found.url)
    monkeypatch.setenv("npm_config_ignore_scripts", "false")
    monkeypatch.setenv("npm_config_fetch_retry_mintimeout", "10")
    yield found
    found.close()


@pytest.fixture
def tiny(tmp_path: Path, installed: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a server where an agent called ``tiny`` can be installed, and Node is there."""
    pins = tmp_path / "pins" / "tiny"
    pins.mkdir(parents=True)
    own = {"name": "pinned", "version": "1.0.0", "dependencies": {"tiny-agent": "1.0.0"}}
    entry = {"version": "1.0.0", "integrity": registry.integrity, "hasInstallScript": True}
    (pins / "package.json").write_text(json.dumps(own))
    (pins / "package-lock.json").write_text(
        json.dumps(own | {"lockfileVersion": 3, "packages": {"": own, "node_modules/tiny-agent": entry}})
    )
    shutil.copytree(NODE.pins, tmp_path / "pins" / "node")
    monkeypatch.setattr(installing, "_PINS", tmp_path / "pins")
    monkeypatch.setitem(installing.AGENTS, "tiny", TINY)
    settings = Settings(data=tmp_path / "data")
    drivers_folder(settings).mkdir(parents=True)
    (drivers_folder(settings) / f"node-{NODE.version}").symlink_to(place(installed, NODE))
    return settings


def test_an_agent_is_installed_whole_and_none_of_its_scripts_is_run(tiny: Settings) -> None:
    said: list[str] = []
    node, agent = install(tiny, ["tiny"], said.append)

    assert (node.fresh, agent.fresh, agent.repaired) == (False, True, False)
    assert (agent.folder / TINY.entry).read_text() == "console.log('tiny')\n"
    assert (
        agent.size
        == sum(path.stat().st_size for path in agent.folder.rglob("*") if path.is_file())
        - (agent.folder / "installed.json").stat().st_size
    )
    assert not list(tiny.data.rglob("SCRIPT_RAN"))
    assert [path.name for path in drivers_folder(tiny).iterdir() if path.name.startswith(".partial")] == []
    assert any("tiny 1.0.0: fetching it" in line for line in said)
    assert any("tiny 1.0.0" in line and "MB in" in line for line in said)


def test_the_script_would_be_run_if_it_were_let(tiny: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault for the test above: npm without our word against scripts."""
    run = fetching._run

    def careless(command: list[str], *given: object, **named: object) -> None:
        run([part for part in command if part != "--ignore-scripts"], *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(fetching, "_run", careless)
    install(tiny, ["tiny"])
    assert list(tiny.data.rglob("SCRIPT_RAN"))


def test_a_second_time_nothing_is_fetched(tiny: Settings, registry: Registry) -> None:
    install(tiny, ["tiny"])
    registry.asked.clear()

    again = install(tiny, ["tiny", "tiny"])

    assert [one.fresh for one in again] == [False, False]
    assert registry.asked == []


@pytest.mark.parametrize("damage", ["gone", "short", "unfinished", "older pin"])
def test_what_is_broken_is_made_anew(damage: str, tiny: Settings) -> None:
    folder = install(tiny, ["tiny"])[1].folder
    match damage:
        case "gone":
            (folder / TINY.entry).unlink()
        case "short":
            os.truncate(folder / TINY.entry, 3)
        case "unfinished":
            (folder / "installed.json").unlink()
        case _:
            done = json.loads((folder / "installed.json").read_text())
            (folder / "installed.json").write_text(json.dumps(done | {"fingerprint": "another"}))
    (drivers_folder(tiny) / ".partial-of-a-crash").mkdir()

    repaired = install(tiny, ["tiny"])[1]

    assert repaired.fresh
    assert repaired.repaired
    assert (folder / TINY.entry).read_text() == "console.log('tiny')\n"
    assert not (drivers_folder(tiny) / ".partial-of-a-crash").exists()


def test_a_package_that_is_not_the_pinned_one_is_refused(tiny: Settings, registry: Registry) -> None:
    with (registry.folder / "tiny-agent.tgz").open("ab") as tarball:
        tarball.write(b"\0" * 512)

    with pytest.raises(InstallFailed, match="not what is pinned") as failed:
        install(tiny, ["tiny"])

    assert "EINTEGRITY" in failed.value.output
    assert not place(tiny, TINY).exists()


def test_without_a_network_it_says_so_and_leaves_nothing(
    tiny: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")

    with pytest.raises(InstallFailed, match=r"tiny could not be fetched\. A package index must be reachable"):
        install(tiny, ["tiny"])

    assert sorted(path.name for path in drivers_folder(tiny).iterdir()) == [".lock", f"node-{NODE.version}"]


def test_node_of_another_hash_is_refused(tmp_path: Path) -> None:
    pins = tmp_path / "requirements.txt"
    pins.write_text(f"{NODE.package}=={NODE.version} --hash=sha256:{'0' * 64}\n")
    (tmp_path / "target").mkdir()

    with pytest.raises(InstallFailed, match="Node was refused"):
        fetch_node(pins, tmp_path / "target")

    assert list((tmp_path / "target").iterdir()) == []


def test_two_at_once_install_once(tiny: Settings, registry: Registry) -> None:
    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(lambda _: install(tiny, ["tiny"])[1].fresh, range(2)))

    assert sorted(both) == [False, True]
    assert registry.asked.count("/tiny-agent.tgz") == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InstallFailed, match="cannot be written"):
        install(Settings(data=tmp_path, drivers=tmp_path / "file" / "drivers"), ["qwen"])


def test_an_agent_that_is_not_installed_says_what_to_do(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    complaint = QwenDriver().complaint(settings)
    assert complaint == missing(settings, NODE, QWEN)
    assert complaint is not None
    assert "retinue operations install qwen" in complaint
    assert f"qwen {QWEN.version}" in complaint


def test_everything_is_pinned(installed: Settings) -> None:
    """What is installed is what the pins say, and every pin has a hash."""
    assert set(AGENTS) <= set(Drivers(entries=[]).names())
    for part in (QWEN, GEMINI):
        lock = json.loads((part.pins / "package-lock.json").read_text())["packages"]
        assert all("integrity" in entry and not entry.get("optional") for name, entry in lock.items() if name)
        package = json.loads((place(installed, part) / "node_modules" / part.package / "package.json").read_text())
        assert package["version"] == part.version
    hashes = [line for line in (NODE.pins / "requirements.txt").read_text().splitlines() if "--hash=sha256:" in line]
    assert len(hashes) >= 4, "a wheel for each kind of machine"
    said = subprocess.run(
        [place(installed, NODE) / NODE.entry, "--version"], check=True, capture_output=True, text=True
    )
    assert said.stdout.strip() == f"v{NODE.version}"


def test_everybody_can_read_what_is_installed(installed: Settings) -> None:
    """The program in the sandbox has a user id of its own."""
    for part in (NODE, QWEN, GEMINI):
        for path in place(installed, part).rglob("*"):
            wanted = 0o5 if path.is_dir() else 0o4
            assert path.is_symlink() or path.stat().st_mode & wanted == wanted, path
    [ripgrep] = place(installed, QWEN).glob("node_modules/@qwen-code/qwen-code/vendor/ripgrep/x64-linux/rg")
    assert os.access(ripgrep, os.X_OK)


def test_the_command_says_what_it_did(installed: Settings, tmp_path: Path) -> None:
    command = [str(RETINUE), "operations", "install", "qwen", "gemini", "--drivers", str(DRIVERS)]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "RETINUE_DATA": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Nothing to do: node")
    wrong = subprocess.run([*command, "claude"], env=environment, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "There is no claude" in wrong.stderr


def test_pip_that_python_carries_is_used_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """uv makes environments without pip."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else found(name))
    command = fetching._pip()
    assert command is not None
    assert command[0] == sys.executable
    assert subprocess.run([*command, "--version"], check=True, capture_output=True, text=True).stdout.startswith("pip")


def test_a_package_for_another_folder_is_fetched_alone(installed: Settings, tiny: Settings, tmp_path: Path) -> None:
    """What the tests' own model server comes by."""
    target = tmp_path / "elsewhere"
    target.mkdir()
    fetch_package(TINY.pins, target, node=place(installed, NODE))
    assert (target / TINY.entry).is_file()
    assert not list(target.glob(".npm-*"))
