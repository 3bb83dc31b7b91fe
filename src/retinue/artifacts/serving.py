"""What HTTP says of a file: its tag, its digest, its name, and which part of it is asked for. Pure decisions."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import quote

from retinue.artifacts.sealed_file import MEDIA_TYPE
from retinue.artifacts.views import Artifact
from retinue.kernel import Fault

# RFC 9110, section 14.1.2; the unit's name is case-insensitive.
_RANGE = re.compile(r"bytes[ \t]*=[ \t]*(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))[ \t]*", re.IGNORECASE)
_TAGS = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_PLAIN = re.compile(r"[^ !#-\[\]-~]|%")
# A stored file must never act with its reader's rights, whatever a browser makes of it.
_SANDBOX = "sandbox; default-src 'none'; frame-ancestors 'none'"


class RangeNotSatisfiable(Fault):
    """The range that was asked for lies outside of the file."""

    kind: ClassVar[str] = "range-not-satisfiable"
    status: ClassVar[int] = 416
    title: ClassVar[str] = "The range is not within the file"

    def __init__(self, size: int) -> None:
        super().__init__(f"The file has {size:,} bytes.", headers={"Content-Range": f"bytes */{size}"})


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes from ``start`` up to, and without, ``end``."""

    start: int
    end: int


def tag_of(artifact: Artifact) -> str:
    """Return the strong entity tag of the content (RFC 9110, section 8.8.3): its hash."""
    return f'"{artifact.sha256}"'


def matches(if_none_match: str | None, tag: str) -> bool:
    """Return whether ``If-None-Match`` names the tag (weak comparison; RFC 9110, section 13.1.2)."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or tag in (one.removeprefix("W/") for one in _TAGS.findall(if_none_match))


def part_of(wanted: str | None, if_range: str | None, tag: str, size: int) -> ByteRange | None:
    """Return the part that ``Range`` asks for; None for all of it.

    Several ranges, other units and what is malformed are answered with all of it, as is a range for an older version
    (``If-Range``; a date proves nothing here).

    Raises:
        RangeNotSatisfiable: it lies outside of the file.
    """
    if wanted is None or (if_range is not None and if_range.strip() != tag):
        return None
    found = _RANGE.fullmatch(wanted.strip())
    if found is None:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        start, end = max(0, size - int(suffix)), size
    else:
        start, end = int(first), size if last is None else min(int(last) + 1, size)
        if last is not None and int(last) < int(first):
            return None
    if start >= end:
        raise RangeNotSatisfiable(size)
    return ByteRange(start, end)


def disposition(name: str) -> str:
    """Return the ``Content-Disposition`` of a file to be saved (RFC 6266), its name in full by RFC 8187."""
    plain = _PLAIN.sub("_", name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def content_headers(artifact: Artifact, part: ByteRange | None) -> Mapping[str, str]:
    """Return the headers of the content, or of a part of it."""
    digest = base64.b64encode(bytes.fromhex(artifact.sha256)).decode()
    length = artifact.size if part is None else part.end - part.start
    headers = {
        "Content-Type": artifact.media_type,
        "Content-Length": str(length),
        "Accept-Ranges": "bytes",
        "ETag": tag_of(artifact),
        "Repr-Digest": f"sha-256=:{digest}:",
        "Content-Disposition": disposition(artifact.name),
        "Content-Security-Policy": _SANDBOX,
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "private, no-cache",
    }
    if part is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{artifact.size}"
    return headers


def sealed_headers(artifact: Artifact, length: int) -> Mapping[str, str]:
    """Return the headers of the sealed file."""
    return {
        "Content-Type": MEDIA_TYPE,
        "Content-Length": str(length),
        "Content-Disposition": disposition(f"{artifact.name}.sealed"),
        "Content-Security-Policy": _SANDBOX,
    }
