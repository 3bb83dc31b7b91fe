"""The Python client of Retinue for applications that act by a user's grant. It imports nothing of the server.

An application makes a key once, and shows its public part to the user who grants it something::

    key = GranteeKey.make()
    key.save("application.key")
    print(key.keyid, key.seal_to)  # what the user puts into the grant, as `grantee` and `seal_to`

From then on it signs its requests with that key::

    async with Application("https://agents.example.com", grant_id, GranteeKey.load("application.key")) as application:
        upload = await application.upload(Path("figures.csv"))
        operation = await application.operate("qwen", "Report on these figures.", inputs=[upload["artifact_id"]])
        await application.wait(operation["operation_id"])
        for artifact in await application.artifacts(operation["operation_id"]):
            await application.fetch(artifact["artifact_id"], Path(artifact["name"]).name)

The signatures are RFC 9421 with Ed25519 keys, or EIP-191 with wallets; :class:`SignedRequests` signs for any ``httpx``
client. :func:`open_sealed` opens sealed files without a server.
"""

from retinue_client.application import Application
from retinue_client.failures import Refused, SealBroken
from retinue_client.keys import GranteeKey, Signer, Wallet
from retinue_client.sealed import SealedHeader, open_sealed, read_header
from retinue_client.signing import SignedRequests, content_digest, signed

__all__ = [
    "Application",
    "GranteeKey",
    "Refused",
    "SealBroken",
    "SealedHeader",
    "SignedRequests",
    "Signer",
    "Wallet",
    "content_digest",
    "open_sealed",
    "read_header",
    "signed",
]
