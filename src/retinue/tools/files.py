"""The tools ``files_list``, ``files_read``, ``files_search`` and ``files_write``, and taking in uploads.

They see the session's workspace and nothing else. What they return was written by anybody (uploads), so it is
untrusted; what a write answers is this server's own word.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterable, Callable
from contextlib import closing
from itertools import islice
from typing import Any, BinaryIO, TypeVar

from msgspec import Struct

from retinue.kernel import BadInput, PayloadTooLarge
from retinue.tools.calls import LONGEST_RESULT, Tool, ToolContext, ToolFault
from retinue.tools.labels import Effect, Labels, Trust
from retinue.tools.searching import Search, SearchLimits
from retinue.tools.workspace import Draft, Entry, Workspace, split_path

T = TypeVar("T")

LONGEST_LISTING = 1000
"""Entries one listing shows."""

LONGEST_WRITE = 1_000_000
"""Characters one ``files_write`` takes."""

LONGEST_READ = 90_000
"""Bytes one ``files_read`` shows: with its note it stays under what a result may have."""

_BINARY_PROBE = 8192
_PIECE = 1 << 20
_UPLOAD_PIECE = 1 << 20

_READS = Labels(effect=Effect.READ, output=Trust.UNTRUSTED, private=True)
_WRITES = Labels(effect=Effect.WRITE, output=Trust.TRUSTED, private=False, idempotent=True)

assert LONGEST_READ < LONGEST_RESULT


class Upload(Struct, frozen=True):
    """A file taken in: its path in the workspace, its size in bytes and the SHA-256 of its content, in hex."""

    path: str
    size: int
    sha256: str


async def save_upload(workspace: Workspace, path: str, stream: AsyncIterable[bytes], *, limit: int) -> Upload:
    """Take in a file from a client in constant memory. It appears whole and on disk, or not at all.

    Args:
        path: where it goes, relative to the workspace; an existing file is replaced.
        limit: the most bytes it may have.

    Raises:
        BadInput: the path cannot be used.
        PayloadTooLarge: it is larger than ``limit``.
        StorageFull: the quota or the disk is full.
    """
    digest, size, waiting = hashlib.sha256(), 0, bytearray()
    with workspace.receiving(path) as draft:

        def take(piece: bytes) -> None:
            digest.update(piece)
            draft.file.write(piece)

        async for chunk in stream:
            size += len(chunk)
            if size > limit:
                raise PayloadTooLarge(f"A file may have {limit:,} bytes.")
            waiting += chunk
            if len(waiting) >= _UPLOAD_PIECE:
                await asyncio.to_thread(take, bytes(waiting))
                waiting.clear()
        await asyncio.to_thread(_finish, take, bytes(waiting), draft)
    return Upload("/".join(split_path(path)), size, digest.hexdigest())


def _finish(take: Callable[[bytes], None], rest: bytes, draft: Draft) -> None:
    take(rest)
    draft.keep()


def file_tools() -> list[Tool]:
    """Return the four tools."""
    return [
        Tool(
            name="files_list",
            description=(
                "List the files of this conversation, one a line: the path, a tab, the size in bytes. "
                "Folders end with '/'. Lists one folder, or everything below it with recursive."
            ),
            parameters=_object(
                path={"type": "string", "description": "A folder; empty or '.' is the top.", "default": "."},
                recursive={"type": "boolean", "description": "Also list what is inside folders.", "default": False},
            ),
            labels=_READS,
            handler=_in_thread(_list),
        ),
        Tool(
            name="files_read",
            description=(
                "Read a text file (UTF-8) of this conversation, the whole or some of its lines. "
                "A long file is shown in parts; the note at the end says how to go on."
            ),
            parameters=_object(
                path={"type": "string", "description": "The file."},
                offset={"type": "integer", "minimum": 1, "description": "The first line to show.", "default": 1},
                limit={"type": "integer", "minimum": 1, "description": "How many lines to show.", "default": 2000},
                required=["path"],
            ),
            labels=_READS,
            handler=_in_thread(_read),
        ),
        Tool(
            name="files_search",
            description=(
                "Search the text files of this conversation. Shows each line that matches as path:line: text. "
                "The query is plain text, or a regular expression with regex."
            ),
            parameters=_object(
                query={"type": "string", "minLength": 1, "maxLength": 500, "description": "What to look for."},
                regex={"type": "boolean", "description": "The query is a regular expression.", "default": False},
                ignore_case={"type": "boolean", "description": "Take A and a as the same.", "default": True},
                path={"type": "string", "description": "A file, or a folder to search below.", "default": "."},
                required=["query"],
            ),
            labels=_READS,
            handler=_in_thread(_search),
        ),
        Tool(
            name="files_write",
            description=(
                "Write a text file of this conversation: the whole content, replacing the file if it exists. "
                "Folders are made as needed."
            ),
            parameters=_object(
                path={"type": "string", "minLength": 1, "description": "The file, such as notes/summary.md."},
                content={"type": "string", "maxLength": LONGEST_WRITE, "description": "Everything it shall hold."},
                required=["path", "content"],
            ),
            labels=_WRITES,
            handler=_in_thread(_write),
        ),
    ]


def _object(*, required: list[str] | None = None, **properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required or [],
        "additionalProperties": False,
    }


def _in_thread(work: Callable[[Workspace, dict[str, Any]], str]) -> Callable[..., Any]:
    async def handler(context: ToolContext, arguments: dict[str, Any]) -> str:
        workspace = Workspace(context.workspace, context.settings.workspace_quota)
        return await asyncio.to_thread(work, workspace, arguments)

    return handler


def _list(workspace: Workspace, arguments: dict[str, Any]) -> str:
    entries = workspace.entries(arguments.get("path", ""), recursive=arguments.get("recursive", False))
    with closing(entries):
        found = list(islice(entries, LONGEST_LISTING + 1))
    lines = [_listed(entry) for entry in found[:LONGEST_LISTING]]
    if len(found) > LONGEST_LISTING:
        lines.append(f"[Only the first {LONGEST_LISTING:,} are shown. List a folder to see the others.]")
    return "\n".join(lines) or "[There are no files here.]"


def _listed(entry: Entry) -> str:
    return f"{entry.path}/" if entry.folder else f"{entry.path}\t{entry.size}"


def _read(workspace: Workspace, arguments: dict[str, Any]) -> str:
    path: str = arguments["path"]
    with workspace.open(path) as file:
        refuse_binary(file, path)
        first, count = int(arguments.get("offset", 1)), int(arguments.get("limit", 2000))
        part = read_lines(file, first, count)
    text = _decoded(part, path)
    if part.last == part.total and first == 1 and not part.cut:
        return text or "[The file is empty.]"
    if part.last < first:
        raise ToolFault(f"'{path}' has {part.total} lines; there is no line {first}.")
    notes = [f"lines {first}-{part.last} of {part.total}"]
    if part.cut:
        notes.append(f"line {part.last} is too long and is cut")
    if part.last < part.total:
        notes.append(f"go on with offset {part.last + 1}")
    return f"{text.rstrip()}\n[{'; '.join(notes)}]"


class Part(Struct):
    """Some lines of a file: their bytes, the number of the last one shown, and of the last there is."""

    data: bytes
    last: int
    total: int
    cut: bool


def read_lines(file: BinaryIO, first: int, count: int) -> Part:
    """Read lines ``first`` to ``first + count - 1``, at most :data:`LONGEST_READ` bytes, in constant memory."""
    shown, last, number = bytearray(), first - 1, 0
    cut = full = False
    line_begins = True
    while piece := file.readline(_PIECE):
        number += line_begins
        line_begins = piece.endswith(b"\n")
        if full or not first <= number < first + count:
            continue
        if len(shown) + len(piece) > LONGEST_READ:
            full = True
            if shown:
                continue  # this line waits for the next reading
            cut = True
        shown += piece[:LONGEST_READ]
        last = number
    return Part(bytes(shown), last, number, cut)


def refuse_binary(file: BinaryIO, path: str) -> None:
    """Raise :class:`ToolFault` for a file that is not text, and go back to its beginning otherwise."""
    probe = file.read(_BINARY_PROBE)
    if b"\0" in probe:
        raise _binary(path, file.seek(0, 2))
    file.seek(0)


def _decoded(part: Part, path: str) -> str:
    try:
        return part.data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if part.cut and error.end == len(part.data):  # cut in the middle of a character
            return part.data[: error.start].decode("utf-8-sig")
        raise ToolFault(f"'{path}' is not UTF-8 text and cannot be read.") from None


def _binary(path: str, size: int) -> ToolFault:
    return ToolFault(f"'{path}' is a binary file of {size:,} bytes; only text can be read.")


def _search(workspace: Workspace, arguments: dict[str, Any]) -> str:
    search = Search(
        arguments["query"],
        regex=arguments.get("regex", False),
        ignore_case=arguments.get("ignore_case", True),
        limits=SearchLimits(),
    )
    return search.run(workspace, arguments.get("path", "")).report()


def _write(workspace: Workspace, arguments: dict[str, Any]) -> str:
    content: str = arguments["content"]
    if "\0" in content:
        raise BadInput("The content holds a NUL character; only text can be written.", field="content")
    data = content.encode()
    workspace.write(arguments["path"], data)
    return f"Wrote {'/'.join(split_path(arguments['path']))}, {len(data)} bytes."
