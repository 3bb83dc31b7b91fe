"""The floor of a direct turn: FastAPI, a Pydantic AI agent in process, one insert a message, deltas as SSE.

`python -m bench.floors.turn_server --port N --data FOLDER`. A crash loses the turn, nothing is isolated, nothing can
be replayed: this is the least a chat server of these parts costs.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from pydantic_ai import Agent, AgentRunError
from pydantic_ai.models.openai import OpenAIChatModel

from bench.postgres import Postgres

_TABLE = """
CREATE TABLE IF NOT EXISTS messages (
    id bigserial PRIMARY KEY, session_id uuid NOT NULL, role text NOT NULL, content text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
)
"""
_INSERT = "INSERT INTO messages (session_id, role, content) VALUES ($1, $2, $3)"


class Turn(BaseModel):
    """A message. `agent` is the model's name, with `+clock` behind it for an agent with a tool."""

    session: UUID
    agent: str
    content: str


def clock() -> str:
    """Return the time."""
    return datetime.now(UTC).isoformat()


class Floor:
    """Agents by name, messages in one table; every message begins a conversation."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool
        self._agents: dict[str, Agent[None, str]] = {}

    def _agent(self, name: str) -> Agent[None, str]:
        if name not in self._agents:
            model, _, tool = name.partition("+")
            tools: list[Any] = [clock] if tool else []
            self._agents[name] = Agent(OpenAIChatModel(model), instructions="You are a helpful assistant.", tools=tools)
        return self._agents[name]

    async def answer(self, turn: Turn) -> AsyncIterator[bytes]:
        """Answer a message; yield the deltas as events, then `done` or `failed`."""
        await self._pool.execute(_INSERT, turn.session, "user", turn.content)
        try:
            async with self._agent(turn.agent).run_stream(turn.content) as stream:
                async for text in stream.stream_text(delta=True, debounce_by=None):
                    yield b"event: delta\ndata: " + orjson.dumps({"text": text}) + b"\n\n"
                output = await stream.get_output()
        except AgentRunError as error:
            yield b"event: failed\ndata: " + orjson.dumps({"error": str(error)}) + b"\n\n"
            return
        await self._pool.execute(_INSERT, turn.session, "assistant", output)
        yield b"event: done\ndata: {}\n\n"


def app(folder: Path) -> FastAPI:
    """Return the application; its database lives in the folder."""

    @asynccontextmanager
    async def lifespan(application: FastAPI) -> AsyncIterator[None]:
        with Postgres(folder) as postgres:
            async with asyncpg.create_pool(postgres.dsn, min_size=1, max_size=16) as pool:
                await pool.execute(_TABLE)
                application.state.floor = Floor(pool)
                yield

    application = FastAPI(lifespan=lifespan)

    @application.get("/health/ready")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    @application.post("/chat")
    async def chat(turn: Turn) -> StreamingResponse:
        floor: Floor = application.state.floor
        return StreamingResponse(floor.answer(turn), media_type="text/event-stream")

    return application


def main() -> None:
    """Serve with the settings the product serves with."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    uvicorn.run(
        app(options.data),
        host="127.0.0.1",
        port=options.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
