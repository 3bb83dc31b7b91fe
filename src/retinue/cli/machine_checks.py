"""The doctor's checks of the machine: Python, folder, disk, port, programs, Redis, models."""

from __future__ import annotations

import os
import platform
import shutil
import stat
import sys
from collections.abc import Iterable
from typing import Any

from retinue.cli.diagnosis import Finding, Patient

_ROOMY = 1 << 30
_SCARCE = 200 << 20

_PROGRAMS = {
    "redis-server": "only the tests of the Redis bus need it",
    "bwrap": "operations need it (Debian and Ubuntu: the package bubblewrap)",
    "faketime": "only the tests that move clocks need it",
}


def python(_: Patient) -> Finding:
    """The interpreter; one that is too old does not get as far as this."""
    return Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")


def data_folder(patient: Patient) -> Finding:
    """The data folder belongs to this user, and to nobody else."""
    name, folder = "data folder", patient.settings.data
    if not folder.exists():
        return Finding(name, "note", f"{folder} does not exist yet; the first start makes it")
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return Finding(name, "cannot", f"{folder} cannot be written to", f"Run: chown -R $(id -un) {folder}")
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o022:
        if patient.fix:
            folder.chmod(mode & ~0o022)
            return Finding(name, "repaired", f"{folder}: others could write in it (mode {mode:04o})")
        return Finding(name, "cannot", f"{folder}: others can write in it", "Run: retinue doctor --fix")
    return Finding(name, "ok", str(folder))


def disk_space(patient: Patient) -> Finding:
    """There is room to write."""
    folder = patient.settings.data
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**30:.1f} GiB free"
    if free < _SCARCE:
        return Finding("disk space", "cannot", text, "Free some space: the database stops when there is none left.")
    return Finding("disk space", "ok" if free > _ROOMY else "note", text)


def root_key(patient: Patient) -> Finding:
    """The root key is there and readable by its owner only. Whether it is the right one needs the database."""
    from retinue.vault import FileKeyRing, VaultLocked

    path = patient.settings.data / "root.key"
    if not path.exists():
        return Finding("root key", "note", "none yet; the first start makes it")
    mode = stat.S_IMODE(path.stat().st_mode)
    repaired = bool(mode & 0o077) and patient.fix
    if repaired:
        path.chmod(0o600)
    try:
        FileKeyRing.open(path)
    except VaultLocked as locked:
        advice = "Run: retinue doctor --fix" if mode & 0o077 else "Put the file back from your copy."
        return Finding("root key", "cannot", str(locked), advice)
    if repaired:
        return Finding("root key", "repaired", f"others could read it (mode {mode:04o}); rotate it if somebody did")
    return Finding("root key", "ok", str(path))


async def port(patient: Patient) -> Finding:
    """The port is free, or the server answers there."""
    import socket

    import httpx

    host, number = patient.settings.host, patient.settings.port
    name, where = f"port {number}", f"{host}:{number}"
    if number == 0:
        return Finding("port", "ok", "any free one")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, number), family=family):
            return Finding(name, "ok", f"{where} is free; no server runs there")
    except OSError as error:
        problem = os.strerror(error.errno) if error.errno else str(error)
    reached = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared with, not listened on
    url = f"http://[{reached}]:{number}" if ":" in reached else f"http://{reached}:{number}"
    try:
        async with httpx.AsyncClient(timeout=3, trust_env=False) as client:
            response = await client.get(f"{url}/health/ready")
            checks = response.json()["checks"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return Finding(name, "cannot", f"{where}: {problem}, and it is no Retinue server", "Choose another --port.")
    ill = [f"{check}: {result}" for check, result in checks.items() if result != "ok"]
    if ill:
        return Finding(name, "cannot", f"a server runs at {where} and is not ready: {'; '.join(ill)}")
    return Finding(name, "ok", f"a server runs at {where} and is ready")


async def redis(patient: Patient) -> Finding:
    """Redis answers, where it is configured."""
    url = patient.settings.redis_url
    if url is None:
        return Finding("redis", "ok", "not configured: frames and limits stay in each process")
    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    client = Redis.from_url(url.get_secret_value(), socket_timeout=3, socket_connect_timeout=3)
    try:
        pong: Any = client.ping()  # the library's types leave open whether this is awaitable
        await pong
        return Finding("redis", "ok", "answers")
    except (RedisError, OSError) as error:
        text = f"does not answer ({type(error).__name__}); text is not streamed until it does, nothing is lost"
        return Finding("redis", "cannot", text, "Start it, or correct REDIS_URL.")
    finally:
        await client.aclose()


async def models(patient: Patient) -> Finding:
    """A model is set up; with ``--models`` it is asked."""
    from retinue.providers import Message, ModelFailed, ModelRequest, Providers, Text

    settings = patient.settings
    providers = Providers(settings)
    default = providers.default_model
    try:
        if default.startswith("demo:"):
            advice = "Set OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY or OPENAI_BASE_URL."
            return Finding("models", "note", "none set up: agents that name no model get scripted demo answers", advice)
        if not patient.ask_models:
            return Finding("models", "ok", f"{default} where an agent names none (not asked; --models asks it)")
        question = Message(role="user", parts=[Text("Answer with the word ready.")])
        answer = await providers.ask(
            ModelRequest(models=[default], instructions="", messages=[question], max_tokens=64, timeout=30)
        )
        return Finding("models", "ok", f"{answer.model} answered")
    except ModelFailed as failed:
        return Finding("models", "cannot", f"{default}: {failed.detail} ({failed.kind})", "Check its key and address.")
    finally:
        await providers.close()


def programs(_: Patient) -> Iterable[Finding]:
    """Programs that something optional needs."""
    for program, purpose in _PROGRAMS.items():
        found = shutil.which(program)
        yield Finding(program, "ok" if found else "note", found or f"not installed; {purpose}")
