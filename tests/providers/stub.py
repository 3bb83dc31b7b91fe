"""Providers pointed at the scripted model server."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr

from retinue.kernel import Settings
from retinue.providers import Message, ModelRequest, Text
from tests.support.model_server import ModelServer

KEY = "sk-test-0123456789abcdef"


def settings_for(server: ModelServer, *, key: str = KEY, **more: Any) -> Settings:
    """Return settings whose three providers are the server; nothing else comes from the environment."""
    usual: dict[str, Any] = {
        "openai_api_key": SecretStr(key),
        "openai_base_url": server.base_url,
        "anthropic_api_key": SecretStr(key),
        "anthropic_base_url": server.url,
        "gemini_api_key": SecretStr(key),
        "gemini_base_url": server.url,
        "default_model": "openai:gpt-5-mini",
    }
    return Settings(**(usual | more))


def ask_for(text: str, *models: str, **more: Any) -> ModelRequest:
    """Return a request of one user text."""
    return ModelRequest(models=list(models), messages=[Message("user", [Text(text)])], **more)
