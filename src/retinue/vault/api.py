"""Secrets of a tenant over HTTP: they go in and never come out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Path
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr

from retinue.kernel import NotFound, Scope
from retinue.vault import commands, views
from retinue.vault.provider_keys import PURPOSE, store_secret
from retinue.vault.views import SecretInfo
from retinue.web import Page, Router, WantedPage, problems, scoped

router = Router(prefix="/v1/tenants/{tenant_id}/secrets", tags=["secrets"])

Name = Annotated[
    str,
    Path(
        pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$",
        description="`openai`, `anthropic` and `google` are used for models; other names by tools",
        examples=["openai"],
    ),
]
TenantId = Annotated[UUID, Path(description="the tenant; the caller must be a member")]


class NewSecret(BaseModel):
    """A secret to keep. `api_key` is accepted as another name of `value`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"value": "sk-..."}]})

    value: SecretStr = Field(
        min_length=1, max_length=16_384, validation_alias=AliasChoices("value", "api_key"), examples=["sk-..."]
    )
    base_url: str | None = Field(
        default=None,
        max_length=2048,
        pattern=r"^https?://[^\s]+$",
        description="for a model provider: where it is spoken to",
        examples=["https://llm.example.com/v1"],
    )


class SecretView(BaseModel):
    """What is told of a secret: that it is there."""

    name: str = Field(examples=["openai"])
    created_at: datetime
    changed_at: datetime


@router.get("")
async def list_secrets(
    scope: Annotated[Scope, scoped("secrets", "list")], tenant_id: TenantId, page: WantedPage
) -> Page[SecretView]:
    """List the names of the tenant's secrets. Their values cannot be read back."""
    after = page.after_one(str)
    rows = await views.secret_info(scope, PURPOSE, after, page.limit + 1)
    return page.page(rows, _shown, lambda row: (row.name,))


@router.put("/{name}", responses=problems(409))
async def put_secret(
    scope: Annotated[Scope, scoped("secrets", "change")], tenant_id: TenantId, name: Name, body: NewSecret
) -> SecretView:
    """Store a secret, in place of an older one of the name. A model provider's key has at least 8 characters."""
    await store_secret(scope, name, body.value.get_secret_value(), body.base_url)
    info = await views.one_secret_info(scope, PURPOSE, name)
    if info is None:
        raise NotFound("secret")
    return _shown(info)


@router.delete("/{name}", status_code=204)
async def delete_secret(scope: Annotated[Scope, scoped("secrets", "delete")], tenant_id: TenantId, name: Name) -> None:
    """Delete a secret for good."""
    await commands.remove_secret(scope, PURPOSE, name)


def _shown(info: SecretInfo) -> SecretView:
    return SecretView(name=info.name, created_at=info.created_at, changed_at=info.changed_at)
