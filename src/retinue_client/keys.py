"""The keys of an application: one to sign with, one to open what was sealed to it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from retinue_client import base64url

_KIND = "retinue grantee key"


class Signer(Protocol):
    """Whatever signs requests: a :class:`GranteeKey`, a :class:`Wallet`, or a key of your own elsewhere."""

    @property
    def keyid(self) -> str:
        """The public key as a grant names it."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the signature of ``message``, in bytes."""
        ...


@dataclass(frozen=True, slots=True)
class GranteeKey:
    """An application's secret keys: Ed25519 (RFC 8032) to sign with, X25519 (RFC 7748) to open with.

    Attributes:
        signing: the 32 bytes of the Ed25519 private key.
        opening: the 32 bytes of the X25519 private key.
    """

    signing: bytes = field(repr=False)
    opening: bytes = field(repr=False)

    @classmethod
    def make(cls) -> GranteeKey:
        """Return a fresh key."""
        return cls(Ed25519PrivateKey.generate().private_bytes_raw(), X25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GranteeKey:
        """Read a key's file.

        Raises:
            OSError: it cannot be read.
            ValueError: it is no such file.
        """
        try:
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
            if stored["kind"] != _KIND:
                raise ValueError("another kind of file")
            found = cls(base64url.read(stored["signing"]), base64url.read(stored["opening"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no key of a grantee") from error
        if len(found.signing) != 32 or len(found.opening) != 32:
            raise ValueError(f"{path} is no key of a grantee")
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the key to a new file that only its owner can read (mode 0600).

        Raises:
            FileExistsError: there is such a file. A key that is lost cannot be had again.
        """
        stored = {
            "kind": _KIND,
            "keyid": self.keyid,
            "seal_to": self.seal_to,
            "signing": base64url.written(self.signing),
            "opening": base64url.written(self.opening),
        }
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "w", encoding="utf-8") as file:
            json.dump(stored, file, indent=2)
            file.write("\n")

    @property
    def keyid(self) -> str:
        """The public signing key, as a grant's ``grantee``."""
        public = Ed25519PrivateKey.from_private_bytes(self.signing).public_key()
        return f"ed25519:{base64url.written(public.public_bytes_raw())}"

    @property
    def seal_to(self) -> str:
        """The public key to seal results to, as a grant's ``seal_to``."""
        return base64url.written(X25519PrivateKey.from_private_bytes(self.opening).public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature of ``message``, 64 bytes."""
        return Ed25519PrivateKey.from_private_bytes(self.signing).sign(message)


@dataclass(frozen=True, slots=True)
class Wallet:
    """A wallet that signs in the place of a key file.

    Attributes:
        address: of its account, ``0x`` and 40 hexadecimal digits.
        personal_sign: returns the 65 bytes that EIP-191 ``personal_sign`` gives for a message (most wallets' libraries
            have it under this name; the message is what they get, without the prefix).
    """

    address: str
    personal_sign: Callable[[bytes], bytes]

    @property
    def keyid(self) -> str:
        """The account, as a grant's ``grantee``."""
        return f"eip155:{self.address.lower()}"

    def sign(self, message: bytes) -> bytes:
        """Have the wallet sign ``message``."""
        return self.personal_sign(message)
