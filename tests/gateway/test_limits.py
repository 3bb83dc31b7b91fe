"""What a caller may use: models, money, tokens, calls; also when many calls come at once."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import anthropic
import openai
import pytest
from google.genai import errors

from retinue.gateway import Rules, commands, listen, rules
from retinue.gateway.rules import Allowance, Hold, UsedUp
from tests.gateway.gateway_setting import DOLLAR, Setting
from tests.support.model_server import Step, Usage

_MODEL = "gpt-4o-mini"  # $0.15 and $0.60 a million
_ASKED: list[Any] = [{"role": "user", "content": "Say hello."}]
_CALL_COST = 1000 * 150 + 100 * 600


async def _ask(client: openai.AsyncOpenAI, **more: Any) -> int:
    """Ask once; return the status."""
    try:
        await client.chat.completions.create(model=_MODEL, messages=_ASKED, **more)
    except openai.APIStatusError as error:
        return error.status_code
    return 200


def _priced(setting: Setting) -> None:
    setting.server.script(Step(text="hello", usage=Usage(1000, 100)), then="repeat")


async def test_a_forbidden_model_is_403_with_the_allowed_ones_in_every_format(setting: Setting) -> None:
    allowed = Rules(models=("openai:gpt-4.1-*", "anthropic:claude-haiku-4-5", "google:gemini-2.5-flash"))
    async with setting.line(allowed) as line:
        async with setting.openai() as client:
            with pytest.raises(openai.PermissionDeniedError, match=r"Allowed: openai:gpt-4\.1-\*, anthropic"):
                await client.chat.completions.create(model=_MODEL, messages=_ASKED)
        async with setting.anthropic() as claude:
            with pytest.raises(anthropic.PermissionDeniedError, match="Allowed: openai"):
                await claude.messages.create(model="claude-opus-4-1", max_tokens=9, messages=_ASKED)
        async with setting.gemini() as gemini:
            with pytest.raises(errors.ClientError, match="Allowed: openai") as refused:
                await gemini.aio.models.generate_content(model="gemini-2.5-pro", contents="x")
            assert refused.value.code == 403
    assert (line.usage.refused, line.usage.calls) == (3, 0)
    assert setting.server.requests == []


async def test_no_pattern_allows_no_model(setting: Setting) -> None:
    async with setting.line(Rules(models=())), setting.openai() as client:
        assert await _ask(client) == 403


async def test_a_used_up_budget_is_402_at_once_in_every_format_and_asks_for_no_retry(setting: Setting) -> None:
    """Bug: 429, or a hint to retry, on which programs ask again until they are killed."""
    _priced(setting)
    async with setting.line(Rules(budget=_CALL_COST)) as line:
        async with setting.openai(max_retries=5) as client:
            assert await _ask(client) == 200
            with pytest.raises(openai.APIStatusError, match="used up") as refused:
                await client.chat.completions.create(model=_MODEL, messages=_ASKED)
            assert refused.value.status_code == 402
            assert refused.value.code == "budget_exhausted"
            assert refused.value.response.headers.get("retry-after") is None
            assert refused.value.response.headers["x-should-retry"] == "false"
        async with setting.anthropic(max_retries=5) as claude:
            with pytest.raises(anthropic.APIStatusError, match="used up") as anthropics:
                await claude.messages.create(model="claude-haiku-4-5", max_tokens=9, messages=_ASKED)
            assert anthropics.value.status_code == 402
            assert anthropics.value.body["error"]["type"] == "billing_error"  # type: ignore[index]
        async with setting.gemini() as gemini:
            with pytest.raises(errors.ClientError, match="used up") as googles:
                await gemini.aio.models.generate_content(model="gemini-2.5-flash", contents="x")
            assert googles.value.code == 402
            assert googles.value.status == "FAILED_PRECONDITION"
    # Not one of the clients asked twice.
    assert (line.usage.refused, len(setting.server.requests)) == (3, 1)


async def _race(setting: Setting, allowed: Rules, calls: int = 20) -> tuple[list[int], Any]:
    """Make calls at once that all wait in the provider until nothing more can come; return what became of them."""
    setting.server.script(Step(text="hello", usage=Usage(1000, 100), delay=0.02), then="repeat")
    async with setting.line(allowed) as line, setting.openai() as client:
        found = await asyncio.gather(*(_ask(client, max_tokens=100) for _ in range(calls)))
    return sorted(found), line.usage


async def test_twenty_calls_at_once_pass_a_budget_by_one_call_at_most(setting: Setting) -> None:
    budget = 3 * _CALL_COST + 1
    found, used = await _race(setting, Rules(budget=budget))
    assert found == [200] * 4 + [402] * 16
    assert budget <= used.cost < budget + _CALL_COST
    assert (used.calls, used.refused) == (4, 16)


async def test_a_budget_checked_without_holding_would_be_seen(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug of the race: each call looks at what was spent, and not at what is under way."""
    monkeypatch.setattr(Allowance, "_fits", lambda _self, _hold: True)
    budget = 3 * _CALL_COST + 1
    _, used = await _race(setting, Rules(budget=budget))
    assert used.cost >= budget + _CALL_COST


