"""The form of an API key: `rdm_<prefix>_<secret>`.

The prefix may be shown and finds the key, the secret has 256 bits. Only the SHA-256 of the whole key is kept, which is
enough because a key is random and not a person's password.
"""

import hashlib
import re
import secrets
import string

PREFIX_ALPHABET = string.ascii_lowercase + string.digits
PREFIX_CHARACTERS = 8
SECRET_BYTES = 32
KEY = re.compile(r"(rdm_[a-z0-9]{8})_[A-Za-z0-9_-]{43}")


def new_key() -> str:
    """Makes a key."""
    prefix = "".join(secrets.choice(PREFIX_ALPHABET) for _ in range(PREFIX_CHARACTERS))
    return f"rdm_{prefix}_{secrets.token_urlsafe(SECRET_BYTES)}"


def prefix_of(key: str) -> str | None:
    """Gives the part of a key that may be shown; None if it hasn't the form of a key."""
    match = KEY.fullmatch(key)
    return None if match is None else match[1]


def digest_of(key: str) -> str:
    """Gives the SHA-256 of a whole key, in hex."""
    return hashlib.sha256(key.encode()).hexdigest()
