"""Planted bugs: each breaks one promise of the product, in processes that a test starts.

A process gets one when `planted/` is on its path and TEST_MUTANT names it. A bug that no longer fits the product ends
the process at its start. The tests of the faults run against it and must find the damage.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import traceback
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "planted"
ROOT = Path(__file__).parents[2]

_later: set[asyncio.Task[None]] = set()


def planted(mutant: str = "", *, path: Iterable[Path] = (), **more: str) -> dict[str, str]:
    """Return the environment of a process that has a bug.

    Args:
        mutant: a function of this module; none: only what the other variables ask for.
        path: more folders that the process finds modules in.
        more: ``TEST_DIE`` and ``TEST_RECORDS``, see :func:`plant_from_environment`, and settings.
    """
    folders = os.pathsep.join(str(folder) for folder in (FOLDER, ROOT, *path))
    return {"PYTHONPATH": folders, "TEST_MUTANT": mutant, **more}


def plant_from_environment() -> None:
    """Change this process as its environment says, before the product starts in it.

    TEST_MUTANT: the bug. TEST_DIE: a file; while it holds the name of a boundary, the process dies there.
    TEST_RECORDS: a file that gets ``written`` or ``refused`` for each attempt to record a step.
    """
    try:
        if mutant := os.environ.get("TEST_MUTANT"):
            plant(mutant)
        if file := os.environ.get("TEST_DIE"):
            die_where_told(Path(file))
        if file := os.environ.get("TEST_RECORDS"):
            note_records(Path(file))
    except Exception:
        # Python would only print it, and go on without the bug.
        traceback.print_exc()
        raise SystemExit("the planted bug does not fit the product") from None


def plant(mutant: str) -> None:
    """Give this process bugs: names of functions of this module, or of others as ``module:function``, with commas."""
    for one in mutant.split(","):
        module, _, name = one.rpartition(":")
        if module:
            getattr(importlib.import_module(module), name)()
        else:
            _MUTANTS[name]()


def die_where_told(file: Path) -> None:
    """Die at the first boundary whose name stands in the file."""
    from tests.faults.boundaries import Boundaries

    Boundaries(lambda _number, name: file.exists() and file.read_text() == name).install()


def note_records(file: Path) -> None:
    """Note of every attempt to record a step whether it was written or refused."""
    from retinue.dispatch import Stopped
    from retinue.runs.journal import Journal

    def noting(record: Callable[..., Awaitable[None]]) -> Any:
        def note(what: str) -> None:
            with file.open("a") as out:
                out.write(f"{what}\n")

        async def recorded(this: Journal, *facts: Any) -> None:
            try:
                await record(this, *facts)
            except Stopped:
                note("refused")
                raise
            note("written")

        return recorded

    _change(Journal, "record", noting)


def _change(owner: Any, name: str, change: Callable[[Any], Any]) -> None:
    """Replace an attribute that must be there."""
    setattr(owner, name, change(getattr(owner, name)))


# Fault 1: takeover


def acts_unannounced() -> None:
    """Effects act without `tool.started` before them."""
    from retinue.runs.judgement import Judgement

    _change(Judgement, "acts", lambda _: lambda self, call: False)


def forgets_steps() -> None:
    """A takeover starts from the beginning, whatever is recorded."""
    from retinue.runs import claiming
    from retinue.runs.rules import RunState, Status

    def forgetful(fold: Callable[..., RunState]) -> Any:
        def folded(*args: Any) -> RunState:
            state = fold(*args)
            if state.status is Status.RUNNING:
                state.turns = []
            return state

        return folded

    _change(claiming, "fold", forgetful)


def leaves_the_dead() -> None:
    """What a dead worker held is not taken over."""
    from retinue.runs import claiming
    from retinue.runs.rules import Status

    def only_fresh(may_go_on: Callable[..., Awaitable[bool]]) -> Any:
        async def decided(scope: Any, run: Any) -> bool:
            return run.status is not Status.RUNNING and await may_go_on(scope, run)

        return decided

    _change(claiming, "_may_go_on", only_fresh)


# Stops


def hesitates_to_leave() -> None:
    """No bug: a worker that has seen a stop takes three seconds to record that its run leaves."""
    from retinue.runs.events import RunWaiting
    from retinue.runs.journal import Journal

    def hesitating(record: Callable[..., Awaitable[None]]) -> Any:
        async def recorded(self: Journal, *facts: Any) -> None:
            if any(isinstance(fact, RunWaiting) and fact.on[0].kind == "stop" for fact in facts):
                print("it hesitates", flush=True)
                await asyncio.sleep(3)
            await record(self, *facts)

        return recorded

    _change(Journal, "record", hesitating)


# Fault 2: one step, one commit


def repeats_lost_calls() -> None:
    """A call that was cut off is made again, also when its tool is not idempotent."""
    from retinue.runs import claiming

    _change(claiming, "lost_calls", lambda _: lambda state: [])


def tells_apart() -> None:
    """The session gets the reply in a transaction of its own, before the one with the run's end."""
    from retinue.runs.journal import _Writing

    def apart(end: Callable[[_Writing], Awaitable[None]]) -> Any:
        async def ended(self: _Writing) -> None:
            async with self.journal.scope() as scope:
                await end(_Writing(self.journal, scope, self.trial))

        return ended

    _change(_Writing, "end", apart)


