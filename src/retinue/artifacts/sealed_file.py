"""The sealed file that a recipient takes home: a header of JSON and the ciphertext as it is stored.

docs/decisions/0016-sealed-files-and-blobs.md gives the format byte by byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import orjson

from retinue.artifacts.views import Artifact
from retinue.kernel import base64url
from retinue.vault import SEGMENT

MAGIC = b"RTNSEAL\x01"
CIPHER = "AES256_GCM_HKDF_SHA256"
SEALED_KEY = "HPKE_X25519_HKDF_SHA256_AES256_GCM"
MEDIA_TYPE = "application/vnd.retinue.sealed"


@dataclass(frozen=True, slots=True)
class Recipient:
    """Somebody who can open a sealed file: a label, the raw public key, and the data key sealed to it."""

    label: str
    public_key: bytes
    sealed: bytes


def header_of(tenant_id: UUID, artifact: Artifact, recipients: Sequence[Recipient]) -> bytes:
    """Return everything of a sealed file that comes before the ciphertext."""
    document = {
        "cipher": CIPHER,
        "segment": SEGMENT,
        "sealed_key": SEALED_KEY,
        "tenant_id": str(tenant_id),
        "artifact_id": str(artifact.artifact_id),
        "name": artifact.name,
        "media_type": artifact.media_type,
        "size": artifact.size,
        "sha256": artifact.sha256,
        "recipients": [
            {"label": one.label, "public_key": base64url(one.public_key), "sealed": base64url(one.sealed)}
            for one in recipients
        ],
    }
    header = orjson.dumps(document)
    return MAGIC + len(header).to_bytes(4, "big") + header
