"""Twenty operations of /bin/true at once, in the real sandbox: what an operation costs beside its program."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from bench.harness import Bench
from bench.people import People
from bench.rows import Goal, Group, Measured, Results, fixed
from bench.servers import product_server

_AT_ONCE = 5  # the policy's default
_COUNT = 20
_TRUE = {"driver": "command", "goal": "Nothing.", "parameters": {"argv": ["/bin/true"]}}
_POLL_SECONDS = 0.02


async def _round(people: People, token: str) -> tuple[float, float]:
    """Have all of them carried out; return the seconds that took, and those of the programs themselves."""
    began = time.monotonic()
    made = await asyncio.gather(
        *(people.call("POST", "/v1/operations", token=token, json=_TRUE) for _ in range(_COUNT))
    )
    ids = {one["operation_id"] for one in made}
    for status in ("queued", "running"):  # a look costs the server little, and none is missed: they go one way
        while (await people.call("GET", f"/v1/operations?status={status}&limit=1", token=token))["items"]:  # noqa: ASYNC110 - the server works
            await asyncio.sleep(_POLL_SECONDS)
    took = time.monotonic() - began
    listed = (await people.call("GET", f"/v1/operations?limit={_COUNT}", token=token))["items"]
    wrong = [one for one in listed if one["status"] != "completed"]
    if wrong:
        raise RuntimeError(f"{len(wrong)} operations did not succeed: {wrong[0]}")
    return took, sum([await _seconds_of(people, token, one) for one in ids])


async def _seconds_of(people: People, token: str, operation_id: str) -> float:
    found: dict[str, Any] = await people.call("GET", f"/v1/operations/{operation_id}", token=token)
    return float(found["usage"]["seconds"])


async def _measure(bench: Bench) -> Results:
    server = product_server(bench.scratch("operations"), bench.stub.environment())
    try:
        await server.start()
        people = People(server.port)
        try:
            [person] = await people.get(1)
            await _round(people, person.token)  # the first opens the sandbox and makes the tenant's agent
            rounds = [await _round(people, person.token) for _ in range(2 if bench.quick else 5)]
        finally:
            await people.close()
    finally:
        await server.stop()
    each = [(took * _AT_ONCE - programs) / _COUNT * 1000 for took, programs in rounds]
    whole = statistics.median(took for took, _ in rounds)
    note = f"{_COUNT} operations, {_AT_ONCE} at once, in {whole:.2f} s"
    return {"20 operations of /bin/true, overhead of each": Measured(statistics.median(each), note=note)}


GROUP = Group(
    "operations",
    (Goal("20 operations of /bin/true, overhead of each", "ms", fixed(150), "150 ms", needs_floor=False),),
    _measure,
)
