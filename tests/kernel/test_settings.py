"""Settings: where they come from, which source wins, and that secrets stay secret."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from retinue.kernel import Settings

ALIASES = {
    "DATABASE_URL": "database_url",
    "DATABASE_OWNER_URL": "database_owner_url",
    "REDIS_URL": "redis_url",
    "OPENAI_API_KEY": "openai_api_key",
    "ANTHROPIC_API_KEY": "anthropic_api_key",
    "GEMINI_API_KEY": "gemini_api_key",
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder and an environment without settings."""
    for name in list(os.environ):
        if name.startswith("RETINUE_") or name.removesuffix("_FILE") in {*ALIASES, "OTEL_EXPORTER_OTLP_ENDPOINT"}:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_anything_the_defaults_hold() -> None:
    settings = Settings()
    assert (settings.host, settings.port, settings.log_level, settings.log_format) == (
        "127.0.0.1",
        8700,
        "info",
        "json",
    )
    assert settings.database_url is None
    assert settings.data == Path.home().resolve() / ".retinue"
    assert settings.unpriced_call_cost == Decimal("0.01")


@pytest.mark.parametrize("name, field", ALIASES.items())
@pytest.mark.parametrize("prefix", ["", "RETINUE_"])
def test_common_names_work_with_and_without_the_prefix(
    monkeypatch: pytest.MonkeyPatch, prefix: str, name: str, field: str
) -> None:
    monkeypatch.setenv(prefix + name, "value")
    assert getattr(Settings(), field).get_secret_value() == "value"


def test_given_values_win_over_the_environment_then_secret_files_then_dotenv_then_toml(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "retinue.toml").write_text('port = 1\nopenai_api_key = "toml"\nlog_level = "error"\n')
    assert Settings().port == 1
    (elsewhere / ".env").write_text("RETINUE_PORT=2\nOPENAI_API_KEY=dotenv\n")
    assert Settings().port == 2
    (elsewhere / "key").write_text("file\n")
    monkeypatch.setenv("OPENAI_API_KEY_FILE", str(elsewhere / "key"))
    assert _key(Settings()) == "file"
    monkeypatch.setenv("RETINUE_PORT", "3")
    monkeypatch.setenv("OPENAI_API_KEY", "environment")
    assert (Settings().port, _key(Settings())) == (3, "environment")
    assert Settings(port=4).port == 4
    assert Settings().log_level == "error"


def _key(settings: Settings) -> str:
    assert settings.openai_api_key is not None
    return settings.openai_api_key.get_secret_value()


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_secret_file_ends_with_or_without_a_line_end(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    (elsewhere / "key").write_bytes(f" a key with spaces {ending}".encode())
    monkeypatch.setenv("OPENAI_API_KEY_FILE", str(elsewhere / "key"))
    assert _key(Settings()) == " a key with spaces "


def test_a_secret_file_that_is_missing_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY_FILE", "/nowhere/key")
    with pytest.raises(FileNotFoundError):
        Settings()


def test_an_empty_variable_is_as_if_it_were_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "")
    monkeypatch.setenv("RETINUE_PORT", "")
    assert (Settings().database_url, Settings().port) == (None, 8700)


@pytest.mark.parametrize(
    "name, value",
    [
        ("RETINUE_PORT", "70000"),
        ("RETINUE_PORT", "http"),
        ("RETINUE_LOG_LEVEL", "loud"),
        ("RETINUE_SIGN_UP", "maybe"),
        ("RETINUE_MODEL_TIMEOUT", "0"),
        ("RETINUE_POOL_SIZE", "1"),
        ("RETINUE_KEY_ENVIRONMENT", "Prod!"),
        ("RETINUE_UNPRICED_CALL_COST", "-0.01"),
    ],
)
def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name.removeprefix("RETINUE_").lower()):
        Settings()


def test_the_data_folder_is_made_absolute(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETINUE_DATA", "here/../there")
    assert Settings().data == (elsewhere / "there").resolve()
    monkeypatch.setenv("RETINUE_DATA", "~/retinue-data")
    assert Settings().data == Path.home().resolve() / "retinue-data"


def test_secrets_do_not_show_when_settings_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ALIASES:
        monkeypatch.setenv(name, "postgresql://app:hunter2@db/x")
    monkeypatch.setenv("RETINUE_METRICS_TOKEN", "hunter2hunter2")
    settings = Settings()
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings.model_dump())
    assert "hunter2" not in settings.model_dump_json()
