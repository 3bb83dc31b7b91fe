"""Brings the schema to the newest revision with Alembic, as the owner."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import asyncpg

HERE = Path(__file__).parent / "migrations"


def expected_revision() -> str:
    """Return the newest revision this version of the program knows, without importing Alembic (it is slow to load)."""
    revisions: set[str] = set()
    earlier: set[str] = set()
    for file in (HERE / "versions").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        revisions.update(re.findall(r'^revision(?:: str)? = "([^"]+)"', text, re.M))
        earlier.update(re.findall(r'^down_revision(?:: str \| None)? = "([^"]+)"', text, re.M))
    (newest,) = revisions - earlier
    return newest


async def current_revision(dsn: str) -> str | None:
    """Return the revision the database is at, or None for an empty one."""
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        if await connection.fetchval("SELECT to_regclass('public.alembic_version')") is None:
            return None
        found: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
        return found
    finally:
        await connection.close()


async def migrate(owner_dsn: str, revision: str = "head") -> None:
    """Bring the database to ``revision``. Does nothing, quickly, when it is there already.

    Two processes that migrate at once take turns (an advisory lock held by ``env.py``).
    """
    if revision == "head" and await current_revision(owner_dsn) == expected_revision():
        return
    await asyncio.to_thread(_run_alembic, owner_dsn, revision)


def _run_alembic(owner_dsn: str, revision: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(HERE))
    config.attributes["dsn"] = owner_dsn
    command.upgrade(config, revision)
