"""`retinue grants` against a started server: an application's key, what its user grants, and the end of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import pytest

from retinue.cli.failures import ExitCode
from retinue_client import Application, GranteeKey, Refused
from tests.support.command_line import CommandLine, signed_up
from tests.support.databases import Cluster
from tests.support.running import RunningServer, running_server


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with running_server(postgres, worker=False) as found:
        yield found


@pytest.fixture
def retinue(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> CommandLine:
    """The command line of somebody who has just signed up."""
    return signed_up(server, tmp_path, monkeypatch, capfd)


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
    assert "revoked already" in retinue("grants", "revoke", "last").err
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


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--key", "nowhere.key"), "nowhere.key cannot be read: No such file"),
        (("--key", "text.txt"), "text.txt is no JSON document"),
        (("--key", "other.json"), "retinue grants keygen"),
        (("--key", "app.key", "--grantee", "ed25519:x"), "not by both"),
        (("--key", "app.key", "--expires", "tomorrow"), "2026-12-31T18:00, not 'tomorrow'"),
        (("--key", "app.key", "--budget", "five"), "a decimal number such as 5.00"),
        (("--key", "app.key", "--file", "report.md"), "There is no artifact report.md"),
        (
            ("--key", "app.key", "--driver", "qwen", "--driver", "claude"),
            "There is no driver 'claude'. There are: command, gemini, qwen.",
        ),
    ],
    ids=["nowhere", "text", "other", "both", "time", "money", "file", "driver"],
)
def test_each_mistake_is_named(
    retinue: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    GranteeKey.make().save("app.key")
    Path("text.txt").write_text("a")
    Path("other.json").write_text("{}")
    ended = retinue("grants", "create", "App", *arguments)
    assert ended.code != ExitCode.OK
    assert says in ended.err
    assert "Errno" not in ended.err


def test_a_time_without_an_offset_is_local(retinue: CommandLine, tmp_path: Path) -> None:
    retinue.ok("grants", "keygen", str(tmp_path / "app.key"))
    key = ("--key", str(tmp_path / "app.key"))
    made = retinue.json(
        "grants", "create", "App", *key, "--expires", "2031-01-02", "--retention", "3600", "--seconds", "90"
    )
    expected = datetime(2031, 1, 2).astimezone()
    assert datetime.fromisoformat(made["expires_at"]) == expected
    shown = retinue.ok("grants", "show", "last")
    assert "2031-01-02 00:00:00" in shown
    assert "60 minutes" in shown
    assert "90 seconds" in shown
    assert (made["retention_seconds"], made["limits"]) == (3600, {"seconds": 90})
    again = retinue("grants", "keygen", str(tmp_path / "app.key"))
    assert "never overwritten" in again.err
