"""Artifacts over HTTP, as clients use them: whole files, ranges, tags, names, and who may."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import httpx
import pytest

from tests.support.databases import Cluster
from tests.support.running import Person, RunningServer, running_server

CONTENT = os.urandom(300_000)


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with running_server(postgres, RETINUE_ARTIFACT_BYTES="2000000") as found:
        yield found


@pytest.fixture(scope="module")
async def ada(server: RunningServer) -> Person:
    return await server.person()


async def put(person: Person, content: bytes = b"hello", name: str = "hello.txt", **params: Any) -> dict[str, Any]:
    found: dict[str, Any] = await person.call(
        "POST", "/v1/artifacts", 201, content=content, params={"name": name, **params}
    )
    return found


async def get(person: Person, artifact: dict[str, Any], status: int = 200, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await person.client.get(artifact["url"], headers=named)
    assert answer.status_code == status, answer.text
    return answer


async def test_a_file_goes_up_and_comes_down(ada: Person) -> None:
    artifact = await put(ada, CONTENT, "data.bin")
    digest = hashlib.sha256(CONTENT)
    assert (artifact["size"], artifact["sha256"], artifact["number"]) == (len(CONTENT), digest.hexdigest(), 1)
    answer = await get(ada, artifact)
    assert answer.content == CONTENT
    headers = answer.headers
    assert headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert headers["etag"] == f'"{digest.hexdigest()}"'
    assert headers["accept-ranges"] == "bytes"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("sandbox;")
    assert headers["content-disposition"].startswith("attachment;")
    assert (await ada.call("GET", f"/v1/artifacts/{artifact['artifact_id']}")) == artifact


RANGES = {
    "bytes=0-0": (0, 1),
    "bytes=1000-1999": (1000, 2000),
    "bytes=299990-": (299_990, 300_000),
    "bytes=299990-999999": (299_990, 300_000),
    "bytes=-10": (299_990, 300_000),
    "bytes=-999999": (0, 300_000),
    "bytes=65400-131200": (65_400, 131_201),
    "Bytes = 5-6": (5, 7),
}


async def test_ranges(ada: Person) -> None:
    artifact = await put(ada, CONTENT, "ranges.bin")
    for wanted, (start, end) in RANGES.items():
        answer = await get(ada, artifact, 206, Range=wanted)
        assert answer.content == CONTENT[start:end], wanted
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"
        assert answer.headers["content-length"] == str(end - start)


@pytest.mark.parametrize("wanted", ["bytes=300000-", "bytes=300000-300001", "bytes=-0", "bytes=999999999999-"])
async def test_a_range_outside_of_the_file(ada: Person, wanted: str) -> None:
    artifact = await put(ada, CONTENT, "outside.bin")
    answer = await get(ada, artifact, 416, Range=wanted)
    assert answer.headers["content-range"] == f"bytes */{len(CONTENT)}"
    assert answer.json()["type"] == "urn:retinue:problem:range-not-satisfiable"


@pytest.mark.parametrize(
    "wanted", ["bytes=5-4", "bytes=", "bytes=0-1,3-4", "items=0-1", "bytes=a-b", "bytes=--1", "0-1"]
)
async def test_what_is_no_single_range_brings_all_of_it(ada: Person, wanted: str) -> None:
    artifact = await put(ada, b"0123456789", "ten")
    assert (await get(ada, artifact, 200, Range=wanted)).content == b"0123456789"


async def test_tags(ada: Person) -> None:
    artifact = await put(ada, b"0123456789", "tags")
    tag = (await get(ada, artifact)).headers["etag"]
    for same in (tag, f"W/{tag}", "*", f'"other", {tag}'):
        answer = await get(ada, artifact, 304, If_None_Match=same)
        assert answer.content == b""
        assert answer.headers["etag"] == tag
    await get(ada, artifact, 200, If_None_Match='"other"')
    assert (await get(ada, artifact, 206, Range="bytes=1-2", If_Range=tag)).content == b"12"
    for other in ('"other"', f"W/{tag}", "Wed, 21 Oct 2026 07:28:00 GMT"):
        assert (await get(ada, artifact, 200, Range="bytes=1-2", If_Range=other)).content == b"0123456789"


async def test_head_says_what_get_would_bring(ada: Person) -> None:
    artifact = await put(ada, CONTENT, "head.bin")
    answer = await ada.client.head(artifact["url"])
    got = await get(ada, artifact)
    assert (answer.status_code, answer.content) == (200, b"")
    for name in ("content-length", "etag", "repr-digest", "content-type", "content-disposition", "accept-ranges"):
        assert answer.headers[name] == got.headers[name], name


async def test_an_empty_file(ada: Person) -> None:
    artifact = await put(ada, b"", "empty")
    assert (await get(ada, artifact)).content == b""
    await get(ada, artifact, 416, Range="bytes=0-")


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        'a"; filename="b',
        "na\u00efve \u202etxt.exe",
        "\u05e9\u05dc\u05d5\u05dd",
        "a\\b",
        "100%",
        "'",
        ";",
        "a" * 255,
    ],
    ids=range(9),
)
async def test_a_name_comes_back_and_breaks_no_header(ada: Person, name: str) -> None:
    artifact = await put(ada, b"x", name)
    assert artifact["name"] == name
    value = (await get(ada, artifact)).headers["content-disposition"]
    plain, _, full = value.partition("; filename*=UTF-8''")
    assert unquote(full, errors="strict") == name
    assert plain.startswith('attachment; filename="')
    assert plain.count('"') == 2
    assert plain.isascii()


@pytest.mark.parametrize("name", ["", "a\nb", "nul\u0000", "a" * 256], ids=range(4))
async def test_a_name_that_cannot_be_kept_is_refused(ada: Person, name: str) -> None:
    answer = await ada.client.post("/v1/artifacts", params={"name": name}, content=b"x")
    assert answer.status_code == 422, answer.text


async def test_what_a_file_says_it_is_plays_no_part(ada: Person) -> None:
    """A page that calls itself an image is a page; it is never shown with its reader's rights all the same."""
    answer = await ada.client.post(
        "/v1/artifacts",
        params={"name": "photo.png"},
        content=b"<!DOCTYPE html><html><script>alert(1)</script></html>",
        headers={"Content-Type": "image/png"},
    )
    got = await get(ada, answer.json())
    assert got.headers["content-type"].startswith("text/html")
    assert "sandbox" in got.headers["content-security-policy"]
    assert got.headers["content-disposition"].startswith("attachment")


