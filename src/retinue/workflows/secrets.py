"""Secrets of webhooks and callbacks: made here, shown once, sealed in the vault. Signed by Standard Webhooks."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from retinue.kernel import Scope, Unauthenticated
from retinue.vault import open_secret, seal

HOOK = "workflow-hook"
CALLBACK = "workflow-callback"
_BYTES = 32
_MOST_SIGNATURES = 1_000
"""Characters of the header with the signatures."""


async def make(scope: Scope, purpose: str, key: UUID) -> str:
    """Make a secret, in place of an older one, and return it: this is the only time."""
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(_BYTES)).decode()
    await seal(scope, purpose, str(key), secret.encode())
    return secret


async def check(scope: Scope, key: UUID, headers: Mapping[str, str], body: bytes) -> str:
    """Check the signature of a webhook's message; return the message's id.

    Args:
        headers: with names in lower case.

    Raises:
        Unauthenticated: there is no such webhook, or the signature, the time or a header is wrong; they look the same.
    """
    refused = Unauthenticated("The message is not signed as this webhook's messages are, or it is too old.")
    secret = await open_secret(scope, HOOK, str(key))
    message_id = headers.get("webhook-id", "")
    signatures = headers.get("webhook-signature", "")
    if secret is None or not message_id or len(message_id) > 256 or len(signatures) > _MOST_SIGNATURES:
        raise refused
    try:
        Webhook(secret.decode()).verify(body, dict(headers), json_parse=False)
    except (WebhookVerificationError, ValueError, binascii.Error):
        raise refused from None
    return message_id


def signed(secret: str, message_id: str, at: datetime, body: str) -> dict[str, str]:
    """Return the headers of a message that goes out."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(message_id, at, body),
    }
