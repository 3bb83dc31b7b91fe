"""Plans: what a task costs beside a direct run, and a hundred plans at once.

What they are held against is direct turns of the same number and in the same order, on the same server: as many
clients as the plans are wide, each making as many turns as a plan has layers. For a task's overhead their time is the
floor. For the hundred plans it is the ideal: what the turns took of the processor, shared by two cores without a gap,
or the model's time along the layers if that is more.
"""

from __future__ import annotations

from bench.harness import Bench, Watched, median, watched
from bench.load.plans import Owner, PlanOrder
from bench.people import Person
from bench.rows import Goal, Group, Measured, Results, fixed, times

_MODULE = "bench.load.plans"
_OWNERS = 20
_LAYERS = [4, 4, 4, 4, 4]
_SMALL = [1, 4, 4, 1]
_PLANS = 100
_MODEL_SECONDS = 0.2
_CORES = 2


def _owners(people: list[Person], kind: str) -> list[Owner]:
    return [Owner(person.token, person.agents[kind]) for person in people]


async def _one_wide(bench: Bench) -> Results:
    """One plan after another on a model that answers at once, beside the same number of direct turns."""
    product = await bench.product()
    owners = _owners(await (await bench.people()).get(1), "plain")
    tasks, rounds = sum(_LAYERS), 5 if bench.quick else 20
    spent: dict[str, list[float]] = {"plans": [], "turns": []}
    cpu: dict[str, list[float]] = {"plans": [], "turns": []}
    failures: list[str] = []
    for _ in range(rounds):
        for order in (
            PlanOrder(port=product.port, owners=owners, work="turns", clients=_LAYERS[0], turns=len(_LAYERS)),
            PlanOrder(port=product.port, owners=owners, work="plans", plans=1, layers=_LAYERS),
        ):
            found = await watched(product, _MODULE, order)
            failures += found.result["failures"]
            spent[order.work].append(found.result["seconds"] * 1000 / tasks)
            cpu[order.work].append(found.cpu * 1000 / tasks)
    used = f"CPU a task {median(cpu['plans']):.1f} ms, a direct run {median(cpu['turns']):.1f} ms"
    note = f"{failures[0][:120]}; {used}" if failures else used
    return {"plan of 20 tasks, 4 wide, a task": Measured(median(spent["plans"]), median(spent["turns"]), note)}


async def _crowd(bench: Bench) -> Results:
    """A hundred plans of ten tasks at once on a 200 ms model, beside a thousand direct turns."""
    product = await bench.product()
    plans = 20 if bench.quick else _PLANS
    owners = _owners(await (await bench.people()).get(_OWNERS), "steady")
    clients = plans * sum(_SMALL) // len(_SMALL)
    orders = (
        PlanOrder(port=product.port, owners=owners, work="turns", clients=clients, turns=len(_SMALL)),
        PlanOrder(port=product.port, owners=owners, work="plans", plans=plans, layers=_SMALL),
    )
    found: dict[str, list[Watched]] = {"plans": [], "turns": []}
    for _ in range(1 if bench.quick else 3):
        for order in orders:
            found[order.work].append(await watched(product, _MODULE, order))
    failures = [one for each in found["plans"] for one in each.result["failures"]]
    seconds = {kind: median([one.result["seconds"] for one in each]) for kind, each in found.items()}
    cpu = {kind: median([one.cpu for one in each]) for kind, each in found.items()}
    ideal = max(len(_SMALL) * _MODEL_SECONDS, cpu["turns"] / _CORES)
    note = (
        f"{plans} plans; the same as direct turns of {clients} clients took {seconds['turns']:.1f} s; "
        f"CPU {cpu['plans']:.1f} s, of the turns {cpu['turns']:.1f} s"
    )
    if failures:
        note = f"{failures[0][:120]}; {note}"
    return {
        "100 plans of 10 tasks at once, 200 ms model": Measured(seconds["plans"], ideal, note),
        "100 plans of 10 tasks at once, failures": Measured(len(failures), None, note),
    }


async def _measure(bench: Bench) -> Results:
    return {**await _one_wide(bench), **await _crowd(bench)}


GROUP = Group(
    "plans",
    (
        Goal("plan of 20 tasks, 4 wide, a task", "ms", times(1.5), "1.5x a direct run, four at once"),
        Goal("100 plans of 10 tasks at once, 200 ms model", "s", times(3), "3x the ideal on two cores"),
        Goal("100 plans of 10 tasks at once, failures", "", fixed(0), "none", needs_floor=False),
    ),
    _measure,
)
