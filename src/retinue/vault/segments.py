"""The format of sealed files, without any waiting: sizes, segments, nonces.

It is Tink's AES-GCM-HKDF streaming format with keys of 256 bits and HKDF-SHA256;
docs/decisions/0016-sealed-files-and-blobs.md gives it byte by byte, for whoever writes a reader.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from retinue.vault.sealing import KEY_BYTES, SealBroken

Chunk: TypeAlias = bytes | bytearray | memoryview
"""A piece of a file. Whoever hands one on does not change it afterwards."""

SEGMENT = 65_536
"""Bytes of a sealed segment, unless a file says otherwise."""

HEADER = 40
"""Bytes before the first segment's ciphertext: this number itself, 32 of salt, 7 that every nonce begins with."""

TAG = 16
_MOST_SEGMENTS = 2**32


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are in a sealed file whose segments have ``segment`` bytes; only the last one may be shorter."""

    segment: int = SEGMENT

    def __post_init__(self) -> None:
        if not HEADER + TAG < self.segment < 2**31:
            raise ValueError(f"a segment cannot have {self.segment} bytes")

    @property
    def first(self) -> int:
        """How many plain bytes the first segment holds."""
        return self.segment - HEADER - TAG

    @property
    def further(self) -> int:
        """How many plain bytes each further segment holds."""
        return self.segment - TAG

    def count(self, sealed: int) -> int:
        """Return how many segments a sealed file of ``sealed`` bytes has.

        Raises:
            SealBroken: no sealed file has that size.
        """
        count = -(-sealed // self.segment)
        last = sealed - (count - 1) * self.segment
        shortest = HEADER + TAG if count <= 1 else TAG + 1
        if count < 1 or last < shortest or count > _MOST_SEGMENTS:
            raise SealBroken(f"no sealed file has {sealed} bytes: something was cut off or added")
        return count

    def sealed_size(self, plain: int) -> int:
        """Return the size of a sealed file that holds ``plain`` bytes."""
        further = -(-(plain - self.first) // self.further) if plain > self.first else 0
        return HEADER + plain + TAG * (1 + further)

    def plain_size(self, sealed: int) -> int:
        """Return how many bytes a sealed file holds. Raises SealBroken as :meth:`count` does."""
        return sealed - HEADER - TAG * self.count(sealed)

    def index(self, position: int) -> int:
        """Return the number of the segment that holds the plain byte at ``position``."""
        return 0 if position < self.first else 1 + (position - self.first) // self.further

    def start(self, index: int) -> int:
        """Return the position of the first plain byte of a segment."""
        return 0 if index == 0 else self.first + (index - 1) * self.further


class Cipher:
    """Seals and opens the segments of one file."""

    def __init__(self, key: bytes, context: bytes, header: bytes | None = None) -> None:
        """Make a new file's cipher, or with ``header`` that of a file there is.

        Raises:
            SealBroken: it is not the header of a sealed file.
        """
        if len(key) != KEY_BYTES:
            raise ValueError(f"a data key has {KEY_BYTES} bytes, not {len(key)}")
        self.header = bytes([HEADER]) + os.urandom(HEADER - 1) if header is None else header
        if len(self.header) != HEADER or self.header[0] != HEADER:
            raise SealBroken("this is not the beginning of a sealed file")
        salt, self._prefix = self.header[1 : 1 + KEY_BYTES], self.header[1 + KEY_BYTES :]
        own = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=context).derive(key)
        self._aead = AESGCM(own)

    def seal(self, plain: Chunk, index: int, *, last: bool) -> bytes:
        """Seal the plain bytes of one segment."""
        return self._aead.encrypt(self._nonce(index, last=last), plain, None)

    def open(self, segment: Chunk, index: int, *, last: bool) -> bytes:
        """Open one segment; the first one is given with the header before it.

        Raises:
            SealBroken: it is not what was sealed at this place of the file.
        """
        sealed = memoryview(segment)[HEADER:] if index == 0 else segment
        try:
            return self._aead.decrypt(self._nonce(index, last=last), sealed, None)
        except (InvalidTag, ValueError) as error:
            raise SealBroken(f"segment {index} of the sealed file is not what was sealed there") from error

    def _nonce(self, index: int, *, last: bool) -> bytes:
        return self._prefix + index.to_bytes(4, "big") + (b"\x01" if last else b"\x00")
