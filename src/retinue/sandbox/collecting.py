"""Finds what a job left in its workspace, and trusts nothing of it. Call this when every process of the job is dead.

The walk goes by descriptors of folders and never follows a link: a name leads to what was looked at, or nowhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_CHUNK = 1 << 20
_MOST_SKIPPED = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Taking:
    """What may be collected.

    Attributes:
        files: how many files.
        file_bytes: apparent size of one file.
        total_bytes: of all files together; by apparent size, and by what they take on disk.
        name_bytes: length of a path within the workspace, in UTF-8.
        depth: folders within folders.
        entries: files and folders that are looked at, before looking is given up.
        hidden: whether names that begin with a dot are collected; programs keep their own files under such names.
    """

    files: int = 50
    file_bytes: int = 100 << 20
    total_bytes: int = 1 << 30
    name_bytes: int = 255
    depth: int = 32
    entries: int = 100_000
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A file to be taken.

    Attributes:
        name: its path within the workspace, with ``/``.
        size: bytes.
        sha256: of its content, in hexadecimal.
        identity: device and inode, by which :meth:`Collection.open` knows it again.
    """

    name: str
    size: int
    sha256: str
    identity: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that is not taken. ``name`` is fit to be shown: what could not be is escaped; it may be cut short."""

    name: str
    reason: str


@dataclass(slots=True)
class Collection:
    """What was found; holds on to the workspace until it is closed."""

    found: list[Found]
    skipped: list[Skipped]
    _folder: int

    def open(self, found: Found) -> int:
        """Return a descriptor of a found file, for reading. It stays valid when the name is gone.

        Raises FileNotFoundError if what has the name now is not what was found.
        """
        *folders, name = found.name.split("/")
        with contextlib.ExitStack() as opened:
            at = self._folder
            for folder in folders:
                at = os.open(folder, _FOLDER, dir_fd=at)
                opened.callback(os.close, at)
            number = os.open(name, _FILE, dir_fd=at)
        state = os.fstat(number)
        if (
            not stat.S_ISREG(state.st_mode)
            or (state.st_dev, state.st_ino) != found.identity
            or state.st_size != found.size
        ):
            os.close(number)
            raise FileNotFoundError(f"{found.name} is not the file that was found")
        return number

    def close(self) -> None:
        """Let go of the workspace."""
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def __enter__(self) -> Collection:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def collect(workspace: Path, *, unchanged: Mapping[str, str] | None = None, taking: Taking | None = None) -> Collection:
    """Return the files of a workspace that may be taken, in the order of their names, and what is left and why.

    It reads every file that it takes, so call it in a thread.

    Args:
        workspace: the folder; the server's own.
        unchanged: input files -> SHA-256 in hexadecimal; one that still has this content is left out without a word.
        taking: what may be taken.
    """
    folder = os.open(workspace, _FOLDER)
    try:
        walk = _Walk(taking or Taking(), dict(unchanged or {}))
        walk.look(folder)
        found = walk.take(folder)
    except BaseException:
        os.close(folder)
        raise
    return Collection(found, walk.skipped, folder)


@dataclass(frozen=True, slots=True)
class _Seen:
    name: str
    state: os.stat_result


@dataclass(slots=True)
class _Walk:
    taking: Taking
    unchanged: dict[str, str]
    skipped: list[Skipped] = field(default_factory=list)
    seen: list[_Seen] = field(default_factory=list)
    entries: int = 0

    def look(self, top: int) -> None:
        """Look at every entry, with one open folder at a time besides those that lead to it."""
        waiting: list[tuple[str, ...]] = [()]
        while waiting:
            path = waiting.pop()
            with _folder(top, path) as at:
                if at is None:
                    self._skip("/".join(path), "it could not be opened")
                    continue
                for name in _names(at):
                    self.entries += 1
                    if self.entries > self.taking.entries:
                        self._skip("", f"there are more than {self.taking.entries} files and folders")
                        return
                    if self._consider(at, path, name):
                        waiting.append((*path, name))

    def _consider(self, at: int, path: tuple[str, ...], name: str) -> bool:
        """Look at one entry; return whether it is a folder to be walked."""
        full = "/".join((*path, name))
        complaint = _complaint(name, full, self.taking)
        if complaint is not None:
            self._skip(full, complaint)
            return False
        try:
            state = os.stat(name, dir_fd=at, follow_symlinks=False)
        except OSError as error:
            self._skip(full, f"it could not be looked at ({error.strerror})")
            return False
        if stat.S_ISDIR(state.st_mode):
            if len(path) + 1 > self.taking.depth:
                self._skip(full, f"it lies more than {self.taking.depth} folders deep")
                return False
            return True
        if not stat.S_ISREG(state.st_mode):
            self._skip(full, f"it is {_kind(state.st_mode)}")
            return False
        self.seen.append(_Seen(full, state))
        return False

    def take(self, top: int) -> list[Found]:
        """Choose among the files that were seen, in the order of their names."""
        names_of: dict[tuple[int, int], int] = {}
        for one in self.seen:
            key = (one.state.st_dev, one.state.st_ino)
            names_of[key] = names_of.get(key, 0) + 1
        found: list[Found] = []
        apparent = allocated = 0
        for one in sorted(self.seen, key=lambda seen: seen.name):
            state = one.state
            if names_of[state.st_dev, state.st_ino] != state.st_nlink:
                self._skip(one.name, "it has another name outside of the workspace")
            elif state.st_size > self.taking.file_bytes:
                self._skip(one.name, f"it has {state.st_size} bytes, {self.taking.file_bytes} are allowed")
            elif len(found) >= self.taking.files and one.name not in self.unchanged:
                self._skip(one.name, f"there are more than {self.taking.files} files")
            elif apparent + state.st_size > self.taking.total_bytes and one.name not in self.unchanged:
                # Not read: thousands of files that are nothing but a hole would keep this busy for hours.
                self._skip(one.name, f"all files together have more than {self.taking.total_bytes} bytes")
            elif (file := self._read(top, one)) is not None:
                if len(found) >= self.taking.files:
                    self._skip(one.name, f"there are more than {self.taking.files} files")
                    continue
                apparent += state.st_size
                allocated += state.st_blocks * 512
                if max(apparent, allocated) > self.taking.total_bytes:
                    self._skip(one.name, f"all files together have more than {self.taking.total_bytes} bytes")
                    apparent -= state.st_size
                    allocated -= state.st_blocks * 512
                    continue
                found.append(file)
        return found

    def _read(self, top: int, one: _Seen) -> Found | None:
        """Hash a file; None if it cannot be read, or is an input as it was."""
        file = Found(one.name, one.state.st_size, "", (one.state.st_dev, one.state.st_ino))
        try:
            number = Collection([], [], top).open(file)
        except OSError as error:
            self._skip(one.name, f"it could not be read ({error.strerror or error})")
            return None
        with open(number, "rb") as opened:
            digest = hashlib.sha256()
            while chunk := opened.read(_CHUNK):
                digest.update(chunk)
        if self.unchanged.get(one.name) == digest.hexdigest():
            return None
        return Found(file.name, file.size, digest.hexdigest(), file.identity)

    def _skip(self, name: str, reason: str) -> None:
        if len(self.skipped) == _MOST_SKIPPED:
            name, reason = "", f"more than {_MOST_SKIPPED} are not taken; the others are not listed"
        if len(self.skipped) <= _MOST_SKIPPED:
            self.skipped.append(Skipped(shown(name), reason))


@contextlib.contextmanager
def _folder(top: int, path: tuple[str, ...]) -> Iterator[int | None]:
    """Open a folder below ``top``, step by step; None if a step is not a folder any more."""
    with contextlib.ExitStack() as opened:
        at = top
        for name in path:
            try:
                at = os.open(name, _FOLDER, dir_fd=at)
            except OSError:
                yield None
                return
            opened.callback(os.close, at)
        yield at


def _names(at: int) -> Iterator[str]:
    with os.scandir(at) as entries:
        for entry in entries:
            yield entry.name


def _complaint(name: str, full: str, taking: Taking) -> str | None:
    try:
        size = len(full.encode("utf-8"))
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp", "Cs") for letter in name):
        return "its name has control characters"
    if size > taking.name_bytes:
        return f"its name has more than {taking.name_bytes} bytes"
    if "\\" in name or name != name.strip() or name.endswith("."):
        return "its name could mean something else on another system"
    if name.startswith(".") and not taking.hidden:
        return "it is hidden"
    return None


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "no regular file")


def shown(name: str) -> str:
    """Return a name as it can be shown and stored: everything odd is escaped, and it is cut at 255 letters."""
    text = "".join(
        letter
        if letter.isprintable() and not "\ud800" <= letter <= "\udfff"
        else letter.encode("unicode_escape").decode()
        for letter in name
    )
    return text if len(text) <= 255 else f"{text[:252]}..."
