"""Whatever is sent, the answer is a problem document that names what is wrong; never an error of the program.

The inputs are made from the API's own description: each operation gets its good request with one thing spoilt. The
requests come from the owner of real things, so that what is spoilt is the only thing wrong with them.
"""

from __future__ import annotations

import asyncio
import copy
import json
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from tests.security.estate import Estate, Operation, Things, estate_on, operations, request_of
from tests.support.databases import Cluster
from tests.support.running import RunningServer, running_server

BODY_LIMIT = 100_000

# What is wanted may be left out altogether.
OPTIONAL_BODIES = frozenset(
    {
        "runs_cancel",
        "chat_open_session",
        "plans_cancel",
        "agents_install_templates",
        "workflows_run",
        "operations_cancel",
        "artifacts_hold",
    }
)

# Parameters in which any words can be looked for.
FREE_TEXT = frozenset({"text", "label", "name", "version_of", "driver"})

# Fields that hold whatever JSON there is: nothing is of the wrong type in them.
ANYTHING = frozenset({"output_schema", "edited_arguments", "output", "value"})


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    limits = {"RETINUE_BODY_LIMIT": str(BODY_LIMIT), "RETINUE_GATEWAY_BODY_LIMIT": str(BODY_LIMIT)}
    async with running_server(postgres, worker=True, RETINUE_UPLOAD_LIMIT="200000", **limits) as found:
        yield found


@pytest.fixture(scope="module")
async def estate(server: RunningServer) -> AsyncIterator[Estate]:
    async with estate_on(server) as found:
        yield found


@pytest.fixture(autouse=True)
async def _no_mistake_of_the_program(server: RunningServer) -> AsyncIterator[None]:
    """What a test sends must leave no error and no traceback in the server's log."""
    before = len(server.log())
    yield
    written = server.log()[before:]
    assert "Traceback" not in written
    assert '"level":"error"' not in written


def all_operations(estate: Estate) -> list[Operation]:
    """Return every operation, the public ones too: signing up takes input like any other."""
    return [one for one in operations(estate.document) if not one.path.startswith("/health")]


PUBLIC_BODIES: dict[str, Any] = {
    "identity_sign_up": {"email": "zoe@example.com", "password": "correct horse battery", "name": "zoe"},
    "identity_log_in": {"email": "zoe@example.com", "password": "correct horse battery"},
    "identity_refresh": {"refresh_token": "x.y"},
    "identity_change_password": {"current_password": "correct horse", "new_password": "correct horse battery"},
    "identity_log_out": None,
}


def good(operation: Operation, things: Things) -> tuple[str, str, dict[str, Any]]:
    """Return the good request to any operation."""
    if operation.permission is None:
        body = PUBLIC_BODIES[operation.name]
        return operation.method, operation.path, {} if body is None else {"json": body}
    return request_of(operation, things)


def wrong(response: httpx.Response, where: str, *, field: str | None = None) -> list[str]:
    """Return what is wrong with an answer to bad input: it must be a problem that names the field."""
    said = f"{where}: {response.status_code} {response.text[:300]}"
    if not 400 <= response.status_code < 500:
        return [said]
    if response.request.url.path.startswith("/v1/models/") and response.headers["content-type"] == "application/json":
        # These speak as the providers do, whose clients know no problem documents.
        return [] if response.json()["error"]["message"] else [f"no words: {said}"]
    if response.headers.get("content-type") != "application/problem+json":
        return [f"no problem document: {said}"]
    if response.request.method == "HEAD":
        return []  # it has no body
    problem = response.json()
    if (
        not {"type", "title", "status", "detail", "trace_id"} <= set(problem)
        or problem["status"] != response.status_code
    ):
        return [f"an incomplete problem: {said}"]
    if field is not None:
        named = [one["field"] for one in problem.get("errors") or []]
        if not any(field in one or one in field for one in named):
            return [f"{field} is not named: {said}"]
    return []


# Bodies


def resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without references and alternatives: the first that is not null."""
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for one in schema.get("anyOf", []):
        if one.get("type") != "null":
            return resolved(one, document)
    return schema


def body_schema(operation: Operation, document: dict[str, Any]) -> dict[str, Any] | None:
    if "application/json" not in operation.body:
        return None
    return resolved(operation.body["application/json"]["schema"], document)


_DEEP: Any = "x"
for _ in range(40):
    _DEEP = [_DEEP]

_NUL, _LONE = "a\x00b", "a\ud800b"


def spoilt(schema: dict[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    """Return values that a field of this schema must not have."""
    yield "NUL", _NUL
    yield "half a surrogate pair", _LONE
    yield "too deep", _DEEP
    yield "a huge number", 10**30
    kind = schema.get("type")
    if name in ANYTHING:
        return
    if kind != "object":
        yield "an object", {"a": 1}
    if kind != "array":
        yield "a list", [1]
    if kind == "string":
        yield "a number", 17
        if "maxLength" in schema:
            yield "too long", "x" * (schema["maxLength"] + 1)
        if "enum" in schema or "pattern" in schema or schema.get("format") in ("uuid", "date-time"):
            yield "none of the allowed", "\u2603"
    if kind in ("integer", "number"):
        yield "a text", "many"
        if "maximum" in schema:
            yield "too large", schema["maximum"] + 1
        if "minimum" in schema:
            yield "too small", schema["minimum"] - 1
    if kind == "array" and "maxItems" in schema:
        yield "too many", ["x"] * (schema["maxItems"] + 1)


def spoilt_bodies(body: Any, schema: dict[str, Any], document: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Return bodies with one thing wrong: (the field, what is wrong, the body)."""
    for name in schema.get("required", []):
        yield name, "missing", {one: value for one, value in (body or {}).items() if one != name}
    for name, raw in schema.get("properties", {}).items():  # a provider describes its own format itself
        inner = resolved(raw, document)
        for what, value in spoilt(inner, name):
            yield name, what, {**(body or {}), name: value}
        if inner.get("properties"):
            for inside, what, value in spoilt_bodies({}, inner, document):
                yield f"{name}.{inside}", what, {**(body or {}), name: value}
        if name not in ANYTHING and {"type": "null"} not in raw.get("anyOf", []):
            yield name, "null", {**(body or {}), name: None}
    if schema.get("additionalProperties") is False:
        yield "unheard_of", "unknown", {**(body or {}), "unheard_of": 1}


async def test_spoilt_fields_are_named(estate: Estate) -> None:
    breaches: list[str] = []
    tried = 0
    for operation in all_operations(estate):
        schema = body_schema(operation, estate.document)
        if schema is None:
            continue
        method, path, request = good(operation, estate.things)
        for name, what, body in spoilt_bodies(request.get("json"), schema, estate.document):
            content = json.dumps(body).encode()
            if len(content) > BODY_LIMIT:
                continue
            headers = {"Content-Type": "application/json"}
            response = await estate.ada.client.request(method, path, content=content, headers=headers)
            field = None if operation.name == "tenants_put_member" and what == "null" else name
            breaches += wrong(response, f"{method} {operation.path} {name} {what}", field=field)
            tried += 1
    assert tried > 400
    assert not breaches, "\n".join(breaches)


GARBAGE: dict[str, bytes] = {
    "half an object": b'{"name": ',
    "no JSON": b"name=ada",
    "a list": b"[]",
    "a text": b'"text"',
    "a number": b"17",
    "not a number": b'{"name": NaN}',
    "infinite": b'{"name": -Infinity}',
    "a number out of range": b'{"name": 1e999}',
    "a number of ten thousand digits": b'{"name": ' + b"9" * 10_000 + b"}",
    "given twice": b'{"name": "a", "name": "b"}',
    "not UTF-8": b'{"name": "\xe4"}',
    "UTF-16": '{"name": "a"}'.encode("utf-16"),
    "very deep": b"[" * 50_000,
    "a byte order mark": b'\xef\xbb\xbf{"name": "a"}',
    "more than one": b"{} {}",
    "too large": b'{"name": "' + b"x" * BODY_LIMIT + b'"}',
    "nothing": b"",
}


