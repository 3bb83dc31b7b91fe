"""One request: problems, strict bodies, scopes, pages, entity tags, traces."""

from __future__ import annotations

import json
import logging
import re
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

import retinue
from retinue.kernel import BadInput
from retinue.ledger import Feed
from retinue.web.body import parse_json
from retinue.web.paging import cursor, read_cursor
from retinue.web.problems import Malformed
from tests.web.paper import House, Person

NOTES = "/v1/my/notes"


def problem(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """Check that a response is a whole problem document and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["type"] == f"urn:retinue:problem:{kind}"
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    assert re.fullmatch("[0-9a-f]{32}", document["trace_id"])
    return document


# The scope


async def test_a_request_commits_before_it_answers(house: House, ann: Person) -> None:
    async with house.client(ann) as client:
        response = await client.post(NOTES, json={"text": "Buy milk"})
        assert response.status_code == 201
        assert response.json()["text"] == "Buy milk"
    (one,) = await house.services.get(Feed).read(ann.tenant_id, 0)
    assert json.loads(one.data)["text"] == "Buy milk"
    assert one.meta.actor == f"user:{ann.user_id}"
    assert one.meta.owner == ann.user_id
    assert one.meta.trace == response.headers["traceparent"].split("-")[1]


@pytest.mark.parametrize("refuse", [True, False])
async def test_a_failed_request_leaves_nothing(house: House, ann: Person, refuse: bool) -> None:
    async with house.client(ann) as client:
        response = await client.post(f"{NOTES}/failing", params={"refuse": refuse}, json={"text": "gone"})
    problem(response, 409 if refuse else 500, "conflict" if refuse else "internal")
    assert await house.services.get(Feed).read(ann.tenant_id, 0) == []


async def test_a_refusal_that_a_route_returns_is_recorded(house: House, ann: Person) -> None:
    async with house.client(ann) as client:
        problem(await client.post(f"{NOTES}/refused", json={"text": "kept"}), 409, "conflict")
    assert len(await house.services.get(Feed).read(ann.tenant_id, 0)) == 1


async def test_a_deferred_answer_comes_after_the_commit(house: House, ann: Person) -> None:
    async with house.client(ann) as client:
        response = await client.post(f"{NOTES}/waited", json={"text": "seen"})
    assert response.status_code == 200
    assert response.json()["bodies"] == 1


async def test_errors_of_the_program_show_nothing(house: House, ann: Person, caplog: pytest.LogCaptureFixture) -> None:
    async with house.client(ann) as client:
        document = problem(await client.post(f"{NOTES}/failing", json={"text": "hush"}), 500, "internal")
    assert "hush" not in str(document)
    assert "RuntimeError" not in str(document)
    (record,) = [one for one in caplog.records if one.exc_info and "nobody expected" in one.message]
    assert getattr(record, "trace_id", "") == document["trace_id"]


async def test_callers_are_told_apart(house: House, ann: Person) -> None:
    viewer = house.gate.add(tenant_id=ann.tenant_id, role="viewer")
    member = house.gate.add(tenant_id=ann.tenant_id, role="member")
    limited = house.gate.add(tenant_id=ann.tenant_id, scopes=frozenset({"notes:list"}))
    gone = house.gate.add(known=False)
    note = {"text": "x"}
    async with house.client() as client:
        nobody = await client.post(NOTES, json=note)
        forged = await client.post(NOTES, json=note, headers={"Authorization": "Bearer forged"})
        ended = await client.post(NOTES, json=note, headers=gone.headers)
        may_not = await client.post(NOTES, json=note, headers=viewer.headers)
        must_ask = await client.post(NOTES, json=note, headers=member.headers)
        out_of_scope = await client.post(NOTES, json=note, headers=limited.headers)
        in_scope = await client.get(NOTES, headers=limited.headers)
    assert problem(nobody, 401, "unauthenticated")["detail"] == "Send a valid access token or API key."
    assert nobody.headers["www-authenticate"] == "Bearer"
    assert "no token of ours" in problem(forged, 401, "unauthenticated")["detail"]
    assert "login has ended" in problem(ended, 401, "unauthenticated")["detail"]
    assert "role viewer may not create notes" in problem(may_not, 403, "forbidden")["detail"]
    assert "approval" in problem(must_ask, 403, "forbidden")["detail"]
    assert "scopes of this key" in problem(out_of_scope, 403, "forbidden")["detail"]
    assert in_scope.status_code == 200


async def test_nobody_has_a_body_read(house: House) -> None:
    """The caller is known before the body is looked at: strangers cannot make the server work or find out about it."""
    async with house.client() as client:
        problem(
            await client.post(NOTES, content=b"{broken", headers={"content-type": "text/x"}), 401, "unauthenticated"
        )
        problem(await client.post(f"{NOTES}/upload", files={"file": b"x" * 150_000}), 401, "unauthenticated")


@pytest.mark.parametrize("tenant", [str(UUID(int=1)), "nonsense", "", "a" * 5000])
async def test_a_foreign_tenant_is_one_that_does_not_exist(house: House, ann: Person, tenant: str) -> None:
    async with house.client(ann) as client:
        response = await client.get(NOTES, headers={"Retinue-Tenant": tenant})
    assert problem(response, 404, "not-found")["detail"] == "There is no such tenant."


async def test_an_api_key_works_in_its_own_tenant(house: House) -> None:
    key = house.gate.add(is_key=True)
    async with house.client(key) as client:
        assert (await client.post(NOTES, json={"text": "by key"})).status_code == 201
    assert len(await house.services.get(Feed).read(key.tenant_id, 0)) == 1


# Problems of the frame


async def test_unknown_paths_and_methods(house: House, ann: Person) -> None:
    async with house.client(ann) as client:
        problem(await client.get("/v1/nothing"), 404, "not-found")
        problem(await client.get("/"), 404, "not-found")
        problem(await client.get(f"{NOTES}/"), 404, "not-found")
        wrong = await client.patch(NOTES, json={})
        problem(wrong, 405, "method-not-allowed")
        assert wrong.headers.get_list("allow") == ["GET, POST"]
        assert wrong.json()["detail"] == "PATCH is not allowed here; GET, POST is."
        for path in ("%00", "a%00b"):
            problem(await client.get(f"{NOTES}/{path}"), 404, "not-found")
        bad = problem(await client.get(f"{NOTES}?cursor=a%00b"), 422, "bad-input")
        assert bad["errors"] == [{"field": "cursor", "message": "cursor: the character NUL is not allowed in text."}]


@pytest.mark.parametrize("note_id", ["1", str(UUID(int=8)), "x" * 3000, "%F0%9F%8E%89", "%ff"])
async def test_malformed_ids_look_like_missing_things(house: House, ann: Person, note_id: str) -> None:
    async with house.client(ann) as client:
        assert problem(await client.get(f"{NOTES}/{note_id}"), 404, "not-found")["detail"] == "There is no such note."


# Bodies


async def post(
    house: House, person: Person, body: bytes, content_type: str | None = "application/json"
) -> httpx.Response:
    async with house.client(person) as client:
        headers = {"content-type": content_type} if content_type else {}
        return await client.post(NOTES, content=body, headers=headers)


@pytest.mark.parametrize(
    "body, status, kind, field",
    [
        (b"", 422, "bad-input", "body"),
        (b"{", 400, "malformed", None),
        (b"nonsense", 400, "malformed", None),
        (b'{"text": "\xff"}', 400, "malformed", None),
        (b'{"text": "a" "b"}', 400, "malformed", None),
        (b'{"text": NaN}', 400, "malformed", None),
        (b'{"text": -Infinity}', 400, "malformed", None),
        (b'{"text": "a\x00b"}', 400, "malformed", None),
        (b"[]", 422, "bad-input", "body"),
        (b"7", 422, "bad-input", "body"),
        (b"{}", 422, "bad-input", "text"),
        (b'{"text": ""}', 422, "bad-input", "text"),
        (b'{"text": 7}', 422, "bad-input", "text"),
        (b'{"text": "a", "else": 1}', 422, "bad-input", "else"),
        (b'{"text": "a", "limits": {"tokens": 0}}', 422, "bad-input", "limits.tokens"),
        (b'{"text": "a", "limits": {"tokens": 1e999}}', 422, "bad-input", "body"),
        (b'{"text": "a", "limits": {"tokens": 99999999999999999999}}', 422, "bad-input", "limits.tokens"),
        (b'{"text": "a", "copies": ' + b"9" * 5000 + b"}", 422, "bad-input", "body"),
        (b'{"text": "a\\u0000b"}', 422, "bad-input", "text"),
        (b'{"limits": {"x\\u0000": 1}, "text": "a"}', 422, "bad-input", "limits"),
        (b'{"text": "\\ud800"}', 422, "bad-input", "text"),
        (b'{"text": "\\uDFFF x"}', 422, "bad-input", "text"),
        (b'{"text": "a", "text": "b"}', 422, "bad-input", "text"),
        (b'{"text": ' + b"[" * 33 + b"]" * 33 + b"}", 422, "bad-input", "text" + ".0" * 31),
        (b'{"text": ' + b"[" * 30_000 + b"]" * 30_000 + b"}", 422, "bad-input", "body"),
    ],
)
async def test_bad_bodies(house: House, ann: Person, body: bytes, status: int, kind: str, field: str | None) -> None:
    document = problem(await post(house, ann, body), status, kind)
    if field is not None:
        assert document["errors"][0]["field"] == field
    assert await house.services.get(Feed).read(ann.tenant_id, 0) == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"text": "\\ud83d\\ude00 \\u00e4"}',
        '{"text": "😀 ä"}'.encode(),
        b'\n {"text": "x", "limits": {"tokens": null}} \r\n',
        b'{"text": "{[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["}',
        b'{"text": "9999999999999999999999"}',
    ],
)
async def test_good_bodies(house: House, ann: Person, body: bytes) -> None:
    response = await post(house, ann, body, "application/json; charset=utf-8")
    assert response.status_code == 201, response.text
    assert response.json()["text"] == json.loads(body)["text"]


def test_the_largest_numbers_pass() -> None:
    assert parse_json(b"[9223372036854775807, -9223372036854775807, 1.5e300]")[0] == 2**63 - 1
    with pytest.raises(BadInput):
        parse_json(b"[9223372036854775808]")
    with pytest.raises(Malformed):
        parse_json(b"\xef\xbb\xbf[]")  # RFC 8259 section 8.1: no byte order mark


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
async def test_other_content_types(house: House, ann: Person, content_type: str | None) -> None:
    problem(await post(house, ann, b'{"text": "a"}', content_type), 415, "unsupported-media-type")


async def test_bodies_over_the_limit(house: House, ann: Person) -> None:
    body = json.dumps({"text": "x" * 70_000}).encode()

    async def unannounced() -> Any:
        for start in range(0, len(body), 8192):
            yield body[start : start + 8192]

    async with house.client(ann) as client:
        headers = {"content-type": "application/json"}
        for content in (body, unannounced()):
            document = problem(await client.post(NOTES, content=content, headers=headers), 413, "payload-too-large")
            assert "65,536" in document["detail"]
        assert (await client.post(f"{NOTES}/upload", files={"file": b"x" * 150_000})).status_code == 201
        for path, kind in (("upload", {"files": {"file": b"x" * 201_000}}), ("raw", {"content": body})):
            problem(await client.post(f"{NOTES}/{path}", **kind), 413, "payload-too-large")


async def test_broken_forms(house: House, ann: Person) -> None:
    async with house.client(ann) as client:
        path = f"{NOTES}/upload"
        headers = {"content-type": "multipart/form-data"}
        problem(await client.post(path, content=b"--x", headers=headers), 400, "malformed")
        problem(await client.post(path, files={"other": b"x"}), 422, "bad-input")
        problem(await client.post(path, json={}), 422, "bad-input")


# Lists and versions


async def test_pages_lead_through_a_list(house: House, ann: Person) -> None:
    await house.write(ann, "many", copies=7)
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    async with house.client(ann) as client:
        while True:
            page = (await client.get(NOTES, params=query)).json()
            assert len(page["items"]) <= 3
            seen += [item["text"] for item in page["items"]]
            if page["next_cursor"] is None:
                break
            query["cursor"] = page["next_cursor"]
        for name, value in (("limit", 0), ("limit", 201), ("limit", "x"), ("cursor", "x" * 2001)):
            assert (
                problem(await client.get(NOTES, params={name: value}), 422, "bad-input")["errors"][0]["field"] == name
            )
        for bad in ("x", "!!", cursor("a"), cursor(1, 2), cursor(1.5), cursor(2**63), cursor(True), cursor(None)):
            problem(await client.get(NOTES, params={"cursor": bad}), 422, "bad-input")
    assert seen == [str(n) for n in range(1, 8)]


def test_cursors_come_back_as_they_went() -> None:
    from datetime import UTC, datetime

    place = (uuid4(), datetime.now(UTC), "ä/+", 7)
    assert read_cursor(cursor(*place), UUID, datetime, str, int) == place
    with pytest.raises(BadInput):
        read_cursor(cursor("2026-01-01T00:00:00"), datetime)


async def test_entity_tags_protect_changes(house: House, ann: Person) -> None:
    path = f"{NOTES}/{UUID(int=7)}"
    async with house.client(ann) as client:
        tag = (await client.get(path)).headers["etag"]
        assert tag == '"3"'
        for header in ({"If-Match": tag}, {"If-Match": "*"}, {}):
            assert (await client.put(path, json={"text": "new"}, headers=header)).status_code == 200
        stale = await client.put(path, json={"text": "new"}, headers={"If-Match": '"2"'})
        assert problem(stale, 412, "precondition-failed")["current"] == {"text": "seven"}
        assert stale.headers["etag"] == tag
        for bad in ("3", "W/x", '"3", "4"', '"three"', '"' + "9" * 30 + '"'):
            problem(await client.put(path, json={"text": "new"}, headers={"If-Match": bad}), 422, "bad-input")


# Traces and logs


async def test_the_callers_trace_goes_through(house: House, ann: Person) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with house.client(ann) as client:
        response = await client.get(NOTES, headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
        version, trace_id, span_id, flags = response.headers["traceparent"].split("-")
        assert (version, trace_id, flags) == ("00", trace, "01")
        assert span_id != "00f067aa0ba902b7"
        assert response.headers["retinue-version"] == retinue.__version__
        missing = await client.get("/v1/nothing", headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-00"})
        assert problem(missing, 404, "not-found")["trace_id"] == trace
        for bad in (f"ff-{trace}-00f067aa0ba902b7-01", f"00-{'0' * 32}-00f067aa0ba902b7-01", "nonsense", "00-1-2-3"):
            other = await client.get(NOTES, headers={"traceparent": bad})
            assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-00", other.headers["traceparent"])
            assert trace not in other.headers["traceparent"]


async def test_a_line_of_log_for_each_request(house: House, ann: Person, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "retinue.access"):
        async with house.client(ann) as client:
            response = await client.get(f"{NOTES}/{UUID(int=7)}", params={"ticket": "secret"})
    (record,) = [one for one in caplog.records if one.name == "retinue.access"]
    fields = vars(record)
    assert fields["route"] == f"{NOTES}/{{note_id}}"
    assert (fields["method"], fields["status"], fields["client"]) == ("GET", 200, "127.0.0.1")
    assert fields["user"] == str(ann.user_id)
    assert fields["trace_id"] in response.headers["traceparent"]
    assert "secret" not in str(fields)
