"""What a grant allows: the terms, and whether one more use is within them. No clock, no database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from retinue.identity import GranteeKey
from retinue.kernel import BadInput, Forbidden, dollars, from_base64url, to_the_second
from retinue.tools import ArgumentCheck
from retinue.vault import usable_recipient

State = Literal["active", "used_up", "expired", "revoked"]

LARGEST_SCHEMA = 16_384
"""Bytes of a grant's JSON Schema, written compactly."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a user granted to an application, and how much of it is used.

    Attributes:
        grant_id: names the grant.
        owner_id: the user who granted it.
        application: what the user calls the application.
        grantee: the application's key, as in ``keyid`` of its signatures.
        grantee_id: names the key as an actor.
        seal_to: the raw X25519 public key to which artifacts are sealed; None for a grantee that opens none by itself.
        drivers: the kinds of agents that may be used; empty for those of the tenant's policy.
        models: patterns of models that may be used; empty for those of the tenant's policy.
        files: artifacts that may be used besides what the grantee uploads; None for none.
        parameters: the JSON Schema that what is asked for must satisfy; None for anything.
        uses: how many operations; None for any number.
        used: how many there were.
        budget: nano-dollars for all of them; None for no limit of the grant's own.
        spent: nano-dollars that ended operations cost.
        reserved: nano-dollars set aside for operations under way.
        retention_seconds: how long results are kept; None for what the tenant's policy says.
        max_seconds: how long one operation may run; None likewise.
        created_at: since when.
        expires_at: until when; None for no end.
        revoked_at: when it was taken back.
    """

    grant_id: UUID
    owner_id: UUID
    application: str
    grantee: str
    grantee_id: UUID
    seal_to: bytes | None
    drivers: tuple[str, ...]
    models: tuple[str, ...]
    files: tuple[UUID, ...] | None
    parameters: Mapping[str, Any] | None
    uses: int | None
    used: int
    budget: int | None
    spent: int
    reserved: int
    retention_seconds: int | None
    max_seconds: int | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    def state(self, now: datetime) -> State:
        """Say whether it can be used."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        if self.uses is not None and self.used >= self.uses:
            return "used_up"
        return "active"

    def left(self) -> int | None:
        """Return the nano-dollars that can still be reserved; None without a budget."""
        return None if self.budget is None else max(0, self.budget - self.spent - self.reserved)


def check_alive(terms: Terms, now: datetime) -> None:
    """Refuse what is over.

    Raises:
        Forbidden: the grant was revoked or has expired; the detail says when.
    """
    state = terms.state(now)
    if state == "revoked" and terms.revoked_at is not None:
        raise Forbidden(f"This grant was revoked at {to_the_second(terms.revoked_at)}.")
    if state == "expired" and terms.expires_at is not None:
        raise Forbidden(f"This grant expired at {to_the_second(terms.expires_at)}.")


def reservation(terms: Terms, now: datetime, budget: int | None, *, again: bool) -> int:
    """Return the nano-dollars to set aside for one more operation.

    Args:
        terms: the grant, locked.
        now: the time.
        budget: what the operation may cost at most; None for all that is left.
        again: the operation was counted before and is tried again.

    Raises:
        Forbidden: the grant is over or used up, or its budget has less left.
    """
    check_alive(terms, now)
    if not again and terms.state(now) == "used_up":
        raise Forbidden(f"This grant is used up: it was for {terms.uses} operations.")
    left = terms.left()
    if left is None:
        return budget or 0
    wanted = left if budget is None else budget
    if left == 0 or wanted > left:
        raise Forbidden(
            f"The budget of this grant has {dollars(left)} dollars left, of {dollars(terms.budget or 0)}.",
            extra={"left": dollars(left)},
        )
    return wanted


def compiled(parameters: Mapping[str, Any]) -> ArgumentCheck:
    """Compile a grant's JSON Schema, whose patterns match for a bounded time and which refers to nothing elsewhere.

    Raises:
        BadInput: it is no JSON Schema of an object.
    """
    try:
        return ArgumentCheck(parameters)
    except ValueError as error:
        raise BadInput(f"parameters: {error}", field="parameters") from None


def check_parameters(terms: Terms, parameters: Mapping[str, Any]) -> None:
    """Hold what an application asks for against the grant.

    Raises:
        Forbidden: the grant does not allow it; the detail names the field.
    """
    if terms.parameters is None:
        return
    complaint = compiled(terms.parameters).complaint(dict(parameters))
    if complaint is not None:
        raise Forbidden(f"The grant does not allow this: {complaint}")


def read_grantee(text: str) -> GranteeKey:
    """Read the key of a grantee as somebody typed it.

    Raises:
        BadInput: it is no key that requests can be signed with.
    """
    try:
        return GranteeKey.parse(text)
    except ValueError as error:
        raise BadInput(f"grantee: {error}", field="grantee") from None


def read_seal_to(text: str) -> bytes:
    """Read an X25519 public key in base64url.

    Raises:
        BadInput: it is none, or one to which nothing can be sealed.
    """
    try:
        raw = from_base64url(text)
    except ValueError:
        raw = b""
    if not usable_recipient(raw):
        raise BadInput("seal_to: send a usable X25519 public key, 32 bytes in base64url.", field="seal_to")
    return raw
