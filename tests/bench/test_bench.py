"""The bench itself: verdicts, the load programs against the real floors, and the document it writes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import orjson
import pytest

from bench.__main__ import beside_earlier, document, main, measure
from bench.groups import GROUPS
from bench.harness import Bench, percentile, watched
from bench.load.streams import StreamOrder
from bench.load.turns import Seat, TurnOrder
from bench.loading import Load, LoadFailed
from bench.rows import Goal, Group, Measured, Results, Row, fixed, judged, plus, times
from bench.servers import sse_server
from bench.wire import Events
from tests.support.model_server import ModelServerProcess

LOWER = Goal("turn", "ms", times(1.7), "1.7x the floor")
HIGHER = Goal("rate", "1/s", times(0.5), "half the floor", higher=True)
ALONE = Goal("idle", "%", fixed(1), "1%", needs_floor=False)


@pytest.mark.parametrize(
    "goal, found, limit, met",
    [
        (LOWER, Measured(17.0, 10.0), 17.0, True),
        (LOWER, Measured(17.1, 10.0), 17.0, False),
        (HIGHER, Measured(50.0, 100.0), 50.0, True),
        (HIGHER, Measured(49.0, 100.0), 50.0, False),
        (ALONE, Measured(0.9), 1.0, True),
        (ALONE, Measured(1.1, 0.2), 1.0, False),
        (Goal("lag", "ms", plus(5), "+5"), Measured(9.0, 4.0), 9.0, True),
    ],
)
def test_a_goal_is_judged_by_its_own_direction(goal: Goal, found: Measured, limit: float, met: bool) -> None:
    row = judged(goal, found, "")
    assert (row.goal, row.met) == (limit, met)


def test_what_was_not_measured_is_never_met_and_says_why() -> None:
    row = judged(LOWER, None, "the server did not start")
    assert (row.measured, row.met, row.note) == (None, False, "the server did not start")
    row = judged(LOWER, Measured(1.0), "")
    assert (row.goal, row.met) == (None, False)
    assert "floor" in row.note


async def test_a_group_that_breaks_becomes_the_note_of_its_rows() -> None:
    async def broken(_bench: Bench) -> Results:
        raise RuntimeError("no luck")

    with ModelServerProcess() as stub:
        rows = await measure(Group("broken", (LOWER, ALONE), broken), Bench(Path(), stub, quick=True))
    assert [row.met for row in rows] == [False, False]
    assert all("no luck" in row.note for row in rows)


def test_the_document_has_what_readers_of_it_expect() -> None:
    rows = [judged(LOWER, Measured(1.0, 2.0), ""), judged(ALONE, None, "gone")]
    found = orjson.loads(document(rows, {"cores": 2}, quick=True))
    assert found["machine"] == {"cores": 2}
    assert "python" in found["versions"]
    assert {"name", "floor", "measured", "goal", "unit", "met"} <= found["rows"][0].keys()
    assert found["rows"][1]["measured"] is None


def test_a_run_of_some_groups_leaves_the_other_rows_as_they_were(tmp_path: Path) -> None:
    def row(name: str, measured: float) -> Row:
        return Row(name, None, measured, 1, "ms", True, "fixed")

    first, second = GROUPS[0].goals[0].name, GROUPS[-1].goals[-1].name
    machine = {"cores": 2, "processor": "Xeon"}
    results = tmp_path / "results.json"
    assert beside_earlier([row(second, 2)], results, machine) == [row(second, 2)]
    results.write_bytes(document([row(first, 1), row(second, 1)], machine, quick=False))
    assert beside_earlier([row(second, 2)], results, machine) == [row(first, 1), row(second, 2)]
    assert beside_earlier([row(second, 2)], results, {**machine, "cores": 64}) == [row(second, 2)]
    results.write_bytes(document([row(first, 1)], machine, quick=True))
    assert beside_earlier([row(second, 2)], results, machine) == [row(second, 2)]


def test_no_row_is_listed_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out.strip().splitlines()
    names = [goal.name for group in GROUPS for goal in group.goals]
    assert len(names) == len(set(names)) == len(listed)


def test_percentiles_are_nearest_ranks() -> None:
    values = [float(number) for number in range(100)]
    assert (percentile(values, 50), percentile(values, 99), percentile([7.0], 99)) == (50.0, 99.0, 7.0)
    with pytest.raises(ValueError, match="nothing was measured"):
        percentile([], 50)


def _collector(seen: list[tuple[bytes, bytes]]) -> Callable[[bytes, bytes], None]:
    return lambda name, data: seen.append((name, data))


def test_events_are_cut_wherever_the_pieces_end() -> None:
    stream = b': ping\n\nid: 1\nevent: delta\ndata: {"a":1}\n\nevent: done\ndata: {}\n\n'
    for size in (1, 7, len(stream)):
        seen: list[tuple[bytes, bytes]] = []
        events = Events(_collector(seen))
        for start in range(0, len(stream), size):
            events.feed(stream[start : start + size])
        assert seen == [(b"delta", b'{"a":1}'), (b"done", b"{}")]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the embedded PostgreSQL can reach, which runs as another user when started by root."""
    with tempfile.TemporaryDirectory(prefix="retinue-bench-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


async def test_turns_of_the_floor_are_measured_and_failures_counted(open_folder: Path) -> None:
    with ModelServerProcess() as stub:
        bench = Bench(open_folder, stub, quick=True)
        try:
            floor = await bench.floor()
            seats = [Seat(agent="stub-0ms"), Seat(agent="stub-0ms+clock")]
            text = "What time is it?\n!tool clock {}"
            order = TurnOrder(side="floor", port=floor.port, seats=seats[1:], turns=3, text=text)
            found = await watched(floor, "bench.load.turns", order)
            assert (found.result["turns"], found.result["failures"]) == (3, [])
            assert all(0 < first < whole for first, whole in zip(*_times(found.result), strict=True))
            assert found.cpu > 0
            # Three turns and the warm-up one, each a call that asks for the tool and one that answers.
            assert stub.counts()["requests"] == 8
            order = TurnOrder(
                side="floor", port=floor.port, seats=[Seat(agent="fail-400")], turns=1, warm=0, text="Hello."
            )
            found = await watched(floor, "bench.load.turns", order)
            assert found.result["turns"] == 0
            assert len(found.result["failures"]) == 1
        finally:
            await bench.close()


def _times(result: dict[str, list[float]]) -> tuple[list[float], list[float]]:
    return result["firsts"], result["latencies"]


async def test_every_stream_of_the_floor_gets_every_event(tmp_path: Path) -> None:
    server = sse_server(tmp_path, 50)
    await server.start()
    try:
        order = StreamOrder(port=server.port, path="/", streams=20, seconds=1, stamp="ns", slow=2)
        found = await watched(server, "bench.load.streams", order)
    finally:
        await server.stop()
    assert found.result["events"] >= 40
    assert found.result["fewest"] >= found.result["events"] - 2
    assert found.result["deliveries"] >= 18 * (found.result["events"] - 2)


async def test_a_load_program_that_breaks_says_why() -> None:
    class Nonsense(msgspec.Struct):
        streams: str = "many"

    load = await Load.start("bench.load.streams", Nonsense())
    try:
        with pytest.raises(LoadFailed, match="ValidationError"):
            await load.ready()
    finally:
        await load.stop()
