"""Keys that wrap content keys. They never lie in the database, so that who has the database alone can read nothing.

A provider wraps with one key and unwraps with any that it knows, so that a key is replaced by putting its successor in
front of it. A key management service is another provider behind the same seam.
"""

import base64
import binascii
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from redoma_chat.settings import KeyProviderSettings

KEY_BYTES = 32
NONCE_BYTES = 12
KEY_ID_DIGITS = 16
HOW_TO_MAKE = (
    'Make one with: (umask 077; openssl rand -base64 32 > content.key), and set key_provider.kind = "file" and '
    "key_provider.file to its path. Keep a copy of it: without it nothing that was said can be read again."
)


class KeyProviderUnusable(Exception):
    """No key can be had to encrypt with; the message says what to do, for the operator."""


class UnwrapFailed(Exception):
    """The provider does not have the key that wrapped, or what was wrapped is damaged."""


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A key as it may lie in a database.

    Attributes:
        key_id: Which key of the provider wrapped it. It tells nothing of that key.
        data: The wrapped key.
    """

    key_id: str
    data: bytes


class KeyProvider(Protocol):
    """What wraps and unwraps keys. `context` says what the key is for; to unwrap takes the same."""

    @property
    def key_id(self) -> str:
        """The id of the key that wraps now."""
        ...

    async def wrap(self, secret: bytes, context: bytes) -> WrappedKey:
        """Wraps a key.

        Raises:
            StorageUnavailable: The provider does not answer.
        """
        ...

    async def unwrap(self, wrapped: WrappedKey, context: bytes) -> bytes:
        """Gives the key back.

        Raises:
            UnwrapFailed: This provider can't.
            StorageUnavailable: The provider does not answer.
        """
        ...


class LocalKeys:
    """Keys at hand, AES-256-GCM. The first wraps, all unwrap."""

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        self._ciphers = {_key_id(key): AESGCM(key) for key in keys}
        self._first = _key_id(keys[0])

    @property
    def key_id(self) -> str:
        """The id of the first key."""
        return self._first

    async def wrap(self, secret: bytes, context: bytes) -> WrappedKey:
        """Wraps a key; see KeyProvider."""
        nonce = os.urandom(NONCE_BYTES)
        return WrappedKey(self._first, nonce + self._ciphers[self._first].encrypt(nonce, secret, context))

    async def unwrap(self, wrapped: WrappedKey, context: bytes) -> bytes:
        """Gives the key back; see KeyProvider."""
        cipher = self._ciphers.get(wrapped.key_id)
        if cipher is None:
            raise UnwrapFailed("no such key")
        try:
            return cipher.decrypt(wrapped.data[:NONCE_BYTES], wrapped.data[NONCE_BYTES:], context)
        except (InvalidTag, ValueError):
            raise UnwrapFailed("damaged") from None


def open_key_provider(settings: KeyProviderSettings, environ: Mapping[str, str]) -> KeyProvider:
    """Gives the provider that the settings name.

    Raises:
        KeyProviderUnusable: None is named, or there are no keys where it should find them.
    """
    if settings.kind == "file":
        if settings.file is None:
            raise KeyProviderUnusable(f"key_provider.file is not set. {HOW_TO_MAKE}")
        return LocalKeys(_parse(_read(settings.file), f"The key file {settings.file}"))
    if settings.kind == "environment":
        return LocalKeys(_parse(environ.get(settings.variable, ""), f"The environment variable {settings.variable}"))
    raise KeyProviderUnusable(f"No key provider is configured, and messages are only kept encrypted. {HOW_TO_MAKE}")


def _read(file: Path) -> str:
    try:
        return file.read_text("ascii")
    except FileNotFoundError:
        raise KeyProviderUnusable(f"The key file {file} does not exist. {HOW_TO_MAKE}") from None
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is no text"
        raise KeyProviderUnusable(f"The key file {file} can't be read: {cause}.") from None


def _parse(text: str, place: str) -> tuple[bytes, ...]:
    """Reads keys, in base64 with white space between them. The message of a failure never holds what was read."""
    keys = []
    for number, word in enumerate(text.split(), 1):
        try:
            key = base64.b64decode(word, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            raise KeyProviderUnusable(f"{place} has no {KEY_BYTES} bytes in base64 as key {number}. {HOW_TO_MAKE}")
        keys.append(key)
    if not keys:
        raise KeyProviderUnusable(f"{place} holds no key. {HOW_TO_MAKE}")
    return tuple(keys)


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"redoma wrapping key\0" + key).hexdigest()[:KEY_ID_DIGITS]