async def test_twenty_calls_at_once_pass_a_limit_of_tokens_by_one_call_at_most(setting: Setting) -> None:
    found, used = await _race(setting, Rules(tokens=2500))
    assert found == [200] * 3 + [402] * 17
    assert used.input_tokens + used.output_tokens == 3300


async def test_twenty_calls_at_once_are_exactly_as_many_as_allowed(setting: Setting) -> None:
    found, used = await _race(setting, Rules(calls=7))
    assert found == [200] * 7 + [402] * 13
    assert used.calls == 7


async def test_a_call_that_failed_does_not_use_up_a_limit(setting: Setting) -> None:
    setting.server.script(Step(status=500), Step(text="hello", usage=Usage(1000, 100)))
    async with setting.line(Rules(calls=1, budget=10 * DOLLAR)) as line, setting.openai() as client:
        assert [await _ask(client), await _ask(client), await _ask(client)] == [500, 200, 402]
    assert line.usage.calls == 1


async def test_the_tenants_budget_holds_besides_and_gets_back_what_was_not_used(setting: Setting) -> None:
    _priced(setting)
    await setting.set_budget(setting.tenant, 2 * _CALL_COST)
    async with setting.line(Rules(budget=10 * DOLLAR)) as line, setting.openai() as client:
        assert await _ask(client, max_tokens=100) == 200
        await line.settled()
        budget = await setting.budget(setting.tenant)
        assert (budget.spent, budget.reserved) == (_CALL_COST, 0)
        assert await _ask(client, max_tokens=100) == 200
        await line.settled()
        assert await _ask(client, max_tokens=100) == 402
    budget = await setting.budget(setting.tenant)
    assert (budget.spent, budget.reserved, budget.exhausted) == (2 * _CALL_COST, 0, True)
    assert len(setting.server.requests) == 2


async def test_the_agents_budget_holds_too(setting: Setting) -> None:
    _priced(setting)
    await setting.set_budget(setting.agent, 1)
    async with setting.line() as line, setting.openai() as client:
        assert await _ask(client) == 402
    assert (line.usage.refused, setting.server.requests) == (1, [])


async def test_twenty_calls_at_once_do_not_overspend_the_tenants_budget(setting: Setting) -> None:
    setting.server.script(Step(text="hello", usage=Usage(1000, 100), delay=0.02), then="repeat")
    limit = 3 * _CALL_COST
    await setting.set_budget(setting.tenant, limit)
    async with setting.line(), setting.openai() as client:
        found = await asyncio.gather(*(_ask(client, max_tokens=100) for _ in range(20)))
    budget = await setting.budget(setting.tenant)
    assert set(found) == {200, 402}
    assert budget.spent <= limit + _CALL_COST
    assert budget.reserved == 0


@pytest.mark.parametrize("how", ["error", "unreachable", "refused"])
async def test_what_a_call_held_comes_back_when_it_came_to_nothing(setting: Setting, how: str) -> None:
    await setting.set_budget(setting.tenant, DOLLAR)
    if how == "unreachable":
        setting.point_at("http://127.0.0.1:9")
    else:
        setting.server.script(Step(status=500 if how == "error" else 400), then="repeat")
    async with setting.line() as line, setting.openai() as client:
        assert await _ask(client) == {"error": 500, "unreachable": 502, "refused": 400}[how]
    budget = await setting.budget(setting.tenant)
    assert (budget.spent, budget.reserved, line.usage.calls) == (0, 0, 0)


