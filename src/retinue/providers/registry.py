"""From a model's name to whoever can ask it: names, endpoints, and the clients kept for them."""

from __future__ import annotations

import asyncio
import gc
import ssl
from collections import OrderedDict
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType

import httpx2
from msgspec import Struct

from retinue.kernel import BadInput, Settings
from retinue.outbound import OutboundTransport, operator_client
from retinue.providers.backend import Backend, BackendFactory, Endpoint
from retinue.providers.breaker import Breaker
from retinue.providers.demo import DEMO, Demo
from retinue.providers.failures import SHORTEST_KEY, ModelFailed
from retinue.providers.messages import Credentials

_MODULES = {
    "anthropic": ("retinue.providers.anthropic_messages", "AnthropicMessages"),
    "google": ("retinue.providers.google_gemini", "GoogleGemini"),
}
# Whatever else has an address of its own speaks OpenAI's chat completions.
_USUAL_MODULE = ("retinue.providers.openai_chat", "OpenAIChat")
_DEFAULTS = (("openai", "gpt-5-mini"), ("anthropic", "claude-haiku-4-5"), ("google", "gemini-2.5-flash"))

# What servers without keys are sent: the client libraries insist on one.
_PLACEHOLDER = "no-key"
_LONGEST_NAME = 200
_KEPT_ENDPOINTS = 500
_CONNECT_SECONDS = 10.0
_LIMITS = httpx2.Limits(max_connections=2000, max_keepalive_connections=200, keepalive_expiry=30)


class ModelName(Struct, frozen=True):
    """A model's name in two halves."""

    provider: str
    model: str

    def __str__(self) -> str:
        return f"{self.provider}:{self.model}"


def parse_model(text: str) -> ModelName:
    """Read a name such as ``openai:gpt-5-mini``; what follows the first colon is the provider's own name for it.

    Raises:
        BadInput: it has no such form.
    """
    provider, colon, model = text.partition(":")
    if not colon or not model or not provider.replace("-", "").replace("_", "").isalnum() or not text.isprintable():
        raise BadInput(f"A model is named provider:model, such as openai:gpt-5-mini; this is {text[:50]!r}.")
    if len(text) > _LONGEST_NAME:
        raise BadInput(f"A model's name has at most {_LONGEST_NAME} characters.")
    return ModelName(provider.lower(), model)


class Access(Struct, frozen=True):
    """A backend ready to be asked, and the breaker of its endpoint."""

    endpoint: Endpoint
    backend: Backend
    breaker: Breaker


