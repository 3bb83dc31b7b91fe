"""Signing up, in and out, and a user's own API keys, over HTTP."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Path, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr

from retinue.identity import commands, keys, views
from retinue.identity.commands import LONGEST_NAME, SignedIn
from retinue.identity.keys import NewKey
from retinue.identity.views import KeyInfo
from retinue.kernel import Conflict, Scope, Services
from retinue.web import (
    Credential,
    Exchange,
    Page,
    Router,
    WantedPage,
    exchange_here,
    limit_login,
    problems,
    public,
    scoped,
    services_of,
)

auth = Router(prefix="/v1/auth", tags=["identity"])
my = Router(prefix="/v1/my", tags=["identity"])

AnyServices = Annotated[Services, Depends(services_of)]
AnyExchange = Annotated[Exchange, Depends(exchange_here)]
KeyId = Annotated[UUID, Path(description="the key's id, not its text")]

_EMAIL = "ann@example.com"
_PASSWORD = "correct horse battery"  # an example for the documentation


class NewUser(BaseModel):
    """Who signs up."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"email": _EMAIL, "password": _PASSWORD}]}
    )

    email: str = Field(min_length=3, max_length=254, description="stored in lower case", examples=[_EMAIL])
    password: SecretStr = Field(min_length=10, max_length=1024, examples=[_PASSWORD])
    name: str | None = Field(default=None, max_length=LONGEST_NAME, examples=["Ann"])


class Credentials(BaseModel):
    """Who signs in."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"email": _EMAIL, "password": _PASSWORD}]}
    )

    email: str = Field(max_length=1024, examples=[_EMAIL])
    password: SecretStr = Field(max_length=1024, examples=[_PASSWORD])


class RefreshToken(BaseModel):
    """A refresh token, for the next pair of tokens."""

    model_config = ConfigDict(extra="forbid")

    refresh_token: SecretStr = Field(max_length=4096)


class PasswordChange(BaseModel):
    """The present password and the one to have from now on."""

    model_config = ConfigDict(extra="forbid")

    current_password: SecretStr = Field(max_length=1024)
    new_password: SecretStr = Field(min_length=10, max_length=1024)


class TokensView(BaseModel):
    """Signed in: send `access_token` as `Authorization: Bearer`; exchange `refresh_token` once for the next pair."""

    user_id: UUID
    tenant_id: UUID = Field(description="the user's personal tenant")
    access_token: str
    refresh_token: str
    token_type: str = Field(default="Bearer", examples=["Bearer"])
    expires_in: int = Field(description="seconds until the access token expires", examples=[900])


class NewKeyRequest(BaseModel):
    """An API key to make, for the tenant of the request."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "build server", "scopes": ["runs:*", "agents:read"]}]}
    )

    name: str = Field(min_length=1, max_length=LONGEST_NAME, examples=["build server"])
    scopes: list[Annotated[str, Field(pattern=r"^[a-z_]{1,32}:([a-z_]{1,32}|\*)$", max_length=65)]] | None = Field(
        default=None,
        max_length=200,
        description="what it is limited to; left out: all that its user may do",
        examples=[["runs:*", "agents:read"]],
    )
    expires_at: AwareDatetime | None = Field(default=None, examples=["2030-01-01T00:00:00Z"])


class Overlap(BaseModel):
    """How long the former key goes on."""

    model_config = ConfigDict(extra="forbid")

    overlap_seconds: int = Field(default=86_400, ge=0, le=2_592_000)


class KeyView(BaseModel):
    """An API key, as its owner sees it later."""

    key_id: UUID
    name: str
    hint: str = Field(description="how the key begins", examples=["rtn_live_4fQz"])
    scopes: list[str] | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="exact to the minute")
    replaced_by: UUID | None


class NewKeyView(KeyView):
    """An API key just made. `key` is shown this once."""

    key: str = Field(examples=["rtn_live_4fQz..."])


@auth.post("/sign-up", status_code=201, dependencies=[public()], responses=problems(403, 409))
async def sign_up(services: AnyServices, exchange: AnyExchange, body: NewUser) -> TokensView:
    """Make an account with a personal tenant."""
    password = body.password.get_secret_value()
    return _tokens(await commands.sign_up(services, body.email, password, body.name, exchange.trace_id))


