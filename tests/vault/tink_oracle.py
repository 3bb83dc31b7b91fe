"""Tink, the library whose formats these are, as the judge of what the server writes and reads."""

from __future__ import annotations

import io
import json
from base64 import b64encode
from typing import Any

import tink  # type: ignore[import-untyped]
from tink import cleartext_keyset_handle, hybrid, streaming_aead
from tink.proto import aes_gcm_hkdf_streaming_pb2, common_pb2, hpke_pb2  # type: ignore[import-untyped]

_STREAMING = "type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey"
_HPKE = "type.googleapis.com/google.crypto.tink.Hpke"

streaming_aead.register()
hybrid.register()


def seal_file(key: bytes, content: bytes, context: bytes, segment: int) -> bytes:
    """Seal a file with Tink."""
    into = _Kept()
    with _streaming(key, segment).new_encrypting_stream(into, context) as stream:
        stream.write(content)
    return into.kept


def open_file(key: bytes, sealed: bytes, context: bytes, segment: int) -> bytes:
    """Open a file with Tink; raises tink.TinkError when it refuses."""
    with _streaming(key, segment).new_decrypting_stream(io.BytesIO(sealed), context) as stream:
        content: bytes = stream.read()
    return content


def hpke_seal(public: bytes, plaintext: bytes, info: bytes) -> bytes:
    """Seal to a public key with Tink."""
    value = _hpke_public(public).SerializeToString()
    found: bytes = (
        _handle(f"{_HPKE}PublicKey", value, "ASYMMETRIC_PUBLIC")
        .primitive(hybrid.HybridEncrypt)
        .encrypt(plaintext, info)
    )
    return found


def hpke_open(private: bytes, public: bytes, sealed: bytes, info: bytes) -> bytes:
    """Open with a private key with Tink; raises tink.TinkError when it refuses."""
    key = hpke_pb2.HpkePrivateKey(public_key=_hpke_public(public), private_key=private)
    handle = _handle(f"{_HPKE}PrivateKey", key.SerializeToString(), "ASYMMETRIC_PRIVATE")
    found: bytes = handle.primitive(hybrid.HybridDecrypt).decrypt(sealed, info)
    return found


def _streaming(key: bytes, segment: int) -> streaming_aead.StreamingAead:
    params = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingParams(
        ciphertext_segment_size=segment, derived_key_size=32, hkdf_hash_type=common_pb2.HashType.SHA256
    )
    value = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey(params=params, key_value=key).SerializeToString()
    return _handle(_STREAMING, value, "SYMMETRIC").primitive(streaming_aead.StreamingAead)


def _hpke_public(public: bytes) -> Any:
    params = hpke_pb2.HpkeParams(
        kem=hpke_pb2.DHKEM_X25519_HKDF_SHA256, kdf=hpke_pb2.HKDF_SHA256, aead=hpke_pb2.AES_256_GCM
    )
    return hpke_pb2.HpkePublicKey(params=params, public_key=public)


def _handle(kind: str, value: bytes, material: str) -> tink.KeysetHandle:
    data = {"typeUrl": kind, "value": b64encode(value).decode(), "keyMaterialType": material}
    entry = {"keyData": data, "status": "ENABLED", "keyId": 1, "outputPrefixType": "RAW"}
    return cleartext_keyset_handle.read(tink.JsonKeysetReader(json.dumps({"primaryKeyId": 1, "key": [entry]})))


class _Kept(io.BytesIO):
    """Keeps what was written after it is closed: Tink closes what it writes to."""

    kept = b""

    def close(self) -> None:
        if not self.closed:
            self.kept = self.getvalue()
        super().close()
