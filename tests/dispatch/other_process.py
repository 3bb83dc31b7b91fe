"""A worker process for tests: holds every subject it is woken for, works on it without end, and says what happens.

``python -m tests.dispatch.other_process <dsn> <dead after seconds>`` prints one JSON object a line.
"""

from __future__ import annotations

import asyncio
import json
import sys
from uuid import UUID

from retinue.database import Database
from retinue.dispatch import Activation, Dispatcher, Stopped
from retinue.kernel import Services, Settings
from tests.dispatch.support import KIND
from tests.support.scopes import ledger_services, scope_of


def say(**what: object) -> None:
    print(json.dumps({name: str(value) for name, value in what.items()}), flush=True)


async def main(dsn: str, dead_after_seconds: float) -> None:
    database = Database(dsn, size=4)
    await database.open()
    services = ledger_services(database)
    dispatcher = Dispatcher(database, Settings(beat_seconds=0.1, dead_after_seconds=dead_after_seconds), services)

    async def work(_services: Services, tenant_id: UUID, subject_id: UUID) -> None:
        async with scope_of(services, tenant_id) as scope:
            held = await dispatcher.hold(scope, KIND, subject_id)
        if held:
            dispatcher.spawn(KIND, tenant_id, subject_id, advance)

    async def advance(activation: Activation) -> None:
        say(advancing=activation.subject_id, worker=dispatcher.worker_id)
        try:
            await activation.unless_stopped(asyncio.sleep(3600))
        except Stopped as stopped:
            say(stopped=activation.subject_id, reason=stopped.reason)
            if stopped.reason == "cancel":
                async with scope_of(services, activation.tenant_id) as scope:
                    await dispatcher.let_go(scope, KIND, activation.subject_id)
            raise

    dispatcher.register(KIND, work)
    await dispatcher.open(work=True)
    say(ready=dispatcher.worker_id)
    known = dispatcher.worker_id
    while True:
        if dispatcher.worker_id != known:
            known = dispatcher.worker_id
            say(back=known)
        await asyncio.sleep(0.02)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
