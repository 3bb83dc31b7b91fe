"""The real server, attacked from its own description: schemathesis makes requests that fit it and that do not.

Every answer must be one that the description promises, with the content it promises, and never a server error. The
requests are always the same ones: the generator is seeded. The paper house of tests/web is attacked the same way;
here it is the real rooms that answer, to an admin, with real things behind some of the ids.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.security.estate import STREAMS, Estate, Operation, estate_on
from tests.support.databases import Cluster
from tests.support.running import RunningServer, running_server

EXAMPLES = 400
schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")
# These end what the test needs: its login, and its membership.
SPARED = frozenset({"identity_log_out", "identity_change_password", "tenants_leave", *STREAMS})

# What fits the description may still be refused (a cursor that no list gave out, a name that is taken). An unknown
# query parameter is passed over, and the check knows no 413; test_bad_input.py sees to it that what is bad is refused.
LEFT_OUT = [positive_data_acceptance, negative_data_rejection]


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with running_server(postgres) as found:
        yield found


@pytest.fixture(scope="module")
async def estate(server: RunningServer) -> AsyncIterator[Estate]:
    async with estate_on(server) as found:
        yield found


def attacked(estate: Estate) -> dict[str, Any]:
    """Return the description, without what is spared, with a real id of each kind among those that are tried."""
    document = dict(estate.document)
    document["paths"] = {
        path: {method: _hinted(estate, one) for method, one in methods.items() if one["operationId"] not in SPARED}
        for path, methods in estate.document["paths"].items()
    }
    return document


def _hinted(estate: Estate, operation: dict[str, Any]) -> dict[str, Any]:
    ids = estate.things.all()
    parameters = []
    for one in operation.get("parameters", []):
        if one["name"] == "Retinue-Tenant":
            continue  # the client sends the organisation's
        if one["in"] == "path" and one["name"] in ids:
            schema = {"anyOf": [{"const": ids[one["name"]]}, one["schema"]]}
            one = one | {"schema": schema}
        parameters.append(one)
    return operation | {"parameters": parameters}


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
async def test_the_server_keeps_its_description(estate: Estate, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_dict(attacked(estate))
    client = estate.ada.client
    headers = {name: client.headers[name] for name in ("Authorization", "Retinue-Tenant")}
    before = len(estate.server.log())
    statuses: list[int] = []

    def attack() -> None:
        @seed(20)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=(Phase.generate,),  # a failure is shown as it came: shrinking takes minutes
            suppress_health_check=list(HealthCheck),
        )
        @given(case=schema.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            response = case.call_and_validate(
                base_url=estate.server.base_url, headers=headers, excluded_checks=LEFT_OUT
            )
            statuses.append(response.status_code)

        check()

    await asyncio.to_thread(attack)
    assert len(statuses) >= EXAMPLES / 2
    assert max(statuses) < 500
    written = estate.server.log()[before:]
    assert "Traceback" not in written
    assert '"level":"error"' not in written


def test_what_is_spared_is_little(estate: Estate) -> None:
    names = {one["operationId"] for methods in attacked(estate)["paths"].values() for one in methods.values()}
    everything = {one["operationId"] for methods in estate.document["paths"].values() for one in methods.values()}
    assert everything - names == SPARED
    assert isinstance(estate.operations()[0], Operation)
