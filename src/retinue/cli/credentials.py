"""Logins kept between commands: ``~/.config/retinue/credentials.json``, readable by its owner only."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retinue.cli.failures import Failure


@dataclass(frozen=True, slots=True)
class Login:
    """One login at one server. ``expires_at`` is when the access token ends, in seconds since 1970."""

    email: str
    user_id: str
    tenant_id: str
    access_token: str
    refresh_token: str
    expires_at: float

    @classmethod
    def from_answer(cls, email: str, answer: dict[str, Any]) -> Login:
        """Read what sign-up, login and refresh answer."""
        return cls(
            email=email,
            user_id=str(answer["user_id"]),
            tenant_id=str(answer["tenant_id"]),
            access_token=str(answer["access_token"]),
            refresh_token=str(answer["refresh_token"]),
            expires_at=time.time() + float(answer["expires_in"]),
        )


def default_path() -> Path:
    """Return where logins are kept (XDG Base Directory Specification)."""
    folder = os.environ.get("XDG_CONFIG_HOME")
    return (Path(folder) if folder else Path.home() / ".config") / "retinue" / "credentials.json"


class CredentialFile:
    """The file of logins, by server. Several commands may use it at once."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_path()

    def find(self, server: str) -> Login | None:
        """Return the login at ``server``, if there is one.

        Raises:
            Failure: the file cannot be read or is damaged.
        """
        entry = self._read().get(server)
        try:
            return Login(**entry) if entry else None
        except TypeError:
            raise self._damaged() from None

    def save(self, server: str, login: Login) -> None:
        """Keep a login; the one before it at the same server is forgotten."""
        self._write({**self._read(), server: asdict(login)})

    def forget(self, server: str) -> None:
        """Drop the login at ``server``."""
        self._write({name: entry for name, entry in self._read().items() if name != server})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the file against other commands.

        A refresh token works once, and using it twice ends the login: only one command may renew at a time.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            servers = json.loads(self.path.read_text(encoding="utf-8"))["servers"]
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise Failure(f"{self.path} cannot be read: {error.strerror}.") from None
        except (ValueError, KeyError, TypeError):
            raise self._damaged() from None
        if not isinstance(servers, dict):
            raise self._damaged()
        return servers

    def _damaged(self) -> Failure:
        return Failure(f"{self.path} is damaged. Delete it and run: retinue login")

    def _write(self, servers: dict[str, dict[str, Any]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = self.path.with_suffix(f".{os.getpid()}.new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"servers": servers}, file, indent=2)
        fresh.replace(self.path)
