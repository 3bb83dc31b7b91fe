"""A session's own folder. Every path given by a model or a client stays inside it.

Paths are never resolved as text: each part is opened under the part before it, without following links
(``openat`` with ``O_NOFOLLOW``), so a link that somebody slips in between two steps leads nowhere.
All methods block; call them in a thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
import time
import unicodedata
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from msgspec import Struct

from retinue.kernel import BadInput, NotFound, Settings, StorageFull, Unavailable

MOST_FILES = 10_000
"""Files and folders one workspace may hold."""

LONGEST_PATH = 1024
"""Bytes of a path."""

DEEPEST_PATH = 32
"""Parts of a path."""

_LONGEST_NAME = 255
_LINE_BREAKERS = ("Cc", "Zl", "Zp")
_RESERVED = ".retinue-"
"""How the names of half-written files begin; they are not shown and cannot be asked for."""

_STALE_SECONDS = 3600.0
"""A half-written file this old was left by a process that died."""

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a pipe that was slipped in must not hang; for regular files it means nothing.
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Entry(Struct, frozen=True):
    """A file or a folder. ``path`` is relative to the workspace, with ``/``; ``size`` is bytes, 0 for a folder."""

    path: str
    size: int
    folder: bool
    changed_at: float


class Workspace:
    """The files of one session.

    Faults of all methods: :class:`BadInput` for a path that is not one of a plain file (or folder) inside the
    workspace, :class:`NotFound`, :class:`StorageFull` when the quota or the disk is full.
    """

    def __init__(self, root: Path, quota: int) -> None:
        self.root = root
        self._quota = quota

    @classmethod
    def of_session(cls, settings: Settings, tenant_id: UUID, session_id: UUID) -> Workspace:
        """Return the workspace of a session, making its folder when it is new."""
        root = settings.data / "workspaces" / str(tenant_id) / str(session_id)
        with _faults(""):
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(root, settings.workspace_quota)

    def entries(self, path: str = "", *, recursive: bool = False) -> Generator[Entry]:
        """Yield what is in a folder, sorted, folders before what is in them. Links and devices are left out."""
        parts = split_path(path) if path else []
        with _faults(path), self._folder(parts) as folder:
            for inner, folders, files, descriptor in os.fwalk(".", dir_fd=folder, follow_symlinks=False):
                folders.sort()
                base = [*parts, *(part for part in inner.split("/") if part != ".")]
                yield from _entries_of(base, sorted([*folders, *files]), descriptor)
                if not recursive:
                    return

    def open(self, path: str) -> BinaryIO:
        """Open a regular file for reading."""
        *folders, name = _file_path(path)
        with _faults(path), self._folder(folders) as folder:
            _regular(os.stat(name, dir_fd=folder, follow_symlinks=False), path)
            descriptor = os.open(name, _READ_FLAGS, dir_fd=folder)
            try:
                # Again, on what was really opened: the name could have been given to something else in between.
                _regular(os.fstat(descriptor), path)
                return os.fdopen(descriptor, "rb")
            except BaseException:
                os.close(descriptor)
                raise

    def write(self, path: str, content: bytes) -> None:
        """Write a whole file: after a crash it has the old content or the new, never a part."""
        with self.receiving(path) as draft:
            draft.file.write(content)
            draft.keep()

    @contextmanager
    def receiving(self, path: str) -> Iterator[Draft]:
        """Take in a file bit by bit. It appears under ``path`` when its draft is kept, and not at all otherwise."""
        parts = _file_path(path)
        name = f"{_RESERVED}{secrets.token_hex(8)}"
        with _faults(path), self._folder([]) as root:
            descriptor = os.open(name, _CREATE_FLAGS, 0o600, dir_fd=root)
            with os.fdopen(descriptor, "wb", buffering=1 << 20) as file:
                try:
                    yield Draft(self, parts, name, file)
                finally:
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=root)

    def used(self) -> int:
        """Return the bytes of all files, half-written ones too.

        Raises:
            StorageFull: there are more than :data:`MOST_FILES` files and folders.
        """
        total = count = 0
        with _faults(""), self._folder([]) as root:
            for _, folders, files, descriptor in os.fwalk(".", dir_fd=root, follow_symlinks=False):
                count += len(folders) + len(files)
                if count > MOST_FILES:
                    raise StorageFull(f"The workspace has more than {MOST_FILES:,} files.")
                for name in files:
                    with suppress(FileNotFoundError):
                        total += self._weigh(name, descriptor)
        return total

    def remove(self) -> None:
        """Delete the workspace with everything in it; one that is gone already is fine."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.root)

    def _weigh(self, name: str, folder: int) -> int:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if name.startswith(_RESERVED) and time.time() - found.st_mtime > _STALE_SECONDS:
            os.unlink(name, dir_fd=folder)
            return 0
        return found.st_size if stat.S_ISREG(found.st_mode) else 0

    @contextmanager
    def _folder(self, parts: list[str], *, create: bool = False) -> Iterator[int]:
        """Open a folder part by part and yield its descriptor."""
        descriptor = os.open(self.root, _FOLDER_FLAGS)
        try:
            for part in parts:
                if create:
                    _make_folder(part, descriptor)
                inner = os.open(part, _FOLDER_FLAGS, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)

    def _adopt(self, temporary: str, parts: list[str]) -> None:
        """Give a finished temporary file its name, if the quota allows."""
        path = "/".join(parts)
        with _faults(path), self._folder([]) as root:
            # One at a time in a workspace, across threads and processes, or two could pass the quota together.
            fcntl.flock(root, fcntl.LOCK_EX)
            if self.used() - self._size_of_existing(parts) > self._quota:
                raise StorageFull(f"The files of this session may take {self._quota:,} bytes; this is too much.")
            with self._folder(parts[:-1], create=True) as folder:
                os.replace(temporary, parts[-1], src_dir_fd=root, dst_dir_fd=folder)
                os.fsync(folder)

    def _size_of_existing(self, parts: list[str]) -> int:
        try:
            with self._folder(parts[:-1]) as folder:
                found = os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return 0
        _regular(found, "/".join(parts))
        return found.st_size


