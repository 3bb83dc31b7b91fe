"""Who is asking and what they may do: the seam between the web and the rooms that know people.

``identity`` and ``tenancy`` implement :class:`Gate`; the web only calls it. A request passes in three steps:

1. ``identify``: read the headers. No database: a token's or a request's signature is checked, an API key is taken
   apart.
2. ``home``: only when the request names no tenant and the credential does not say one either; always for a signed
   request, whose grant says where it is good. ``use_up`` then takes its nonce, in a transaction of its own.
3. ``enter``: inside the request's transaction, one statement: still valid? a member of the tenant? in which role?

``standing`` asks the question of ``enter`` again for everybody who holds a live stream, in one go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol
from uuid import UUID

from retinue.kernel import Actor, UnitOfWork

Permission = Literal["allow", "ask", "deny"]

ALL = "*"
"""The audience of who sees every audience's events."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request before its body is read.

    Attributes:
        method: in upper case.
        headers: the first of each name, by lower-case name.
        raw: all headers as they were sent, names in lower case.
        client: the address that asks, without the port.
        target: returns the URL as the client wrote it: ``RETINUE_PUBLIC_URL`` or scheme and Host, path and query.
        path: of the route that is asked for.
    """

    method: str
    headers: Mapping[str, str]
    raw: Sequence[tuple[bytes, bytes]]
    client: str
    target: Callable[[], str]
    path: str = ""

    def all(self, name: str) -> list[str]:
        """Return every header of this (lower-case) name."""
        wanted = name.encode("latin-1")
        return [value.decode("latin-1").strip(" \t") for key, value in self.raw if key == wanted]

    @property
    def has_body(self) -> bool:
        """Whether a body is announced (RFC 9112, section 6.3)."""
        return "transfer-encoding" in self.headers or self.headers.get("content-length", "0").strip() != "0"


@dataclass(frozen=True, slots=True)
class Credential:
    """What a caller showed, checked as far as that goes without the database.

    Attributes:
        kind: an access token, an API key, or the signature of the request itself.
        subject: a stable name of the login or the key that is no secret, such as ``login:<id>`` or ``key:<digest>``;
            limits and the checks of open streams are grouped by it.
        user_id: the user, where a signature proves it; None for an API key, which only the database knows.
        tenant_id: where to work when the request names no tenant; None when only the database knows.
        expires_at: when it stops being valid by itself; None for never. Live streams end then.
        claims: whatever the gate needs to ``enter`` with it, and never the secret itself: a one-time ticket for a
            live stream stores it for half a minute.
        digest: the ``Content-Digest`` that a signature covers, for the body that follows; empty where there must be
            no body, None where nothing was signed.
    """

    kind: Literal["token", "key", "signature"]
    subject: str
    user_id: UUID | None = None
    tenant_id: UUID | None = None
    expires_at: datetime | None = None
    claims: Mapping[str, str] = field(default_factory=dict)
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A caller who was let in.

    Attributes:
        actor: recorded with every event.
        user_id: the user whose rights apply.
        role: the user's role in the tenant.
        scopes: what an API key is limited to, as ``resource:action`` or ``resource:*``; None for no further limit.
        audiences: what of the tenant's events the user sees besides what everybody does, such as ``team:<id>``;
            :data:`ALL` for all. Filled in for live streams alone.
        grant_id: the grant under which an application acts for the user; None for people and keys.
    """

    actor: Actor
    user_id: UUID
    role: str
    scopes: frozenset[str] | None = None
    audiences: frozenset[str] = frozenset()
    grant_id: UUID | None = None


class Gate(Protocol):
    """Knows users, logins, keys, members and the permission table."""

    async def identify(self, asked: Asked) -> Credential | None:
        """Return what the headers prove; None when they hold no credential at all.

        Runs for every request, before its transaction, so it must not use the database.

        Raises:
            Unauthenticated: there is a credential, and it is malformed, forged or expired.
            Unavailable: the keys of an external issuer could not be fetched.
        """
        ...

    async def home(self, credential: Credential) -> UUID:
        """Return the tenant to work in when neither the request nor the credential names one.

        A key's tenant never changes, so the answer may be kept.

        Raises:
            Unauthenticated: nobody has this credential.
        """
        ...

    async def use_up(self, credential: Credential, tenant_id: UUID) -> None:
        """Take a signature out of use, whatever becomes of its request; ``tenant_id`` is its ``home``.

        Raises:
            Unauthenticated: it was used before.
        """
        ...

    async def enter(self, credential: Credential, tenant_id: UUID, uow: UnitOfWork) -> Entry:
        """Let the caller into the tenant, with one statement on the transaction ``uow`` of that tenant.

        Raises:
            Unauthenticated: the login has ended, or the key was revoked or has expired.
            Forbidden: the grant was revoked or has expired.
            NotFound: there is no such tenant, or the caller is no member of it; the two look the same.
        """
        ...

    async def standing(self, holders: Sequence[tuple[Credential, UUID]]) -> Sequence[Entry | None]:
        """Ask again, for many at once: the present entry of each (credential, tenant), None for "not any more".

        Runs every few seconds for whoever holds a live stream; one statement for all of them keeps it cheap.
        """
        ...

    async def audiences(self, entry: Entry, uow: UnitOfWork) -> frozenset[str]:
        """Return the audiences of somebody who opens a live stream; ``standing`` returns them, too."""
        ...

    def permits(self, role: str, scopes: frozenset[str] | None, resource: str, action: str) -> Permission:
        """Look the cell up in the permission table; what is not in it is denied."""
        ...
