"""The dispatcher: this process's workers, what they hold, and the takeover of what dead ones held.

An activation is one worker advancing one subject. Its row in ``dispatch.activations`` is written in the transaction
that starts it and deleted in the one that ends it. Workers beat; whoever finds a silent worker deletes it and wakes
what it held, in one transaction. Nothing depends on the beat being right: a worker that was only paused finds its
stream moved on (see the ledger) and throws its work away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

import psutil
from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
from pgqueuer.core.qm import QueueManager
from pgqueuer.domain.errors import RetryRequested
from pgqueuer.domain.models import Job
from pgqueuer.domain.types import Channel

from retinue.database import Database
from retinue.dispatch.activation import Activation, HandOver, Stopped
from retinue.dispatch.processes import is_alive, machine_id
from retinue.dispatch.wakeups import SETTINGS, WakeUp, enqueue, queue_on, read_payload, wake
from retinue.kernel import Clock, Fault, Scope, Services, Settings, SystemClock, new_id
from retinue.ledger import Feed

log = logging.getLogger(__name__)

Work = Callable[[Services, UUID, UUID], Awaitable[None]]

_RESTART_SECONDS = 0.5
_RETRY = timedelta(seconds=1)
_STRAY_SECONDS = 1.0
_PUT_BACK_SECONDS = 1.0
# Long enough for a claim, short enough that a wake-up picked by a worker that was killed is picked again soon.
_PICKED_TIMEOUT = timedelta(seconds=4)


class Dispatcher:
    """This process's side of dispatch; a service of the house."""

    def __init__(
        self, database: Database, settings: Settings, services: Services, *, clock: Clock | None = None
    ) -> None:
        self._database = database
        self._settings = settings
        self._services = services
        self._clock = clock or SystemClock()
        self._work: dict[str, Work] = {}
        self._held: dict[tuple[str, UUID], Activation] = {}
        self._strays: dict[tuple[str, UUID], float] = {}  # claims that nobody here advances, and since when
        self._given_up = False  # whether the others have taken this process for dead: its old id may still be used
        self._claiming = 0  # wake-ups whose work is about to claim: each may become an activation
        self._waking: set[asyncio.Task[Any]] = set()  # wake-ups that are being done
        self._tasks: list[asyncio.Task[None]] = []
        self._manager: QueueManager | None = None
        self._works = False
        self._closing = False
        self._room = asyncio.Condition()
        self.worker_id = new_id()
        self.peers = 1
        self._last_beat = 0.0

    def register(self, kind: str, work: Work) -> None:
        """Say what is done for wake-ups of ``kind``: ``work`` claims the subject, spawns and returns soon."""
        if kind in self._work:
            raise ValueError(f"work for {kind} is registered twice")
        self._work[kind] = work

    # Life

    async def open(self, *, work: bool) -> None:
        """Enter the list of this database's processes and, with ``work``, start taking wake-ups."""
        self._works = work
        await self._enter(self.worker_id)
        await self._reap()
        self._tasks.append(asyncio.create_task(self._beat(), name="dispatch-beat"))
        if work:
            self._tasks.append(asyncio.create_task(self._take_wake_ups(), name="dispatch-queue"))

    async def close(self, grace_seconds: float = 5.0) -> None:
        """Stop taking work; let activations reach the end of their step, then hand over what is left."""
        self._closing = True
        if self._manager is not None:
            self._manager.shutdown.set()
        async with self._room:
            self._room.notify_all()  # nobody gets a place here any more
        for activation in list(self._held.values()):
            activation.ask_to_stop("pause")
        tasks = [activation.task for activation in self._held.values() if activation.task is not None]
        if under_way := {*tasks, *self._waking}:
            await asyncio.wait(under_way, timeout=grace_seconds)
        await self._put_back()
        for task in [*self._tasks, *(task for task in tasks if not task.done())]:
            task.cancel()
        await asyncio.gather(*self._tasks, *tasks, return_exceptions=True)
        with contextlib.suppress(Fault):
            await self._leave()

    async def _put_back(self) -> None:
        """Cut off what is still done for wake-ups, and put those back in the queue while it can be reached."""
        for task in (waking := list(self._waking)):
            task.cancel()
        if waking:
            await asyncio.wait(waking, timeout=_PUT_BACK_SECONDS)

    @property
    def capacity_left(self) -> int:
        """How many more activations this process takes on; 0 where it is no worker."""
        if not self._works or self._closing:
            return 0
        return max(0, self._settings.worker_capacity - len(self._held) - self._claiming)

    @property
    def works(self) -> bool:
        """Whether this process is a worker."""
        return self._works

    @property
    def closing(self) -> bool:
        """Whether this process is about to end, so that activations should hand over."""
        return self._closing

    @property
    def running(self) -> int:
        """How many activations this process holds."""
        return len(self._held)

    def complaint(self) -> str | None:
        """Say in one line why this process could be taken for dead by the others; None when all is well."""
        silent = time.monotonic() - self._last_beat
        if silent > self._settings.beat_seconds + self._settings.dead_after_seconds:
            return f"no beat reached the database for {silent:.0f} s"
        return None

    # Activations

    async def hold(self, scope: Scope, kind: str, subject_id: UUID) -> bool:
        """Claim a subject for this worker when the scope commits; False when a worker already has it."""
        taken = await scope.queries.fetchval(
            "INSERT INTO dispatch.activations (tenant_id, kind, subject_id, worker_id) VALUES ($1, $2, $3, $4) "
            "ON CONFLICT (tenant_id, kind, subject_id) DO NOTHING RETURNING true",
            scope.tenant_id,
            kind,
            subject_id,
            self.worker_id,
        )
        return bool(taken)

    async def let_go(self, scope: Scope, kind: str, subject_id: UUID) -> None:
        """Give up this worker's claim when the scope commits."""
        await scope.queries.execute(
            "DELETE FROM dispatch.activations WHERE tenant_id = $1 AND kind = $2 AND subject_id = $3 "
            "AND worker_id = $4",  # tenant: explicit, dispatch sees ids of all tenants
            scope.tenant_id,
            kind,
            subject_id,
            self.worker_id,
        )

    async def prompt(self, scope: Scope, kind: str, subject_id: UUID) -> None:
        """Have a subject worked on as soon as the scope has committed: here if there is room, else through the queue.

        It is as lasting as a wake-up: should this process die, whoever takes over queues one. The work must let go of
        the subject in the transaction that looks at it. Whoever comes in between finds it held, and queues a wake-up.
        """
        work = self._work.get(kind)
        if work is None or self.capacity_left <= 0 or not await self.hold(scope, kind, subject_id):
            await wake(scope, kind, subject_id)
            return
        services, tenant_id = self._services, scope.tenant_id

        async def advance(_: Activation) -> None:
            await work(services, tenant_id, subject_id)

        scope.uow.after_commit(lambda: self.spawn(kind, tenant_id, subject_id, advance))

    def spawn(
        self, kind: str, tenant_id: UUID, subject_id: UUID, advance: Callable[[Activation], Coroutine[Any, Any, None]]
    ) -> None:
        """Advance a held subject in the background of this process, once its claim is committed."""
        activation = Activation(kind, tenant_id, subject_id)
        self._held[(kind, subject_id)] = activation
        activation.task = asyncio.create_task(self._advance(activation, advance), name=f"{kind} {subject_id}")

    async def _advance(
        self, activation: Activation, advance: Callable[[Activation], Coroutine[Any, Any, None]]
    ) -> None:
        key = (activation.kind, activation.subject_id)
        try:
            await advance(activation)
        except Stopped:
            pass  # cancelled and recorded, or lost to another worker
        except HandOver:
            await self._hand_over(activation)
        except asyncio.CancelledError:
            await self._hand_over(activation)
            raise
        except Exception:
            log.exception("an activation of %s %s failed", *key)
            await self._hand_over(activation)
        finally:
            if self._held.get(key) is activation:
                del self._held[key]
            async with self._room:
                self._room.notify_all()

    async def _hand_over(self, activation: Activation) -> None:
        """Let another activation go on: what this one held is woken again. The net underneath is the next beat."""
        with contextlib.suppress(Exception):
            async with self._database.routing(transaction=True) as queries:
                gone = await queries.fetchval(
                    "DELETE FROM dispatch.activations WHERE tenant_id = $1 AND kind = $2 AND subject_id = $3 "
                    "AND worker_id = $4 RETURNING true",  # tenant: explicit, dispatch sees ids of all tenants
                    activation.tenant_id,
                    activation.kind,
                    activation.subject_id,
                    self.worker_id,
                )
                if gone:
                    wake_up = WakeUp(
                        kind=activation.kind,
                        tenant_id=activation.tenant_id,
                        subject_id=activation.subject_id,
                        at=self._clock.now() + (timedelta(0) if self._closing else _RETRY),
                    )
                    await enqueue(queries, [wake_up], self._clock.now())

    async def ask_to_stop(self, scope: Scope, kind: str, subject_id: UUID, reason: str) -> None:
        """Ask whoever advances a subject to stop: here at the commit, elsewhere with its next beat."""
        await scope.queries.execute(
            "UPDATE dispatch.activations SET stop = $4 WHERE tenant_id = $1 AND kind = $2 AND subject_id = $3",
            # tenant: explicit, dispatch sees ids of all tenants
            scope.tenant_id,
            kind,
            subject_id,
            reason,
        )
        scope.uow.after_commit(lambda: self.stop_here(kind, subject_id, reason))

    def stop_here(self, kind: str, subject_id: UUID, reason: str) -> None:
        """Pass a request to stop to an activation of this process, if it has one."""
        activation = self._held.get((kind, subject_id))
        if activation is not None:
            activation.ask_to_stop(reason)

    # Beats and takeover

    async def _enter(self, worker_id: UUID) -> None:
        async with self._database.routing() as queries:
            await queries.execute(
                "INSERT INTO dispatch.workers (worker_id, machine, pid, pid_started, works) "
                "VALUES ($1, $2, $3, $4, $5)",
                worker_id,
                machine_id(),
                os.getpid(),
                psutil.Process().create_time(),
                self._works,
            )
        self._last_beat = time.monotonic()

    async def _leave(self) -> None:
        async with self._database.routing(transaction=True) as queries:
            await queries.execute("DELETE FROM dispatch.workers WHERE worker_id = $1", self.worker_id)

    async def _beat(self) -> None:
        while True:
            try:
                await self._beat_once()
            except (Fault, OSError) as error:
                log.info("no beat: %s", error)
            except Exception:
                log.exception("a beat failed")
            await asyncio.sleep(self._settings.beat_seconds)

    async def _beat_once(self) -> None:
        async with self._database.routing() as queries:
            rows = await queries.fetch(
                "UPDATE dispatch.workers SET beat_at = clock_timestamp() WHERE worker_id = $1 "
                "RETURNING (SELECT count(*) FROM dispatch.workers)",
                self.worker_id,
            )
            if not rows:
                await self._come_back()
                return
            self.peers = rows[0][0]
            self._last_beat = time.monotonic()
            self._services.get(Feed).alone = self.peers == 1
            claims = await queries.fetch(
                "SELECT tenant_id, kind, subject_id, stop FROM dispatch.activations WHERE worker_id = $1",
                self.worker_id,
            )
        for row in claims:
            if row["stop"] is not None:
                self.stop_here(row["kind"], row["subject_id"], row["stop"])
        await self._return_strays({(row["kind"], row["subject_id"]): row["tenant_id"] for row in claims})
        if self.peers > 1 or self._given_up:
            await self._reap()

    async def _return_strays(self, claims: Mapping[tuple[str, UUID], UUID]) -> None:
        """Hand over what this worker has claimed and nobody here advances.

        That happens when the database goes away: the answer to a commit is lost, or an activation fails and cannot be
        handed over either. A claim counts when it has been seen so for a second: the first time may lie between the
        commit and the start of the work.
        """
        now = time.monotonic()
        self._strays = {claim: self._strays.get(claim, now) for claim in claims if claim not in self._held}
        for kind, subject_id in [claim for claim, since in self._strays.items() if now - since >= _STRAY_SECONDS]:
            if (kind, subject_id) not in self._held:
                log.warning("%s %s was claimed and is not advanced; it is handed over", kind, subject_id)
                await self._hand_over(Activation(kind, claims[kind, subject_id], subject_id))

    async def _come_back(self) -> None:
        """This process was silent for so long that it was given up: drop everything and start as a new worker."""
        log.warning("this worker was declared dead; it drops %d activations", len(self._held))
        fresh = new_id()
        await self._enter(fresh)
        self.worker_id = fresh
        self._given_up = True
        for activation in list(self._held.values()):
            activation.ask_to_stop("lost")

    async def _reap(self) -> None:
        """Take over from workers that are silent, or whose process on this machine is gone.

        And from those that nobody knows any more: a worker that was given up while it claimed something commits the
        claim under an id that is no worker's.
        """
        dead = await self._dead_here()
        async with self._database.routing(transaction=True) as queries:
            rows = await queries.fetch(
                "WITH dead AS (DELETE FROM dispatch.workers WHERE worker_id IN ("
                "  SELECT worker_id FROM dispatch.workers WHERE worker_id <> $1"
                "  AND (worker_id = ANY($2) OR beat_at < clock_timestamp() - make_interval(secs => $3))"
                "  FOR UPDATE SKIP LOCKED) RETURNING worker_id) "
                "DELETE FROM dispatch.activations a WHERE a.worker_id IN (SELECT worker_id FROM dead) "
                "OR NOT EXISTS (SELECT FROM dispatch.workers w WHERE w.worker_id = a.worker_id) "
                "RETURNING a.tenant_id, a.kind, a.subject_id",
                self.worker_id,
                dead,
                self._settings.dead_after_seconds,
            )
            wake_ups = [WakeUp(kind=row["kind"], tenant_id=row[0], subject_id=row["subject_id"]) for row in rows]
            await enqueue(queries, wake_ups, self._clock.now())
        if wake_ups:
            log.warning("took over %d activations of dead workers", len(wake_ups))

    async def _dead_here(self) -> list[UUID]:
        """Return the workers of this machine whose process no longer exists: no need to wait for their silence."""
        async with self._database.routing() as queries:
            rows = await queries.fetch(
                "SELECT worker_id, pid, pid_started FROM dispatch.workers WHERE machine = $1", machine_id()
            )
        return [row["worker_id"] for row in rows if not is_alive(row["pid"], row["pid_started"])]

    # The queue

    async def _take_wake_ups(self) -> None:
        while not self._closing:
            connection = None
            try:
                connection = await self._database.dedicated()
                await self._run_manager(connection)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log.warning("the queue lost its connection: %s", type(error).__name__)
            finally:
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(_RESTART_SECONDS)

    async def _run_manager(self, connection: Any) -> None:
        queries = queue_on(connection)
        manager = self._manager = QueueManager(queries, Channel(SETTINGS.channel))
        assert isinstance(queries.driver, AsyncpgDriver)
        connection.add_termination_listener(lambda _: manager.shutdown.set())
        for kind, work in self._work.items():
            manager.entrypoint(kind, accepts_context=False, on_failure="hold")(self._handler(work))
        await manager.run(
            batch_size=25,
            dequeue_timeout=timedelta(seconds=5),
            heartbeat_timeout=_PICKED_TIMEOUT,
            shutdown_on_listener_failure=True,
        )

    @contextlib.asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """Keep a place free for what the block claims; wait for one while this worker is full.

        Raises:
            TimeoutError: it stayed full, or ends; somebody else may have room.
        """
        async with asyncio.timeout(20), self._room:
            await self._room.wait_for(lambda: self.capacity_left > 0 or self._closing)
            if self._closing:
                raise TimeoutError("this process ends")
            self._claiming += 1
        try:
            yield
        finally:
            self._claiming -= 1
            async with self._room:
                self._room.notify_all()

    def _handler(self, work: Work) -> Callable[[Job], Awaitable[None]]:
        async def handle(job: Job) -> None:
            tenant_id, subject_id = read_payload(job.payload)
            task = asyncio.current_task()
            assert task is not None
            self._waking.add(task)
            try:
                async with self._place():
                    await work(self._services, tenant_id, subject_id)
            except asyncio.CancelledError:
                # This process ends. The queue forgets what was cancelled, and nobody would do it.
                raise RetryRequested(delay=timedelta(0), reason="cut off") from None
            except Exception as error:
                if self._closing and isinstance(error, TimeoutError):
                    raise RetryRequested(delay=timedelta(0), reason="no room") from None
                if not isinstance(error, Fault | TimeoutError):
                    log.exception("the wake-up %s %s failed; it is tried again", job.entrypoint, subject_id)
                # Never given up: what the wake-up stands for decides about poison (see runs), not the queue.
                raise RetryRequested(delay=_RETRY * min(2**job.attempts, 30), reason=type(error).__name__) from error
            finally:
                self._waking.discard(task)

        return handle
