"""Settings: the environment, ``.env`` and ``retinue.toml``; secrets also from files (``NAME_FILE``)."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)


def _standard(name: str, **kwargs: Any) -> Any:
    """A setting under the name that other programs use for it, or ``RETINUE_<NAME>``."""
    return Field(validation_alias=AliasChoices(name, f"RETINUE_{name}"), **kwargs)


class Settings(BaseSettings):
    """Everything that can be configured; ``retinue doctor --settings`` prints it without the secrets."""

    model_config = SettingsConfigDict(
        env_prefix="RETINUE_",
        env_file=".env",
        toml_file="retinue.toml",
        extra="ignore",
        populate_by_name=True,
        env_ignore_empty=True,
    )

    # Where things are
    data: Path = Field(default_factory=lambda: Path.home() / ".retinue", description="the data folder")
    host: str = Field(default="127.0.0.1", description="the address to listen on")
    port: int = Field(default=8700, ge=0, le=65535, description="the port to listen on; 0 picks a free one")
    database_url: SecretStr | None = _standard(
        "DATABASE_URL", default=None, description="PostgreSQL as the application's role; empty: embedded"
    )
    database_owner_url: SecretStr | None = _standard(
        "DATABASE_OWNER_URL",
        default=None,
        description="PostgreSQL as the owner of the schema, for migrations",
    )
    redis_url: SecretStr | None = _standard(
        "REDIS_URL", default=None, description="frames and limits across processes; empty: in this process"
    )
    pool_size: int = Field(default=16, ge=2, le=500, description="database connections of this process")

    # Models
    openai_api_key: SecretStr | None = _standard("OPENAI_API_KEY", default=None, description="key of OpenAI")
    openai_base_url: str | None = _standard(
        "OPENAI_BASE_URL",
        default=None,
        description="any OpenAI-compatible endpoint, such as http://localhost:11434/v1; needs no key",
    )
    anthropic_api_key: SecretStr | None = _standard("ANTHROPIC_API_KEY", default=None, description="key of Anthropic")
    anthropic_base_url: str | None = _standard(
        "ANTHROPIC_BASE_URL",
        default=None,
        description="another address of Anthropic's API",
    )
    gemini_api_key: SecretStr | None = _standard("GEMINI_API_KEY", default=None, description="key of Google")
    gemini_base_url: str | None = _standard(
        "GEMINI_BASE_URL",
        default=None,
        description="another address of Google's API",
    )
    default_model: str | None = Field(
        default=None, description="the model of agents that name none, such as openai:gpt-5-mini"
    )
    model_timeout: float = Field(default=120.0, gt=0, description="seconds a model call may take")
    model_stall: float = Field(default=60.0, gt=0, description="seconds between two pieces of an answer")
    model_attempts: int = Field(default=3, ge=1, le=10, description="tries of one model before the next")

    # Identity
    sign_up: Literal["open", "closed"] = Field(default="open", description="whether strangers may sign up")
    access_token_seconds: int = Field(default=900, ge=30, le=86_400, description="life of an access token")
    refresh_token_days: int = Field(default=30, ge=1, le=365, description="a login unused for so long ends")
    oidc_issuer: str | None = Field(default=None, description="accept tokens of this issuer too")
    oidc_audience: str | None = Field(default=None, description="the audience those tokens must name")
    oidc_jwks_url: str | None = Field(default=None, description="the issuer's keys; empty: found through the issuer")
    key_environment: str = Field(
        default="live", pattern=r"^[a-z0-9]{1,16}$", description="the middle of new API keys: rtn_<this>_..."
    )

    # Limits
    rate_limit: str = Field(default="100/minute", description="requests of one user; 'off' for none")
    login_rate_limit: str = Field(default="10/minute", description="logins of one address and e-mail")
    body_limit: int = Field(default=1_048_576, ge=1024, description="bytes of a JSON body")
    upload_limit: int = Field(default=104_857_600, ge=1024, description="bytes of one uploaded file")
    workspace_quota: int = Field(default=1_073_741_824, ge=1024, description="bytes of all files of one session")
    unpriced_call_cost: Decimal = Field(
        default=Decimal("0.01"),
        ge=0,
        le=1000,
        description="dollars a model call of unknown price counts for in budgets",
    )
    worker_capacity: int = Field(default=1000, ge=1, description="runs one worker process advances at once")
    stream_limit: int = Field(default=10_000, ge=1, description="open live streams of one process")
    allow_private_fetch: bool = Field(
        default=False, description="let http_fetch reach private addresses (a test or an intranet)"
    )
    mcp_stdio: bool = Field(
        default=False, description="let agents start MCP servers as programs of this machine's account"
    )

    # Watching
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the least that is logged"
    )
    log_format: Literal["json", "text"] = Field(default="json", description="a line of JSON, or text for people")
    otlp_endpoint: str | None = _standard(
        "OTEL_EXPORTER_OTLP_ENDPOINT", default=None, description="where traces go; empty: nowhere"
    )
    metrics_token: SecretStr | None = Field(default=None, description="bearer token for /metrics; empty: loopback only")

    # Liveness of workers
    beat_seconds: float = Field(default=1.0, gt=0, le=60, description="how often a worker beats")
    dead_after_seconds: float = Field(default=3.0, gt=0, le=600, description="a worker silent for so long is dead")
    run_attempts: int = Field(default=3, ge=1, le=100, description="activations lost before a run is poison")
    event_waits: int = Field(
        default=1_000, ge=1, le=100_000, description="tasks of one tenant that may wait for events at the same time"
    )

    # Costs
    cpu_second_rate: Decimal = Field(
        default=Decimal("0.00015"), ge=0, le=1000, description="dollars a second of CPU time costs a tenant"
    )
    memory_rate: Decimal = Field(
        default=Decimal("0.03"), ge=0, le=1000, description="dollars a GiB of memory costs for an hour"
    )
    storage_rate: Decimal = Field(
        default=Decimal("0.003"), ge=0, le=1000, description="dollars a GiB of stored artifacts costs for a day"
    )
    model_call_rate: Decimal = Field(
        default=Decimal(0), ge=0, le=1000, description="dollars a model call costs besides its model's price"
    )

    # Artifacts
    artifact_bytes: int = Field(default=104_857_600, ge=1024, description="bytes of one artifact")
    artifact_user_bytes: int = Field(default=10_737_418_240, ge=1024, description="bytes of all artifacts of one user")
    artifact_retention_days: int = Field(
        default=7, ge=0, le=36_500, description="days an artifact is kept where nobody said; 0: for ever"
    )
    artifact_unpublished_seconds: float = Field(
        default=3600, gt=0, description="a file that was taken in and never published is removed after so long"
    )
    upload_seconds: int = Field(default=86_400, ge=1, description="life of a resumable upload after its last byte")
    upload_part_bytes: int = Field(
        default=33_554_432, ge=65_536, description="bytes of a resumable upload that a crash of the server can cost"
    )
    clamd: str | None = Field(
        default=None, description="scanner of files that come in: a socket's path, or host:port; empty: none"
    )
    clamd_seconds: float = Field(default=60, gt=0, description="seconds the scanner may be silent")

    # Blobs
    blobs: str | None = Field(
        default=None,
        description="where sealed files lie: file:///folder or s3://bucket/prefix; empty: a folder in the data folder",
    )
    s3_endpoint: str | None = Field(
        default=None,
        validation_alias=AliasChoices("RETINUE_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        description="the address of an S3-compatible service; empty: Amazon's of the region",
    )
    s3_region: str | None = Field(
        default=None,
        validation_alias=AliasChoices("RETINUE_S3_REGION", "AWS_REGION", "AWS_DEFAULT_REGION"),
        description="the region of the bucket",
    )
    s3_access_key_id: str | None = _standard(
        "AWS_ACCESS_KEY_ID", default=None, description="the key's id for the bucket; empty: the machine's role"
    )
    s3_secret_access_key: SecretStr | None = _standard(
        "AWS_SECRET_ACCESS_KEY", default=None, description="the key for the bucket"
    )
    s3_session_token: SecretStr | None = _standard(
        "AWS_SESSION_TOKEN", default=None, description="the session token of a key that is lent for a time"
    )

    # Signed requests
    public_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/?#\s]+(/[^?#\s]*)?$",
        description="how clients call this server, such as https://agents.example.com; empty: by their Host header",
    )

    @field_validator("public_url")
    @classmethod
    def _without_slash(cls, value: str | None) -> str | None:
        return value.rstrip("/") if value else None

    # Gateway
    gateway_timeout: float = Field(
        default=600.0, gt=0, le=86_400, description="seconds a model call through the gateway may take in all"
    )
    gateway_body_limit: int = Field(
        default=33_554_432, ge=1024, description="bytes of a model call's body through the gateway"
    )

    # Sandbox
    sandbox: Literal["auto", "bubblewrap", "landlock", "docker", "kubernetes", "none"] = Field(
        default="auto", description="where operations run; auto: the best of bubblewrap and landlock that works here"
    )
    sandbox_minimum: Literal["A", "B", "C"] = Field(
        default="B", description="the level of isolation below which nothing is run (docs/decisions/0015)"
    )
    sandbox_image: str = Field(
        default="docker.io/library/node:22-bookworm", description="the image of containers (docker, kubernetes)"
    )
    sandbox_runtime: str | None = Field(
        default=None, description="the runtime of containers: runsc, or a runtime class such as gvisor"
    )
    sandbox_namespace: str = Field(default="retinue", description="the Kubernetes namespace of sandboxes")
    sandbox_claim: str | None = Field(
        default=None,
        description="the Kubernetes volume claim that holds <data>/sandboxes of this server",
    )

    # Drivers
    drivers: Path | None = Field(
        default=None, description="where command-line agents are installed; empty: a folder in the data folder"
    )

    @field_validator("data")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            init_settings,
            env_settings,
            _SecretFiles(settings_cls),
            dotenv_settings,
            TomlConfigSettingsSource(settings_cls),
        )


class _SecretFiles(PydanticBaseSettingsSource):
    """Reads ``DATABASE_URL_FILE`` and the like: the value is the file's content without the last line end."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        alias = field.validation_alias
        names = alias.choices if isinstance(alias, AliasChoices) else [f"RETINUE_{field_name.upper()}"]
        for name in names:
            path = os.environ.get(f"{name}_FILE")
            if path:
                return Path(path).read_text(encoding="utf-8").rstrip("\r\n"), str(names[0]), False
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {}
        for name, field in self.settings_cls.model_fields.items():
            value, key, _ = self.get_field_value(field, name)
            if value is not None:
                found[key] = value
        return found