# Fault 2 for plans: what a plan starts and what it waits for


def starts_apart() -> None:
    """The run of a task is accepted in a transaction of its own, before the one that records the task's start."""
    from retinue import runs
    from retinue.database import Database
    from retinue.kernel import Scope

    def apart(assign: Callable[..., Awaitable[Any]]) -> Any:
        async def assigned(scope: Scope, assignment: Any) -> Any:
            async with scope.service(Database).transaction(scope.tenant_id) as uow:
                return await assign(replace(scope, uow=uow), assignment)

        return assigned

    _change(runs, "assign", apart)


def wakes_apart() -> None:
    """A run's end is committed, and its plan woken after that."""
    from retinue.database import Database
    from retinue.kernel import Scope
    from retinue.planning import room

    def apart(wake_plan: Callable[..., Awaitable[None]]) -> Any:
        async def woken(scope: Scope, parent: Any, ended: object) -> None:
            async def wake() -> None:
                await asyncio.sleep(0.3)  # whoever dies in between has not done it
                async with scope.service(Database).transaction(scope.tenant_id) as uow:
                    await wake_plan(replace(scope, uow=uow), parent, ended)

            scope.uow.after_commit(lambda: _in_background(wake()))

        return woken

    _change(room, "wake_plan", apart)


def forgets_ends() -> None:
    """A plan that is read again does not know what its tasks gave, and has them done once more."""
    from retinue.planning import folding
    from retinue.planning.events import TaskCompleted, TaskStarted

    def forgetful(fold: Callable[..., Any]) -> Any:
        def folded(recorded: Sequence[Any], *state: Any) -> Any:
            kept = [one for one in recorded if not isinstance(one.event, TaskCompleted | TaskStarted)]
            found = fold(kept, *state)
            found.version = recorded[-1].version if recorded else found.version
            return found

        return folded

    _change(folding, "fold", forgetful)


def misses_something_once() -> None:
    """Not a bug but bad luck: once in a process, something is gone just when a plan has begun runs."""
    from retinue.kernel import NotFound
    from retinue.planning.advancing import Advance

    hit: list[bool] = []

    def unlucky(begin_runs: Callable[[Advance], Awaitable[None]]) -> Any:
        async def begun(self: Advance) -> None:
            await begin_runs(self)
            if not hit:
                hit.append(True)
                raise NotFound("something")

        return begun

    _change(Advance, "_begin_runs", unlucky)


def leaves_below() -> None:
    """A plan ends, and what it had others do goes on."""
    from retinue.planning import commands

    async def left(*_: Any) -> None:
        return None

    _change(commands, "cancel_below", lambda _: left)


def decides_blindly() -> None:
    """Whoever decides does not look whether somebody has decided: the last one is right."""
    from retinue.approvals import commands, rules
    from retinue.ledger import append, stream_version

    def open_still(decide: Callable[..., Any]) -> Any:
        return lambda approval, *rest: decide(replace(approval, status="pending"), *rest)

    async def anyway(scope: Any, stream: str, _expected: int, facts: Any, **more: Any) -> int:
        return await append(scope, stream, await stream_version(scope, stream), facts, **more)

    _change(rules, "decide", open_still)
    _change(commands, "append", lambda _: anyway)


# Fault 3: idempotency keys


def claims_key_apart() -> None:
    """The key is claimed, and that committed, before the request's own transaction."""
    from retinue.database import Database
    from retinue.kernel import Scope
    from retinue.web.idempotency import Repeatable

    def apart(begin: Callable[[Repeatable, Scope], Awaitable[None]]) -> Any:
        async def claimed(self: Repeatable, scope: Scope) -> None:
            async with scope.service(Database).transaction(scope.tenant_id) as uow:
                await begin(self, replace(scope, uow=uow))

        return claimed

    _change(Repeatable, "begin", apart)


