"""Checks, without the network, that the locks still fit pyproject.toml.

A lock fits when every requirement of pyproject.toml is in it with a version that satisfies the requirement,
every entry carries hashes, nothing in it names an index (so that any mirror can serve it), and the development
lock repeats every version of the server's lock.
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent

Versions = Mapping[str, frozenset[str]]
"""Package name -> its locked versions: more than one where they differ by platform or Python version."""

_ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[[^]]*])?==(?P<version>[^\s;]+)")


def locked_versions(lock: str) -> Versions:
    """Read the names and versions of a lock file's text."""
    found: dict[str, set[str]] = {}
    for line in lock.splitlines():
        if entry := _ENTRY.match(line):
            found.setdefault(canonicalize_name(entry["name"]), set()).add(entry["version"])
    return {name: frozenset(versions) for name, versions in found.items()}


def unsatisfied(requirements: Iterable[str], locked: Versions) -> list[str]:
    """Say which requirements no locked version satisfies."""
    problems = []
    for text in requirements:
        requirement = Requirement(text)
        versions = locked.get(canonicalize_name(requirement.name), frozenset())
        if not any(requirement.specifier.contains(version, prereleases=True) for version in versions):
            held = ", ".join(sorted(versions)) or "nothing"
            problems.append(f"{text} is required, {held} is locked")
    return problems


def unpinned(lock: str) -> list[str]:
    """Say which entries lack a hash and which lines name an index or an address."""
    problems = []
    entries = re.split(r"^(?=\S)", lock, flags=re.MULTILINE)
    for entry in entries:
        first = entry.partition("\n")[0]
        if entry.startswith("#") or not entry.strip():
            continue
        if "://" in entry or first.startswith("-"):
            problems.append(f"names an index or an address: {first}")
        elif "--hash=sha256:" not in entry:
            problems.append(f"has no hash: {first}")
    return problems


def differing(server: Versions, development: Versions) -> list[str]:
    """Say which packages the development lock holds in other versions than the server's lock."""
    return [
        f"{name}: the server's lock has {', '.join(sorted(versions))}, the development lock does not"
        for name, versions in server.items()
        if versions != development.get(name, frozenset())
    ]


def problems(project: Mapping[str, Any], server_lock: str, development_lock: str) -> list[str]:
    """Everything that is wrong with the two locks, one line each; empty when they fit."""
    server, development = locked_versions(server_lock), locked_versions(development_lock)
    wanted: list[str] = project["project"]["dependencies"]
    groups: Mapping[str, list[str]] = project["dependency-groups"]
    grouped = [requirement for group in groups.values() for requirement in group]
    return [
        *(f"requirements.lock: {problem}" for problem in unsatisfied(wanted, server) + unpinned(server_lock)),
        *(
            f"requirements-dev.lock: {problem}"
            for problem in unsatisfied([*wanted, *grouped], development) + unpinned(development_lock)
        ),
        *differing(server, development),
    ]


def s3_problems(wanted: str, lock: str) -> list[str]:
    """Everything that is wrong with the lock of the tests' S3 service, one line each."""
    requirements = [line for line in wanted.splitlines() if line and not line.startswith("#")]
    found = unsatisfied(requirements, locked_versions(lock)) + unpinned(lock)
    return [f"tests/s3/requirements.lock: {problem}; run `scripts/setup-s3 --lock`" for problem in found]


def main() -> int:
    """Print what is wrong; exit status 1 when anything is."""
    found = problems(
        tomllib.loads((ROOT / "pyproject.toml").read_text()),
        (ROOT / "requirements.lock").read_text(),
        (ROOT / "requirements-dev.lock").read_text(),
    )
    if found:
        found.append("run `make lock` and commit both locks")
    s3 = ROOT / "tests" / "s3"
    found += s3_problems((s3 / "requirements.in").read_text(), (s3 / "requirements.lock").read_text())
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
