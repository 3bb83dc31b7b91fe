"""Signing up, in and out. These run before there is a scope, so they open transactions of their own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from retinue.database import Database
from retinue.identity import views
from retinue.identity.emails import normalised
from retinue.identity.events import LoginEnded, LoginStarted, PasswordChanged, UserSignedUp
from retinue.identity.issuer import ExternalClaims
from retinue.identity.passwords import Passwords, checked
from retinue.identity.tokens import LoginState, TokenPair, Tokens
from retinue.kernel import (
    Actor,
    ActorKind,
    BadInput,
    Clock,
    Conflict,
    Forbidden,
    Scope,
    Services,
    Settings,
    Unauthenticated,
    UnitOfWork,
    new_id,
)
from retinue.ledger import append, stream_version

LONGEST_NAME = 200

Arrival = Callable[[Scope, str], Awaitable[None]]

arrivals: list[Arrival] = []
"""Called in the transaction that makes a user, with a scope in the user's new personal tenant and the user's name.

``tenancy`` registers here that a personal tenant is founded: it knows this room, not the other way round.
"""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who signed in, and the tokens for it."""

    user_id: UUID
    tenant_id: UUID
    tokens: TokenPair


async def sign_up(services: Services, email: str, password: str, name: str | None, trace_id: str) -> SignedIn:
    """Make a user with a personal tenant, signed in.

    Raises:
        Forbidden: the server is closed to strangers.
        BadInput: the e-mail address or the password cannot be used.
        Conflict: there is a user with this e-mail address.
    """
    if services.get(Settings).sign_up == "closed":
        raise Forbidden("Sign-up is closed on this server. Ask whoever runs it for an account.")
    address = normalised(email)
    shown = _name(name, address)
    encoded = await services.get(Passwords).hash(checked(password))
    user_id, home = new_id(), new_id()
    async with services.get(Database).transaction(home) as uow:
        scope = _scope(services, uow, home, user_id, trace_id)
        added = await uow.queries.fetchval(
            "SELECT identity_add_user($1, $2, $3, $4, $5, $6)",
            user_id,
            home,
            address,
            shown,
            encoded,
            scope.clock.now(),
        )
        if not added:
            raise Conflict("There is an account with this e-mail address already. Sign in instead.")
        await _welcome(scope, user_id, shown, UserSignedUp(user_id=user_id, through="password"))
        return await _start_login(scope, user_id, 1)


async def log_in(services: Services, email: str, password: str, trace_id: str) -> SignedIn:
    """Sign a user in. Whether it is the e-mail address or the password that is wrong shows neither in words nor time.

    Raises:
        Unauthenticated: one of the two is wrong.
    """
    try:
        address = normalised(email)
    except BadInput:
        address = ""  # nobody's; it takes as long as any other
    passwords = services.get(Passwords)
    async with services.get(Database).routing() as queries:
        user = await views.find_for_login(queries, address)
    if not await passwords.matches(user.password_hash if user else None, password) or user is None:
        raise _wrong()
    fresh = await _renewed_hash(passwords, user, password)
    async with services.get(Database).transaction(user.home) as uow:
        if fresh is not None:
            await uow.queries.execute("SELECT identity_rehash($1, $2, $3)", user.user_id, user.password_hash, fresh)
        return await _start_login(_scope(services, uow, user.home, user.user_id, trace_id), user.user_id, user.version)


async def refresh(services: Services, token: str, trace_id: str) -> SignedIn:
    """Take a refresh token and return the next one of its family, with a new access token.

    Raises:
        Unauthenticated: it is not valid, its login has ended, or it was used before; then the login ends now.
    """
    claims = services.get(Tokens).read_refresh(token)
    clock = _clock(services)
    expires = _refresh_end(services, clock.now())
    async with services.get(Database).transaction(claims.home) as uow:
        row = await uow.queries.fetchrow(
            "SELECT * FROM identity_refresh($1, $2, $3, $4)", claims.login_id, claims.generation, clock.now(), expires
        )
        outcome = row["r_outcome"] if row else "ended"
        if outcome == "reused":
            scope = _scope(services, uow, claims.home, claims.user_id, trace_id)
            await _record_end(scope, LoginEnded(login_id=claims.login_id, user_id=claims.user_id, reason="reuse"))
    # Outside the transaction: the end of a stolen family must be committed although the answer is a refusal.
    if row is None or outcome != "rotated":
        raise Unauthenticated("This refresh token is not valid any more. Sign in again.")
    login = LoginState(claims.user_id, claims.home, claims.login_id, row["r_version"], row["r_generation"], expires)
    return SignedIn(claims.user_id, claims.home, services.get(Tokens).issue(login))


async def log_out(services: Services, user_id: UUID, home: UUID, login_id: UUID, trace_id: str) -> None:
    """End a login: its access and refresh tokens stop at once. Doing it twice is no mistake."""
    async with services.get(Database).transaction(home) as uow:
        scope = _scope(services, uow, home, user_id, trace_id)
        ended = await uow.queries.fetchval(
            "SELECT identity_end_login($1, $2, 'logout', $3)", login_id, user_id, scope.clock.now()
        )
        if ended:
            await _record_end(scope, LoginEnded(login_id=login_id, user_id=user_id, reason="logout"))


