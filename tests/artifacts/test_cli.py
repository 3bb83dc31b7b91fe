"""`retinue artifacts` against a started server, and the journey of a sealed file to its grantee."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from retinue.cli.failures import ExitCode
from retinue_client import Application, GranteeKey
from tests.support.command_line import CommandLine, fresh_home, signed_up
from tests.support.databases import Cluster
from tests.support.running import RunningServer, running_server
from tests.support.signing import application_of, granted

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with running_server(postgres) as found:
        yield found


@pytest.fixture
def retinue(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> CommandLine:
    """The command line of somebody who has just signed up."""
    return signed_up(server, tmp_path, monkeypatch, capfd)


@pytest.mark.parametrize("size", [0, 1000, 20_000_000], ids=["empty", "small", "large"])
def test_up_and_down(retinue: CommandLine, tmp_path: Path, size: int) -> None:
    source, target = tmp_path / "source.bin", tmp_path / "target.bin"
    source.write_bytes(os.urandom(size))
    stored = retinue.json("artifacts", "put", str(source), "--retention", "3600")
    assert (stored["name"], stored["size"], stored["number"]) == ("source.bin", size, 1)
    retinue.ok("artifacts", "get", "source.bin", "-o", str(target))
    assert target.read_bytes() == source.read_bytes()
    assert not list(tmp_path.glob("*.part"))


def test_from_versions_to_deletion(retinue: CommandLine, tmp_path: Path) -> None:
    source = tmp_path / "report.md"
    for text in ("one", "two"):
        source.write_text(text)
        retinue.ok("artifacts", "put", str(source))
    listed = retinue.json("artifacts", "list")["items"]
    assert [one["number"] for one in listed] == [2, 1]
    assert "report.md" in retinue("artifacts", "list", "--kind", "upload").out
    assert "artifact.stored" in retinue.ok("artifacts", "history", "report.md")
    assert retinue("artifacts", "get", "report.md").out == "two"
    assert retinue("artifacts", "get", listed[1]["artifact_id"]).out == "one"
    assert len(retinue.json("artifacts", "versions", "last")["items"]) == 2
    retinue.ok("artifacts", "hold", "report.md", "--reason", "dispute")
    assert "dispute" in retinue("artifacts", "show", "report.md").out
    assert retinue("artifacts", "delete", "report.md").code == ExitCode.FAILED
    retinue.ok("artifacts", "release", "report.md")
    retinue.ok("artifacts", "delete", "report.md")
    assert retinue("artifacts", "get", listed[0]["artifact_id"]).code == ExitCode.NOT_FOUND
    assert retinue("artifacts", "get", "nothing.txt").code == ExitCode.NOT_FOUND


async def test_only_the_grantee_opens_a_sealed_file(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """From the grant to the opened file; another key, and a file that was changed, bring nothing."""
    content = os.urandom(300_000)
    key = GranteeKey.make()
    key.save(tmp_path / "grantee.key")
    GranteeKey.make().save(tmp_path / "other.key")
    person = await server.person()
    grant = await granted(person, key)
    async with Application(server.base_url, grant["grant_id"], key) as application:
        artifact = await application.upload(content, "given.bin")
        answer = await application.http.get(f"/v1/artifacts/{artifact['artifact_id']}/sealed")
        assert answer.status_code == 200, answer.text
        listed = (await application.http.get("/v1/artifacts")).json()["items"]
        assert [one["artifact_id"] for one in listed] == [artifact["artifact_id"]]
        history = await person.call("GET", f"/v1/artifacts/{artifact['artifact_id']}/events")
        assert history["items"][-1]["actor"].startswith("grantee:")
    async with application_of(person) as other:
        for path in ("", "/content", "/sealed"):
            refused = await other.http.get(f"/v1/artifacts/{artifact['artifact_id']}{path}")
            assert refused.status_code == 404
        assert (await other.http.delete(f"/v1/artifacts/{artifact['artifact_id']}")).status_code == 404
    sealed, out = tmp_path / "given.sealed", tmp_path / "given.bin"
    sealed.write_bytes(answer.content)
    fresh_home(tmp_path / "home", monkeypatch)
    line = CommandLine(monkeypatch, capfd)
    opening = ("artifacts", "open", str(sealed), "-o", str(out), "--key")
    refused_other = line(*opening, str(tmp_path / "other.key"))
    assert (refused_other.code, out.exists()) == (ExitCode.FAILED, False)
    changed = bytearray(answer.content)
    changed[-20] ^= 1
    sealed.write_bytes(changed)
    assert (line(*opening, str(tmp_path / "grantee.key")).code, out.exists()) == (ExitCode.FAILED, False)
    sealed.write_bytes(answer.content)
    assert line.json(*opening, str(tmp_path / "grantee.key"), "--json")["name"] == "given.bin"
    assert out.read_bytes() == content
    assert line(*opening, str(tmp_path / "grantee.key")).code == ExitCode.USAGE


@pytest.mark.parametrize("key", ["nowhere.key", "public.json"], ids=["nowhere", "public"])
def test_what_is_no_key_is_named(retinue: CommandLine, tmp_path: Path, key: str) -> None:
    (tmp_path / "public.json").write_text('{"grantee": "ed25519:x"}')
    (tmp_path / "file.sealed").write_bytes(b"x")
    opening = ("artifacts", "open", str(tmp_path / "file.sealed"), "-o", str(tmp_path / "out"))
    ended = retinue(*opening, "--key", str(tmp_path / key))
    assert ended.code == ExitCode.USAGE
    assert key in ended.err
    assert "Errno" not in ended.err


def test_a_folder_that_is_not_there_is_no_traceback(retinue: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("one")
    retinue.ok("artifacts", "put", str(tmp_path / "in.txt"))
    for command in (("artifacts", "get", "in.txt"), ("costs", "export")):
        ended = retinue(*command, "--output", str(tmp_path / "nowhere" / "out"))
        assert ended.code == ExitCode.USAGE
        assert "there is no folder" in ended.err
