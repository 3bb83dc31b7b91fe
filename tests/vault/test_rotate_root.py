"""`retinue vault rotate-root` as a process: beside a server that runs, killed at any moment, and where it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from retinue.cli.failures import ExitCode
from retinue.database import Database
from retinue.kernel import Services, Settings
from retinue.vault import FileKeyRing, Vault, open_secret, seal
from tests.support.command_line import CommandLine
from tests.support.databases import Cluster
from tests.support.running import RETINUE
from tests.support.scopes import ledger_services, scope_of

TENANTS = 300


class Place:
    """A server's database and data folder, with a secret of many tenants, and the command beside it."""

    def __init__(self, database: Database, dsn: str, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self.file = folder / "root.key"
        self.environment = {**os.environ, "DATABASE_URL": dsn, "RETINUE_DATA": str(folder)}
        self.tenants: list[UUID] = []
        self.running: Services  # what a server that was started before the rotation knows

    async def fill(self, tenants: int) -> None:
        self.running = await self.services()
        self.tenants = [uuid4() for _ in range(tenants)]
        for tenant in self.tenants:
            async with scope_of(self.running, tenant) as scope:
                await seal(scope, "test", "token", tenant.bytes)

    async def services(self) -> Services:
        found = ledger_services(self.database)
        found.add(Vault, await Vault.open(Settings(data=self.folder), self.database))
        return found

    async def everything_opens(self) -> bool:
        """Whether a server that runs and one that starts now both open every secret, and know the server's key."""
        fresh = await self.services()
        assert fresh.get(Vault).derive("tokens") == self.running.get(Vault).derive("tokens")
        for services in (fresh, self.running):
            for tenant in self.tenants:
                async with scope_of(services, tenant) as scope:
                    if await open_secret(scope, "test", "token") != tenant.bytes:
                        return False
        return True

    def keys(self) -> list[str]:
        """The keys in the file, the current one first."""
        return [line for line in self.file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        command = [str(RETINUE), "vault", "rotate-root", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=self.environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.begin(*arguments)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err


@pytest.fixture
async def place(postgres: Cluster, tmp_path: Path) -> AsyncIterator[Place]:
    name = await postgres.clone()
    database = Database(postgres.dsn(name), size=4)
    await database.open()
    yield Place(database, postgres.dsn(name), tmp_path)
    await database.close()
    await postgres.drop(name)


async def test_a_rotation_replaces_the_key_and_everything_opens(place: Place) -> None:
    await place.fill(3)
    (former,) = place.keys()
    code, out, err = place.run("--yes", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["tenants"] == 3
    (current,) = place.keys()
    assert current != former
    assert place.file.stat().st_mode & 0o777 == 0o600
    assert await place.everything_opens()


@pytest.mark.fault
async def test_a_rotation_killed_in_the_middle_loses_nothing_and_is_finished_later(place: Place) -> None:
    await place.fill(TENANTS)
    (former,) = place.keys()
    process = place.begin("--yes")
    deadline = time.monotonic() + 60
    while len(place.keys()) == 1 and place.keys() == [former]:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
    process.kill()
    process.communicate()
    assert len(place.keys()) == 2, "it had ended before it was killed"
    assert await place.everything_opens()
    code, _, err = place.run("--yes")
    assert (code, err) == (0, "")
    (current,) = place.keys()
    assert current != former
    assert await place.everything_opens()


async def test_it_says_what_it_does_and_wants_a_yes(place: Place) -> None:
    await place.fill(1)
    before = place.file.read_bytes()
    code, out, err = place.run()
    assert (code, out) == (ExitCode.USAGE, "")
    assert "former key is forgotten" in err
    assert "--yes" in err
    assert place.file.read_bytes() == before


async def test_it_refuses_while_a_copy_of_the_file_may_be_in_use_elsewhere(place: Place) -> None:
    await place.fill(1)
    before = place.file.read_bytes()
    async with place.database.routing() as queries:
        await queries.execute(
            "INSERT INTO dispatch.workers (worker_id, machine, pid, pid_started, works) "
            "VALUES ($1, 'far-away boot pid', 1, 0, true)",
            uuid4(),
        )
    code, _, err = place.run("--yes")
    assert code == ExitCode.FAILED
    assert "other machines: far-away." in err
    assert place.file.read_bytes() == before
    assert place.run("--yes", "--elsewhere")[0] == 0
    assert await place.everything_opens()


async def test_it_refuses_where_there_is_no_key_or_the_wrong_one(place: Place) -> None:
    code, _, err = place.run("--yes")
    assert code == ExitCode.FAILED
    assert "first start makes it" in err
    assert not place.file.exists()
    await place.fill(1)
    right = place.file.read_bytes()
    place.file.unlink()
    FileKeyRing.create(place.file)
    code, _, err = place.run("--yes")
    assert code == ExitCode.FAILED
    assert "not the root key of this database" in err
    place.file.write_bytes(right)
    assert await place.everything_opens()


async def test_it_refuses_to_make_a_file_that_the_server_could_not_read(
    place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    await place.fill(1)
    before = place.file.read_bytes()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    ended = CommandLine(monkeypatch, capfd)("vault", "rotate-root", "--yes", "--data", str(place.folder))
    assert ended.code == ExitCode.REFUSED
    assert "server's account" in ended.err
    assert place.file.read_bytes() == before