class Draft:
    """A file that is being taken in; ``file`` collects its bytes."""

    def __init__(self, workspace: Workspace, parts: list[str], temporary: str, file: BinaryIO) -> None:
        self.file = file
        self._workspace = workspace
        self._parts = parts
        self._temporary = temporary

    def keep(self) -> None:
        """Make the file appear under its name, durably; it replaces the one that had the name before."""
        with _faults("/".join(self._parts)):
            self.file.flush()
            os.fsync(self.file.fileno())
        self._workspace._adopt(self._temporary, self._parts)


def split_path(path: str) -> list[str]:
    """Take a relative path apart; ``.`` and empty parts are dropped.

    Raises:
        BadInput: it is absolute, goes up, or holds what no name may hold.
    """
    if path.startswith("/"):
        raise BadInput("Paths are relative to the session's folder and do not begin with '/'.", field="path")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise BadInput("The path is not valid Unicode.", field="path") from None
    if size > LONGEST_PATH or len(parts) > DEEPEST_PATH:
        raise BadInput(
            f"A path has at most {LONGEST_PATH} bytes and {DEEPEST_PATH} parts; this one is too long.", field="path"
        )
    for part in parts:
        _check_name(part)
    return parts


def _check_name(name: str) -> None:
    if name == "..":
        raise BadInput("A path cannot go up with '..'.", field="path")
    if len(name.encode()) > _LONGEST_NAME:
        raise BadInput(f"The name of a file has at most {_LONGEST_NAME} bytes; this one is too long.", field="path")
    if any(unicodedata.category(character) in _LINE_BREAKERS for character in name):
        raise BadInput("The name of a file cannot hold control characters.", field="path")
    if name.casefold().startswith(_RESERVED):
        raise BadInput(f"Names that begin with '{_RESERVED}' are the server's own.", field="path")


def _file_path(path: str) -> list[str]:
    parts = split_path(path)
    if not parts or path.endswith("/"):
        raise BadInput("The path names a folder, not a file.", field="path")
    return parts


def _make_folder(name: str, parent: int) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return
    os.fsync(parent)


def _entries_of(base: list[str], names: list[str], folder: int) -> Iterator[Entry]:
    for name in names:
        if name.casefold().startswith(_RESERVED):
            continue
        try:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue
        is_folder = stat.S_ISDIR(found.st_mode)
        if is_folder or stat.S_ISREG(found.st_mode):
            size = 0 if is_folder else found.st_size
            yield Entry("/".join([*base, name]), size, is_folder, found.st_mtime)


def _regular(found: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise BadInput(f"'{path}' is a folder, not a file.", field="path")
    if stat.S_ISLNK(found.st_mode):
        raise BadInput(f"'{path}' is a link; links are not followed.", field="path")
    if not stat.S_ISREG(found.st_mode):
        raise BadInput(f"'{path}' is not a plain file.", field="path")


@contextmanager
def _faults(path: str) -> Iterator[None]:
    """Turn what the system says about a path into a fault that a person or a model can use."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise NotFound(f"file or folder '{path}'" if path else "workspace") from None
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageFull("There is no space left for files.") from None
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.EACCES, errno.EPERM):
            raise BadInput(f"'{path}' does not lead to a file or folder here.", field="path") from None
        raise Unavailable(f"The files cannot be used right now ({os.strerror(error.errno or 0)}).") from error