def claims_key_late() -> None:
    """The key is only looked for at first, and claimed after the request has committed."""
    from retinue.database import Database
    from retinue.kernel import Scope
    from retinue.web.idempotency import Repeatable

    begin, keep = Repeatable.begin, Repeatable.keep

    async def looked(self: Repeatable, scope: Scope) -> None:
        query = "SELECT true FROM idempotency_keys WHERE user_id = $1 AND key = $2"
        if await scope.queries.fetchval(query, scope.owner(), self._digest(scope)):
            await self._replay(scope)

    async def kept(self: Repeatable, scope: Scope, answer: Any) -> None:
        async def claim() -> None:
            async with scope.service(Database).transaction(scope.tenant_id) as uow:
                await begin(self, replace(scope, uow=uow))
                await keep(self, replace(scope, uow=uow), answer)

        scope.uow.after_commit(lambda: _in_background(claim()))

    _change(Repeatable, "begin", lambda _: looked)
    _change(Repeatable, "keep", lambda _: kept)


def ignores_body() -> None:
    """A key answers for every body."""
    from retinue.web import idempotency

    def blind(read: Callable[..., idempotency.Repeatable | None]) -> Any:
        def found(*args: Any) -> idempotency.Repeatable | None:
            repeatable = read(*args)
            return repeatable and replace(repeatable, fingerprint=b"")

        return found

    _change(idempotency, "_read", blind)


def forgets_in_view() -> None:
    """The row of a run does not count the answers of the model."""
    from retinue.runs.events import ModelResponded
    from retinue.runs.views import _Changes

    def partial(take: Callable[..., None]) -> Any:
        def taken(self: _Changes, fact: Any, at: Any) -> None:
            if not isinstance(fact, ModelResponded):
                take(self, fact, at)

        return taken

    _change(_Changes, "_take", partial)


# Fault 4: what is acknowledged is durable


def answers_before_commit() -> None:
    """A message is accepted, and committed half a second later."""
    from retinue.chat.events import MessageSent
    from retinue.database.unit_of_work import Transaction
    from retinue.ledger.append import _Pending

    def early(leave: Callable[..., Awaitable[None]]) -> Any:
        async def left(this: Transaction, kind: Any, error: Any, trace: Any) -> None:
            pending: Any = this._attached.get(_Pending)
            facts = [recorded.event for recorded in pending.events] if pending is not None else []
            if error is not None or not any(isinstance(fact, MessageSent) for fact in facts):
                await leave(this, kind, error, trace)
                return

            async def commit() -> None:
                await asyncio.sleep(0.5)
                await leave(this, None, None, None)

            _in_background(commit())

        return left

    _change(Transaction, "__aexit__", early)


# Fault 7: late appends


def ignores_version() -> None:
    """A step is recorded behind whatever is on the stream, instead of where it was decided."""
    from retinue.kernel import Scope
    from retinue.ledger import Event, stream_version
    from retinue.runs import journal

    def anyway(append: Callable[..., Awaitable[int]]) -> Any:
        async def appended(scope: Scope, stream: str, _expected: int, facts: Sequence[Event], **rest: Any) -> int:
            return await append(scope, stream, await stream_version(scope, stream), facts, **rest)

        return appended

    _change(journal, "append", anyway)


def ignores_epoch() -> None:
    """A worker whose append is refused reads what is new and appends again, though another one has the run."""
    from retinue.dispatch import Stopped
    from retinue.runs.journal import Journal

    def stubborn(catch_up: Callable[..., Awaitable[Sequence[Any]]]) -> Any:
        async def caught_up(self: Journal, pending: Sequence[Any]) -> Sequence[Any]:
            try:
                return await catch_up(self, pending)
            except Stopped:
                return pending

        return caught_up

    _change(Journal, "_catch_up", stubborn)


def _in_background(work: Any) -> None:
    task = asyncio.get_running_loop().create_task(work)
    _later.add(task)
    task.add_done_callback(_later.discard)


_MUTANTS: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (
        acts_unannounced,
        forgets_steps,
        leaves_the_dead,
        hesitates_to_leave,
        repeats_lost_calls,
        tells_apart,
        starts_apart,
        wakes_apart,
        forgets_ends,
        misses_something_once,
        leaves_below,
        decides_blindly,
        claims_key_apart,
        claims_key_late,
        ignores_body,
        forgets_in_view,
        answers_before_commit,
        ignores_version,
        ignores_epoch,
    )
}