async def change_password(
    services: Services, user_id: UUID, home: UUID, current: str, fresh: str, trace_id: str
) -> SignedIn:
    """Give a user a new password; every login of the user ends and a new one starts.

    Raises:
        BadInput: the present password is wrong, or the new one cannot be used.
        Conflict: the user signs in elsewhere and has no password here, or it was changed at the same time.
    """
    passwords = services.get(Passwords)
    checked(fresh, field="new_password")
    async with services.get(Database).routing() as queries:
        former = await queries.fetchval("SELECT identity_password_hash($1)", user_id)
    if former is None:
        raise Conflict("This account has no password here: it signs in with an external issuer.")
    if not await passwords.matches(former, current):
        raise BadInput("This is not the present password.", field="current_password")
    encoded = await passwords.hash(fresh)
    async with services.get(Database).transaction(home) as uow:
        scope = _scope(services, uow, home, user_id, trace_id)
        version = await uow.queries.fetchval("SELECT identity_change_password($1, $2, $3)", user_id, former, encoded)
        if version is None:
            raise Conflict("The password was changed at the same time. Sign in again.")
        stream = f"user:{user_id}"
        await append(scope, stream, await stream_version(scope, stream), [PasswordChanged(user_id=user_id)])
        return await _start_login(scope, user_id, version)


async def admit(services: Services, claims: ExternalClaims, trace_id: str = "") -> tuple[UUID, UUID]:
    """Return the user of an external issuer's token and its personal tenant; at first sight both are made."""
    database = services.get(Database)
    async with database.routing() as queries:
        known = await views.find_external(queries, claims.issuer, claims.subject)
    if known is not None:
        return known
    user_id, home = new_id(), new_id()
    address = _usable(claims.email)
    shown = _name(claims.name, address or claims.subject)
    async with database.transaction(home) as uow:
        scope = _scope(services, uow, home, user_id, trace_id)
        made = await uow.queries.fetchval(
            "SELECT identity_add_external($1, $2, $3, $4, $5, $6, $7)",
            claims.issuer,
            claims.subject,
            user_id,
            home,
            address,
            shown,
            scope.clock.now(),
        )
        if made:
            await _welcome(scope, user_id, shown, UserSignedUp(user_id=user_id, through="issuer"))
            return user_id, home
    return await admit(services, claims, trace_id)  # two first requests at once: the other one made it


async def _welcome(scope: Scope, user_id: UUID, name: str, fact: UserSignedUp) -> None:
    await append(scope, f"user:{user_id}", 0, [fact])
    for arrival in arrivals:
        await arrival(scope, name)


async def _start_login(scope: Scope, user_id: UUID, version: int) -> SignedIn:
    login_id, now = new_id(), scope.clock.now()
    expires = _refresh_end(scope.services, now)
    started = await scope.queries.fetchval(
        "SELECT identity_start_login($1, $2, $3, $4, $5)", login_id, user_id, version, now, expires
    )
    if not started:
        raise _wrong()  # the password was changed since it was checked
    await append(scope, f"login:{login_id}", 0, [LoginStarted(login_id=login_id, user_id=user_id)])
    login = LoginState(user_id, scope.tenant_id, login_id, version, 1, expires)
    return SignedIn(user_id, scope.tenant_id, scope.service(Tokens).issue(login))


async def _record_end(scope: Scope, fact: LoginEnded) -> None:
    stream = f"login:{fact.login_id}"
    await append(scope, stream, await stream_version(scope, stream), [fact])


async def _renewed_hash(passwords: Passwords, user: views.PasswordUser, password: str) -> str | None:
    """Return a hash with today's parameters when the stored one has older ones."""
    if user.password_hash is None or not passwords.is_outdated(user.password_hash):
        return None
    return await passwords.hash(password)


def _scope(services: Services, uow: UnitOfWork, home: UUID, user_id: UUID, trace_id: str) -> Scope:
    return Scope(
        tenant_id=home,
        actor=Actor(ActorKind.USER, user_id),
        uow=uow,
        clock=_clock(services),
        services=services,
        user_id=user_id,
        role="admin",
        trace_id=trace_id,
    )


def _clock(services: Services) -> Clock:
    return services.get(Clock)  # type: ignore[type-abstract]  # services are found by their protocol


def _refresh_end(services: Services, now: datetime) -> datetime:
    return now + timedelta(days=services.get(Settings).refresh_token_days)


def _name(given: str | None, address: str) -> str:
    text = (given or "").encode("utf-8", "ignore").decode().replace("\0", "")
    name = text.strip() or address.partition("@")[0]
    return name[:LONGEST_NAME]


def _usable(email: str | None) -> str | None:
    try:
        return normalised(email) if email else None
    except BadInput:
        return None


def _wrong() -> Unauthenticated:
    return Unauthenticated("The e-mail address or the password is wrong.")