@auth.post("/login", dependencies=[public()], responses=problems(401))
async def log_in(services: AnyServices, exchange: AnyExchange, request: Request, body: Credentials) -> TokensView:
    """Sign in with e-mail address and password."""
    await limit_login(request, body.email.strip().casefold())
    password = body.password.get_secret_value()
    return _tokens(await commands.log_in(services, body.email, password, exchange.trace_id))


@auth.post("/refresh", dependencies=[public()], responses=problems(401))
async def refresh(services: AnyServices, exchange: AnyExchange, body: RefreshToken) -> TokensView:
    """Exchange a refresh token for the next pair. A token that was used before ends the login: it may be stolen."""
    token = body.refresh_token.get_secret_value()
    return _tokens(await commands.refresh(services, token, exchange.trace_id))


@auth.post("/logout", status_code=204, dependencies=[public()], responses=problems(401, 409))
async def log_out(services: AnyServices, exchange: AnyExchange) -> None:
    """End this login at once: its tokens are refused from now on, and its live streams are cut."""
    user_id, home, login_id = _login_of(exchange.caller())
    await commands.log_out(services, user_id, home, login_id, exchange.trace_id)


@my.post("/password", dependencies=[public()], responses=problems(401, 409))
async def change_password(
    services: AnyServices, exchange: AnyExchange, request: Request, body: PasswordChange
) -> TokensView:
    """Change the password. Every login ends, this one too; the answer holds the tokens of a new one."""
    user_id, home, _ = _login_of(exchange.caller())
    await limit_login(request, f"user {user_id}")
    current, fresh = body.current_password.get_secret_value(), body.new_password.get_secret_value()
    return _tokens(await commands.change_password(services, user_id, home, current, fresh, exchange.trace_id))


@my.post("/keys", status_code=201, responses=problems(409))
async def create_key(scope: Annotated[Scope, scoped("keys", "create")], body: NewKeyRequest) -> NewKeyView:
    """Make an API key for this tenant. Its text is in this answer and nowhere else."""
    return _new_key(await keys.create_key(scope, body.name, body.scopes, body.expires_at))


@my.get("/keys")
async def list_keys(scope: Annotated[Scope, scoped("keys", "list")], page: WantedPage) -> Page[KeyView]:
    """List your API keys of this tenant, oldest first, the revoked ones too."""
    after = page.after_one(UUID)
    rows = await views.keys_of(scope, scope.owner(), after, page.limit + 1)
    return page.page(rows, _key, lambda row: (row.key_id,))


@my.post("/keys/{key_id}/replace", status_code=201, responses=problems(409))
async def replace_key(scope: Annotated[Scope, scoped("keys", "create")], key_id: KeyId, body: Overlap) -> NewKeyView:
    """Make a key that takes this one's place; both work until the overlap is over."""
    return _new_key(await keys.replace_key(scope, key_id, timedelta(seconds=body.overlap_seconds)))


@my.delete("/keys/{key_id}", status_code=204)
async def revoke_key(scope: Annotated[Scope, scoped("keys", "delete")], key_id: KeyId) -> None:
    """Take an API key back, at once."""
    await keys.revoke_key(scope, key_id)


def _login_of(credential: Credential) -> tuple[UUID, UUID, UUID]:
    """Return user, personal tenant and login of a caller who signed in here."""
    login = credential.claims.get("login")
    if login is None or credential.user_id is None or credential.tenant_id is None:
        raise Conflict("This needs a login with a password. API keys and tokens of other issuers have none to end.")
    return credential.user_id, credential.tenant_id, UUID(login)


def _tokens(signed_in: SignedIn) -> TokensView:
    return TokensView(
        user_id=signed_in.user_id,
        tenant_id=signed_in.tenant_id,
        access_token=signed_in.tokens.access_token,
        refresh_token=signed_in.tokens.refresh_token,
        expires_in=signed_in.tokens.expires_in,
    )


def _key(info: KeyInfo) -> KeyView:
    return KeyView(**_shown(info))


def _new_key(made: NewKey) -> NewKeyView:
    return NewKeyView(key=made.text, **_shown(made.info))


def _shown(info: KeyInfo) -> dict[str, object]:
    return {name: getattr(info, name) for name in KeyView.model_fields}
