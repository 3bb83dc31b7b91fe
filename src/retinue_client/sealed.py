"""Opens sealed files: no server is needed, only the file and the key that it is sealed to.

The file (docs/decisions/0016-sealed-files-and-blobs.md) begins with ``RTNSEAL`` and the byte 1, four bytes with the
length of a header, and the header, a JSON document. It names the data key sealed to each recipient: HPKE (RFC 9180),
base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM. What follows is the content in Tink's AES-GCM-HKDF
streaming format.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from retinue_client import base64url
from retinue_client.failures import SealBroken
from retinue_client.keys import GranteeKey

MAGIC = b"RTNSEAL\x01"
_CIPHER = "AES256_GCM_HKDF_SHA256"
_SEALED_KEY = "HPKE_X25519_HKDF_SHA256_AES256_GCM"
_CONTEXT = b"retinue artifact v1\0"
_LONGEST_HEADER = 1 << 20
_STREAM_HEADER, _TAG = 40, 16
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


@dataclass(frozen=True, slots=True)
class SealedHeader:
    """What a sealed file says of itself. Only what :func:`open_sealed` wrote is proved: the header itself is not.

    Attributes:
        tenant_id, artifact_id: whose artifact it is. The content does not open under other ids.
        name: what the artifact is called. It is data: never use it as a path without looking at it.
        media_type: as the server found it.
        size: bytes of the content.
        sha256: of the content, in hexadecimal.
        segment: bytes of a sealed segment.
        recipients: public key in base64url -> the data key sealed to it.
    """

    tenant_id: UUID
    artifact_id: UUID
    name: str
    media_type: str
    size: int
    sha256: str
    segment: int
    recipients: dict[str, bytes]


def read_header(file: BinaryIO) -> SealedHeader:
    """Read the beginning of a sealed file, and leave ``file`` where the content begins.

    Raises:
        SealBroken: it is no sealed file, or of a version that this client does not know.
    """
    start = file.read(len(MAGIC) + 4)
    if len(start) != len(MAGIC) + 4 or not start.startswith(MAGIC):
        raise SealBroken("this is no sealed file, or one of a newer version")
    length = int.from_bytes(start[len(MAGIC) :], "big")
    raw = file.read(length) if length <= _LONGEST_HEADER else b""
    if len(raw) != length or not raw:
        raise SealBroken("the header of the sealed file is cut off")
    try:
        return _header(json.loads(raw))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise SealBroken("the header of the sealed file cannot be read") from error


def open_sealed(source: str | os.PathLike[str], key: GranteeKey, target: str | os.PathLike[str]) -> SealedHeader:
    """Open a sealed file into ``target``, in constant memory. Nothing is left there unless all of it is authentic.

    Args:
        source: the sealed file.
        key: whose private key opens it.
        target: the file to make; it must not be there.

    Raises:
        SealBroken: it was changed, cut or extended, or is not sealed to this key.
        FileExistsError: there is a file at ``target``.
        OSError: a file cannot be read or written.
    """
    target = Path(target)
    with open(source, "rb") as file:
        header = read_header(file)
        data_key = _data_key(header, key)
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(handle, "wb") as out:
                _write(header, _segments(file, header, data_key), out)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
    return header


def _header(document: dict[str, Any]) -> SealedHeader:
    if document["cipher"] != _CIPHER or document["sealed_key"] != _SEALED_KEY:
        raise ValueError("another cipher")
    segment, size = document["segment"], document["size"]
    if type(segment) is not int or not _STREAM_HEADER + _TAG < segment <= 1 << 26 or type(size) is not int or size < 0:
        raise ValueError("impossible sizes")
    return SealedHeader(
        tenant_id=UUID(str(document["tenant_id"])),
        artifact_id=UUID(str(document["artifact_id"])),
        name=str(document["name"]),
        media_type=str(document["media_type"]),
        size=size,
        sha256=str(document["sha256"]),
        segment=segment,
        recipients={str(one["public_key"]): base64url.read(one["sealed"]) for one in document["recipients"]},
    )


def _context(header: SealedHeader) -> bytes:
    return _CONTEXT + header.tenant_id.bytes + header.artifact_id.bytes


def _data_key(header: SealedHeader, key: GranteeKey) -> bytes:
    sealed = header.recipients.get(key.seal_to)
    if sealed is None:
        raise SealBroken(f"the file is not sealed to this key ({key.seal_to})")
    try:
        found = _SUITE.decrypt(sealed, X25519PrivateKey.from_private_bytes(key.opening), _context(header))
    except (InvalidTag, ValueError) as error:
        raise SealBroken("the key of the file does not open: it was changed, or belongs to another file") from error
    if len(found) != 32:
        raise SealBroken("the key of the file is no key")
    return found


def _segments(file: BinaryIO, header: SealedHeader, data_key: bytes) -> Iterator[bytes]:
    """Yield the content, a segment at a time, each authenticated, in its place, and the last one as the last."""
    start = file.read(_STREAM_HEADER)
    if len(start) != _STREAM_HEADER or start[0] != _STREAM_HEADER:
        raise SealBroken("the content of the sealed file is cut off")
    own = HKDF(algorithm=SHA256(), length=32, salt=start[1:33], info=_context(header)).derive(data_key)
    cipher, prefix = AESGCM(own), start[33:]
    present, index = file.read(header.segment - _STREAM_HEADER), 0
    while True:
        following = file.read(header.segment)
        nonce = prefix + index.to_bytes(4, "big") + (b"\x00" if following else b"\x01")
        try:
            yield cipher.decrypt(nonce, present, None)
        except (InvalidTag, ValueError) as error:
            raise SealBroken(f"segment {index} is not what was sealed there: changed, cut or extended") from error
        if not following:
            return
        present, index = following, index + 1


def _write(header: SealedHeader, pieces: Iterator[bytes], out: BinaryIO) -> None:
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
        out.write(piece)
    if size != header.size or not hmac.compare_digest(digest.hexdigest(), header.sha256):
        raise SealBroken("the content is not the one that the header describes")
