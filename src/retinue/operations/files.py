"""Small files that come with a request: sealed from the moment they are taken in until they are laid out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from uuid import UUID

from retinue.kernel import Scope
from retinue.operations import views
from retinue.operations.views import SealedFile
from retinue.vault import WrappedKey, decrypt_range, encrypt_stream, new_data_key, unwrap_data_key, wrap_data_key


async def keep(scope: Scope, operation_id: UUID, files: Mapping[str, bytes]) -> None:
    """Seal the files of a request and keep them with it."""
    if not files:
        return
    sealed: list[SealedFile] = []
    for name, content in files.items():
        key = new_data_key()  # made for one file alone, as the format asks for
        wrapped = await wrap_data_key(scope, operation_id, key)
        stream = encrypt_stream(key, in_one_piece(content), context=_context(scope, operation_id, name))
        whole = b"".join([bytes(chunk) async for chunk in stream])
        sealed.append(SealedFile(name, wrapped.key_id, wrapped.data, whole))
    await views.put_files(scope, operation_id, sealed)


async def opened(scope: Scope, operation_id: UUID) -> dict[str, bytes]:
    """Return the files of a request by name.

    Raises:
        SealBroken: what the database holds is not what was sealed there.
    """
    found: dict[str, bytes] = {}
    for one in await views.files_of(scope, operation_id):
        key = await unwrap_data_key(scope, operation_id, WrappedKey(one.key_id, one.wrapped))
        context = _context(scope, operation_id, one.name)
        stream = decrypt_range(key, _reader(one.sealed), len(one.sealed), context=context)
        found[one.name] = b"".join([chunk async for chunk in stream])
    return found


def _context(scope: Scope, operation_id: UUID, name: str) -> bytes:
    return b"retinue operation file v1\0" + scope.tenant_id.bytes + operation_id.bytes + name.encode()


async def in_one_piece(content: bytes) -> AsyncIterator[bytes]:
    """Yield some content in one piece."""
    yield content


def _reader(sealed: bytes) -> Callable[[int, int], AsyncIterator[bytes]]:
    async def read(start: int, end: int) -> AsyncIterator[bytes]:
        yield sealed[start:end]

    return read
