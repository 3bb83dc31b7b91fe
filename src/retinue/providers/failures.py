"""How a model call fails, in the few words that runs, the API and people use."""

from __future__ import annotations

import re
from typing import Literal, get_args

Kind = Literal[
    "bad_key",
    "unknown_model",
    "timeout",
    "rate_limited",
    "overloaded",
    "bad_answer",
    "refused",
    "unreachable",
    "budget",
    "no_model",
]
KINDS: tuple[str, ...] = get_args(Kind)

_RETRYABLE: frozenset[Kind] = frozenset({"timeout", "rate_limited", "overloaded", "bad_answer", "unreachable"})
# Only these say that the provider itself is in trouble; a bad key or a refusal says nothing about the next call.
_TROUBLE: frozenset[Kind] = frozenset({"timeout", "overloaded", "bad_answer", "unreachable"})

_SENTENCES: dict[Kind, str] = {
    "bad_key": "The provider did not accept the API key. Check the key and that it may use this model.",
    "unknown_model": "The provider does not know this model. Check its name and the provider's base URL.",
    "timeout": "The model did not answer in time.",
    "rate_limited": "The provider's rate limit or quota is reached.",
    "overloaded": "The provider answered with a server error.",
    "bad_answer": "The provider's answer could not be used.",
    "refused": "The provider refused the request.",
    "unreachable": "The provider could not be reached, or the connection broke.",
    "budget": "The budget does not allow this call.",
    "no_model": "No model can be asked.",
}

_LONGEST_DETAIL = 500
SHORTEST_KEY = 8
"""Characters. No provider's keys are shorter; what is shorter stands in ordinary words, and cannot be taken out."""
# What keys of the usual providers look like, also when they quote a key back in part ("sk-ab***yz").
_KEY_SHAPED = re.compile(r"\b(?:sk|pk|rtn|key|gsk|xai|AIza|Bearer)[-_ ]?[A-Za-z0-9*_\-.]{6,}")


class ModelFailed(Exception):
    """No model answered.

    Attributes:
        kind: what went wrong; one of :data:`KINDS`.
        detail: for a person; never holds a key.
        model: the model that failed last, as ``provider:name``; empty when none was asked.
        status: the HTTP status, if it came to one.
        retryable: whether asking again may work.
        retry_after: seconds the provider asked to wait, if it said.
        attempts: tries made, over all models.
        failures: one line for each try that failed.
    """

    def __init__(
        self,
        kind: Kind,
        detail: str = "",
        *,
        model: str = "",
        status: int | None = None,
        retry_after: float | None = None,
        retryable: bool | None = None,
    ) -> None:
        self.kind: Kind = kind
        self.detail = f"{_SENTENCES[kind]} {clean(detail)}".strip()
        self.model = model
        self.status = status
        self.retry_after = retry_after
        self.retryable = kind in _RETRYABLE if retryable is None else retryable
        self.attempts = 0
        self.failures: list[str] = []
        super().__init__(self.detail)

    @property
    def trouble(self) -> bool:
        """Whether the provider itself seems to be in trouble; the breaker counts these."""
        return self.kind in _TROUBLE

    def line(self) -> str:
        """Return the failure as one short line, such as ``openai:gpt-5 rate_limited 429``."""
        return " ".join(str(word) for word in (self.model, self.kind, self.status) if word)


def clean(text: str, *secrets: str) -> str:
    """Return a provider's words fit to be shown: bounded, on one line, and without anything like a key.

    ``secrets`` are texts that are known to be secret and taken out whatever they look like, but for those too short
    to be told from other words, such as the ``x`` that is sent to a server without keys.
    """
    for secret in secrets:
        if len(secret) >= SHORTEST_KEY:
            text = text.replace(secret, "[removed]")
    plain = _KEY_SHAPED.sub("[removed]", " ".join(text.split()))
    return plain if len(plain) <= _LONGEST_DETAIL else plain[: _LONGEST_DETAIL - 1] + "…"


def kind_of(status: int | None, code: str | None, type_: str | None) -> Kind:
    """Return the kind of an error that a provider reports by HTTP status, or by its own code and type."""
    words = f"{code or ''} {type_ or ''}".lower()
    if status in (401, 403) or "api_key" in words or "authentication" in words:
        return "bad_key"
    if status == 404 or "not_found" in words:
        return "unknown_model"
    if status == 429 or "rate_limit" in words or "quota" in words:
        return "rate_limited"
    if (status is not None and 400 <= status < 500) or "invalid_request" in words or "context_length" in words:
        return "refused"
    return "overloaded"


def provider_message(body: object) -> str:
    """Return the sentence in a provider's error document; every wire format keeps it in a like place."""
    if not isinstance(body, dict):
        return ""
    inner = body.get("error", body)
    message = inner.get("message") if isinstance(inner, dict) else inner
    return message if isinstance(message, str) else ""
