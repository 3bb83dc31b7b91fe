"""A caller that is not trusted: what it may try on the socket, and what does not come of it."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from retinue.gateway import Rules, listening, relay, requests
from retinue.kernel import BadInput, Settings
from tests.gateway.gateway_setting import KEY, Setting
from tests.support.model_server import Step

_ALLOWED = "gpt-4o-mini"
_RULES = Rules(models=(f"openai:{_ALLOWED}",))
_BODY = json.dumps({"model": _ALLOWED, "messages": [{"role": "user", "content": "hello"}]}).encode()
_CHAT = "/v1/chat/completions"


async def _raw(setting: Setting, data: bytes, *, seconds: float = 5.0) -> bytes:
    """Send bytes; return all that comes until the connection ends, or nothing more does."""
    reader, writer = await asyncio.open_unix_connection(str(setting.path))
    found = b""
    try:
        writer.write(data)
        await writer.drain()
        async with asyncio.timeout(seconds):
            while piece := await reader.read(65_536):
                found += piece
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return found


def _request(target: str = _CHAT, *headers: str, method: str = "POST", body: bytes = _BODY) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "host: gateway", "connection: close", *headers]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in headers):
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def _status(answer: bytes) -> int:
    return int(answer[9:12]) if answer else 0


async def test_the_same_request_without_an_attack_passes(setting: Setting) -> None:
    async with setting.line(_RULES):
        assert _status(await _raw(setting, _request())) == 200
    assert len(setting.server.requests) == 1


# Paths


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:1/v1/chat/completions",
        "http://api.openai.com/v1/chat/completions",
        "HTTP://gateway/v1/chat/completions",
        "*",
        "api.openai.com:443",
        "//v1/chat/completions",
        "/v1/chat/completions/",
        "/v1/chat/../chat/completions",
        "/v1/chat/completions/../../files",
        "/v1/files",
        "/v1/fine_tuning/jobs",
        "/v1/organization/admin_api_keys",
        "/v1/../v1/chat/completions/..",
        "/",
        "",
        "/v1beta/models/gemini-2.5-flash:batchGenerateContent",
        "/v1beta/models/x%2F..%2F..%2Ffiles:generateContent",
        "/v1beta/cachedContents",
        "/v1/messages/batches",
        "/metrics",
        "/v1/my/keys",
    ],
)
async def test_it_is_no_general_proxy(setting: Setting, target: str) -> None:
    """Bug: what is not known is passed on, with our key."""
    async with setting.line(Rules()):
        assert 400 <= _status(await _raw(setting, _request(target))) < 500
    assert setting.server.requests == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "CONNECT", "TRACE"])
async def test_other_methods_are_none(setting: Setting, method: str) -> None:
    async with setting.line(_RULES):
        target = "api.openai.com:443" if method == "CONNECT" else _CHAT
        assert 400 <= _status(await _raw(setting, _request(target, method=method))) < 500
    assert setting.server.requests == []


# Where a request ends


@pytest.mark.parametrize(
    "headers",
    [
        ("content-length: 5", "content-length: 6"),
        ("content-length: 5", "transfer-encoding: chunked"),
        ("transfer-encoding: chunked", "transfer-encoding: identity"),
        ("transfer-encoding: xchunked",),
        ("transfer-encoding : chunked",),
        ("content-length: +5",),
        ("content-length: 0x5",),
        ("content-length: -1",),
        ("host: elsewhere",),
        ("content-encoding: gzip",),
        ("x-a: b\n content-length: 3",),
        ("content-type: application/json", "content-type: text/plain"),
    ],
    ids=range(12),
)
async def test_requests_whose_end_is_in_doubt_are_refused(setting: Setting, headers: tuple[str, ...]) -> None:
    async with setting.line(_RULES):
        answer = await _raw(setting, _request(_CHAT, *headers), seconds=2)
    assert answer == b"" or 400 <= _status(answer) < 500
    assert setting.server.requests == []


async def test_a_request_hidden_in_a_body_stays_in_the_body(setting: Setting) -> None:
    hidden = _request("/v1/files")
    body = json.dumps({"model": _ALLOWED, "messages": [{"role": "user", "content": hidden.decode()}]}).encode()
    async with setting.line(_RULES):
        answer = await _raw(setting, _request(body=body))
    assert answer.count(b"HTTP/1.1 ") == 1
    assert [one.path for one in setting.server.requests] == [_CHAT]


async def test_headers_of_the_caller_do_not_reach_the_provider(setting: Setting) -> None:
    evil = (
        "authorization: Bearer mine",
        "x-api-key: mine",
        "openai-organization: org-other",
        "openai-project: proj-other",
        "x-forwarded-for: 1.2.3.4",
        "te: trailers",
        "upgrade: websocket",
        "expect: 100-continue",
        "x-original-url: /v1/files",
        "x-http-method-override: DELETE",
        "proxy-authorization: Basic YTpi",
    )
    async with setting.line(_RULES):
        assert b" 200 " in (await _raw(setting, _request(_CHAT, *evil)))[:64]
    sent = setting.server.requests[0].headers
    assert sent["authorization"] == f"Bearer {KEY}"
    allowed = {"host", "content-length", "content-type", "accept", "accept-encoding", "user-agent", "connection"}
    assert sent.keys() <= allowed | {"authorization"}


# Size and time


async def test_a_body_over_the_limit_is_413_announced_or_not(setting: Setting) -> None:
    setting.services.get(Settings).gateway_body_limit = 10_000
    large = b'{"model": "' + b"x" * 20_000 + b'"}'
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (large[:9000], large[9000:])) + b"0\r\n\r\n"
    async with setting.line(_RULES):
        assert _status(await _raw(setting, _request(body=large))) == 413
        assert _status(await _raw(setting, _request(_CHAT, "transfer-encoding: chunked", body=chunked))) == 413
        assert _status(await _raw(setting, _request(_CHAT, "content-length: 99999999999", body=b"{"))) == 413


async def test_an_endless_head_is_cut(setting: Setting) -> None:
    """Bug: a head is kept in memory however large it grows."""
    async with setting.line(_RULES):
        answer = await _raw(setting, b"POST / HTTP/1.1\r\n" + b"x-a: b\r\n" * 100_000)
        assert answer == b"" or _status(answer) == 400
        answer = await _raw(setting, b"GET /" + b"a" * 1_000_000)
        assert answer == b"" or _status(answer) == 400


async def test_a_slow_head_is_cut_and_a_slow_body_refused(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug: whoever sends a byte now and then keeps its connection for ever (slowloris)."""
    monkeypatch.setattr(listening, "_HEAD_SECONDS", 0.2)
    monkeypatch.setattr(requests, "BODY_SECONDS", 0.2)
    async with setting.line(_RULES):
        async with asyncio.timeout(4):
            assert await _raw(setting, b"") == b""
            assert await _raw(setting, b"POST /v1/chat/completions HTTP/1.1\r\nx-a:") == b""
            assert _status(await _raw(setting, _request(body=_BODY[:10])[:-10] + b"{", seconds=2)) in (400, 408)
        assert _status(await _raw(setting, _request(_CHAT, f"content-length: {len(_BODY)}", body=_BODY[:9]))) == 408
        assert _status(await _raw(setting, _request())) == 200


