"""Facts about users, logins and API keys. E-mail addresses, names and hashes are in the tables only, never here."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from retinue.ledger import Event, event


@event("user.signed_up")
class UserSignedUp(Event, frozen=True, kw_only=True):
    """A user came to be, by signing up or at the first token of an external issuer."""

    user_id: UUID
    through: Literal["password", "issuer"]


@event("user.password_changed")
class PasswordChanged(Event, frozen=True, kw_only=True):
    """The user has a new password, and every login from before has ended."""

    user_id: UUID


@event("login.started")
class LoginStarted(Event, frozen=True, kw_only=True):
    """A user signed in; refresh tokens of this login form one family."""

    login_id: UUID
    user_id: UUID


@event("login.ended")
class LoginEnded(Event, frozen=True, kw_only=True):
    """A login is over: the user signed out, or an old refresh token came up again."""

    login_id: UUID
    user_id: UUID
    reason: Literal["logout", "reuse"]


@event("key.created")
class KeyCreated(Event, frozen=True, kw_only=True):
    """An API key was made; ``replaces`` names the key whose place it takes."""

    key_id: UUID
    user_id: UUID
    scopes: list[str] | None = None
    expires_at: datetime | None = None
    replaces: UUID | None = None


@event("key.revoked")
class KeyRevoked(Event, frozen=True, kw_only=True):
    """An API key was taken back by its user, or because its user left the tenant."""

    key_id: UUID
    user_id: UUID
