"""`retinue board` and `retinue teams` against a started server."""

from __future__ import annotations

import csv
import json
import os
import select
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import pytest

from retinue.cli.failures import ExitCode
from tests.support.command_line import CommandLine, signed_up
from tests.support.databases import Cluster
from tests.support.running import RETINUE, RunningServer, running_server

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
async def server(postgres: Cluster) -> AsyncIterator[RunningServer]:
    async with running_server(postgres) as found:
        yield found


@pytest.fixture
def retinue(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> CommandLine:
    """The command line of somebody who has just signed up."""
    return signed_up(server, tmp_path, monkeypatch, capfd)


def test_an_item_from_its_making_to_its_undoing(retinue: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "text.md").write_text("All of them.")
    made = retinue.json(
        "board", "add", "Count sheep", "-d", f"@{tmp_path / 'text.md'}", "--label", "farm", "--priority", "high"
    )
    assert (made["description"], made["labels"]) == ("All of them.", ["farm"])
    retinue.ok("board", "add", "The farm")
    retinue.ok("board", "set", "count sheep", "--state", "review", "--parent", "the farm", "--version", "1")
    refused = retinue("board", "set", "Count sheep", "--state", "done", "--version", "1")
    assert (refused.code, "state was changed since version 1" in refused.err) == (ExitCode.FAILED, True)
    merged = retinue("board", "set", "Count sheep", "--due", "2026-12-01T12:00:00Z", "--version", "1")
    assert "Others' changes since are kept" in merged.out
    retinue.ok("board", "comment", "Count sheep", "How many are there?")
    shown = retinue("board", "show", "Count sheep")
    assert "How many are there?" in shown.out
    assert retinue.json("board", "show", "Count sheep")["newest_comments"][0]["text"] == "How many are there?"
    assert "due" in retinue("board", "undo", "Count sheep").out
    assert retinue.json("board", "redo", "Count sheep")["fields"] == ["due"]
    assert "Count sheep" in retinue("board", "list", "--search", "sheep", "--state", "review").out
    assert retinue.json("board", "list", "--label", "nothing")["items"] == []
    retinue.ok("board", "delete", made["item_id"])
    assert retinue("board", "show", made["item_id"]).code == ExitCode.NOT_FOUND
    retinue.ok("board", "undo", made["item_id"])
    assert retinue("board", "set", "Count sheep").code == ExitCode.USAGE


def test_an_item_for_an_agent(retinue: CommandLine) -> None:
    retinue.ok("agents", "create", "shepherd", "--model", "demo:echo")
    retinue.ok("board", "add", "Count sheep")
    given = retinue.json("board", "assign", "Count sheep", "--agent", "shepherd")
    assert (given["state"], given["assignee"].partition(":")[0]) == ("in_progress", "agent")
    assert retinue.json("board", "assign", "Count sheep", "--nobody")["assignee"] is None
    assert retinue("board", "assign", "Count sheep").code == ExitCode.USAGE


def test_bulk_from_files_and_back(retinue: CommandLine, tmp_path: Path) -> None:
    lines = tmp_path / "new.jsonl"
    lines.write_text("\n".join(json.dumps({"title": f"=item {n}", "labels": ["a", "b"]}) for n in range(30)))
    assert retinue.json("board", "bulk", str(lines))["done"] == 30
    out = tmp_path / "board.csv"
    retinue.ok("board", "export", "-o", str(out))
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert {row["title"][:2] for row in rows} == {"'="}
    for row in rows[:10]:
        row["state"] = "done"
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "delete"])
        writer.writeheader()
        writer.writerows([*rows[:10], *({**row, "delete": "x"} for row in rows[10:15])])
    assert "15 done, 0 failed" in retinue("board", "bulk", str(out)).out
    items = retinue.json("board", "list", "--limit", "0")["items"]
    assert len(items) == 25
    assert sum(one["state"] == "done" for one in items) == 10
    assert {one["title"][0] for one in items} == {"="}  # the apostrophe of the export is taken away again
    assert all(one["labels"] == ["a", "b"] for one in items)
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"title": "fine"}\n{"title": ""}\n')
    assert "title" in retinue("board", "bulk", str(wrong)).err
    circle = tmp_path / "circle.jsonl"
    itself = json.dumps({"item_id": items[0]["item_id"], "parent": items[0]["item_id"]})
    circle.write_text(f'{{"title": "fine"}}\n{itself}\n')
    assert "Operation 1" in retinue("board", "bulk", str(circle)).err
    each = retinue("board", "bulk", str(circle), "--each")
    assert (each.code, "1 done, 1 failed" in each.out) == (ExitCode.FAILED, True)
    (tmp_path / "bad.csv").write_text("title,colour\nx,y\n")
    assert retinue("board", "bulk", str(tmp_path / "bad.csv")).code == ExitCode.USAGE


def test_watching_shows_what_happens(retinue: CommandLine, server: RunningServer) -> None:
    command = [str(RETINUE), "board", "watch", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ), text=True) as watching:
        assert watching.stdout is not None
        try:
            made = None
            for _ in range(100):  # the first ones may come before it listens
                made = retinue.json("board", "add", "Seen")
                if watching.poll() is None and _readable(watching.stdout):
                    break
            line = json.loads(watching.stdout.readline())
        finally:
            watching.terminate()
    assert made is not None
    assert (line["event"], line["fields"]["title"]) == ("item_created", "Seen")


def _readable(stream: IO[str]) -> bool:
    return bool(select.select([stream], [], [], 0.2)[0])


def test_teams(retinue: CommandLine) -> None:
    tenant = retinue.json("tenants", "create", "Acme")["tenant_id"]
    in_acme = ("--tenant", tenant)
    team = retinue.json("teams", "create", "Editors", *in_acme)
    assert "Editors" in retinue("teams", "list", *in_acme).out
    user = retinue.json("whoami")["user_id"]
    assert [one["user_id"] for one in retinue.json("teams", "members", "editors", *in_acme)["items"]] == [user]
    retinue.ok("board", "add", "Proofread", "--team", "editors", *in_acme)
    assert retinue("teams", "delete", "editors", *in_acme).code == ExitCode.FAILED
    listed = retinue.json("board", "list", "--team", "Editors", *in_acme)["items"]
    assert [one["team"] for one in listed] == [team["team_id"]]
    retinue.ok("board", "set", "Proofread", "--team", "none", *in_acme)
    retinue.ok("teams", "remove", "editors", user, *in_acme)
    retinue.ok("teams", "add", "editors", user, *in_acme)
    retinue.ok("teams", "rename", "editors", "Writers", *in_acme)
    retinue.ok("teams", "delete", "writers", *in_acme)
