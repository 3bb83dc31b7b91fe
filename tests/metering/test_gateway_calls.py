"""Model calls that an operation makes through the gateway stand on its bill, and in reports under its application."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from retinue import metering
from retinue.database import Database
from retinue.gateway import Rules, listen
from retinue.kernel import new_id
from retinue.metering import reports
from retinue.metering.reports import Span
from tests.gateway.gateway_setting import Setting, open_setting
from tests.support.model_server import Step, Usage

_MODEL = "gpt-4o-mini"  # $0.15 and $0.60 a million
_ASKED: list[Any] = [{"role": "user", "content": "Say hello."}]
_CALL_COST = 1000 * 150 + 100 * 600


@pytest.fixture
async def setting(database: Database, data_folder: Path) -> AsyncIterator[Setting]:
    with tempfile.TemporaryDirectory(prefix="gw-") as folder:
        async with open_setting(database, data_folder, Path(folder) / "line") as found:
            yield found


async def test_calls_of_all_attempts_are_on_the_bill_and_under_the_application(setting: Setting) -> None:
    """A gateway that names neither operation nor application leaves the bill empty, and the costs to nobody's."""
    setting.server.script(Step(text="hello", usage=Usage(1000, 100)), then="repeat")
    operation = new_id()
    caller = setting.caller(operation_id=operation, application="-Report writer")
    for calls in (1, 2):
        async with listen(setting.services, setting.path, caller, Rules()), setting.openai() as client:
            for _ in range(calls):
                await client.chat.completions.create(model=_MODEL, messages=_ASKED)
    async with setting.line(), setting.openai() as client:  # somebody else's, who has no operation
        await client.chat.completions.create(model=_MODEL, messages=_ASKED)
    async with setting.scope() as scope:
        (line,) = (await metering.bill(scope, operation)).lines
        today = scope.clock.now().date()
        spent = await reports.spent_by(scope, "application", Span(today, today), None, 10)
    assert (line.kind, line.model, line.unit) == ("model", f"openai:{_MODEL}", "call")
    assert (int(line.quantity), line.cost, line.input_tokens) == (3, 3 * _CALL_COST, 3000)
    assert [(one.key, one.calls, one.cost) for one in spent] == [
        ("", 1, _CALL_COST),
        ("-Report writer", 3, 3 * _CALL_COST),
    ]
