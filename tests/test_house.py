"""The house keeps its own rules; each check is shown a planted breach to prove that it can fail."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import house_rules as rules

ROOT = Path(__file__).resolve().parent.parent

Rule = Callable[[Path], list[str]]

RULES: list[Rule] = [
    rules.too_long,
    rules.vague_names,
    rules.back_entrances,
    rules.connections_elsewhere,
    rules.tenant_filters,
    rules.missing_paths,
    rules.undeclared_imports,
    rules.unrecorded_dependencies,
    rules.entangled_client,
]

RECORD = "| Dependency | Why |\n|---|---|\n| asyncpg | driver |\n| pydantic-ai-slim | models |\n"
PROJECT = '[project]\ndependencies = ["asyncpg~=0.32.0", "pydantic-ai-slim[openai]"]\n'


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A small repository that keeps every rule."""
    write(tmp_path, "pyproject.toml", PROJECT)
    write(tmp_path, rules.DEPENDENCY_RECORD, RECORD)
    write(tmp_path, "ARCHITECTURE.md", "`src/retinue/` holds `chat/commands.py`; see `/v1/my/chat` and `a | b`.")
    write(tmp_path, "src/retinue/__init__.py")
    write(tmp_path, "src/retinue/house.py", "from retinue.chat import room\nimport retinue.runs.room\n")
    write(tmp_path, "src/retinue/chat/__init__.py", "from .commands import send\n")
    write(tmp_path, "src/retinue/chat/commands.py", "from retinue.runs import work\n\nfrom . import rules\n")
    write(tmp_path, "src/retinue/chat/rules.py")
    write(tmp_path, "src/retinue/chat/room.py")
    write(tmp_path, "src/retinue/runs/__init__.py", "from . import work\n")
    write(tmp_path, "src/retinue/runs/work.py", "import openai\n\nfrom .inner import deep\n")
    write(tmp_path, "src/retinue/runs/inner/__init__.py")
    write(tmp_path, "src/retinue/runs/inner/deep.py")
    write(tmp_path, "src/retinue/runs/room.py")
    write(tmp_path, "src/retinue/runs/conformance.py", "import pytest\n")
    write(tmp_path, "src/retinue/database/pool.py", "import asyncpg\n\nopen = asyncpg.create_pool\n")
    write(tmp_path, "src/retinue/database/migrations/one.py", "SQL = 'select 1 where tenant_id = $1'\n")
    return tmp_path


def write(root: Path, path: str, text: str = "") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_this_repository_keeps_the_rule(rule: Rule) -> None:
    assert rule(ROOT) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_clean_repository_keeps_the_rule(rule: Rule, repository: Path) -> None:
    assert rule(repository) == []


PLANTED: list[tuple[Rule, str, str]] = [
    (rules.too_long, "src/retinue/chat/long.py", "x = 1\n" * 1001),
    (rules.too_long, "tests/test_long.py", "x = 1\n" * 1001),
    (rules.vague_names, "src/retinue/chat/utils.py", ""),
    (rules.vague_names, "src/retinue/core/queue.py", ""),
    (rules.back_entrances, "src/retinue/chat/work.py", "from retinue.runs.work import start"),
    (rules.back_entrances, "src/retinue/chat/work.py", "import retinue.runs.work"),
    (rules.back_entrances, "src/retinue/chat/work.py", "from retinue.runs import room"),
    (rules.back_entrances, "src/retinue/chat/work.py", "from ..runs.inner import deep"),
    (rules.back_entrances, "src/retinue/chat/work.py", "def late() -> None:\n    from retinue.runs.work import x"),
    (rules.back_entrances, "src/retinue/house.py", "from retinue.chat.commands import send"),
    (rules.connections_elsewhere, "src/retinue/chat/views.py", "import asyncpg\nasyncpg.connect('')"),
    (rules.connections_elsewhere, "src/retinue/chat/views.py", "import asyncpg as pg\npg.create_pool('')"),
    (rules.connections_elsewhere, "src/retinue/chat/views.py", "from asyncpg import create_pool"),
    (rules.connections_elsewhere, "src/retinue/house.py", "import sqlalchemy as sa\nsa.create_engine('')"),
    (rules.tenant_filters, "src/retinue/chat/views.py", "S = 'select 1 from a where tenant_id = $1'"),
    (rules.tenant_filters, "src/retinue/chat/views.py", "S = '''delete from a\nWHERE b = $2 AND a.tenant_id=$1'''"),
    (rules.tenant_filters, "src/retinue/chat/views.py", "S = f'update {t} set x = 1 where tenant_id = {a}'"),
    (rules.tenant_filters, "src/retinue/chat/views.py", "S = 'select 1 where tenant_id in ($1, $2)'"),
    (rules.tenant_filters, "src/retinue/chat/views.py", "S = 'select 1 where (tenant_id, id) = ($1, $2)'"),
    (rules.tenant_filters, "src/retinue/chat/views.py", "S = 'select 1 where $1 = tenant_id'"),
    (rules.tenant_filters, "src/retinue/chat/views.py", "# tenant: explicit\nS = 'x where tenant_id = $1'"),
    (rules.missing_paths, "ARCHITECTURE.md", "The queue is in `dispatch/queue.py`."),
    (rules.missing_paths, "ARCHITECTURE.md", "The tools are in `src/retinue/tools/`."),
    (rules.missing_paths, "ARCHITECTURE.md", "Everything meets in `mansion.py`."),
    (rules.undeclared_imports, "src/retinue/chat/views.py", "import fastapi"),
    (rules.undeclared_imports, "src/retinue/chat/views.py", "import pytest"),
    (rules.undeclared_imports, "src/retinue/chat/views.py", "from anthropic.types import Message"),
    (rules.unrecorded_dependencies, "pyproject.toml", PROJECT + '[dependency-groups]\ndev = ["mypy"]'),
    (rules.unrecorded_dependencies, rules.DEPENDENCY_RECORD, RECORD + "| numpy, asyncpg | numbers |"),
    (rules.entangled_client, "src/retinue_client/stream.py", "from retinue.kernel import ids"),
]


