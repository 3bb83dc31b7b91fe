"""Files that people put into a session's workspace, where its agents find them."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import BinaryIO

from retinue.tools import Entry, Workspace

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Upload:
    """A stored file: its path in the workspace, bytes, and SHA-256 in hex."""

    path: str
    size: int
    sha256: str


async def store(workspace: Workspace, path: str, content: BinaryIO) -> Upload:
    """Copy ``content`` into the workspace; it appears whole under ``path``, or not at all.

    Raises:
        BadInput: the path is not one of a plain file inside the workspace.
        StorageFull: the quota or the disk is full.
    """
    return await asyncio.to_thread(_store, workspace, path, content)


def _store(workspace: Workspace, path: str, content: BinaryIO) -> Upload:
    digest, size = hashlib.sha256(), 0
    with workspace.receiving(path) as draft:
        while piece := content.read(_PIECE):
            digest.update(piece)
            size += len(piece)
            draft.file.write(piece)
        draft.keep()
    return Upload(path, size, digest.hexdigest())


async def listed(workspace: Workspace) -> list[Entry]:
    """Return the files of a workspace, sorted by path."""
    return await asyncio.to_thread(lambda: [one for one in workspace.entries(recursive=True) if not one.folder])
