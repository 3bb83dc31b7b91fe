"""Checks that generated files in the repository are what their generators print today.

`python -m scripts.check_generated` names the stale ones; `--write` (or `make generate`) rewrites them. A new
generated file is one line in GENERATED; its command prints the file's content on standard output.
"""

import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Generated:
    """A file of the repository and the Python module that prints its content."""

    path: str
    module: str
    arguments: tuple[str, ...] = ()


GENERATED: tuple[Generated, ...] = (
    Generated("docs/permissions.md", "scripts.permissions_page"),
    Generated("docs/configuration.md", "scripts.settings_page"),
    Generated("docs/routes.md", "scripts.routes_page"),
    Generated("docs/workflow.schema.json", "scripts.workflow_schema"),
    Generated("README.md", "scripts.measured", ("README.md",)),
)


def printed(generated: Generated) -> bytes:
    """Run the generator and return what it printed.

    Raises:
        subprocess.CalledProcessError: the generator failed; its own words are already on standard error.
    """
    command = [sys.executable, "-m", generated.module, *generated.arguments]
    return subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True).stdout


def stale(entries: Iterable[Generated], root: Path = ROOT) -> dict[Path, bytes]:
    """The files that differ from what their generators print, or are missing, with their right content."""
    fresh = {root / entry.path: printed(entry) for entry in entries}
    return {path: content for path, content in fresh.items() if not _holds(path, content)}


def _holds(path: Path, content: bytes) -> bool:
    return path.exists() and path.read_bytes() == content


def main(arguments: list[str]) -> int:
    """Name the stale files, or rewrite them with `--write`; exit status 1 when a stale file stays."""
    write = arguments == ["--write"]
    found = stale(GENERATED)
    for path, content in found.items():
        if not write:
            print(f"{path.relative_to(ROOT)} is stale: run `make generate` and commit it")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        print(f"wrote {path.relative_to(ROOT)}")
    return 1 if found and not write else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
