"""Join tokens, as far as a person's own machine reads them: where they lead. What lets a site in stays unread."""

import base64
import binascii
import hashlib
import json

from redoma_cli.errors import CliError

PREFIX = "rdmj_"
CHECKSUM_CHARACTERS = 6
AGAIN = "Copy the whole token, on one line, and try again."


def token_address(token: str) -> str:
    """Gives host:port that a join token leads to.

    Raises:
        CliError: It is no join token, or not whole.
    """
    text = "".join(token.split())
    if not text.startswith(PREFIX):
        raise CliError(f"This is no join token: one begins with {PREFIX}.", "redoma van grant --site NAME makes one.")
    body, checksum = text[len(PREFIX) : -CHECKSUM_CHARACTERS], text[-CHECKSUM_CHARACTERS:]
    digest = hashlib.sha256(body.encode(errors="replace")).digest()
    if not body or checksum != base64.b32encode(digest).decode()[:CHECKSUM_CHARACTERS].lower():
        raise CliError("The join token is incomplete or mistyped.", AGAIN)
    try:
        content = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return str(content["a"])
    except (ValueError, binascii.Error, KeyError, TypeError):
        raise CliError("The join token can't be read.", AGAIN) from None