async def test_a_file_that_is_too_large_leaves_nothing(ada: Person) -> None:
    async def unannounced() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield bytes(65_536)

    before = (await ada.call("GET", "/v1/artifacts?limit=200"))["items"]
    for content in (bytes(2_000_001), unannounced()):
        try:
            answer = await ada.client.post("/v1/artifacts", params={"name": "large"}, content=content)
            assert answer.status_code == 413, answer.text
        except (httpx.WriteError, httpx.RemoteProtocolError):
            pass  # it was refused in the middle of the sending
    assert (await ada.call("GET", "/v1/artifacts?limit=200"))["items"] == before


async def test_lists_and_filters(server: RunningServer) -> None:
    person = await server.person()
    for name in ("a", "b", "a"):
        await put(person, b"x", name)
    page = await person.call("GET", "/v1/artifacts?limit=2")
    rest = await person.call("GET", f"/v1/artifacts?limit=2&cursor={page['next_cursor']}")
    found = [one["name"] for one in page["items"] + rest["items"]]
    assert found == ["a", "b", "a"]
    assert rest["next_cursor"] is None
    named = (await person.call("GET", "/v1/artifacts?name=a"))["items"]
    assert [one["number"] for one in named] == [2, 1]
    versions = await person.call("GET", f"/v1/artifacts/{named[1]['artifact_id']}/versions")
    assert versions["items"] == named
    assert (await person.call("GET", "/v1/artifacts?kind=output"))["items"] == []
    assert (await person.call("GET", f"/v1/artifacts?operation_id={uuid4()}"))["items"] == []


async def test_an_idempotent_upload_makes_one_artifact(server: RunningServer) -> None:
    person = await server.person()
    key = {"Idempotency-Key": str(uuid4())}
    first = await person.call("POST", "/v1/artifacts?name=once", 201, content=b"x", headers=key)
    again = await person.call("POST", "/v1/artifacts?name=once", 201, content=b"x", headers=key)
    assert first == again
    assert len((await person.call("GET", "/v1/artifacts"))["items"]) == 1


