"""Which files the demo reads: a folder's text files, as many as are good to watch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from retinue.cli.bench import checkout
from retinue.cli.failures import ExitCode, Failure

MOST_FILES = 50
MOST_BYTES = 5 << 20
_HEAD = 65_536

_SUFFIXES = frozenset(
    {".adoc", ".c", ".cfg", ".conf", ".cpp", ".css", ".csv", ".go", ".h", ".html", ".ini", ".java", ".js", ".json"}
    | {".log", ".md", ".org", ".py", ".rs", ".rst", ".sh", ".sql", ".tex", ".toml", ".ts", ".txt", ".xml", ".yaml"}
)
_PASSED_OVER = frozenset({"node_modules", "__pycache__", "venv", "dist", "build"})


@dataclass(frozen=True, slots=True)
class DemoFile:
    """A file and the name it gets in the workspace."""

    path: Path
    name: str
    size: int


def chosen(folder: Path | None) -> tuple[str, list[DemoFile]]:
    """Return what the files are, for a person, and the files.

    Args:
        folder: where to look; None for the project's own documents, or, outside a checkout, for a few that come with
            the program.

    Raises:
        Failure: there is no text file.
    """
    if folder is not None:
        return str(folder), _bounded(folder, _below(folder))
    root = checkout()
    if root is not None and (root / "docs").is_dir():
        documents = [*sorted(root.glob("*.md")), *_below(root / "docs")]
        return "this project's own documents", _bounded(root, documents)
    shipped = Path(__file__).parent / "demo_texts"
    return "a few texts that come with the program", _bounded(shipped, _below(shipped))


def _below(folder: Path) -> Iterator[Path]:
    """Yield text files of a folder, those near its top first. Links are not followed."""
    if not folder.is_dir():
        raise Failure(f"{folder} is not a folder.", ExitCode.USAGE)
    folders = [folder]
    while folders:
        entries = sorted(folders.pop(0).iterdir())
        for entry in entries:
            if entry.name.startswith(".") or entry.is_symlink():
                continue
            if entry.is_file() and entry.suffix.lower() in _SUFFIXES:
                yield entry
            elif entry.is_dir() and entry.name not in _PASSED_OVER:
                folders.append(entry)


def _bounded(root: Path, paths: Iterator[Path] | list[Path]) -> list[DemoFile]:
    files: list[DemoFile] = []
    left = MOST_BYTES
    for path in paths:
        size = path.stat().st_size
        if 0 < size <= left and _is_text(path):
            files.append(DemoFile(path, path.relative_to(root).as_posix(), size))
            left -= size
        if len(files) == MOST_FILES:
            break
    if not files:
        raise Failure(f"There is no text file in {root}.", ExitCode.USAGE)
    return files


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return len(head) == _HEAD and error.start > _HEAD - 4  # a character that the end of the head cuts in two
    return b"\0" not in head