async def test_garbage_is_refused(estate: Estate) -> None:
    breaches: list[str] = []
    for operation in all_operations(estate):
        if "application/json" not in operation.body:
            continue
        method, path, _ = good(operation, estate.things)
        optional = operation.name in OPTIONAL_BODIES
        for what, content in GARBAGE.items():
            if optional and what == "nothing":
                continue
            headers = {"Content-Type": "application/json; charset=utf-8"}
            response = await estate.ada.client.request(method, path, content=content, headers=headers)
            where = f"{method} {operation.path} {what}"
            breaches += wrong(response, where)
            if what == "too large" and response.status_code != 413:
                breaches.append(f"{where}: {response.status_code}")
    assert not breaches, "\n".join(breaches)


async def test_other_types_and_charsets_are_refused(estate: Estate) -> None:
    breaches: list[str] = []
    for operation in all_operations(estate):
        if not operation.body:
            continue
        method, path, sample = good(operation, estate.things)
        asked = sample.get("headers", {})  # what a protocol asks of each request, whatever its body
        for media_type in ("text/plain", "application/xml", "application/x-www-form-urlencoded", "x", "a/b/c; ;="):
            response = await estate.ada.client.request(
                method, path, content=b"<a/>", headers={**asked, "Content-Type": media_type}
            )
            where = f"{method} {operation.path} {media_type}"
            breaches += wrong(response, where)
            if response.status_code not in (415, 422):
                breaches.append(f"{where}: {response.status_code}")
        latin = "{'name': 'ä'}".replace("'", '"').encode("latin-1")
        headers = {"Content-Type": "application/json; charset=iso-8859-1"}
        response = await estate.ada.client.request(method, path, content=latin, headers=headers)
        breaches += wrong(response, f"{method} {operation.path} latin-1")
    assert not breaches, "\n".join(breaches)


BOUNDARY = "xyz"
FORMS: dict[str, tuple[str, bytes]] = {
    "no boundary": ("multipart/form-data", b"--xyz--"),
    "another boundary": ("multipart/form-data; boundary=abc", b"--xyz--"),
    "cut off": (f"multipart/form-data; boundary={BOUNDARY}", b'--xyz\r\nContent-Disposition: form-data; name="fi'),
    "no file": (
        f"multipart/form-data; boundary={BOUNDARY}",
        b'--xyz\r\nContent-Disposition: form-data; name="path"\r\n\r\na.txt\r\n--xyz--\r\n',
    ),
    "a text for the file": (
        f"multipart/form-data; boundary={BOUNDARY}",
        b'--xyz\r\nContent-Disposition: form-data; name="file"\r\n\r\na\r\n--xyz--\r\n',
    ),
    "a charset that is none": (
        f"multipart/form-data; boundary={BOUNDARY}; charset=klingon",
        b'--xyz\r\nContent-Disposition: form-data; name="file"\r\n\r\na\r\n--xyz--\r\n',
    ),
}
PLACES = ["../up.txt", "/etc/passwd", "a/../../b", "a\x00b", "..", ".", "x" * 2000, "C:\\a", "a\nb", "\udcff"]


async def test_bad_uploads_are_refused(estate: Estate) -> None:
    url = f"/v1/my/chat/{estate.things.session_id}/files"
    breaches: list[str] = []
    for what, (media_type, content) in FORMS.items():
        response = await estate.ada.client.post(url, content=content, headers={"Content-Type": media_type})
        breaches += wrong(response, what)
    for place in PLACES:
        part = b'--xyz\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
        content = part % (b"path", b"", place.encode("utf-8", "surrogateescape"))
        content += part % (b"file", b'; filename="a.txt"', b"text") + b"--xyz--\r\n"
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        response = await estate.ada.client.post(url, content=content, headers=headers)
        if not (response.status_code == 201 and place in ("C:\\a", "a\nb", "\udcff")):
            breaches += wrong(response, repr(place[:40]))
        elif "/" in response.json()["path"]:
            breaches.append(f"{place!r} was stored as {response.text}")
    large = await estate.ada.client.post(url, files={"file": ("large", b"x" * 300_000)})
    breaches += wrong(large, "large")
    assert large.status_code == 413
    assert not breaches, "\n".join(breaches)


