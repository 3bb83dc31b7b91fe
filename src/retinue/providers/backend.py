"""What a provider is: one class that asks a model once. Everything around it (retries, fallbacks, prices) is shared.

A new provider is one file with a :class:`Backend` and one line in ``registry.py``, or a plugin that hands its
factory to :class:`~retinue.providers.Providers`; it passes the suite in ``conformance.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct, field

from retinue.providers.messages import AnswerPart, ModelRequest

if TYPE_CHECKING:
    import httpx2

OUTPUT_TOOL = "final_result"
"""The tool through which a model without native structured output gives its answer."""


class Endpoint(Struct, frozen=True):
    """Where a provider's models are asked, and with which key. ``repr`` shows no key.

    Attributes:
        provider: the provider's name, the part of a model's name before the colon.
        api_key: the key, or a placeholder where the endpoint needs none.
        base_url: None for the provider's public address.
        tenant: whether a tenant brought the key; an address it brought too must be a public one.
    """

    provider: str
    api_key: str
    base_url: str | None = None
    tenant: bool = False

    def __repr__(self) -> str:
        return f"Endpoint({self.provider!r}, base_url={self.base_url!r}, tenant={self.tenant})"


class Reply(Struct, frozen=True, kw_only=True):
    """One answer of one model, as a backend read it.

    Attributes:
        parts: the answer; a structured answer as JSON in a text.
        input_tokens: tokens read, cached ones included.
        output_tokens: tokens written, thoughts included.
        cached_tokens: the cached part of ``input_tokens``.
        measured: whether the provider said how many tokens it took.
        finish: ``stop``, ``length``, ``tool_call`` or ``content_filter``.
        served_by: the name the provider reported, often with a date; prices go by it.
    """

    parts: list[AnswerPart] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    measured: bool = True
    finish: str = "stop"
    served_by: str = ""


OnDelta = Callable[[str], None]
"""Called with each piece of text as it arrives."""

Beat = Callable[[], None]
"""Called whenever anything arrives; a backend that is silent for too long is taken to have stalled."""


class Backend(Protocol):
    """Asks the models of one endpoint. One object serves many calls at once."""

    async def ask(self, model: str, request: ModelRequest, on_delta: OnDelta, beat: Beat) -> Reply:
        """Ask ``model`` once, streaming, without retries; what ``request.models`` says does not matter here.

        Cancelling the task closes the connection at once.

        Raises:
            ModelFailed: the model did not answer; ``model`` and ``attempts`` are filled in by the caller.
        """
        ...

    async def list_models(self) -> Sequence[str]:
        """Return the names of the endpoint's models, without the provider's name.

        Raises:
            ModelFailed: the endpoint did not answer.
        """
        ...


class BackendFactory(Protocol):
    """Makes the backend of an endpoint; ``http`` is shared and is closed by its owner."""

    def __call__(self, endpoint: Endpoint, http: httpx2.AsyncClient) -> Backend: ...
