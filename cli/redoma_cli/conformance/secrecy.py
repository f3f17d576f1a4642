"""Finds a key in what came back, in each form it may take there, and keeps keys out of reports."""

import base64
import re
from collections.abc import Iterable
from urllib.parse import quote

HIDDEN = "[key]"
# Shorter pieces than this occur by chance.
LEAST_PIECE = 12


def secret_part(key: str) -> str:
    """Gives the part of a key that must never be shown: what follows its prefix, or all of it."""
    match = re.fullmatch(r"[a-z]+_[a-z0-9]+_(.{12,})", key)
    return match[1] if match else key


def holds_secret(content: bytes, key: str) -> bool:
    """Says whether `content` holds the secret part of `key`: plain, percent-encoded, in hex, in base64, reversed."""
    secret = secret_part(key)
    plain = content.decode("latin-1")
    forms = {secret, quote(secret, safe=""), secret.encode().hex(), secret[::-1], secret.encode().hex().upper()}
    # A cut key is a leak as well: half of it helps who guesses the rest.
    half = len(secret) // 2
    if half >= LEAST_PIECE:
        forms |= {secret[:half], secret[half:]}
    return any(form in plain for form in forms) or any(form in plain for form in _base64_forms(secret))


def _base64_forms(secret: str) -> Iterable[str]:
    """Gives what base64 of any text with `secret` inside must hold, for each of the three ways it may be aligned."""
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + secret.encode()).decode().rstrip("=")
        # The first and the last characters depend on what stands beside the secret.
        core = encoded[(offset * 8 + 5) // 6 : -1]
        yield core
        yield core.replace("+", "-").replace("/", "_")


class Redactor:
    """Takes the keys of a run out of texts."""

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys: set[str] = set()

    def hide(self, key: str) -> None:
        """Remembers a key."""
        self._keys |= {key, secret_part(key)}

    def clean(self, text: str) -> str:
        """Gives the text without any key that is remembered."""
        for key in sorted(self._keys, key=len, reverse=True):
            text = text.replace(key, HIDDEN)
        return text