async def test_more_connections_than_the_bound_are_closed(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_MOST_CONNECTIONS", 3)
    async with setting.line(_RULES):
        held = [await asyncio.open_unix_connection(str(setting.path)) for _ in range(3)]
        await asyncio.sleep(0)
        assert await _raw(setting, _request()) == b""
        for _, writer in held:
            writer.close()
            await writer.wait_closed()


# Models


async def _post(setting: Setting, body: bytes | dict[str, Any], path: str = _CHAT) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with setting.http() as http:
        return await http.post(path, content=content, headers={"content-type": "application/json"})


@pytest.mark.parametrize(
    "name",
    [
        "gpt-5",
        "openai:gpt-5",
        "openai:gpt-4o-mini/../gpt-5",
        "gpt-4o-mini\u0000gpt-5",
        "GPT-4O-MINI",
        " gpt-4o-mini",
        "gpt-4o-mini ",
        "openai:openai:gpt-4o-mini",
        "anthropic:gpt-4o-mini",
        "gpt-4o-mini,gpt-5",
        "gpt-4o-mini;gpt-5",
        "gpt\u2011 4o-mini",
        "",
        ["gpt-4o-mini", "gpt-5"],
        {"name": "gpt-4o-mini"},
        5,
        True,
    ],
    ids=range(17),
)
async def test_no_trick_with_a_name_gets_another_model(setting: Setting, name: Any) -> None:
    async with setting.line(_RULES) as line:
        answer = await _post(setting, {"model": name, "messages": []})
    assert answer.status_code in (400, 403, 404), answer.text
    assert (setting.server.requests, line.usage.calls) == ([], 0)


@pytest.mark.parametrize(
    "body",
    [
        f'{{"model": "{_ALLOWED}", "model": "gpt-5", "messages": []}}',
        f'{{"model": "gpt-5", "model": "{_ALLOWED}", "messages": []}}',
        f'{{"model": "{_ALLOWED}", "messages": [], "m\\u006fdel": "gpt-5"}}',
        f'{{"model": "{_ALLOWED}", "messages": [], "models": null, "models": ["gpt-5"]}}',
    ],
    ids=range(4),
)
async def test_a_name_given_twice_is_refused(setting: Setting, body: str) -> None:
    """Bug: the first is checked here, and the last one counts at the provider."""
    async with setting.line(_RULES):
        assert (await _post(setting, body.encode())).status_code == 400
    assert setting.server.requests == []


async def test_of_a_name_given_twice_further_down_one_goes_on(setting: Setting) -> None:
    message = '{"role": "user", "content": "one", "content": "two"}'
    async with setting.line(_RULES):
        body = f'{{"model": "{_ALLOWED}", "messages": [{message}]}}'
        assert (await _post(setting, body.encode())).status_code == 200
    assert setting.server.requests[0].headers["content-length"] == str(
        len(f'{{"model":"{_ALLOWED}","messages":[{{"role":"user","content":"two"}}]}}')
    )


async def test_the_callers_own_bytes_would_be_seen(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug of the tests above: what was checked is one thing, and what goes on another."""
    kept: list[bytes] = []

    def keeping(raw: bytes) -> dict[str, Any]:
        kept.append(raw)
        return requests.parse(raw)

    monkeypatch.setattr(relay, "parse", keeping)
    monkeypatch.setattr(relay, "written", lambda _document: kept[-1])
    monkeypatch.setattr(requests, "_adds_up", lambda _raw: True)
    twice = f'{{"model": "gpt-5", "model": "{_ALLOWED}", "messages": []}}'.encode()
    async with setting.line(_RULES):
        assert (await _post(setting, twice)).status_code == 200
    assert setting.server.requests[0].headers["content-length"] == str(len(twice))  # both names went on


def test_what_is_read_fast_is_read_the_same() -> None:
    full = r'{"a": "\u00e9\/", "b\n": [1.50, 1e3, {"c": {}}], "\u0064": null}'
    for text in (full, "{}", '{"a": ""}'):
        assert requests.parse(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    "extra",
    [
        {"model": "gpt-5"},
        {"models": ["gpt-5"]},
        {"route": "fallback"},
        {"fallbacks": [{"model": "gpt-5"}]},
        {"api_base": "http://elsewhere"},
        {"api_key": "mine"},
        {"extra_body": {"model": "gpt-5"}},
        {"service_tier": "priority"},
        {"provider": {"order": ["x"]}},
    ],
    ids=range(9),
)
async def test_no_further_field_of_a_body_chooses_another_model_key_or_price(
    setting: Setting, extra: dict[str, Any]
) -> None:
    async with setting.line(_RULES), setting.openai() as client:
        with pytest.raises(openai.PermissionDeniedError):
            await client.chat.completions.create(model=_ALLOWED, messages=[], extra_body=extra)
    assert setting.server.requests == []


@pytest.mark.parametrize("path", ["/v1/responses", _CHAT])
@pytest.mark.parametrize("extra", ["background", "previous_response_id", "conversation"])
async def test_nothing_is_asked_that_cannot_be_counted_or_belongs_to_others(
    setting: Setting, path: str, extra: str
) -> None:
    async with setting.line(_RULES):
        assert (await _post(setting, {"model": _ALLOWED, "input": "x", extra: "resp_1"}, path)).status_code == 403
    assert setting.server.requests == []


_PICTURE = {"type": "image_url", "image_url": {"url": "http://elsewhere/?secret"}}
_OUT: list[tuple[str, dict[str, Any]]] = [
    (_CHAT, {"messages": [{"role": "user", "content": [_PICTURE]}]}),
    (_CHAT, {"messages": [], "web_search_options": {"search_context_size": "low"}}),
    ("/v1/responses", {"input": "x", "tools": [{"type": "mcp", "server_url": "http://elsewhere"}]}),
    ("/v1/responses", {"input": "x", "tools": [{"type": "web_search"}]}),
    (
        "/v1/responses",
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://elsewhere/x"}]}]},
    ),
    ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]}),
    ("/v1/messages", {"messages": [], "mcp_servers": [{"type": "url", "url": "http://elsewhere"}]}),
    ("/v1/messages", {"messages": [], "tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]}),
    (
        "/v1/messages",
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://elsewhere"}}]}
            ]
        },
    ),
    ("/v1beta/models/gemini-2.5-flash:generateContent", {"contents": [], "tools": [{"googleSearch": {}}]}),
    ("/v1beta/models/gemini-2.5-flash:generateContent", {"contents": [], "tools": [{"urlContext": {}}]}),
    (
        "/v1beta/models/gemini-2.5-flash:generateContent",
        {"contents": [{"parts": [{"fileData": {"fileUri": "http://elsewhere"}}]}]},
    ),
]


@pytest.mark.parametrize("call", _OUT, ids=range(len(_OUT)))
async def test_the_provider_is_no_way_out_of_the_sandbox(setting: Setting, call: tuple[str, dict[str, Any]]) -> None:
    """Bug: a program without a network has the provider fetch an address that tells what it read."""
    path, body = call
    named = {} if "gemini" in path else {"model": _ALLOWED if path[4:] != "messages" else "claude-haiku-4-5"}
    async with setting.line(Rules()):
        answer = await _post(setting, {**named, "max_tokens": 9, **body}, path)
        assert answer.status_code == 403, answer.text
        assert "network" in answer.text
    assert setting.server.requests == []
    async with setting.line(Rules(reach=True)):  # a positive control: only the rule stands in the way
        answer = await _post(setting, {**named, "max_tokens": 9, **body}, path)
        assert answer.status_code == 200, answer.text


async def test_a_picture_in_the_body_itself_passes(setting: Setting) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    async with setting.line(_RULES):
        body = {"model": _ALLOWED, "messages": [{"role": "user", "content": [picture]}]}
        assert (await _post(setting, body)).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'"x"',
        b"{",
        b"{} x",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"stream": "yes"}',
        b'{"a": NaN}',
        b'{"a": 1e999}',
        '{"a": 1}'.encode("utf-16"),
    ],
    ids=range(13),
)
async def test_what_is_no_json_object_is_refused(setting: Setting, body: bytes) -> None:
    async with setting.line(_RULES):
        assert (await _post(setting, body)).status_code == 400
        assert _status(await _raw(setting, _request())) == 200


async def test_half_a_character_is_passed_on(setting: Setting) -> None:
    """Programs that cut texts send such; it is not for the gateway to end their work for it."""
    body = f'{{"model": "{_ALLOWED}", "messages": [{{"role": "user", "content": "\\ud83d"}}]}}'.encode()
    async with setting.line(_RULES):
        answer = await _post(setting, body)
    assert answer.status_code in (200, 400)
    if answer.status_code == 400:
        assert "cannot read the request" in answer.text  # the provider's word, not ours


# The socket


async def test_the_socket_is_for_its_owner_alone(setting: Setting) -> None:
    async with setting.line(_RULES):
        assert stat.S_IMODE(os.stat(setting.path).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(setting.path.parent).st_mode) == 0o700
    async with setting.line(_RULES, mode=0o660, owner=(os.getuid(), os.getgid())):
        assert stat.S_IMODE(os.stat(setting.path).st_mode) == 0o660


async def test_a_file_in_the_sockets_place_is_left_alone(setting: Setting) -> None:
    setting.path.parent.mkdir()
    setting.path.write_text("somebody's")
    with pytest.raises(BadInput, match="cannot be made"):
        async with setting.line(_RULES):
            pass
    assert setting.path.read_text() == "somebody's"


async def test_a_socket_of_a_worker_that_died_is_taken_over(setting: Setting) -> None:
    setting.path.parent.mkdir()
    left = await asyncio.start_unix_server(lambda _r, _w: None, str(setting.path))
    left.close()
    async with setting.line(_RULES):
        assert _status(await _raw(setting, _request())) == 200


async def test_a_long_path_is_no_obstacle(setting: Setting, tmp_path: Path) -> None:
    setting.server.script(Step(text="hello"))
    deep = Setting(setting.services, setting.server, tmp_path / ("a" * 100) / ("b" * 100))
    async with deep.line(_RULES):
        short = setting.folder.with_name("short.sock")
        short.symlink_to(deep.path)
        transport = httpx2.AsyncHTTPTransport(uds=str(short))
        async with httpx2.AsyncClient(transport=transport) as client:
            assert (await client.post(f"http://gateway{_CHAT}", content=_BODY)).status_code == 200
