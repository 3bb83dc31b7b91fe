"""`retinue grants` against a started server: an application's key, what its user grants, and the end of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from retinue.cli.failures import ExitCode
from retinue_client import Application, GranteeKey, Refused
from tests.support.command_line import CommandLine, fresh_home
from tests.support.databases import Cluster
from tests.support.running import PASSWORD, RunningServer, running_server


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with running_server(postgres, worker=False) as found:
        yield found


@pytest.fixture
def retinue(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> CommandLine:
    """The command line of somebody who has just signed up."""
    fresh_home(tmp_path / "home", monkeypatch)
    monkeypatch.setenv("RETINUE_SERVER", server.base_url)
    line = CommandLine(monkeypatch, capfd)
    email = f"ann-{uuid4().hex[:8]}@example.com"
    line.ok("sign-up", "--email", email, "--password-stdin", stdin=f"{PASSWORD}\n")
    return line


async def test_from_a_key_to_its_end(retinue: CommandLine, server: RunningServer, tmp_path: Path) -> None:
    key, public = tmp_path / "app.key", tmp_path / "app.public.json"
    made = retinue.json("grants", "keygen", str(key), "--public", str(public))
    assert GranteeKey.load(key).keyid == made["grantee"]
    assert "signing" not in public.read_text(), "what is handed to the user holds no secret"

    wanted = ("--driver", "command", "--uses", "3", "--budget", "2.50", "--expires", "2030-01-01T00:00:00Z")
    grant = retinue.json("grants", "create", "Report writer", "--key", str(public), *wanted)
    assert (grant["grantee"], grant["seal_to"], grant["uses"]) == (made["grantee"], made["seal_to"], 3)

    async with Application(server.base_url, grant["grant_id"], GranteeKey.load(key)) as application:
        assert (await application.grant())["left"] == "2.5"
        listed = retinue.ok("grants", "list")
        assert "Report writer" in listed
        assert "$0 of $2.5" in listed
        shown = retinue.ok("grants", "show", "report writer")
        assert "active" in shown
        assert made["grantee"] in shown
        retinue.ok("grants", "revoke", "last")
        with pytest.raises(Refused, match="revoked at"):
            await application.grant()
    assert "grant.revoked" in retinue.ok("grants", "history", "last")
    assert retinue.json("grants", "list", "--alive") == {"items": []}
    assert len(retinue.json("grants", "list", "--everybody")["items"]) == 1


def test_a_key_of_its_own_machine_will_do(retinue: CommandLine, tmp_path: Path) -> None:
    retinue.ok("grants", "keygen", str(tmp_path / "app.key"))
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"type": "object"}))
    parameters = ("--parameters", str(schema))
    grant = retinue.json("grants", "create", "App", "--key", str(tmp_path / "app.key"), *parameters)
    assert grant["parameters"] == {"type": "object"}


def test_mistakes_say_what_to_do(retinue: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    assert retinue("grants", "keygen", str(tmp_path / "there")).code == ExitCode.USAGE
    assert (tmp_path / "there").read_text() == "mine"
    ended = retinue("grants", "create", "App")
    assert ended.code == ExitCode.USAGE
    assert "--key or --grantee" in ended.err
    ended = retinue("grants", "create", "App", "--key", str(tmp_path / "there"))
    assert ended.code == ExitCode.USAGE
    ended = retinue("grants", "create", "App", "--grantee", "ed25519:x")
    assert ended.code == ExitCode.FAILED
    assert "32 bytes" in ended.err
    assert retinue("grants", "show", "nobody").code == ExitCode.NOT_FOUND
