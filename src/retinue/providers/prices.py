"""What model calls cost, by the price list that comes with ``genai-prices``; it is never updated from the network."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from retinue.kernel import nanos
from retinue.providers.backend import Endpoint, Reply
from retinue.providers.messages import ModelRequest

_ASSUMED_ANSWER = 8_192
"""Tokens an answer may have in an estimate when nothing limits it."""

_BYTES_A_TOKEN = 2
_TOKENS_A_PART = 16
_KNOWN = 5_000


@lru_cache(maxsize=_KNOWN)
def _found(model: str, provider: str, base_url: str | None) -> tuple[Any, Any] | None:
    """Return the price list's provider and model; None when it knows no such model."""
    # Reading the price list takes a quarter of a second, so not before the first price is asked for.
    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()
    # The address tells more than the name: many endpoints speak OpenAI's language. An unknown address is taken for
    # a proxy of the provider it is named after.
    for provider_id, url in ((None, base_url), (provider, None)):
        if provider_id is None and url is None:
            continue
        try:
            return snapshot.find_provider_model(model, None, provider_id, url)
        except LookupError:
            continue
    return None


def is_priced(endpoint: Endpoint, model: str) -> bool:
    """Whether the model's price is known."""
    return endpoint.provider == "demo" or _found(model, endpoint.provider, endpoint.base_url) is not None


def context_window(endpoint: Endpoint, model: str) -> int | None:
    """Return the tokens that fit into a model, where known."""
    found = _found(model, endpoint.provider, endpoint.base_url)
    return found[1].context_window if found else None


def cost_of(endpoint: Endpoint, model: str, reply: Reply) -> int | None:
    """Return what an answer cost in nano-dollars; None when the price or the number of tokens is not known."""
    if endpoint.provider == "demo":
        return 0
    if not reply.measured:
        return None
    # The provider's own name of the model often carries a date and then a price of its own.
    names = (reply.served_by, model)
    return price(endpoint, names, reply.input_tokens, reply.output_tokens, reply.cached_tokens)


def price(
    endpoint: Endpoint, names: Iterable[str], read: int, written: int, cached: int = 0, cache_written: int = 0
) -> int | None:
    """Return what tokens cost in nano-dollars, by the first of a model's ``names`` that has a price; None: no name has.

    ``read`` includes those ``cached`` and those ``cache_written``.
    """
    if endpoint.provider == "demo":
        return 0
    for name in dict.fromkeys(names):
        if name and (cost := _cost(endpoint, name, read, written, cached, cache_written)) is not None:
            return cost
    return None


def tokens_of(endpoint: Endpoint, model: str, size: int) -> int:
    """Return more tokens than ``size`` bytes of a request are likely to have, and no more than fit into the model."""
    window = context_window(endpoint, model)
    tokens = size // _BYTES_A_TOKEN + _TOKENS_A_PART
    return min(tokens, window) if window else tokens


def _cost(endpoint: Endpoint, model: str, read: int, written: int, cached: int, cache_written: int = 0) -> int | None:
    found = _found(model, endpoint.provider, endpoint.base_url)
    if found is None:
        return None
    from genai_prices import Usage

    cached = min(cached, read)
    put = {"cache_write_tokens": min(cache_written, read - cached)} if cache_written else {}
    usage = Usage(input_tokens=read, output_tokens=written, cache_read_tokens=cached, **put)
    provider, info = found
    return nanos(info.calc_price(usage, provider, genai_request_timestamp=datetime.now(UTC)).total_price)


def estimate(endpoint: Endpoint, model: str, request: ModelRequest) -> int | None:
    """Return more than the call is likely to cost, in nano-dollars; None when the price is not known.

    Counts a token for every two bytes of the request, about twice what texts have, and the longest answer.
    """
    if endpoint.provider == "demo":
        return 0
    return _cost(endpoint, model, _tokens(request), request.max_tokens or _ASSUMED_ANSWER, 0)


def _tokens(request: ModelRequest) -> int:
    texts = [request.instructions, *(tool.name + tool.description + str(tool.parameters) for tool in request.tools)]
    parts = [part for message in request.messages for part in message.parts]
    for part in parts:
        texts += [getattr(part, name, "") for name in ("text", "arguments", "content")]
    size = sum(len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return size // _BYTES_A_TOKEN + _TOKENS_A_PART * (len(parts) + len(request.tools))