class Registry:
    """Keeps one backend an endpoint and one pool of connections an address; building them costs CPU.

    ``extra`` adds providers by name, those of plugins for example.
    """

    def __init__(self, settings: Settings, extra: Mapping[str, BackendFactory] | None = None) -> None:
        self._settings = settings
        self._extra = dict(extra or {})
        self._own = _endpoints_of(settings)
        self._kept: OrderedDict[Endpoint, Access] = OrderedDict()
        self._breakers: dict[tuple[str, str | None], Breaker] = {}
        self._clients: dict[str | None, httpx2.AsyncClient] = {}
        self._tenants: httpx2.AsyncClient | None = None
        self._demo: httpx2.AsyncClient | None = None
        self._ssl: ssl.SSLContext | None = None

    @property
    def default_model(self) -> str:
        """The model of agents that name none: the setting, else by the first key there is, else the demo."""
        if self._settings.default_model:
            return self._settings.default_model
        return next((f"{provider}:{model}" for provider, model in _DEFAULTS if provider in self._own), DEMO)

    def providers(self, credentials: Credentials | None) -> list[str]:
        """Return the names of the providers that can be asked."""
        names = [*self._own, *(credentials.keys if credentials else ()), *self._extra, "demo"]
        return list(dict.fromkeys(names))

    async def access(self, provider: str, credentials: Credentials | None) -> Access:
        """Return whoever asks the models of a provider.

        Raises:
            ModelFailed: ``no_model``: there is no key or address for the provider.
        """
        endpoint = self.endpoint(provider, credentials)
        kept = self._kept.get(endpoint)
        if kept is None:
            kept = Access(endpoint, await self._build(endpoint), self._breaker(endpoint))
            self._kept[endpoint] = kept
            if len(self._kept) > _KEPT_ENDPOINTS:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(endpoint)
        return kept

    async def close(self) -> None:
        """Close every connection."""
        clients = [*self._clients.values(), *(one for one in (self._tenants, self._demo) if one is not None)]
        self._clients.clear()
        self._tenants = self._demo = None
        self._kept.clear()
        for client in clients:
            await client.aclose()

    def endpoint(self, provider: str, credentials: Credentials | None) -> Endpoint:
        """Return where a provider's models are asked: with the tenant's own key if it has one.

        Raises:
            ModelFailed: ``no_model``: there is no key or address for the provider.
        """
        key = credentials.keys.get(provider) if credentials else None
        if key is not None and (key.base_url or provider in ("openai", *_MODULES)):
            return Endpoint(provider, key.api_key or _PLACEHOLDER, key.base_url, tenant=True)
        if provider in self._own:
            return self._own[provider]
        if provider == "demo" or provider in self._extra:
            return Endpoint(provider, "")
        raise ModelFailed("no_model", f"There is no key or address for the provider {provider[:50]!r}.")

    async def _build(self, endpoint: Endpoint) -> Backend:
        if endpoint.provider == "demo":
            return Demo()
        if endpoint.provider in self._extra:
            return self._extra[endpoint.provider](endpoint, self.client(endpoint))
        module, name = _MODULES.get(endpoint.provider, _USUAL_MODULE)
        # The client libraries take a second to load: not at the start, and not in the way of other calls.
        loaded = await asyncio.to_thread(_load, module)
        factory: BackendFactory = getattr(loaded, name)
        return factory(endpoint, self.client(endpoint))

    def _breaker(self, endpoint: Endpoint) -> Breaker:
        if endpoint.tenant and endpoint.base_url:
            return Breaker()
        return self._breakers.setdefault((endpoint.provider, endpoint.base_url), Breaker())

    def client(self, endpoint: Endpoint) -> httpx2.AsyncClient:
        """Return the HTTP client of an endpoint: one that checks addresses, where a tenant chose it."""
        # Answers may take minutes, so there is no limit on reading here: every call has its own (providers.py).
        timeout = httpx2.Timeout(None, connect=_CONNECT_SECONDS)
        if self._ssl is None:
            self._ssl = httpx2.create_ssl_context()
        if endpoint.tenant and endpoint.base_url:
            # Tenants can name any number of addresses; those share one pool.
            if self._tenants is None:
                private = self._settings.allow_private_fetch
                transport = OutboundTransport(allow_private=private, tls=self._ssl, limits=_LIMITS)
                self._tenants = httpx2.AsyncClient(transport=transport, timeout=timeout)
            return self._tenants
        client = self._clients.get(endpoint.base_url)
        if client is None:
            client = operator_client(tls=self._ssl, limits=_LIMITS, timeout=timeout)
            self._clients[endpoint.base_url] = client
        return client

    def demo_client(self) -> httpx2.AsyncClient:
        """Return an HTTP client whose every answer is the demo's."""
        if self._demo is None:
            from retinue.providers.demo_wire import DemoTransport

            self._demo = httpx2.AsyncClient(transport=DemoTransport())
        return self._demo


def _load(module: str) -> ModuleType:
    """Import a module without looking for garbage meanwhile: there is next to none, and the import takes a sixth less.

    After a crash, the run that goes on waits for this longer than for anything else.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return import_module(module)
    finally:
        if collects:
            gc.enable()


def _endpoints_of(settings: Settings) -> dict[str, Endpoint]:
    """Return the server's own endpoints, in the order in which a default model is looked for.

    Raises:
        BadInput: a key is too short to be one. At an address of one's own it may be anything: many need none.
    """
    given = {
        "openai": (settings.openai_api_key, settings.openai_base_url),
        "anthropic": (settings.anthropic_api_key, settings.anthropic_base_url),
        "google": (settings.gemini_api_key, settings.gemini_base_url),
    }
    for provider, (key, base_url) in given.items():
        if key and not base_url and len(key) < SHORTEST_KEY:
            raise BadInput(
                f"The key for {provider} in the server's settings is too short to be one: {len(key)} characters."
            )
    return {
        provider: Endpoint(provider, key.get_secret_value() if key else _PLACEHOLDER, base_url)
        for provider, (key, base_url) in given.items()
        if key or base_url
    }
