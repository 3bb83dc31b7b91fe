"""Prices come from the list; what is not on it is unknown, not free."""

from __future__ import annotations

import pytest

from retinue.providers import Endpoint, Providers, Reply
from retinue.providers.prices import context_window, cost_of, estimate, is_priced
from tests.providers.stub import ask_for
from tests.support.model_server import ModelServer, Step, Usage

OPENAI = Endpoint("openai", "")
HERE = Endpoint("openai", "", "http://127.0.0.1:9/v1")


async def test_a_known_price(server: ModelServer, providers: Providers) -> None:
    server.script(Step(text="x", usage=Usage(input=1_000_000, output=100_000, cached=400_000)))
    answer = await providers.ask(ask_for("go", "openai:gpt-5-mini"))
    assert (answer.input_tokens, answer.output_tokens, answer.cached_tokens) == (1_000_000, 100_000, 400_000)
    # 0.6 M at 0.25 $, 0.4 M at 0.025 $, 0.1 M at 2 $.
    assert answer.cost == 150_000_000 + 10_000_000 + 200_000_000


@pytest.mark.parametrize("model", ["anthropic:claude-haiku-4-5", "google:gemini-2.5-flash"])
async def test_the_other_wires_are_priced(server: ModelServer, providers: Providers, model: str) -> None:
    server.script(Step(text="x", usage=Usage(input=1000, output=100, cached=0)))
    answer = await providers.ask(ask_for("go", model))
    assert (answer.input_tokens, answer.output_tokens) == (1000, 100)
    assert answer.cost is not None
    assert answer.cost > 0


async def test_an_unknown_price_is_none(providers: Providers) -> None:
    answer = await providers.ask(ask_for("go", "openai:our-own-model"))
    assert answer.output_tokens > 0
    assert answer.cost is None


def test_tokens_that_were_not_counted_have_no_price() -> None:
    assert cost_of(OPENAI, "gpt-5-mini", Reply(measured=False)) is None


def test_the_served_name_decides_and_the_asked_one_helps_out() -> None:
    reply = Reply(input_tokens=1_000_000, served_by="gpt-4o")
    assert cost_of(OPENAI, "gpt-5-mini", reply) == 2_500_000_000
    assert cost_of(OPENAI, "gpt-5-mini", Reply(input_tokens=1_000_000, served_by="who knows")) == 250_000_000


def test_an_unknown_address_is_taken_for_a_proxy() -> None:
    assert is_priced(HERE, "gpt-5-mini")
    assert not is_priced(HERE, "llama-of-ours")
    assert context_window(OPENAI, "gpt-5-mini") == 400_000
    assert context_window(HERE, "llama-of-ours") is None


def test_an_estimate_is_more_than_the_cost() -> None:
    request = ask_for("A sentence of plain words, as people write them. " * 100, max_tokens=500)
    likely = cost_of(OPENAI, "gpt-5-mini", Reply(input_tokens=1100, output_tokens=500))
    estimated = estimate(OPENAI, "gpt-5-mini", request)
    assert likely is not None
    assert estimated is not None
    assert likely < estimated < 3 * likely
    assert estimate(HERE, "llama-of-ours", request) is None
    assert estimate(Endpoint("demo", ""), "assistant", request) == 0


async def test_the_dearest_model_of_the_chain_is_estimated(providers: Providers) -> None:
    def of(*models: str) -> int | None:
        return providers.estimate(ask_for("go", *models))

    cheap, dear = of("openai:gpt-5-nano"), of("openai:gpt-5")
    assert cheap is not None
    assert dear is not None
    assert cheap < dear
    assert of("openai:gpt-5-nano", "openai:gpt-5", "nobody:x", "openai:ours") == dear
    assert of("openai:ours") is None
    assert of() == of("openai:gpt-5-mini")
