"""Pure decisions: which names can be kept, how much may be stored, for how long; and what blobs are called."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from retinue.artifacts.events import Kind
from retinue.kernel import BadInput, PayloadTooLarge

LONGEST_NAME = 255
"""Bytes of a name in UTF-8."""

LONGEST_LABEL = 100
_MOST_RECIPIENTS = 16
_PUBLIC_KEY = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """What a user may store.

    Attributes:
        user_bytes: of all artifacts and uploads together.
        artifact_bytes: of one.
        retention_seconds: how long an artifact is kept at most, and where nobody said; None: for ever.
    """

    user_bytes: int
    artifact_bytes: int
    retention_seconds: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A file that is about to be taken in.

    Attributes:
        owner_id: the user whose it will be.
        name: whatever the giver calls it; never a path.
        grant_id: the grant under which it comes; the grantee sees it then.
        operation_id: the operation that leaves it.
        size_hint: bytes, if known: reserved at once; without it, or beyond it, the reservation grows with the file.
        max_bytes: its own limit, in addition to the user's.
        retention_seconds: how long it is kept, where that is shorter than the user's limits say; None: as they say.
        expires_at: the latest end of its life, such as the end of the grant; None: no such end.
        recipients: label -> raw X25519 public key of those who can open the sealed file. A grantee's label is
            :func:`grantee_label`.
        version_of: the name of which this is the next version; None: its own name.
        artifact_id: its id, where the caller has one; None: a new one.
    """

    owner_id: UUID
    name: str
    kind: Kind = "output"
    grant_id: UUID | None = None
    operation_id: UUID | None = None
    size_hint: int | None = None
    max_bytes: int | None = None
    retention_seconds: int | None = None
    expires_at: datetime | None = None
    recipients: Mapping[str, bytes] = field(default_factory=dict)
    version_of: str | None = None
    artifact_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """A file that lies in the store under seal and that nobody sees before it is published.

    ``sha256`` is that of the content, in hexadecimal; ``size`` its bytes.
    """

    artifact_id: UUID
    name: str
    sha256: str
    size: int
    media_type: str


def grantee_label(grant_id: UUID) -> str:
    """Return the label of a grantee among the recipients of an artifact."""
    return f"grant:{grant_id}"


def check_name(name: str, *, where: str = "name") -> str:
    """Return a name that can be kept: any text of 1 to 255 bytes without control characters.

    Dots, slashes, reserved names of other systems and letters that run from right to left are data like others.

    Raises:
        BadInput: it is empty, too long, holds control characters (NUL among them), or is no text.
    """
    try:
        length = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        raise BadInput("A name is text; half of a surrogate pair is no character.", field=where) from None
    if not 0 < length <= LONGEST_NAME:
        raise BadInput(f"A name has 1 to {LONGEST_NAME} bytes in UTF-8; this one has {length}.", field=where)
    if any(unicodedata.category(letter) == "Cc" for letter in name):
        raise BadInput("A name holds no control characters.", field=where)
    return name


def check_incoming(incoming: Incoming) -> None:
    """Refuse what cannot be taken in.

    Raises:
        BadInput: the name, a recipient or a number is not valid.
    """
    check_name(incoming.name)
    if incoming.version_of is not None:
        check_name(incoming.version_of, where="version_of")
    if incoming.size_hint is not None and incoming.size_hint < 0:
        raise BadInput("A size is not negative.", field="size")
    if incoming.retention_seconds is not None and incoming.retention_seconds <= 0:
        raise BadInput("A retention is at least a second.", field="retention_seconds")
    if len(incoming.recipients) > _MOST_RECIPIENTS:
        raise BadInput(f"At most {_MOST_RECIPIENTS} recipients.", field="recipients")
    for label, public in incoming.recipients.items():
        if not 0 < len(label) <= LONGEST_LABEL or not label.isprintable():
            raise BadInput("A recipient's label is short, printable text.", field="recipients")
        if len(public) != _PUBLIC_KEY:
            raise BadInput(f"The key of {label} is no raw X25519 public key (32 bytes).", field="recipients")


def ending(incoming: Incoming, limits: Limits, now: datetime) -> datetime | None:
    """Return when an artifact that comes now is deleted by itself; None: never."""
    # Who gives a file can have it deleted sooner than the limits say, never later.
    seconds = [one for one in (incoming.retention_seconds, limits.retention_seconds) if one is not None]
    ends = [now + timedelta(seconds=min(seconds))] if seconds else []
    if incoming.expires_at is not None:
        ends.append(incoming.expires_at)
    return min(ends, default=None)


def largest(incoming: Incoming, limits: Limits) -> int:
    """Return how many bytes a file may have."""
    return min(limits.artifact_bytes, limits.artifact_bytes if incoming.max_bytes is None else incoming.max_bytes)


def too_large(most: int) -> PayloadTooLarge:
    """Return the fault of a file that is larger than ``most`` bytes; it says who can allow more."""
    return PayloadTooLarge(
        f"A file may have up to {most:,} bytes. Limits are artifact_bytes of the tenant's policy of operations, and "
        "RETINUE_ARTIFACT_BYTES of the server."
    )


def context_of(tenant_id: UUID, artifact_id: UUID) -> bytes:
    """Return what binds a ciphertext, and each sealed key, to one artifact of one tenant."""
    return b"retinue artifact v1\0" + tenant_id.bytes + artifact_id.bytes


def part_context(tenant_id: UUID, upload_id: UUID, blob_id: UUID, number: int) -> bytes:
    """Return what binds the ciphertext of a part to its place in one upload of one tenant."""
    return b"retinue upload v1\0" + tenant_id.bytes + upload_id.bytes + blob_id.bytes + number.to_bytes(4, "big")


def blob_name(tenant_id: UUID, blob_id: UUID) -> str:
    """Name a blob in the store: made of ids alone, nothing that anybody typed."""
    return f"{tenant_id}/{blob_id}"
