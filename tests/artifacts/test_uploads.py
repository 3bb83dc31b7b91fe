"""Resumable uploads as a tus 1.0.0 client makes them: in pieces, broken off, resumed, also after a crash."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.artifacts.support import until
from tests.support.databases import Cluster
from tests.support.running import Person, RunningServer, running_server

TUS = {"Tus-Resumable": "1.0.0"}
PIECE = "application/offset+octet-stream"
PART = 65_536


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with running_server(
        postgres, RETINUE_ARTIFACT_BYTES="20000000", RETINUE_UPLOAD_PART_BYTES=str(PART)
    ) as found:
        yield found


@pytest.fixture
async def ada(server: RunningServer) -> Person:
    return await server.person()


def named(name: str, **more: str) -> str:
    given = {"filename": name, **more}
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in given.items())


async def begin(
    person: Person, length: int, name: str = "large.bin", status: int = 201, **headers: str
) -> httpx.Response:
    sent = {**TUS, "Upload-Length": str(length), "Upload-Metadata": named(name), **headers}
    answer = await person.client.post("/v1/uploads", headers=sent)
    assert answer.status_code == status, answer.text
    return answer


async def patch(
    person: Person, place: str, offset: int, content: Any, status: int = 204, **headers: str
) -> httpx.Response:
    sent = {**TUS, "Upload-Offset": str(offset), "Content-Type": PIECE, **headers}
    answer = await person.client.patch(place, headers=sent, content=content)
    assert answer.status_code == status, answer.text
    return answer


async def offset(person: Person, place: str) -> int:
    answer = await person.client.head(place, headers=TUS)
    assert answer.status_code == 200
    return int(answer.headers["upload-offset"])


async def content(person: Person, answer: httpx.Response) -> bytes:
    got = await person.client.get(f"/v1/artifacts/{answer.headers['retinue-artifact']}/content")
    assert got.status_code == 200, got.text
    return got.content


async def test_a_server_says_what_it_can(server: RunningServer) -> None:
    async with httpx.AsyncClient(base_url=server.base_url) as client:
        answer = await client.options("/v1/uploads")
    assert answer.status_code == 204
    assert answer.headers["tus-version"] == "1.0.0"
    assert {"creation", "termination", "checksum", "expiration"} <= set(answer.headers["tus-extension"].split(","))
    assert set(answer.headers["tus-checksum-algorithm"].split(",")) == {"sha1", "sha256"}


async def test_a_file_in_three_pieces(ada: Person) -> None:
    whole = os.urandom(200_000)
    begun = await begin(ada, len(whole), "thr\u00e9e \u202e.bin")
    place = begun.headers["location"]
    assert begun.headers["upload-expires"].endswith("GMT")
    assert await offset(ada, place) == 0
    for start, end in ((0, 70_001), (70_001, 70_002), (70_002, 200_000)):
        answer = await patch(ada, place, start, whole[start:end])
        assert answer.headers["upload-offset"] == str(end)
    assert answer.headers["retinue-upload-state"] == "stored"
    assert await content(ada, answer) == whole
    artifact = await ada.call("GET", f"/v1/artifacts/{answer.headers['retinue-artifact']}")
    assert (artifact["name"], artifact["kind"]) == ("thr\u00e9e \u202e.bin", "upload")
    assert artifact["sha256"] == hashlib.sha256(whole).hexdigest()
    events = await ada.call("GET", f"/v1/artifacts/{artifact['artifact_id']}/events")
    assert events["items"][0]["actor"] == f"user:{ada.account['user_id']}"
    shown = await ada.call("GET", place)
    assert (shown["state"], shown["artifact_id"]) == ("stored", artifact["artifact_id"])


async def test_the_first_bytes_may_come_along(ada: Person) -> None:
    sent = {**TUS, "Upload-Length": "5", "Upload-Metadata": named("five"), "Content-Type": PIECE}
    answer = await ada.client.post("/v1/uploads", headers=sent, content=b"hello")
    assert (answer.status_code, answer.headers["upload-offset"]) == (201, "5")
    assert await content(ada, answer) == b"hello"


async def test_an_empty_file(ada: Person) -> None:
    begun = await begin(ada, 0, "empty")

    async def stored() -> bool:
        return bool((await ada.call("GET", begun.headers["location"]))["state"] == "stored")

    await until(stored)


async def test_pieces_at_the_wrong_place_are_refused(ada: Person) -> None:
    place = (await begin(ada, 10)).headers["location"]
    await patch(ada, place, 0, b"01234")
    for wrong in (0, 4, 6, 10):
        answer = await patch(ada, place, wrong, b"x", 409)
        assert "is at 5" in answer.json()["detail"]
    await patch(ada, place, 5, b"567890", 413)
    assert await offset(ada, place) == 5
    assert await content(ada, await patch(ada, place, 5, b"56789")) == b"0123456789"


async def test_of_two_at_once_one_is_kept(ada: Person) -> None:
    """Both are told the truth: no byte comes twice, whoever was first."""
    place = (await begin(ada, 10)).headers["location"]
    sent = {**TUS, "Upload-Offset": "0", "Content-Type": PIECE}
    answers = await asyncio.gather(
        *(ada.client.patch(place, headers=sent, content=text) for text in (b"aaaaa", b"bbbbb", b"ccccc"))
    )
    assert sorted(answer.status_code for answer in answers) == [204, 409, 409]
    last = await patch(ada, place, 5, b"ddddd")
    assert (await content(ada, last))[:5] in (b"aaaaa", b"bbbbb", b"ccccc")


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
async def test_checksums(ada: Person, algorithm: str) -> None:
    place = (await begin(ada, 200_000)).headers["location"]
    whole = os.urandom(200_000)
    digest = base64.b64encode(hashlib.new(algorithm, whole).digest()).decode()
    wrong = whole[:-1] + bytes([whole[-1] ^ 1])
    sum_of_it = {"Upload-Checksum": f"{algorithm} {digest}"}
    answer = await patch(ada, place, 0, wrong, 460, **sum_of_it)
    assert answer.json()["type"] == "urn:retinue:problem:checksum-mismatch"
    assert await offset(ada, place) == 0, "pieces of a request whose checksum is wrong were kept"
    last = await patch(ada, place, 0, whole, 204, **sum_of_it)
    assert await content(ada, last) == whole


BAD = [
    ("PATCH", {"Upload-Offset": "0", "Content-Type": PIECE}, 412),
    ("PATCH", {**TUS, "Upload-Offset": "0", "Content-Type": "text/plain"}, 415),
    ("PATCH", {**TUS, "Content-Type": PIECE}, 422),
    ("PATCH", {**TUS, "Upload-Offset": "-1", "Content-Type": PIECE}, 422),
    ("PATCH", {**TUS, "Upload-Offset": "9" * 40, "Content-Type": PIECE}, 422),
    ("PATCH", {**TUS, "Upload-Offset": "0", "Content-Type": PIECE, "Upload-Checksum": "md5 AAAA"}, 422),
    ("PATCH", {**TUS, "Upload-Offset": "0", "Content-Type": PIECE, "Upload-Checksum": "sha256 ?"}, 422),
    ("HEAD", {"Tus-Resumable": "0.2.2"}, 412),
    ("DELETE", {}, 412),
]


@pytest.mark.parametrize("method, headers, status", BAD, ids=range(len(BAD)))
async def test_what_is_not_tus_is_refused(ada: Person, method: str, headers: dict[str, str], status: int) -> None:
    place = (await begin(ada, 10)).headers["location"]
    answer = await ada.client.request(method, place, headers=headers, content=b"x" if method == "PATCH" else None)
    assert answer.status_code == status, answer.text
    assert await offset(ada, place) == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"Upload-Length": "x", "Upload-Metadata": named("a")},
        {"Upload-Metadata": named("a")},
        {"Upload-Length": "5"},
        {"Upload-Length": "5", "Upload-Metadata": "filename"},
        {"Upload-Length": "5", "Upload-Metadata": "filename ???"},
        {"Upload-Length": "5", "Upload-Metadata": named("a\0b")},
        {"Upload-Length": "5", "Upload-Metadata": named("a" * 256)},
        {"Upload-Length": "5", "Upload-Metadata": named("a", retention_seconds="-5")},
        # Read only in part, these looked like small numbers, and the server answered 500.
        {"Upload-Length": "0" * 40 + "9" * 5000, "Upload-Metadata": named("a")},
        {"Upload-Length": "5", "Upload-Metadata": named("a", retention_seconds="0000000001" + "9" * 20)},
    ],
    ids=range(10),
)
async def test_what_cannot_begin(ada: Person, headers: dict[str, str]) -> None:
    answer = await ada.client.post("/v1/uploads", headers=TUS | headers)
    assert answer.status_code == 422, answer.text


async def test_a_file_that_would_be_too_large_does_not_begin(ada: Person) -> None:
    await begin(ada, 20_000_001, status=413)


async def test_given_up_is_gone(ada: Person) -> None:
    place = (await begin(ada, 10)).headers["location"]
    await patch(ada, place, 0, b"01234")
    assert (await ada.client.delete(place, headers=TUS)).status_code == 204
    assert (await ada.client.head(place, headers=TUS)).status_code == 404
    await patch(ada, place, 5, b"x", 404)


async def test_another_users_upload_is_not_there(server: RunningServer, ada: Person) -> None:
    place = (await begin(ada, 10)).headers["location"]
    bob = await server.person("bob")
    assert (await bob.client.head(place, headers=TUS)).status_code == 404
    await patch(bob, place, 0, b"x", 404)
    assert (await bob.client.delete(place, headers=TUS)).status_code == 404


async def test_what_came_before_the_client_went_away_is_kept(ada: Person) -> None:
    place = (await begin(ada, 400_000)).headers["location"]
    whole = os.urandom(400_000)

    async def broken_off() -> AsyncIterator[bytes]:
        yield whole[:150_000]
        raise ConnectionAbortedError

    sent = {**TUS, "Upload-Offset": "0", "Content-Type": PIECE, "Content-Length": "400000"}
    with pytest.raises(ConnectionAbortedError):
        await ada.client.patch(place, headers=sent, content=broken_off())

    async def kept() -> bool:
        return await offset(ada, place) >= PART

    await until(kept)
    answer = None
    while answer is None or answer.status_code == 409:  # the server may still be taking what came
        found = await offset(ada, place)
        assert found <= 150_000
        sent = {**TUS, "Upload-Offset": str(found), "Content-Type": PIECE}
        answer = await ada.client.patch(place, headers=sent, content=whole[found:])
    assert answer.status_code == 204, answer.text
    assert await content(ada, answer) == whole


async def test_it_goes_on_after_the_server_was_killed(server: RunningServer, ada: Person) -> None:
    """SIGKILL in the middle of a piece: what was acknowledged is there, and the rest is sent again."""
    whole = os.urandom(1_000_000)
    place = (await begin(ada, len(whole))).headers["location"]
    await patch(ada, place, 0, whole[:100_000])
    halfway, killed = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield whole[100_000:500_000]
        halfway.set()
        await killed.wait()

    sent = {**TUS, "Upload-Offset": "100000", "Content-Type": PIECE}
    sending = asyncio.create_task(ada.client.patch(place, headers=sent, content=slow()))
    await halfway.wait()

    async def some_more() -> bool:
        return await offset(ada, place) > 100_000

    await until(some_more)
    server.kill()
    killed.set()
    with pytest.raises(httpx.HTTPError):
        await sending
    await server.start()
    found = await offset(ada, place)
    assert 100_000 < found <= 500_000
    last = await patch(ada, place, found, whole[found:])
    assert await content(ada, last) == whole


async def test_a_whole_upload_is_finished_by_whoever_is_alive(server: RunningServer, ada: Person) -> None:
    """SIGKILL right after the last piece was kept: a restarted server makes it an artifact without being asked."""
    whole = os.urandom(8_000_000)
    place = (await begin(ada, len(whole))).headers["location"]
    sending = asyncio.create_task(patch(ada, place, 0, whole))

    async def all_there() -> bool:
        return await offset(ada, place) == len(whole)

    await until(all_there)
    server.kill()
    with pytest.raises(httpx.HTTPError):
        await sending
    await server.start()

    async def stored() -> bool:
        return bool((await ada.call("GET", place))["state"] == "stored")

    await until(stored)
    artifact = (await ada.call("GET", place))["artifact_id"]
    assert (await ada.client.get(f"/v1/artifacts/{artifact}/content")).content == whole
    listed = (await ada.call("GET", "/v1/artifacts"))["items"]
    assert [one["artifact_id"] for one in listed] == [artifact]
