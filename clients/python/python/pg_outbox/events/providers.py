"""Providers of master keys: they encrypt and decrypt data keys, and nothing else."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from collections.abc import Mapping
from typing import Protocol

from .. import _core
from .errors import EncryptionError, KeyNotFoundError, as_class

_NONCE = 12


class KeyProvider(Protocol):
    """waits: the calls wait for the network, so that in asyncio they run in a thread. Calls come from several threads."""

    @property
    def waits(self) -> bool: ...
    def wrap(self, data_key: bytes, master_key: str) -> bytes:
        """Encrypts a data key of 32 bytes. Raises KeyNotFoundError and EncryptionError."""
        ...
    def unwrap(self, wrapped: bytes, master_key: str) -> bytes:
        """Decrypts a data key. Raises KeyNotFoundError and EncryptionError."""
        ...


class LocalKeys:
    """Master keys of 32 bytes that this process has, by their names."""

    waits = False

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        for name, key in keys.items():
            if len(key) != 32:
                raise _malformed(name)
        self._keys = dict(keys)

    @classmethod
    def from_env(cls, variables: Mapping[str, str]) -> LocalKeys:
        """Reads keys from environment variables, as base64 or hexadecimal. variables: the variable of each name of a key."""
        return cls({name: _parsed(name, os.environ.get(variable, "").encode()) for name, variable in variables.items()})

    @classmethod
    def from_files(cls, files: Mapping[str, str | os.PathLike[str]]) -> LocalKeys:
        """Reads keys from files: 32 bytes, or base64 or hexadecimal. files: the path for each name of a key."""
        keys = {}
        for name, path in files.items():
            with open(path, "rb") as file:
                keys[name] = _parsed(name, file.read(1024))
        return cls(keys)

    def _key(self, name: str) -> bytes:
        if name not in self._keys:
            raise KeyNotFoundError(
                f'there is no master key "{name}"', code="22023", name="invalid_parameter", hint="Give it to LocalKeys."
            )
        return self._keys[name]

    def wrap(self, data_key: bytes, master_key: str) -> bytes:
        """Encrypts a data key."""
        with as_class(EncryptionError):
            return _core.wrap_key(self._key(master_key), data_key, master_key, secrets.token_bytes(_NONCE))

    def unwrap(self, wrapped: bytes, master_key: str) -> bytes:
        """Decrypts a data key."""
        with as_class(EncryptionError):
            return _core.unwrap_key(self._key(master_key), wrapped, master_key)

    def __repr__(self) -> str:
        return f"LocalKeys({', '.join(self._keys)})"


def _malformed(name: str) -> EncryptionError:
    return EncryptionError(
        f'malformed master key "{name}"', code="22023", name="invalid_parameter",
        hint="It is 32 random bytes, in text as base64 or hexadecimal: openssl rand -base64 32.",
    )


def _parsed(name: str, content: bytes) -> bytes:
    if len(content) == 32:
        return content
    text = content.strip()
    try:
        key = bytes.fromhex(text.decode("ascii")) if len(text) == 64 else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise _malformed(name) from None
    if len(key) != 32:
        raise _malformed(name)
    return key
