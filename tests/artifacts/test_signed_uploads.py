"""What an application sends under a grant counts only as it was signed, and only while the grant holds."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator

import httpx
import pytest

from retinue_client import Application, GranteeKey, content_digest
from tests.support.databases import Cluster
from tests.support.running import RunningServer, running_server
from tests.support.signing import Signing, granted

TUS = {"Tus-Resumable": "1.0.0"}
PIECE = "application/offset+octet-stream"


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with running_server(postgres) as found:
        yield found


async def test_another_body_than_the_signed_one_leaves_nothing(server: RunningServer) -> None:
    person, key = await server.person(), GranteeKey.make()
    grant = (await granted(person, key))["grant_id"]
    signing = Signing(server.base_url, grant, key, method="POST", path="/v1/artifacts?name=x", body=b"good" * 100_000)
    headers = signing.sign()
    signing.body = b"evil" * 100_000
    async with Application(server.base_url, grant, key) as application:
        async with httpx.AsyncClient() as anybody:
            refused = await signing.send(anybody, headers)
        assert refused.status_code == 401, refused.text
        assert "Content-Digest" in refused.json()["detail"]
        assert (await application.http.get("/v1/artifacts")).json()["items"] == []


async def test_a_piece_that_is_not_the_signed_one_moves_nothing(server: RunningServer) -> None:
    """A piece may be kept in parts; none of them before the digest of all of it was right."""
    person, key = await server.person(), GranteeKey.make()
    grant = (await granted(person, key))["grant_id"]
    async with Application(server.base_url, grant, key) as application:
        name = base64.b64encode(b"up").decode()
        begun = await application.http.post(
            "/v1/uploads", headers={**TUS, "Upload-Length": "400000", "Upload-Metadata": f"filename {name}"}
        )
        assert begun.status_code == 201, begun.text
        place = begun.headers["location"]
        content = b"good" * 100_000
        signing = Signing(server.base_url, grant, key, method="PATCH", path=place, body=content)
        signing.headers = {**TUS, "Upload-Offset": "0", "Content-Type": PIECE}
        headers = signing.sign()
        signing.body = b"evil" * 100_000
        async with httpx.AsyncClient() as anybody:
            refused = await signing.send(anybody, headers)
        assert refused.status_code == 401, refused.text
        assert "Content-Digest" in refused.json()["detail"]
        assert (await application.http.head(place, headers=TUS)).headers["upload-offset"] == "0"
        sent = {**TUS, "Upload-Offset": "0", "Content-Type": PIECE, "Content-Digest": content_digest(content)}
        answer = await application.http.patch(place, content=content, headers=sent)
        assert answer.status_code == 204, answer.text
        got = await application.http.get(f"/v1/artifacts/{answer.headers['retinue-artifact']}/content")
        assert got.content == content


async def test_a_revoked_grant_ends_its_uploads(server: RunningServer) -> None:
    person, key = await server.person(), GranteeKey.make()
    grant = (await granted(person, key))["grant_id"]
    async with Application(server.base_url, grant, key) as application:
        name = base64.b64encode(b"up").decode()
        headers = {**TUS, "Upload-Length": "10", "Upload-Metadata": f"filename {name}"}
        place = (await application.http.post("/v1/uploads", headers=headers)).headers["location"]
        await person.call("DELETE", f"/v1/my/grants/{grant}")
        sent = {**TUS, "Upload-Offset": "0", "Content-Type": PIECE}
        refused = await application.http.patch(place, content=b"0123456789", headers=sent)
        assert refused.status_code == 403, refused.text
        assert (await person.client.head(place, headers=TUS)).headers["upload-offset"] == "0"
        assert (await person.call("GET", "/v1/artifacts"))["items"] == []


async def test_an_application_cannot_take_all_storage_by_announcing_uploads(server: RunningServer) -> None:
    """With a hundred requests and not a byte it left its user, who saw none of these uploads, nothing for a day."""
    person, key = await server.person(), GranteeKey.make()
    grant = (await granted(person, key))["grant_id"]
    headers = {**TUS, "Upload-Length": "99000000", "Upload-Metadata": "filename YQ=="}
    async with Application(server.base_url, grant, key) as application:

        async def begin() -> httpx.Response:
            return await application.http.post("/v1/uploads", headers=headers)

        answers = await asyncio.gather(*(begin() for _ in range(25)))
        assert sorted(one.status_code for one in answers) == [201] * 10 + [409] * 15
        storage = (await person.call("GET", "/v1/my/quota"))["storage"]
        assert storage["used_bytes"] == 10 * 99_000_000
        place = next(one for one in answers if one.status_code == 201).headers["location"]
        assert (await application.http.delete(place, headers=TUS)).status_code == 204
        assert (await begin()).status_code == 201