async def test_a_call_of_unknown_price_counts_for_what_the_settings_say(setting: Setting) -> None:
    setting.server.script(Step(text="hello", usage=Usage(10, 5)), then="repeat")
    async with setting.line(Rules(budget=DOLLAR // 100)) as line, setting.openai() as client:
        await client.chat.completions.create(model="a-model-nobody-sells", messages=_ASKED)
        with pytest.raises(openai.APIStatusError, match="used up"):
            await client.chat.completions.create(model="a-model-nobody-sells", messages=_ASKED)
    assert (line.usage.cost, line.usage.unpriced) == (0, 1)
    assert await setting.rows() == [("openai:a-model-nobody-sells", 1, 10, 5, 0, 1)]


async def test_an_earlier_attempts_reservations_are_given_back_when_a_line_opens(setting: Setting) -> None:
    """Bug: a worker that died in a call keeps its run's budget for as long as the run lasts."""
    await setting.set_budget(setting.tenant, DOLLAR)
    await commands.reserve(setting.services, setting.caller(), 1, DOLLAR // 2)
    assert (await setting.budget(setting.tenant)).reserved == DOLLAR // 2
    async with setting.line():
        assert (await setting.budget(setting.tenant)).reserved == 0


async def test_calls_are_on_the_bill_of_their_operation_and_application(setting: Setting) -> None:
    _priced(setting)
    operation = uuid4()
    caller = setting.caller(operation_id=operation, application="notes")
    async with listen(setting.services, setting.path, caller, Rules()), setting.openai() as client:
        assert await _ask(client) == 200
    async with setting.scope() as scope:
        assert await scope.queries.fetchval("SELECT application FROM usage_daily") == "notes"
        bill = await scope.queries.fetchrow("SELECT operation_id, calls, cost FROM operation_calls")
    assert bill is not None
    assert tuple(bill[:3]) == (operation, 1, _CALL_COST)


async def test_a_budget_that_is_set_while_a_line_is_open_holds_soon(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_KEPT_SECONDS", 0.0)
    _priced(setting)
    async with setting.line(), setting.openai() as client:
        assert await _ask(client) == 200
        await setting.set_budget(setting.tenant, 1)
        assert await _ask(client) == 402


# The rules by themselves


async def test_a_call_that_does_not_fit_waits_for_those_under_way_and_is_not_refused_for_them() -> None:
    allowance = Allowance(Rules(tokens=100), unpriced_cost=1)
    first = await allowance.hold(90, 0)
    second = asyncio.create_task(allowance.hold(90, 0))
    await asyncio.sleep(0)
    assert not second.done()
    await allowance.settle(first, 5, 5, 0, estimated=False)
    assert isinstance(await second, Hold)


async def test_whoever_waits_is_refused_once_nothing_is_left() -> None:
    allowance = Allowance(Rules(tokens=100), unpriced_cost=1)
    first = await allowance.hold(90, 0)
    second = asyncio.create_task(allowance.hold(90, 0))
    await allowance.settle(first, 95, 5, 0, estimated=False)
    with pytest.raises(UsedUp):
        await second


def test_patterns_are_over_provider_and_model() -> None:
    allowed = Rules(models=("openai:gpt-4*",))
    assert allowed.allows("openai:gpt-4o")
    assert not allowed.allows("anthropic:gpt-4o")
    assert not allowed.allows("xopenai:gpt-4o")
    assert not allowed.allows("OpenAI:gpt-4o")


@pytest.mark.parametrize(
    "name",
    ["", "../x", "gpt-4/../gpt-5", "a//b", "a b", "a\nb", "a\x00b", "a?b", "a#b", "a%2fb", "x" * 201, "/a", "-a"],
)
def test_names_that_could_be_read_otherwise_are_none(name: str) -> None:
    assert not rules.is_plain(name)