async def test_deleted_is_gone(ada: Person) -> None:
    artifact = await put(ada)
    await ada.call("DELETE", f"/v1/artifacts/{artifact['artifact_id']}", 204)
    await get(ada, artifact, 410)
    await ada.call("DELETE", f"/v1/artifacts/{artifact['artifact_id']}", 410)


async def test_nobody_keeps_a_file_longer_than_the_tenants_policy_says(server: RunningServer) -> None:
    """What was asked for counted instead of the policy's and the tier's days: a free user kept files for 68 years."""
    person = await server.person()
    days = timedelta(days=7)  # the policy's
    asked = 2**31 - 1
    plain = await put(person, retention_seconds=asked)
    named = ",".join(
        f"{k} {base64.b64encode(v).decode()}" for k, v in (("filename", b"a"), ("retention_seconds", b"%d" % asked))
    )
    sent = {"Tus-Resumable": "1.0.0", "Upload-Length": "1", "Upload-Metadata": named}
    answer = await person.client.post(
        "/v1/uploads", headers={**sent, "Content-Type": "application/offset+octet-stream"}, content=b"x"
    )
    pieces = await person.call("GET", f"/v1/artifacts/{answer.headers['retinue-artifact']}")
    for one in (plain, pieces):
        kept = datetime.fromisoformat(one["expires_at"]) - datetime.fromisoformat(one["stored_at"])
        assert kept <= days + timedelta(minutes=1)
    soon = await put(person, retention_seconds=3600)
    kept = datetime.fromisoformat(soon["expires_at"]) - datetime.fromisoformat(soon["stored_at"])
    assert kept <= timedelta(hours=1, minutes=1)


async def test_a_legal_hold(ada: Person) -> None:
    artifact = await put(ada)
    path = f"/v1/artifacts/{artifact['artifact_id']}"
    held = await ada.call("PUT", f"{path}/hold", 200, json={"reason": "dispute 4711"})
    assert held["hold"]["reason"] == "dispute 4711"
    await ada.call("DELETE", path, 409)
    await ada.call("DELETE", f"{path}/hold", 204)
    await ada.call("DELETE", path, 204)


async def test_every_opening_is_recorded(ada: Person) -> None:
    artifact = await put(ada, b"0123456789")
    await get(ada, artifact)
    await get(ada, artifact, 206, Range="bytes=2-3")
    await ada.client.get(f"/v1/artifacts/{artifact['artifact_id']}/sealed")
    page = await ada.call("GET", f"/v1/artifacts/{artifact['artifact_id']}/events")
    assert [one["type"] for one in page["items"]] == ["artifact.stored", *["artifact.opened"] * 3]
    assert [one["data"].get("form") for one in page["items"]] == [None, "content", "content", "sealed"]
    assert (page["items"][2]["data"]["start"], page["items"][2]["data"]["end"]) == (2, 4)
    assert all(one["actor"] == f"user:{ada.account['user_id']}" for one in page["items"])


async def test_the_sealed_file_says_what_it_is(ada: Person) -> None:
    artifact = await put(ada, CONTENT, "sealed.bin")
    answer = await ada.client.get(f"/v1/artifacts/{artifact['artifact_id']}/sealed")
    assert answer.content[:8] == b"RTNSEAL\x01"
    length = int.from_bytes(answer.content[8:12], "big")
    header = json.loads(answer.content[12 : 12 + length])
    assert (header["name"], header["size"], header["recipients"]) == ("sealed.bin", len(CONTENT), [])
    assert CONTENT[:32] not in answer.content
    assert int(answer.headers["content-length"]) == len(answer.content)


async def test_parallel_ranges_of_one_file(ada: Person) -> None:
    """Openings are recorded on one stream; readers at the same time must wait for each other, and none be refused."""
    artifact = await put(ada, CONTENT, "parallel.bin")
    starts = range(0, 300_000, 10_000)
    answers = await asyncio.gather(
        *(get(ada, artifact, 206, Range=f"bytes={start}-{start + 9_999}") for start in starts)
    )
    assert b"".join(answer.content for answer in answers) == CONTENT