YAML = {
    "a bomb": "a: &a [x, x]\nb: &b [*a, *a]\nspec_version: 1\nname: *b\n",
    "python": "!!python/object/apply:os.system ['true']",
    "no mapping": "- 1\n- 2\n",
    "broken": "name: [",
    "given twice": "spec_version: 1\nname: a\nname: b\n",
    "a NUL": 'spec_version: 1\nname: "a\\0b"\n',
    "half a pair": 'spec_version: 1\nname: "a\\ud800b"\n',
    "too deep": "spec_version: 1\nname: " + "[" * 5000,
    "a key that is a list": "? [a]\n: b\n",
    "a huge number": "spec_version: 1\nname: x\npriority: " + "9" * 5000,
    "another version": "spec_version: 99\nname: x\n",
    "endless": "spec_version: 1\nname: x\ntemperature: .inf\n",
    "itself": "&a\nspec_version: 1\nname: x\noutput_schema: *a\n",
    "nothing": "",
}


async def test_bad_yaml_is_refused(estate: Estate) -> None:
    breaches: list[str] = []
    for what, text in YAML.items():
        headers = {"Content-Type": "text/yaml"}
        response = await estate.ada.client.post("/v1/my/agents/import", content=text.encode(), headers=headers)
        breaches += wrong(response, what)
    for content in (b"name: \xff\xfe", b"\x00\x01", b"name: " + b"x" * BODY_LIMIT):
        response = await estate.ada.client.post("/v1/my/agents/import", content=content, headers=headers)
        breaches += wrong(response, repr(content[:20]))
    assert not breaches, "\n".join(breaches)


# Paths, queries, headers

BAD_IDS = [
    "x",
    "0",
    "-1",
    "%00",
    "%ed%a0%80",
    "%ff",
    "..%2f..",
    "a" * 3000,
    "null",
    "%20",
    "1e5",
    "{}",
    "%2e%2e",
    "'--",
]


async def test_malformed_ids_are_refused(estate: Estate) -> None:
    breaches: list[str] = []
    for operation in estate.operations():
        for name in operation.in_path:
            for bad in BAD_IDS:
                things = estate.things.all() | {name: bad}
                method, _, request = good(operation, estate.things)
                if operation.name == "secrets_put_secret" and name == "name" and bad in ("x", "0", "null", "1e5"):
                    continue  # these are good names
                path = operation.path.format_map(things)
                response = await estate.ada.client.request(method, path, **request)
                where = f"{method} {operation.path} {name}={bad[:20]}"
                breaches += wrong(response, where)
                if response.status_code not in (404, 405, 422):
                    breaches.append(f"{where}: {response.status_code}")
    assert not breaches, "\n".join(breaches)


async def test_bad_queries_are_refused(estate: Estate) -> None:
    breaches: list[str] = []
    for operation in estate.operations():
        method, path, request = good(operation, estate.things)
        for name, raw in operation.in_query().items():
            if name == "ticket":
                continue  # who is signed in needs none; tests/web tries bad ones
            schema = resolved(raw, estate.document)
            bad = (
                ["\x00", "a" * 3000, "☃"]
                if schema.get("type") == "string"
                else ["\x00", "x", "9" * 400, "NaN", "1e400"]
            )
            if schema.get("type") in ("integer", "number"):
                bad += ["-1", "0x10"]
            if schema.get("maximum"):
                bad.append(str(schema["maximum"] + 1))
            if name in FREE_TEXT:
                bad = ["\x00", "a" * 3000]
            for value in bad:
                spoilt_request = copy.deepcopy(request)
                spoilt_request["params"] = {**(request.get("params") or {}), name: value}
                where = f"{method} {operation.path} {name}={value[:20]!r}"
                async with estate.ada.client.stream(method, path, **spoilt_request) as response:
                    if response.is_success:  # a live stream would not end
                        breaches.append(f"{where}: {response.status_code}")
                        continue
                    await response.aread()
                    breaches += wrong(response, where)
    assert not breaches, "\n".join(breaches)


