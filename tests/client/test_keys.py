"""The key file of an application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from retinue_client import GranteeKey, SignedRequests, Wallet, content_digest


def test_a_key_comes_back_from_its_file_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    key = GranteeKey.make()
    key.save(tmp_path / "app.key")
    assert GranteeKey.load(tmp_path / "app.key") == key
    assert (tmp_path / "app.key").stat().st_mode & 0o777 == 0o600


def test_a_key_is_never_written_over_another(tmp_path: Path) -> None:
    first = GranteeKey.make()
    first.save(tmp_path / "app.key")
    with pytest.raises(FileExistsError):
        GranteeKey.make().save(tmp_path / "app.key")
    assert GranteeKey.load(tmp_path / "app.key") == first


def test_a_key_is_not_shown_by_accident() -> None:
    key = GranteeKey.make()
    assert key.signing.hex() not in repr(key) + str(key)
    assert repr(key.signing)[2:10] not in repr(key)


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"kind": "retinue grantee key", "signing": "AA", "opening": "AA"}']
)
def test_other_files_are_no_keys(content: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text(content)
    with pytest.raises(ValueError, match="no key of a grantee"):
        GranteeKey.load(tmp_path / "x")


async def test_a_request_is_signed_as_it_is_sent() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    auth = SignedRequests(GranteeKey.make(), "0190c2f0-0000-7000-8000-000000000000", clock=lambda: 1000.5)
    transport = httpx.MockTransport(answer)
    async with httpx.AsyncClient(transport=transport, auth=auth, base_url="https://a.example") as client:
        await client.post("/v1/x?a=b c", json={"a": 1}, headers={"Idempotency-Key": "k"})
        await client.get("/v1/x")
    post, get = seen
    assert post.headers["content-digest"] == content_digest(post.content)
    covered = post.headers["signature-input"]
    for name in ("@method", "@target-uri", "retinue-grant", "content-digest", "content-type", "idempotency-key"):
        assert f'"{name}"' in covered
    assert ";created=1000;expires=1060;" in covered
    assert "content-digest" not in get.headers
    assert post.headers["signature"] != get.headers["signature"]


async def test_a_stream_without_its_digest_is_not_sent_unsigned() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"

    auth = SignedRequests(GranteeKey.make(), "0190c2f0-0000-7000-8000-000000000000")
    transport = httpx.MockTransport(lambda request: httpx.Response(200))
    async with httpx.AsyncClient(transport=transport, auth=auth, base_url="https://a.example") as client:
        with pytest.raises(ValueError, match="Content-Digest"):
            await client.post("/v1/x", content=pieces())
        answer = await client.post("/v1/x", content=pieces(), headers={"Content-Digest": content_digest(b"x")})
    assert answer.request.headers["signature"]


def test_a_wallet_is_named_by_its_address() -> None:
    assert Wallet("0xAB" + "0" * 38, bytes).keyid == "eip155:0xab" + "0" * 38
