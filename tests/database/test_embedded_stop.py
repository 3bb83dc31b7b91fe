"""The embedded server stops with the last process that uses it, also when another one was killed before."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from retinue.database import EmbeddedPostgres

_USER = """
import asyncio, sys
from pathlib import Path
from retinue.database import EmbeddedPostgres
async def main():
    await EmbeddedPostgres(Path(sys.argv[1])).start()
    print("started", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.fault
@pytest.mark.timeout(180)
async def test_a_killed_process_does_not_keep_the_server_running() -> None:
    # Not pytest's own folder: each of its runs closes that to other accounts, and as root the server runs as another.
    with tempfile.TemporaryDirectory(prefix="retinue-embedded-", ignore_cleanup_errors=True) as folder:
        server = EmbeddedPostgres(Path(folder))
        await server.start()
        command = (sys.executable, "-W", "ignore", "-c", _USER, folder)
        other = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
        assert other.stdout is not None
        assert await other.stdout.readline() == b"started\n"
        other.kill()
        await other.wait()
        assert server.is_running()
        await server.stop()
        assert not (server.folder / "postgres" / "postmaster.pid").exists()
