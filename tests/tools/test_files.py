"""The four tools on files, and uploads."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from retinue.kernel import BadInput, PayloadTooLarge, Settings, StorageFull
from retinue.tools import Effect, ToolContext, ToolOutcome, Trust, Workspace, save_upload
from retinue.tools import files as module
from retinue.tools.files import LONGEST_LISTING, LONGEST_READ, file_tools
from retinue.tools.searching import Search, SearchLimits

TOOLS = {tool.name: tool for tool in file_tools()}


async def call(context: ToolContext, tool: str, **arguments: Any) -> ToolOutcome:
    return await TOOLS[tool].run(context, arguments)


def test_labels() -> None:
    for name in ("files_list", "files_read", "files_search"):
        assert (TOOLS[name].labels.effect, TOOLS[name].labels.output) == (Effect.READ, Trust.UNTRUSTED)
    assert (TOOLS["files_write"].labels.effect, TOOLS["files_write"].labels.output) == (Effect.WRITE, Trust.TRUSTED)
    assert TOOLS["files_write"].labels.idempotent


async def test_list(context: ToolContext, workspace: Workspace) -> None:
    assert (await call(context, "files_list")).content == "[There are no files here.]"
    workspace.write("docs/a.md", b"12345")
    workspace.write("b.txt", b"")
    assert (await call(context, "files_list")).content == "b.txt\t0\ndocs/"
    assert (await call(context, "files_list", path=".", recursive=True)).content == "b.txt\t0\ndocs/\ndocs/a.md\t5"
    assert (await call(context, "files_list", path="docs")).content == "docs/a.md\t5"
    missing = await call(context, "files_list", path="nope")
    assert missing.failed
    assert "nope" in missing.content


async def test_a_long_listing_is_bounded(context: ToolContext, workspace: Workspace) -> None:
    for number in range(LONGEST_LISTING + 5):
        (workspace.root / f"{number:05}").touch()
    lines = (await call(context, "files_list")).content.splitlines()
    assert lines[LONGEST_LISTING - 1] == f"{LONGEST_LISTING - 1:05}\t0"
    assert lines[LONGEST_LISTING:] == ["[Only the first 1,000 are shown. List a folder to see the others.]"]


async def test_read_a_whole_file(context: ToolContext, workspace: Workspace) -> None:
    workspace.write("a.txt", "\N{BOM}grüße\r\nzwei\n".encode())
    workspace.write("empty", b"")
    assert (await call(context, "files_read", path="a.txt")).content == "grüße\r\nzwei\n"
    assert (await call(context, "files_read", path="empty")).content == "[The file is empty.]"


async def test_read_in_parts_gives_everything_once(context: ToolContext, workspace: Workspace) -> None:
    lines = [f"line {number} {'x' * (number * 37 % 400)}" for number in range(1, 3001)]
    workspace.write("a.txt", "\n".join(lines).encode())
    seen: list[str] = []
    offset = 1
    while True:
        outcome = await call(context, "files_read", path="a.txt", offset=offset, limit=700)
        assert not outcome.failed
        *shown, note = outcome.content.splitlines()
        seen += shown
        if "go on with offset" not in note:
            break
        offset = int(note.rpartition(" ")[2].rstrip("]"))
    assert note == f"[lines {offset}-3000 of 3000]"
    assert seen == lines


async def test_a_line_that_is_too_long_is_cut_between_characters(context: ToolContext, workspace: Workspace) -> None:
    workspace.write("a.txt", b"first\n" + "é".encode() * 2_000_000 + b"\nlast")
    first = (await call(context, "files_read", path="a.txt")).content
    assert first == "first\n[lines 1-1 of 3; go on with offset 2]"
    second = (await call(context, "files_read", path="a.txt", offset=2)).content
    text, _, note = second.rpartition("\n")
    assert set(text) == {"é"}
    assert len(text) == LONGEST_READ // 2
    assert note == "[lines 2-2 of 3; line 2 is too long and is cut; go on with offset 3]"
    assert (await call(context, "files_read", path="a.txt", offset=3)).content == "last\n[lines 3-3 of 3]"


@pytest.mark.parametrize(
    "content, said",
    [
        (b"PNG\0\x01" + b"x" * 5000, "binary file of 5,005 bytes"),
        ("grüße".encode("latin-1"), "not UTF-8"),
        ("text".encode("utf-16"), "binary"),
    ],
)
async def test_what_is_not_text_is_refused(
    context: ToolContext, workspace: Workspace, content: bytes, said: str
) -> None:
    workspace.write("a", content)
    outcome = await call(context, "files_read", path="a")
    assert outcome.failed
    assert said in outcome.content


async def test_reading_beyond_the_end_says_so(context: ToolContext, workspace: Workspace) -> None:
    workspace.write("a", b"one\ntwo\n")
    outcome = await call(context, "files_read", path="a", offset=9)
    assert outcome.failed
    assert "has 2 lines" in outcome.content


async def test_write_then_read(context: ToolContext) -> None:
    wrote = await call(context, "files_write", path="./out//a.md", content="grüße")
    assert wrote == ToolOutcome("Wrote out/a.md, 7 bytes.")
    assert await call(context, "files_write", path="out/a.md", content="grüße") == wrote
    assert (await call(context, "files_read", path="out/a.md")).content == "grüße"


@pytest.mark.parametrize("path", ["../x", "/x", "a\0", "a/..", "x" * 300])
async def test_a_path_that_leads_out_is_the_model_s_mistake(context: ToolContext, path: str) -> None:
    outcome = await call(context, "files_write", path=path, content="x")
    assert outcome.failed
    assert list(context.workspace.iterdir()) == []


async def test_the_quota_holds_for_writes(context: ToolContext, settings: Settings) -> None:
    small = replace(context, settings=settings.model_copy(update={"workspace_quota": 100}))
    assert not (await call(small, "files_write", path="a", content="x" * 100)).failed
    outcome = await call(small, "files_write", path="b", content="x")
    assert outcome.failed
    assert "100 bytes" in outcome.content


async def test_search(context: ToolContext, workspace: Workspace) -> None:
    workspace.write("docs/a.md", b"Intro\nThe Price is 3 Euro (net).\nend\n")
    workspace.write("b.txt", b"price\n\nPRICE: 4")
    workspace.write("c.bin", b"price\0")
    found = (await call(context, "files_search", query="price")).content.splitlines()
    assert found == [
        "b.txt:1: price",
        "b.txt:3: PRICE: 4",
        "docs/a.md:2: The Price is 3 Euro (net).",
        "[3 matching lines in 2 files searched; 1 files left out because they are binary or too large.]",
    ]
    assert "[1 matching" in (await call(context, "files_search", query="price", ignore_case=False)).content
    assert "docs/a.md:2" in (await call(context, "files_search", query="(net).")).content
    assert "b.txt:3" in (await call(context, "files_search", query=r"^price:\s+\d$", regex=True)).content
    only = await call(context, "files_search", query="price", path="docs")
    assert "b.txt" not in only.content
    assert "b.txt:1" in (await call(context, "files_search", query="price", path="b.txt")).content
    assert (await call(context, "files_search", query="x", path="nope")).failed


async def test_a_regular_expression_that_explodes_is_stopped(context: ToolContext, workspace: Workspace) -> None:
    workspace.write("a", b"a" * 50_000 + b"!")
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    beating = asyncio.create_task(beat())
    started = time.monotonic()
    report = await asyncio.to_thread(_explode, workspace)
    took = time.monotonic() - started
    beating.cancel()
    assert "stopped after 0.5 seconds" in report
    assert took < 5
    assert beats > 10, "the server stood still while the expression was matched"


def _explode(workspace: Workspace) -> str:
    limits = SearchLimits(seconds=0.5)
    return Search("(a|a)*(a|a)*$^", regex=True, ignore_case=False, limits=limits).run(workspace, "").report()


@pytest.mark.parametrize("query", ["(", "a{2,1}", "(?P<x>a)(?P<", "[", "\\"])
async def test_a_broken_regular_expression_is_explained(context: ToolContext, query: str) -> None:
    outcome = await call(context, "files_search", query=query, regex=True)
    assert outcome.failed
    assert "cannot be understood" in outcome.content


async def test_search_is_bounded(workspace: Workspace) -> None:
    workspace.write("big", b"needle\n" * 1000)
    workspace.write("huge", b"needle\n" * 10_000)
    limits = SearchLimits(matches=5, file_bytes=20_000)
    found = Search("needle", regex=False, ignore_case=True, limits=limits).run(workspace, "")
    assert found.lines == [f"big:{number}: needle" for number in range(1, 6)]
    assert "stopped after 5 matches" in found.report()
    assert Search("needle", regex=False, ignore_case=True, limits=limits).run(workspace, "huge").passed_over == 1


async def test_a_match_in_a_long_line_is_shown_with_what_is_around_it(workspace: Workspace) -> None:
    workspace.write("a", b"x" * 5000 + b"needle" + b"y" * 5000)
    (line,) = Search("needle", regex=False, ignore_case=True, limits=SearchLimits()).run(workspace, "").lines
    assert "xneedley" in line
    assert len(line) < 330


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        await asyncio.sleep(0)
        yield part


async def test_an_upload_arrives_whole(workspace: Workspace) -> None:
    content = [bytes([number]) * 400_000 for number in range(7)]
    upload = await save_upload(workspace, "in/./data.bin", pieces(*content), limit=10_000_000)
    whole = b"".join(content)
    assert upload.path == "in/data.bin"
    assert (upload.size, upload.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
    with workspace.open("in/data.bin") as file:
        assert file.read() == whole


async def test_an_upload_that_is_too_large_leaves_nothing(workspace: Workspace) -> None:
    with pytest.raises(PayloadTooLarge):
        await save_upload(workspace, "a", pieces(b"x" * 600, b"x" * 600), limit=1000)
    assert list(workspace.root.iterdir()) == []


async def test_an_upload_beyond_the_quota_leaves_nothing(workspace: Workspace) -> None:
    small = Workspace(workspace.root, quota=1000)
    with pytest.raises(StorageFull):
        await save_upload(small, "a", pieces(b"x" * 600, b"x" * 600), limit=10_000)
    assert list(workspace.root.iterdir()) == []


async def test_an_upload_that_is_cut_off_leaves_the_old_file(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_UPLOAD_PIECE", 10)
    workspace.write("a", b"old")

    async def broken() -> AsyncIterator[bytes]:
        yield b"new" * 1000
        raise ConnectionResetError("the client is gone")

    with pytest.raises(Exception, match=r"gone|right now"):
        await save_upload(workspace, "a", broken(), limit=10_000)
    assert [path.name for path in workspace.root.iterdir()] == ["a"]
    with workspace.open("a") as file:
        assert file.read() == b"old"


async def test_a_cancelled_upload_leaves_nothing(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_UPLOAD_PIECE", 10)
    started = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000
            started.set()
            await asyncio.sleep(0.001)

    upload = asyncio.create_task(save_upload(workspace, "a", endless(), limit=10**9))
    await started.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert list(workspace.root.iterdir()) == []


@pytest.mark.parametrize("path", ["../a", "", "a\0", "/etc/passwd", "docs/"])
async def test_an_upload_to_a_bad_path(workspace: Workspace, path: str) -> None:
    with pytest.raises(BadInput):
        await save_upload(workspace, path, pieces(b"x"), limit=10)
    assert list(workspace.root.iterdir()) == []
