"""Sealed files as an application opens them by itself: what the server's vault wrote, and what somebody changed."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retinue.vault import SEGMENT, encrypt_stream, new_data_key, seal_to
from retinue_client import GranteeKey, SealBroken, open_sealed, read_header
from retinue_client import sealed as sealed_module
from tests.vault import tink_oracle

KEY = GranteeKey.make()
FIRST, FURTHER = SEGMENT - 40 - 16, SEGMENT - 16


def text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def raw(encoded: str) -> bytes:
    return base64.urlsafe_b64decode(encoded + "=")


async def ciphertext(content: bytes, key: bytes, context: bytes) -> bytes:
    async def source() -> AsyncIterator[bytes]:
        yield content

    return b"".join([bytes(piece) async for piece in encrypt_stream(key, source(), context=context)])


async def sealed(content: bytes, *keys: GranteeKey, **changes: Any) -> bytes:
    """Write a sealed file as docs/decisions/0016 says, with the vault's own code for what is secret."""
    tenant_id, artifact_id, key = uuid4(), uuid4(), new_data_key()
    context = b"retinue artifact v1\0" + tenant_id.bytes + artifact_id.bytes
    document = {
        "cipher": "AES256_GCM_HKDF_SHA256",
        "segment": SEGMENT,
        "sealed_key": "HPKE_X25519_HKDF_SHA256_AES256_GCM",
        "tenant_id": str(tenant_id),
        "artifact_id": str(artifact_id),
        "name": "report.md",
        "media_type": "text/markdown",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "recipients": [
            {"label": f"grant:{n}", "public_key": one.seal_to, "sealed": text(seal_to(raw(one.seal_to), key, context))}
            for n, one in enumerate(keys or (KEY,))
        ],
    }
    header = json.dumps(document | changes).encode()
    return b"RTNSEAL\x01" + len(header).to_bytes(4, "big") + header + await ciphertext(content, key, context)


def opened(file: bytes, folder: Path, key: GranteeKey = KEY) -> bytes:
    source, target = folder / f"{uuid4()}.sealed", folder / f"{uuid4()}"
    source.write_bytes(file)
    try:
        open_sealed(source, key, target)
    except BaseException:
        assert not target.exists(), "something was left of a file that did not open"
        raise
    assert target.stat().st_mode & 0o777 == 0o600
    return target.read_bytes()


@pytest.mark.parametrize("size", [0, 1, FIRST - 1, FIRST, FIRST + 1, FIRST + FURTHER, FIRST + FURTHER + 1, 1_000_000])
async def test_what_the_server_sealed_opens(size: int, tmp_path: Path) -> None:
    content = os.urandom(size)
    assert opened(await sealed(content), tmp_path) == content


async def test_each_of_several_recipients_opens_it_and_nobody_else(tmp_path: Path) -> None:
    one, other, nobody = GranteeKey.make(), GranteeKey.make(), GranteeKey.make()
    file = await sealed(b"report", one, other)
    assert opened(file, tmp_path, one) == opened(file, tmp_path, other) == b"report"
    with pytest.raises(SealBroken, match="not sealed to this key"):
        opened(file, tmp_path, nobody)


async def test_a_key_that_claims_to_be_a_recipient_opens_nothing(tmp_path: Path) -> None:
    """The header is not proved: somebody may write another public key over the recipient's."""
    thief = GranteeKey.make()
    file = (await sealed(b"report")).replace(KEY.seal_to.encode(), thief.seal_to.encode())
    with pytest.raises(SealBroken, match="does not open"):
        opened(file, tmp_path, thief)


async def test_every_byte_of_the_content_is_proved(tmp_path: Path) -> None:
    file = await sealed(b"a report of some length")
    start = file.index(b"}]}") + 3
    for place in range(start, len(file)):
        changed = bytearray(file)
        changed[place] ^= 1
        with pytest.raises(SealBroken):
            opened(bytes(changed), tmp_path)


