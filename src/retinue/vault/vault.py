"""The vault of one server: its key ring, and the server's own key that others are derived from.

The server's key is random, wrapped by the root key and kept in the database. Tokens and API keys depend on it and not
on the root key, so a rotation of the root key signs nobody out. It is the check value too: a root key that does not
unwrap it is the wrong one.
"""

from __future__ import annotations

from retinue.database import Database
from retinue.kernel import Queries, Settings
from retinue.vault.keyring import FileKeyRing, KeyRing, VaultLocked, Wrapped
from retinue.vault.sealing import SealBroken, derive, new_key

_SERVER_KEY = b"retinue/server-key"


class Vault:
    """Opens and derives keys; a service of the house."""

    def __init__(self, ring: KeyRing, server_key: bytes) -> None:
        self.ring = ring
        self._server_key = server_key

    @classmethod
    async def open(cls, settings: Settings, database: Database) -> Vault:
        """Open the vault with ``<data>/root.key``; at the first start of a database, make that file.

        Raises:
            VaultLocked: the file is missing, readable by others, or not the one of this database.
        """
        path = settings.data / "root.key"
        async with database.routing() as queries:
            wrapped = await _stored(queries)
            if wrapped is not None and not path.exists():
                raise VaultLocked(
                    f"The database holds values sealed under the root key {wrapped.root_id}, but {path} is missing. "
                    "Put it back from your copy; without it the stored secrets, tokens and API keys are lost."
                )
            ring = FileKeyRing.create(path)
            return cls(ring, await _server_key(queries, ring, wrapped))

    def derive(self, purpose: str) -> bytes:
        """Return this server's key of 256 bits for ``purpose``; always the same one."""
        return derive(self._server_key, purpose)

    async def rewrap(self, queries: Queries, root_id: str) -> None:
        """Wrap the server's key under another root key; the caller holds the lock of its row."""
        wrapped = await self.ring.wrap(self._server_key, _SERVER_KEY, root_id)
        await queries.execute("UPDATE server_keys SET root_id = $1, wrapped = $2", wrapped.root_id, wrapped.data)


async def _stored(queries: Queries) -> Wrapped | None:
    row = await queries.fetchrow("SELECT root_id, wrapped FROM server_keys")
    return Wrapped(row["root_id"], row["wrapped"]) if row else None


async def _server_key(queries: Queries, ring: KeyRing, wrapped: Wrapped | None) -> bytes:
    if wrapped is None:
        fresh = await ring.wrap(new_key(), _SERVER_KEY)
        await queries.execute(
            "INSERT INTO server_keys (root_id, wrapped) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            fresh.root_id,
            fresh.data,
        )
        wrapped = await _stored(queries)  # another process may have been first
    if wrapped is None:
        raise VaultLocked("The database did not keep the server's key. Check that its migrations are complete.")
    try:
        return await ring.unwrap(wrapped, _SERVER_KEY)
    except SealBroken as error:
        raise VaultLocked(
            "The server's key in the database does not open with the root key. Restore the database and root.key "
            "from copies that belong together."
        ) from error