HEADERS: list[list[tuple[bytes, bytes]]] = [
    [(b"Retinue-Tenant", b"x")],
    [(b"Retinue-Tenant", b"\xff\xfe")],
    [(b"Retinue-Tenant", b"a" * 4000)],
    [(b"Authorization", b"Bearer x"), (b"Authorization", b"Bearer y")],
    [(b"Authorization", b"Basic YTpi")],
    [(b"Authorization", b"Bearer \xff")],
    [(b"Authorization", b"Bearer")],
    [(b"Authorization", b"Bearer rtn_live_" + b"x" * 4000)],
    [(b"Authorization", b"Bearer eyJhbGciOiJub25lIn0.e30.")],
]


async def test_bad_headers_are_refused(estate: Estate) -> None:
    breaches: list[str] = []
    async with httpx.AsyncClient(base_url=estate.server.base_url) as client:
        token = estate.ada.client.headers["Authorization"].encode()
        for operation in estate.operations():
            method, path, request = good(operation, estate.things)
            request.pop("headers", None)
            for headers in HEADERS:
                sent = headers if headers[0][0] == b"Authorization" else [(b"Authorization", token), *headers]
                response = await client.request(method, path, headers=sent, **request)
                in_path = "tenant_id" in operation.in_path and headers[0][0] == b"Retinue-Tenant"
                if in_path and method != "GET":
                    continue
                if not (in_path and response.status_code == 200):
                    breaches += wrong(response, f"{method} {operation.path} {headers}"[:200])
    assert not breaches, "\n".join(breaches)


async def test_bad_conditions_and_keys_are_refused(estate: Estate) -> None:
    breaches: list[str] = []
    things, client = estate.things, estate.ada.client
    for key in ("", "x" * 300, "a b\tc", "ä"):
        headers = [(b"Idempotency-Key", key.encode())]
        response = await client.post("/v1/my/keys", json={"name": "x"}, headers=headers)
        breaches += wrong(response, f"Idempotency-Key {key[:10]!r}", field="Idempotency-Key")
    for match in ("x", '"x"', "W/", '"' + "9" * 400 + '"', "\xff"):
        for path, body in (
            (f"/v1/my/agents/{things.agent}", {"name": things.agent_name}),
            (f"/v1/my/agents/{things.agent}/budget", {"limit": None}),
            (f"/v1/tenants/{things.tenant_id}/budget", {"limit": None}),
        ):
            response = await client.put(path, json=body, headers=[(b"If-Match", match.encode("latin-1"))])
            breaches += wrong(response, f"{path} If-Match {match[:10]}")
    for position in ("x", "-1", "9" * 400, "\u0661"):
        headers = [(b"Last-Event-ID", position.encode())]
        breaches += wrong(await client.get("/v1/my/events/stream", headers=headers), f"Last-Event-ID {position[:10]}")
    assert not breaches, "\n".join(breaches)


# What a client library would not send


def raw_answer(server: RunningServer, request: bytes) -> bytes:
    """Send bytes as they are and return the answer until the server hangs up."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


START = b"POST /v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        START + b"Content-Length: 2\r\nContent-Length: 5\r\n\r\n{}",
        START + b"Content-Length: -1\r\n\r\n{}",
        START + b"Content-Length: x\r\n\r\n{}",
        START + b"Content-Length: 2\r\nContent-Type: text/plain\r\n\r\n{}",
        START + b"Content-Length: 50\r\n\r\n{}",
        START + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        START + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"GET /v1/my/runs\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 100_000 + b"\r\n\r\n",
    ],
)
async def test_broken_http_breaks_nothing(server: RunningServer, request_bytes: bytes) -> None:
    answer = await asyncio.to_thread(raw_answer, server, request_bytes)
    status = int(answer.split(b" ", 2)[1]) if answer else 400
    assert 400 <= status < 500, answer[:500]
    async with httpx.AsyncClient(base_url=server.base_url) as client:
        assert (await client.get("/health/live")).status_code == 200


async def test_everything_is_still_there(estate: Estate) -> None:
    """The good requests that were spoilt work: what was refused was refused for what was spoilt."""
    for name in ("agents_show", "runs_show", "chat_list_files", "approvals_show", "metering_read_tenant_budget"):
        operation = next(one for one in estate.operations() if one.name == name)
        method, path, request = good(operation, estate.things)
        assert (await estate.ada.client.request(method, path, **request)).status_code == 200, name