async def test_a_file_that_was_cut_extended_or_put_in_another_order_does_not_open(tmp_path: Path) -> None:
    """A file cut at a segment's end once passed elsewhere: the last segment must be known to be the last."""
    content = os.urandom(FIRST + 2 * FURTHER)
    file = await sealed(content)
    start = file.index(b"}]}") + 3
    parts = [file[start + n * SEGMENT : start + (n + 1) * SEGMENT] for n in range(3)]
    assert b"".join([file[:start], *parts]) == file
    changed = {
        "one byte less": file[:-1],
        "one byte more": file + b"\0",
        "one segment less": file[: start + 2 * SEGMENT],
        "one segment more": file + parts[2],
        "no segment": file[:start],
        "another order": file[:start] + parts[0] + parts[2] + parts[1],
        "a segment twice": file[:start] + parts[0] + parts[1] + parts[1] + parts[2],
    }
    for one in changed.values():
        with pytest.raises(SealBroken):
            opened(one, tmp_path)
    kept = content[: FIRST + FURTHER]
    shorter = json.loads(file[12:start]) | {"size": len(kept), "sha256": hashlib.sha256(kept).hexdigest()}
    header = json.dumps(shorter).encode()
    with pytest.raises(SealBroken):
        opened(file[:8] + len(header).to_bytes(4, "big") + header + parts[0] + parts[1], tmp_path)


async def test_a_reader_that_does_not_know_the_last_segment_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted mistake: segments are opened as the last one when they do not open as one in the middle."""
    aesgcm = AESGCM

    class Forgiving:
        def __init__(self, key: bytes) -> None:
            self._real = aesgcm(key)

        def decrypt(self, nonce: bytes, data: bytes, extra: bytes | None) -> bytes:
            try:
                return self._real.decrypt(nonce, data, extra)
            except InvalidTag:
                return self._real.decrypt(nonce[:-1] + bytes([1 - nonce[-1]]), data, extra)

    monkeypatch.setattr(sealed_module, "AESGCM", Forgiving)
    with pytest.raises(pytest.fail.Exception):
        await test_a_file_that_was_cut_extended_or_put_in_another_order_does_not_open(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"cipher": "NONE"},
        {"sealed_key": "RSA"},
        {"segment": 0},
        {"segment": 2**40},
        {"segment": "65536"},
        {"size": -1},
        {"tenant_id": "x"},
        {"tenant_id": 17},
        {"recipients": None},
        {"recipients": [{"public_key": KEY.seal_to, "sealed": "!"}]},
        {"recipients": [{"public_key": KEY.seal_to, "sealed": ""}]},
        {"tenant_id": str(UUID(int=1))},
        {"artifact_id": str(UUID(int=1))},
        {"size": 7},
        {"sha256": "00" * 32},
    ],
    ids=lambda one: f"{next(iter(one))} {str(next(iter(one.values())))[:9]}" if isinstance(one, dict) else str(one),
)
async def test_headers_that_say_something_else_do_not_open(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SealBroken):
        opened(await sealed(b"report", **changes), tmp_path)


@given(file=st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(lambda one: b"RTNSEAL\x01" + one)))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_file_holds_is_opened_or_refused(file: bytes, tmp_path: Path) -> None:
    with pytest.raises(SealBroken):
        opened(file, tmp_path)


async def test_a_header_that_claims_to_be_endless_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(SealBroken, match="header"):
        opened(b"RTNSEAL\x01\xff\xff\xff\xff" + b" " * 1000, tmp_path)


async def test_a_header_can_be_read_without_the_key(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(await sealed(b"report", name="../../etc/passwd"))
    with path.open("rb") as file:
        header = read_header(file)
    assert (header.name, header.size, header.media_type) == ("../../etc/passwd", 6, "text/markdown")
    assert sorted(os.listdir(tmp_path)) == ["file"]


async def test_what_tink_wrote_opens(tmp_path: Path) -> None:
    """The oracle: the content, and the key sealed to the recipient, both written by Google's Tink."""
    content, ids = os.urandom(200_000), (uuid4(), uuid4())
    context = b"retinue artifact v1\0" + ids[0].bytes + ids[1].bytes
    key = new_data_key()
    to_us = text(tink_oracle.hpke_seal(raw(KEY.seal_to), key, context))
    recipients = [{"label": "l", "public_key": KEY.seal_to, "sealed": to_us}]
    ours = await sealed(content, tenant_id=str(ids[0]), artifact_id=str(ids[1]), recipients=recipients)
    start = ours.index(b"}]}") + 3
    assert opened(ours[:start] + tink_oracle.seal_file(key, content, context, SEGMENT), tmp_path) == content


def test_the_client_needs_nothing_of_the_server(tmp_path: Path) -> None:
    """The client loads httpx and cryptography, and nothing of the server or of what that needs."""
    import subprocess

    program = (
        "import sys, retinue_client; "
        "bad = {name.partition('.')[0] for name in sys.modules} & {'retinue', 'pydantic', 'fastapi', 'http_sf', "
        "'http_message_signatures', 'msgspec', 'orjson', 'asyncpg', 'eth_keys'}; sys.exit(' '.join(sorted(bad)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
