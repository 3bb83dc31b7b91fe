"""How grants look in JSON. Money is a decimal number of US dollars, as text."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from retinue.grants.commands import Wanted
from retinue.grants.rules import State, Terms
from retinue.kernel import base64url, dollars
from retinue.web import Money, nanos_of

_EXAMPLE_KEY = "ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
ModelPattern = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:/*?@+-]{1,200}$")]


class GrantLimits(BaseModel):
    """What each operation under a grant may use at most; null: as much as the tenant's policy says."""

    model_config = ConfigDict(extra="forbid")

    seconds: int | None = Field(default=None, ge=1, le=86_400, description="how long it may run")


class NewGrant(BaseModel):
    """What a user grants to an application. The tenant's policy limits what is left out."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "application": "Report writer",
                    "grantee": _EXAMPLE_KEY,
                    "drivers": ["qwen"],
                    "uses": 20,
                    "budget": "5.00",
                    "retention_seconds": 604800,
                    "limits": {"seconds": 600},
                    "expires_at": "2030-01-01T00:00:00Z",
                }
            ]
        },
    )

    application: str = Field(min_length=1, max_length=200, examples=["Report writer"])
    grantee: str = Field(
        max_length=100,
        description="the application's key: `ed25519:` and the raw public key in base64url, or `eip155:` and the "
        "address of a wallet",
        examples=[_EXAMPLE_KEY],
    )
    seal_to: str | None = Field(
        default=None,
        max_length=44,
        description="an X25519 public key in base64url: results are sealed to it, so that the application opens them "
        "by itself",
    )
    drivers: list[Name] = Field(default=[], max_length=20, description="kinds of agents; empty: those of the tenant")
    models: list[ModelPattern] = Field(
        default=[], max_length=50, description="models, with * for anything; empty: those of the tenant"
    )
    files: list[UUID] | None = Field(
        default=None, max_length=1000, description="artifacts it may use besides what it uploads itself"
    )
    parameters: dict[str, Any] | None = Field(
        default=None, description='a JSON Schema of `"type": "object"` that what it asks for must satisfy'
    )
    uses: int | None = Field(default=None, ge=1, le=1_000_000, description="how many operations")
    budget: Money | None = Field(default=None, description="US dollars for all operations together", examples=["5.00"])
    retention_seconds: int | None = Field(
        default=None, ge=60, le=3_153_600_000, description="how long results are kept"
    )
    limits: GrantLimits = Field(default_factory=GrantLimits, description="of each operation")
    expires_at: AwareDatetime | None = Field(default=None, examples=["2030-01-01T00:00:00Z"])

    def wanted(self) -> Wanted:
        """Return it as the command takes it."""
        values = {name: getattr(self, name) for name in NewGrant.model_fields if name != "limits"}
        values |= {"budget": nanos_of(self.budget), "max_seconds": self.limits.seconds}
        return Wanted(**values)


class TermsView(BaseModel):
    """A grant as its grantee sees it."""

    grant_id: UUID
    state: State = Field(description="whether it can be used for something new")
    application: str
    grantee: str = Field(examples=[_EXAMPLE_KEY])
    seal_to: str | None
    drivers: list[str]
    models: list[str]
    files: list[UUID] | None
    parameters: dict[str, Any] | None
    uses: int | None
    used: int = Field(description="operations so far")
    budget: str | None = Field(description="US dollars", examples=["5"])
    spent: str = Field(description="US dollars that ended operations cost", examples=["0.42"])
    reserved: str = Field(description="US dollars set aside for operations under way", examples=["0"])
    left: str | None = Field(description="US dollars that new operations may reserve; null without a budget")
    retention_seconds: int | None
    limits: GrantLimits
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class GrantView(TermsView):
    """A grant as people see it."""

    owner_id: UUID = Field(description="the user who granted it")


def terms_view(terms: Terms, now: datetime) -> TermsView:
    """Show a grant to its grantee."""
    return TermsView(**_shown(terms, now))


def grant_view(terms: Terms, now: datetime) -> GrantView:
    """Show a grant to its user or an admin."""
    return GrantView(owner_id=terms.owner_id, **_shown(terms, now))


def _shown(terms: Terms, now: datetime) -> dict[str, Any]:
    left = terms.left()
    return {
        "grant_id": terms.grant_id,
        "state": terms.state(now),
        "application": terms.application,
        "grantee": terms.grantee,
        "seal_to": None if terms.seal_to is None else base64url(terms.seal_to),
        "drivers": list(terms.drivers),
        "models": list(terms.models),
        "files": None if terms.files is None else list(terms.files),
        "parameters": terms.parameters,
        "uses": terms.uses,
        "used": terms.used,
        "budget": None if terms.budget is None else dollars(terms.budget),
        "spent": dollars(terms.spent),
        "reserved": dollars(terms.reserved),
        "left": None if left is None else dollars(left),
        "retention_seconds": terms.retention_seconds,
        "limits": GrantLimits(seconds=terms.max_seconds),
        "created_at": terms.created_at,
        "expires_at": terms.expires_at,
        "revoked_at": terms.revoked_at,
    }
