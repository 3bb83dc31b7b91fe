"""Who holds the root key: a file in the data folder, or anything else that can wrap and unwrap a key."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from retinue.vault.sealing import KEY_BYTES, decrypt, encrypt, new_key

_PREAMBLE = """\
# The root key of this Retinue server. Whoever has this file and the database can read every stored secret;
# without it they are lost. Keep a copy apart from the backups of the database. The first key is the current one.
"""


class VaultLocked(Exception):
    """The vault cannot be opened, so the server must not start; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A key encrypted under a root key, and which root key that was."""

    root_id: str
    data: bytes


class KeyRing(Protocol):
    """Wraps keys under a root key that never leaves it. A key management service fits behind this."""

    @property
    def root_id(self) -> str:
        """The id of the root key that wraps from now on; it tells nothing about the key."""
        ...

    async def wrap(self, key: bytes, context: bytes, root_id: str | None = None) -> Wrapped:
        """Encrypt ``key`` under a root key, by default the current one; it unwraps only with the same ``context``.

        Raises:
            VaultLocked: this ring does not have the root key.
        """
        ...

    async def unwrap(self, wrapped: Wrapped, context: bytes) -> bytes:
        """Return the key that was wrapped.

        Raises:
            VaultLocked: this ring does not have the root key.
            SealBroken: the wrapped bytes or the context are not those of :meth:`wrap`.
        """
        ...

    async def refresh(self) -> None:
        """Learn of a rotation that another process made."""
        ...

    async def rotate(self) -> None:
        """Make a new root key the current one; the former ones still unwrap."""
        ...

    async def retire(self, root_id: str) -> None:
        """Forget every root key but this one. Only after everything was wrapped again."""
        ...


class FileKeyRing:
    """Root keys in a file with mode 0600, one base64 line each, the current one first."""

    def __init__(self, path: Path, keys: list[bytes]) -> None:
        self._path = path
        self._adopt(keys)

    @classmethod
    def open(cls, path: Path) -> FileKeyRing:
        """Read the file.

        Raises:
            VaultLocked: it is missing, readable by others, or not a key file.
        """
        return cls(path, _read(path))

    @classmethod
    def create(cls, path: Path) -> FileKeyRing:
        """Read the file, or make it with a fresh key. When two processes come here at once, one key wins."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _place(path, [new_key()], replace=False)
        return cls.open(path)

    @property
    def root_id(self) -> str:
        """The id of the current root key."""
        return self._current

    async def wrap(self, key: bytes, context: bytes, root_id: str | None = None) -> Wrapped:
        """Encrypt ``key``; see :meth:`KeyRing.wrap`."""
        chosen = root_id or self._current
        return Wrapped(chosen, encrypt(await self._root(chosen), key, context))

    async def unwrap(self, wrapped: Wrapped, context: bytes) -> bytes:
        """Decrypt under the root key that ``wrapped`` names; see :meth:`KeyRing.unwrap`."""
        return decrypt(await self._root(wrapped.root_id), wrapped.data, context)

    async def _root(self, root_id: str) -> bytes:
        if root_id not in self._keys:
            await self.refresh()  # another process may have rotated the root key since this one read the file
        root = self._keys.get(root_id)
        if root is None:
            raise VaultLocked(
                f"{self._path} is not the root key of this database: that one has the id {root_id}. "
                "Put the right file back, or use the database that belongs to this one."
            )
        return root

    async def refresh(self) -> None:
        """Read the file again."""
        self._adopt(await asyncio.to_thread(_read, self._path))

    async def rotate(self) -> None:
        """Put a fresh key first in the file, durably, and use it from now on."""
        await self.refresh()
        keys = [new_key(), *self._keys.values()]
        await asyncio.to_thread(_place, self._path, keys, replace=True)
        self._adopt(keys)

    async def retire(self, root_id: str) -> None:
        """Leave only one key in the file."""
        keys = [await self._root(root_id)]
        await asyncio.to_thread(_place, self._path, keys, replace=True)
        self._adopt(keys)

    def _adopt(self, keys: list[bytes]) -> None:
        self._keys = {_key_id(key): key for key in keys}
        self._current = next(iter(self._keys))


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"retinue root key id" + key).hexdigest()[:16]


def _read(path: Path) -> list[bytes]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            content = file.read(65_536)
    except FileNotFoundError:
        raise VaultLocked(f"The root key {path} is missing. Put it back from your copy.") from None
    except OSError as error:
        raise VaultLocked(f"The root key {path} cannot be read: {error.strerror}.") from error
    if mode & 0o077:
        raise VaultLocked(
            f"The root key {path} can be read by others (mode {mode:04o}). Run: chmod 600 {path}. "
            "If somebody may have read it, rotate it afterwards."
        )
    keys = [_decode(path, line) for line in content.splitlines() if line.strip() and not line.startswith(b"#")]
    if not keys:
        raise VaultLocked(f"The root key {path} holds no key. Put it back from your copy.")
    return keys


def _decode(path: Path, line: bytes) -> bytes:
    try:
        key = base64.b64decode(line.strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise VaultLocked(f"The root key {path} is damaged. Put it back from your copy.")
    return key


def _place(path: Path, keys: list[bytes], *, replace: bool) -> None:
    """Write the file beside its place and move it there, so that no reader ever sees half of it."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(_PREAMBLE.encode() + b"".join(base64.b64encode(key) + b"\n" for key in keys))
            file.flush()
            os.fsync(file.fileno())
        _move(fresh, path, replace=replace)
    finally:
        fresh.unlink(missing_ok=True)


def _move(fresh: Path, path: Path, *, replace: bool) -> None:
    if replace:
        fresh.replace(path)
    else:
        try:
            os.link(fresh, path)  # unlike a rename, a link never overwrites
        except FileExistsError:
            return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