@pytest.mark.parametrize("rule, path, text", PLANTED)
def test_a_planted_breach_is_seen(rule: Rule, path: str, text: str, repository: Path) -> None:
    write(repository, path, text)
    assert len(rule(repository)) == 1


HONEST: list[tuple[Rule, str, str]] = [
    (rules.tenant_filters, "src/retinue/chat/views.py", "S = 'x where a.tenant_id = b.tenant_id and a.id = $1'"),
    (rules.tenant_filters, "src/retinue/chat/views.py", "S = 'insert into a (tenant_id, x) values ($1, $2)'"),
    (
        rules.tenant_filters,
        "src/retinue/chat/views.py",
        "S = 'x -- tenant: explicit, for the index\\n where tenant_id = $1'",
    ),
    (
        rules.tenant_filters,
        "src/retinue/chat/views.py",
        "# tenant: explicit, so that the index is used\nS = 'x where tenant_id = $1'",
    ),
    (rules.connections_elsewhere, "src/retinue/chat/views.py", "import socket\nsocket.socket().connect(('', 1))"),
    (rules.missing_paths, "ARCHITECTURE.md", "`rules.py` decides; `GET /v1/my/agents` answers `text/html`."),
]


@pytest.mark.parametrize("rule, path, text", HONEST)
def test_an_honest_file_is_left_alone(rule: Rule, path: str, text: str, repository: Path) -> None:
    write(repository, path, text)
    assert rule(repository) == []


ROOMS = (
    *("kernel", "outbound", "database", "ledger", "live", "dispatch", "web", "vault", "providers", "tools"),
    *("identity", "tenancy", "agents", "approvals", "metering", "runs", "chat", "cli"),
)


@pytest.fixture
def empty_house(tmp_path: Path) -> Path:
    """A package with every room and nothing wrong in it."""
    for room in ROOMS:
        write(tmp_path, f"retinue/{room}/__init__.py")
    write(tmp_path, "retinue/__init__.py")
    write(tmp_path, "retinue/house.py", "import retinue.chat.room\n")
    write(tmp_path, "retinue/chat/room.py", "from retinue.chat import api, work\n")
    write(tmp_path, "retinue/chat/api.py", "import fastapi\n\nimport retinue.runs\n")
    write(tmp_path, "retinue/chat/work.py", "import retinue.providers\n")
    write(tmp_path, "retinue/dispatch/queue.py", "import pgqueuer\n")
    write(tmp_path, "retinue/providers/anthropic.py", "import anthropic\nimport pydantic_ai.models\n")
    write(tmp_path, "retinue/tools/mcp.py", "import mcp\n")
    write(tmp_path, "retinue/web/app.py", "import starlette.routing\n")
    return tmp_path


def contracts(folder: Path, *contract: str) -> subprocess.CompletedProcess[str]:
    """Hold the package in a folder against this project's import contracts."""
    chosen = [argument for name in contract for argument in ("--contract", name)]
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--config", ROOT / "pyproject.toml", *chosen],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_empty_house_keeps_the_import_contracts(empty_house: Path) -> None:
    checked = contracts(empty_house)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "6 kept, 0 broken" in checked.stdout


@pytest.mark.parametrize(
    "contract, path, text",
    [
        ("storeys", "retinue/kernel/clock.py", "import retinue.ledger"),
        ("storeys", "retinue/agents/rules.py", "import retinue.approvals"),
        ("storeys", "retinue/utils.py", ""),
        ("furniture", "retinue/chat/rules.py", "import retinue.chat.commands"),
        ("furniture", "retinue/chat/work.py", "import retinue.chat.api"),
        ("no-cycles", "retinue/kernel/ids.py", "import retinue.kernel.money"),
        ("queue", "retinue/runs/work.py", "import pgqueuer.models"),
        ("models", "retinue/runs/work.py", "from pydantic_ai.messages import ModelMessage"),
        ("models", "retinue/agents/views.py", "import openai"),
        ("http", "retinue/chat/commands.py", "from fastapi import Depends"),
        ("http", "retinue/ledger/feed.py", "import starlette.types"),
    ],
)
def test_a_planted_import_breaks_its_contract(contract: str, path: str, text: str, empty_house: Path) -> None:
    write(empty_house, "retinue/kernel/money.py", "import retinue.kernel.ids")
    write(empty_house, "retinue/chat/commands.py")
    write(empty_house, path, text)
    checked = contracts(empty_house, contract)
    assert checked.returncode == 1, checked.stdout + checked.stderr
    assert "0 kept, 1 broken" in checked.stdout
