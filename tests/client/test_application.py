"""An application's journey with the Python client, on a started server: from a grant to an opened artifact."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from retinue_client import Application, GranteeKey, Refused
from tests.support.databases import Cluster
from tests.support.running import Person, RunningServer, running_server
from tests.support.signing import application_of, granted
from tests.support.waiting import until


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with running_server(postgres) as found:
        yield found


@pytest.fixture(scope="module")
async def ann(server: RunningServer) -> Person:
    return await server.person("ann")


async def test_a_small_file_goes_up_and_comes_back_under_seal(ann: Person, tmp_path: Path) -> None:
    async with application_of(ann) as application:
        artifact = await application.upload(b"figures", "figures.csv")
        assert artifact["grant_id"] == application.grant_id
        header = await application.fetch(artifact["artifact_id"], tmp_path / "opened")
        assert (tmp_path / "opened").read_bytes() == b"figures"
        assert header.name == "figures.csv"
        assert await application.read(artifact["artifact_id"]) == b"figures"
        assert [one["artifact_id"] for one in await application.artifacts()] == [artifact["artifact_id"]]
        assert sorted(os.listdir(tmp_path)) == ["opened"], "the sealed file is gone"


async def test_a_large_file_goes_up_in_pieces(ann: Person, tmp_path: Path) -> None:
    content = os.urandom(700_001)
    (tmp_path / "large.bin").write_bytes(content)
    async with application_of(ann) as application:
        artifact = await application.upload(tmp_path / "large.bin", piece=200_000)
        assert (artifact["name"], artifact["size"]) == ("large.bin", len(content))
        await application.fetch(artifact["artifact_id"], tmp_path / "opened")
        await application.download(artifact["artifact_id"], tmp_path / "plain")
    assert (tmp_path / "opened").read_bytes() == content
    assert (tmp_path / "plain").read_bytes() == content


class Unsteady(httpx.AsyncBaseTransport):
    """A network that loses requests on their way, and answers on theirs."""

    def __init__(self) -> None:
        self.real = httpx.AsyncHTTPTransport()
        self.pieces: list[int] = []
        self.lost = {1: "request", 2: "answer"}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        number = len(self.pieces)
        if request.method == "PATCH":
            self.pieces.append(int(request.headers["upload-offset"]))
            if self.lost.get(number) == "request":
                raise httpx.ConnectError("lost on the way there")
        answer = await self.real.handle_async_request(request)
        if request.method == "PATCH" and self.lost.get(number) == "answer":
            await answer.aread()
            raise httpx.ReadError("lost on the way back")
        return answer

    async def aclose(self) -> None:
        await self.real.aclose()


async def test_an_upload_goes_on_where_it_was_when_the_connection_breaks(ann: Person, tmp_path: Path) -> None:
    content, network, key = os.urandom(500_000), Unsteady(), GranteeKey.make()
    (tmp_path / "large.bin").write_bytes(content)
    grant_id = (await granted(ann, key))["grant_id"]
    async with Application(str(ann.client.base_url), grant_id, key, transport=network) as application:
        artifact = await application.upload(tmp_path / "large.bin", piece=100_000)
        assert await application.read(artifact["artifact_id"]) == content
    # The second piece was lost and sent again; the third had arrived, so the next is the fourth.
    assert network.pieces == [0, 100_000, 100_000, 200_000, 300_000, 400_000]


async def test_another_application_finds_nothing(ann: Person, tmp_path: Path) -> None:
    async with application_of(ann) as application, application_of(ann) as other:
        artifact = await application.upload(b"figures", "figures.csv")
        with pytest.raises(Refused) as refusal:
            await other.fetch(artifact["artifact_id"], tmp_path / "opened")
        assert refusal.value.status == 404
        assert await other.artifacts() == []
        with pytest.raises(Refused) as refusal:
            await other.delete(artifact["artifact_id"])
        assert refusal.value.status == 404
        assert os.listdir(tmp_path) == []


async def test_what_is_deleted_cannot_be_had_again(ann: Person, tmp_path: Path) -> None:
    async with application_of(ann) as application:
        artifact = await application.upload(b"figures", "figures.csv")
        await application.delete(artifact["artifact_id"])
        with pytest.raises(Refused) as refusal:
            await application.download(artifact["artifact_id"], tmp_path / "plain")
        assert refusal.value.status in (404, 410)


async def test_a_file_that_is_there_is_not_written_over(ann: Person, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    async with application_of(ann) as application:
        artifact = await application.upload(b"figures", "figures.csv")
        with pytest.raises(FileExistsError):
            await application.fetch(artifact["artifact_id"], tmp_path / "mine")
        with pytest.raises(FileExistsError):
            await application.download(artifact["artifact_id"], tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "mine"


async def test_every_use_is_in_the_grants_history(ann: Person, tmp_path: Path) -> None:
    async with application_of(ann) as application:
        artifact = await application.upload(b"figures", "figures.csv")
        await application.fetch(artifact["artifact_id"], tmp_path / "opened")
        page = await ann.call("GET", f"/v1/my/grants/{application.grant_id}/events")
    used = [(one["data"]["what"], one["data"]["subject"]) for one in page["items"] if one["type"] == "grant.used"]
    assert ("artifact.opened", artifact["artifact_id"]) in used
    assert all(one["actor"].startswith("grantee:") for one in page["items"] if one["type"] == "grant.used")


async def test_the_end_of_a_grant_reaches_the_application_as_a_reason(ann: Person) -> None:
    async with application_of(ann) as application:
        assert (await application.grant())["state"] == "active"
        await ann.call("DELETE", f"/v1/my/grants/{application.grant_id}", 204)
        with pytest.raises(Refused) as refusal:
            await application.grant()
    assert (refusal.value.status, refusal.value.kind) == (403, "forbidden")
    assert "revoked at" in refusal.value.detail
    assert refusal.value.trace_id


async def test_the_end_of_a_grants_time_is_recorded_by_itself(ann: Person) -> None:
    """What runs under a grant is stopped from there; a grant that nobody asks by would otherwise end unseen."""
    end = datetime.now(UTC) + timedelta(seconds=1)
    async with application_of(ann, expires_at=end.isoformat()) as application:

        async def recorded() -> bool:
            page = await ann.call("GET", f"/v1/my/grants/{application.grant_id}/events")
            return bool(page["items"][-1]["type"] == "grant.expired")

        await until(recorded)
    assert datetime.now(UTC) >= end
