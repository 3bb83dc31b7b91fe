"""Requests as spans, and the numbers that /metrics looks up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.collector import Collector
from tests.support.numbers import number
from tests.web.paper import House

PROGRAM = """
import asyncio, sys
import httpx
from fastapi import FastAPI
from retinue.kernel import Settings, configure_tracing, shutdown_tracing
from retinue.web.app import SPANS
from retinue.web.tracing import Tracing

configure_tracing(Settings(otlp_endpoint=sys.argv[1]))
app = FastAPI(telemetry=SPANS)
app.add_middleware(Tracing)

@app.get("/things/{thing}")
async def thing(thing: str) -> str:
    if thing == "broken":
        raise ValueError("private text")
    return thing

@app.get("/v1/my/events/stream")
async def stream() -> str:
    return "endless"

async def main() -> None:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        header = {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}
        answer = await client.get("/things/7", headers=header)
        print(answer.headers["traceparent"])
        await client.post("/things/broken", headers=header)
        await client.request("PRIVATE", "/nowhere")
        await client.get("/v1/my/events/stream")
        await client.get("/health/live")
        await client.get("/things/broken")

asyncio.run(main())
shutdown_tracing()
"""


@pytest.fixture(scope="module")
def told() -> Iterator[tuple[Collector, str]]:
    """A collector that has got everything, and the `traceparent` of the first answer."""
    collector = Collector()
    yield collector, collector.run(PROGRAM).strip()
    collector.close()


@pytest.fixture
def collector(told: tuple[Collector, str]) -> Collector:
    return told[0]


def test_a_request_is_a_span_of_the_callers_trace(told: tuple[Collector, str]) -> None:
    collector, answered = told
    found = [one for one in collector.all_spans() if one.trace_id.hex() == "a" * 32]
    assert {one.name for one in found} == {"GET /things/{thing}", "POST /things/{thing}"}
    assert all(one.parent_span_id.hex() == "b" * 16 for one in found)
    span = next(one for one in found if one.name.startswith("GET"))
    assert answered == f"00-{'a' * 32}-{span.span_id.hex()}-01"


def test_a_span_says_the_route_and_the_status_and_nothing_private(collector: Collector) -> None:
    span = next(one for one in collector.all_spans() if one.trace_id.hex() == "a" * 32)
    said = {one.key: one.value.int_value or one.value.string_value for one in span.attributes}
    assert (said["http.request.method"], said["http.route"]) == ("GET", "/things/{thing}")
    assert said["http.response.status_code"] == 200
    assert not any(b"private" in request.SerializeToString() for request in collector.requests)


def test_an_error_is_marked_and_streams_and_probes_have_no_span(collector: Collector) -> None:
    others = {one.name: one.status.code for one in collector.all_spans() if one.trace_id.hex() != "a" * 32}
    assert others == {"HTTP": 0, "GET /things/{thing}": 2}


async def test_metrics_show_the_pool_and_the_queue(house: House) -> None:
    async with house.client() as client:
        response = await client.get("/metrics")
    assert response.status_code == 200
    assert number(response.text, "retinue_database_connections", state="open") >= 1
    assert number(response.text, "retinue_database_connections", state="busy") >= 0
    assert number(response.text, "retinue_processes", works="true") >= 0
    assert number(response.text, "retinue_event_loop_lag_seconds") >= 0
    assert number(response.text, "retinue_feed_behind_events") == 0
