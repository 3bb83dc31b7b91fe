"""The words of tus 1.0.0 (https://tus.io/protocols/resumable-upload): headers in, headers out. No HTTP framework."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import format_datetime
from typing import Any, ClassVar

from retinue.artifacts.uploads import Upload
from retinue.kernel import BadInput, Fault, PreconditionFailed, UnsupportedMediaType

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,expiration,termination,checksum"
ALGORITHMS = {"sha1": hashlib.sha1, "sha256": hashlib.sha256}
MEDIA_TYPE = "application/offset+octet-stream"
_LARGEST = 2**62
_DIGITS = 19
_LONGEST_METADATA = 8192


class ChecksumMismatch(Fault):
    """What came is not what ``Upload-Checksum`` says."""

    kind: ClassVar[str] = "checksum-mismatch"
    status: ClassVar[int] = 460
    title: ClassVar[str] = "The checksum does not match"


class UploadRefused(Fault):
    """All of it came, and it is not taken in."""

    kind: ClassVar[str] = "upload-refused"
    status: ClassVar[int] = 422
    title: ClassVar[str] = "The file is not taken in"


@dataclass(frozen=True, slots=True)
class Metadata:
    """What ``Upload-Metadata`` says that is of use here."""

    name: str
    version_of: str | None
    retention_seconds: int | None


def check_version(headers: Mapping[str, str]) -> None:
    """Refuse a client that speaks another version.

    Raises:
        PreconditionFailed: it does, or does not say.
    """
    if headers.get("tus-resumable") != VERSION:
        raise PreconditionFailed(
            f"Send the header Tus-Resumable: {VERSION}.", headers={"Tus-Version": VERSION, "Tus-Resumable": VERSION}
        )


def check_media_type(headers: Mapping[str, str]) -> None:
    """Refuse bytes that do not say that they belong to an upload.

    Raises:
        UnsupportedMediaType: they do not.
    """
    if headers.get("content-type", "").partition(";")[0].strip().lower() != MEDIA_TYPE:
        raise UnsupportedMediaType(f"Send Content-Type: {MEDIA_TYPE}.")


def number(headers: Mapping[str, str], name: str) -> int:
    """Read a header that is a number of bytes.

    Raises:
        BadInput: it is missing, or is none.
    """
    text = headers.get(name.lower(), "")
    if not (text.isascii() and text.isdecimal()) or len(text) > _DIGITS or int(text) > _LARGEST:
        raise BadInput("Send a number of bytes.", field=name)
    return int(text)


def read_metadata(text: str | None) -> Metadata:
    """Read ``Upload-Metadata``: ``filename``, and of ours ``version_of`` and ``retention_seconds``.

    Raises:
        BadInput: it is malformed, or names no file.
    """
    found: dict[str, str] = {}
    for pair in (text or "")[:_LONGEST_METADATA].split(","):
        name, _, encoded = pair.strip().partition(" ")
        if name:
            found[name] = _decoded(encoded.strip())
    name = found.get("filename") or found.get("name", "")
    if not name:
        raise BadInput("Name the file: filename <base64>.", field="Upload-Metadata")
    seconds = found.get("retention_seconds")
    if seconds is not None and not _is_seconds(seconds):
        raise BadInput("retention_seconds is a number of seconds.", field="Upload-Metadata")
    return Metadata(name, found.get("version_of"), int(seconds) if seconds else None)


def _is_seconds(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= _DIGITS and 0 < int(text) < 2**31


def _decoded(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, ValueError):
        raise BadInput("Each value is UTF-8 in base64.", field="Upload-Metadata") from None


class Checksum:
    """What ``Upload-Checksum`` promises of the bytes that come."""

    def __init__(self, header: str) -> None:
        """Read the header.

        Raises:
            BadInput: it is malformed, or names an algorithm that is not checked here.
        """
        name, _, encoded = header.partition(" ")
        try:
            self._wanted = base64.b64decode(encoded.strip(), validate=True)
            self._found: Any = ALGORITHMS[name](usedforsecurity=False)
        except (KeyError, binascii.Error, ValueError):
            raise BadInput(f"Send one of {', '.join(ALGORITHMS)} and base64.", field="Upload-Checksum") from None

    def update(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._found.update(chunk)

    def check(self) -> None:
        """Judge, now that all have come.

        Raises:
            ChecksumMismatch: they are other bytes.
        """
        if not hmac.compare_digest(self._found.digest(), self._wanted):
            raise ChecksumMismatch("The bytes that came are not those of the checksum; none of them are kept.")


def options(largest: int) -> Mapping[str, str]:
    """Return what this server can do."""
    return {
        "Tus-Resumable": VERSION,
        "Tus-Version": VERSION,
        "Tus-Max-Size": str(largest),
        "Tus-Extension": EXTENSIONS,
        "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
    }


def state(upload: Upload) -> dict[str, str]:
    """Return the headers that tell how an upload is."""
    headers = {
        "Tus-Resumable": VERSION,
        "Upload-Offset": str(upload.received),
        "Upload-Length": str(upload.length),
        "Upload-Expires": format_datetime(upload.expires_at, usegmt=True),
        "Retinue-Upload-State": upload.state,
    }
    if upload.artifact_id is not None:
        headers["Retinue-Artifact"] = str(upload.artifact_id)
    return headers


def metadata_of(upload: Upload) -> str:
    """Return an upload's metadata as it was given."""
    return "filename " + base64.b64encode(upload.name.encode()).decode()
