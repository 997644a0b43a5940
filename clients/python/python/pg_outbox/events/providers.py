"""Providers of master keys: they encrypt and decrypt data keys, and nothing else."""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import os
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol
from urllib.parse import quote, urlsplit

from .. import _core
from .errors import EncryptionError, KeyNotFoundError, KeyUnavailableError, as_class

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
        return cls({name: _parsed(name, os.environ.get(variable, "").encode("utf-8", "replace")) for name, variable in variables.items()})

    @classmethod
    def from_files(cls, files: Mapping[str, str | os.PathLike[str]]) -> LocalKeys:
        """Reads keys from files: 32 bytes, or base64 or hexadecimal. files: the path for each name of a key."""
        keys = {}
        for name, path in files.items():
            with open(path, "rb") as file:
                content = file.read(1024)
            keys[name] = content if len(content) == 32 else _parsed(name, content)
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
    text = content.strip()
    try:
        key = bytes.fromhex(text.decode("ascii")) if len(text) == 64 else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise _malformed(name) from None
    if len(key) != 32:
        raise _malformed(name)
    return key


_LARGEST_ANSWER = 65_536


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The token of a request is for the address that was asked for."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class VaultKeys:
    """Master keys of the transit engine of HashiCorp Vault, or of a server with the same interface. The keys never leave it.

    address: by default the environment variable VAULT_ADDR. token: by default VAULT_TOKEN, read at each call. mount: the path
    of the engine (transit). timeout: seconds per call (5).
    """

    waits = True

    def __init__(
        self, address: str | None = None, *, token: str | None = None, mount: str = "transit", namespace: str | None = None,
        timeout: float = 5.0,
    ) -> None:
        self._address = (address or os.environ.get("VAULT_ADDR", "")).rstrip("/")
        if urlsplit(self._address).scheme not in ("http", "https"):
            raise _failed(EncryptionError, "the address of Vault is no URL", "Set VAULT_ADDR, or pass address.")
        if not 0 < timeout <= 60:
            raise ValueError("timeout: more than 0, at most 60 seconds")
        self._token = token
        self._mount = mount.strip("/")
        self._namespace = namespace
        self._timeout = timeout
        self._opener = urllib.request.build_opener(_NoRedirects())

    def wrap(self, data_key: bytes, master_key: str) -> bytes:
        """Encrypts a data key."""
        found = self._call("encrypt", master_key, {"plaintext": base64.b64encode(data_key).decode()}).get("ciphertext")
        if not isinstance(found, str) or not found:
            raise _failed(EncryptionError, "Vault has given no ciphertext")
        return found.encode()

    def unwrap(self, wrapped: bytes, master_key: str) -> bytes:
        """Decrypts a data key."""
        found = self._call("decrypt", master_key, {"ciphertext": wrapped.decode("utf-8", "replace")}).get("plaintext")
        try:
            key = base64.b64decode(found or "", validate=True)
        except (TypeError, ValueError, binascii.Error):
            key = b""
        if len(key) != 32:
            raise _failed(EncryptionError, "Vault has given no data key")
        return key

    def _call(self, what: str, master_key: str, body: Mapping[str, str]) -> Mapping[str, Any]:
        # A token from a file ends with a line break.
        token = (self._token or os.environ.get("VAULT_TOKEN", "")).strip()
        headers = {"content-type": "application/json", "x-vault-token": token}
        if self._namespace is not None:
            headers["x-vault-namespace"] = self._namespace
        for name, value in headers.items():
            # The library would repeat the value in its error.
            if not (value.isascii() and value.isprintable()):
                raise _failed(EncryptionError, f"the header {name} for Vault has characters that a header cannot have")
        url = f"{self._address}/v1/{quote(self._mount)}/{what}/{quote(master_key, safe='')}"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
        try:
            status, content = self._answer(request)
        except ValueError:
            raise _failed(EncryptionError, "a request to Vault is malformed") from None
        except (OSError, http.client.HTTPException) as error:
            raise _failed(KeyUnavailableError, f"Vault does not answer: {type(error).__name__}") from None
        if status >= 300:
            if status == 404 or b"key not found" in content:
                raise _failed(KeyNotFoundError, f'Vault has no key "{master_key}"')
            if status == 429 or status >= 500:
                raise _failed(KeyUnavailableError, f"Vault has answered {status}")
            raise _failed(EncryptionError, f"Vault has refused to {what} a data key: {status}")
        try:
            found = json.loads(content)["data"] if len(content) <= _LARGEST_ANSWER else None
        except (ValueError, KeyError, TypeError):
            found = None
        if not isinstance(found, dict):
            raise _failed(EncryptionError, "malformed answer of Vault")
        return found

    def _answer(self, request: urllib.request.Request) -> tuple[int, bytes]:
        """Returns the status of an answer, and as much of its content as is read. The time-out of the library is that of a read, and
        an answer that comes byte by byte has no end."""
        end = time.monotonic() + self._timeout
        try:
            answer = self._opener.open(request, timeout=self._timeout)
            status: int = answer.status
        except urllib.error.HTTPError as error:
            answer, status = error, error.code
        with answer:
            content = b""
            while len(content) <= _LARGEST_ANSWER and (some := answer.read1(_LARGEST_ANSWER)):
                content += some
                if time.monotonic() > end:
                    raise TimeoutError
            return status, content

    def __repr__(self) -> str:
        return f"VaultKeys({self._address})"


class KmsKeys:
    """Master keys of AWS KMS. Names are ids, ARNs or aliases of keys. Needs the package boto3.

    client: a client of boto3; by default it is made with the settings of the environment when it is needed first.
    """

    waits = True
    _CONTEXT: ClassVar[dict[str, str]] = {"pg_outbox": "key.v1"}

    def __init__(self, client: Any = None) -> None:
        self._client = client

    def wrap(self, data_key: bytes, master_key: str) -> bytes:
        """Encrypts a data key."""
        return bytes(self._call("encrypt", KeyId=master_key, Plaintext=data_key)["CiphertextBlob"])

    def unwrap(self, wrapped: bytes, master_key: str) -> bytes:
        """Decrypts a data key."""
        key = bytes(self._call("decrypt", KeyId=master_key, CiphertextBlob=wrapped)["Plaintext"])
        if len(key) != 32:
            raise _failed(EncryptionError, "KMS has given no data key")
        return key

    def _call(self, function: str, **arguments: Any) -> Any:
        import botocore.exceptions as aws  # type: ignore[import-untyped,import-not-found,unused-ignore]

        if self._client is None:
            import boto3  # type: ignore[import-untyped,import-not-found,unused-ignore]

            self._client = boto3.client("kms")
        try:
            return getattr(self._client, function)(EncryptionContext=self._CONTEXT, **arguments)
        except aws.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code == "NotFoundException":
                raise _failed(KeyNotFoundError, f'KMS has no key "{arguments["KeyId"]}"') from None
            passes = code in ("KMSInternalException", "DependencyTimeoutException", "KeyUnavailableException", "ThrottlingException")
            raise _failed(KeyUnavailableError if passes else EncryptionError, f"KMS has refused to {function} a data key: {code}") from None
        except aws.BotoCoreError as error:
            raise _failed(KeyUnavailableError, f"KMS does not answer: {type(error).__name__}") from error


def _failed(make: type[EncryptionError], message: str, hint: str | None = None) -> EncryptionError:
    return make(message, code="22023", name="invalid_parameter", hint=hint)
