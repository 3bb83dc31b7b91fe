"""The embedded server: made once, safe from strangers and from two servers, and back after a kill."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from retinue.database import EmbeddedPostgres, FolderInUse
from tests.support.waiting import holds

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[EmbeddedPostgres]:
    # Not pytest's own folder: each of its runs closes that to other accounts, and as root the server runs as another.
    with tempfile.TemporaryDirectory(prefix="retinue-embedded-", ignore_cleanup_errors=True) as folder:
        found = EmbeddedPostgres(Path(folder))
        await found.start()
        yield found
        await found.stop()


async def ask(dsn: str, sql: str) -> object:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def run(program: str, folder: Path) -> Process:
    """Start another Python process, which gets the folder."""
    return await asyncio.create_subprocess_exec(sys.executable, "-W", "ignore", "-c", program, str(folder), stdout=PIPE)


async def test_both_roles_come_in_with_their_passwords_only(server: EmbeddedPostgres) -> None:
    for role in ("retinue_app", "retinue_owner"):
        assert await ask(server.dsn(role), "SELECT current_user") == role
        right = server.dsn(role)
        password = right.split("@")[0].split(":")[-1]
        with pytest.raises(asyncpg.InvalidPasswordError):
            await ask(right.replace(password, "wrong"), "SELECT 1")


async def test_secrets_are_the_owners_alone(server: EmbeddedPostgres) -> None:
    mode = stat.S_IMODE((server.folder / "database.json").stat().st_mode)
    assert mode == 0o600


async def test_another_process_finds_the_server_and_leaves_it_running(server: EmbeddedPostgres) -> None:
    await ask(server.dsn("retinue_owner"), "CREATE TABLE kept AS SELECT 7 AS x")
    program = (
        "import asyncio, sys, asyncpg\nfrom pathlib import Path\nfrom retinue.database import EmbeddedPostgres\n"
        "async def main():\n"
        "    server = EmbeddedPostgres(Path(sys.argv[1]))\n"
        "    await server.start()\n"
        "    connection = await asyncpg.connect(server.dsn('retinue_owner'))\n"
        "    print(server.pid(), await connection.fetchval('SELECT x FROM kept'))\n"
        "    await connection.close()\n"
        "    await server.stop()\n"
        "asyncio.run(main())\n"
    )
    other = await run(program, server.folder)
    assert await other.wait() == 0
    assert other.stdout is not None
    assert (await other.stdout.read()).split() == [str(server.pid()).encode(), b"7"]
    assert server.is_running()
    assert await ask(server.dsn("retinue_owner"), "SELECT x FROM kept") == 7


@pytest.mark.fault
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGQUIT], ids=["killed", "aborted"])
async def test_a_server_that_died_comes_back_with_everything_committed(
    server: EmbeddedPostgres, kill: signal.Signals
) -> None:
    owner = server.dsn("retinue_owner")
    await ask(owner, "DROP TABLE IF EXISTS committed")
    await ask(owner, "CREATE TABLE committed AS SELECT generate_series(1, 1000) AS x")
    assert not await server.ensure_running()
    process = psutil.Process(server.pid())
    process.send_signal(kill)
    await holds(lambda: not server.is_running())
    assert await server.ensure_running()
    assert server.is_running()
    assert await ask(server.dsn("retinue_owner"), "SELECT sum(x) FROM committed") == 500500


def test_a_data_folder_belongs_to_one_server(tmp_path: Path) -> None:
    first, second = EmbeddedPostgres(tmp_path), EmbeddedPostgres(tmp_path)
    first.lock_folder()
    with pytest.raises(FolderInUse, match=f"process {os.getpid()}"):
        second.lock_folder()
    first.unlock_folder()
    second.lock_folder()
    second.unlock_folder()
    second.unlock_folder()


@pytest.mark.fault
async def test_a_claim_on_the_folder_ends_with_its_process(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom retinue.database import EmbeddedPostgres\n"
        "EmbeddedPostgres(Path(sys.argv[1])).lock_folder()\nprint('held', flush=True)\ntime.sleep(600)\n"
    )
    other = await run(program, tmp_path)
    assert other.stdout is not None
    assert await other.stdout.readline() == b"held\n"
    mine = EmbeddedPostgres(tmp_path)
    with pytest.raises(FolderInUse, match=f"process {other.pid}"):
        mine.lock_folder()
    other.kill()
    await other.wait()
    mine.lock_folder()
    mine.unlock_folder()
