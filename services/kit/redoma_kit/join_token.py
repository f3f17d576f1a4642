"""The join token: all that a private site needs to find the public one, to know it, and to be let in once.

`rdmj_`, then base64url of JSON, then a checksum, so that a token that was cut or mistyped is told from an unknown one.
"""

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass, field

from redoma_kit.addresses import split_address

PREFIX = "rdmj_"
CHECKSUM_CHARACTERS = 6
MAX_CHARACTERS = 2_048
DIGEST_BYTES = 32
CODE_BYTES = 32
ADDRESS = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}")
CODE = re.compile(r"[A-Za-z0-9_-]{43}")


class NotAToken(Exception):
    """The text is no join token at all; the message says what is wanted."""

    def __init__(self) -> None:
        super().__init__(
            f"This is not a join token: it begins with {PREFIX}, and `redoma van grant` on the public site prints one."
        )


class TokenDamaged(Exception):
    """The text was a join token, and is incomplete or mistyped; the message says what to do."""

    def __init__(self) -> None:
        super().__init__("The join token is incomplete or mistyped: copy all of it, on one line, and try again.")


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What a join token holds.

    Attributes:
        address: host:port where private sites join.
        digest: SHA-256 of the DER of the authority's certificate.
        code: What lets one site in, once; base64url of 256 random bits.
    """

    address: str
    digest: bytes
    code: str = field(repr=False)

    @property
    def text(self) -> str:
        """The token itself, which is secret until it is redeemed."""
        content = {"a": self.address, "d": _base64url(self.digest), "c": self.code}
        body = _base64url(json.dumps(content, separators=(",", ":")).encode())
        return f"{PREFIX}{body}{_checksum(body)}"


def parse_token(text: str) -> JoinToken:
    """Reads a join token; blanks around it and breaks of the line in it do not matter.

    Raises:
        NotAToken: It is something else.
        TokenDamaged: It was one, and is incomplete or mistyped.
    """
    token = "".join(text[: 2 * MAX_CHARACTERS].split())
    if not token.startswith(PREFIX):
        raise NotAToken()
    if len(token) > MAX_CHARACTERS:
        raise TokenDamaged()
    body, checksum = token[len(PREFIX) : -CHECKSUM_CHARACTERS], token[-CHECKSUM_CHARACTERS:]
    if not body or checksum != _checksum(body):
        raise TokenDamaged()
    try:
        content = json.loads(_from_base64url(body))
        address, digest, code = content["a"], _from_base64url(content["d"]), content["c"]
        if not (ADDRESS.fullmatch(address) and len(digest) == DIGEST_BYTES and CODE.fullmatch(code)):
            raise NotAToken()
        split_address(address)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise NotAToken() from None
    return JoinToken(address, digest, code)


def _checksum(body: str) -> str:
    digest = hashlib.sha256(body.encode(errors="replace")).digest()
    return base64.b32encode(digest).decode()[:CHECKSUM_CHARACTERS].lower()


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _from_base64url(text: str) -> bytes:
    """Decodes what `_base64url` gave.

    Raises:
        ValueError: It is something else.
    """
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
