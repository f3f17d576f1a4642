"""Recomputes an audit chain from an export, so that nobody has to believe the service that kept it.

An entry's hash is the SHA-256 of its JSON object without `hash`, members sorted, without spaces (RFC 8785); the object
holds the hash of the entry before it. The head, signed by the service, says how many entries there are.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from redoma_cli.errors import CliError

NO_HASH = "0" * 64
HEAD_TYPE = "redoma-audit-head"
HEAD_REPLACED = "redoma.audit/HeadReplaced"


class ChainBroken(Exception):
    """A chain is not whole.

    Attributes:
        sequence: The first entry at which it is not.
        problem: What is wrong there, one sentence.
    """

    def __init__(self, sequence: int, problem: str) -> None:
        super().__init__(problem)
        self.sequence = sequence
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain; `chain` is `tenants/{tenant}` or `platform`."""

    chain: str
    sequence: int
    hash: str
    signature: str


class ExportedChain:
    """Follows an export in JSON Lines, in pieces that end anywhere. `known` is a head that was noted before."""

    def __init__(self, known: Head | None = None) -> None:
        self._known = known
        self._rest = b""
        self.chain = ""
        self.sequence = 0
        self.hash = NO_HASH

    def feed(self, data: bytes) -> None:
        """Looks at what comes next.

        Raises:
            ChainBroken: An entry was changed, is missing or is out of place.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._follow(line)

    def end(self, head: Head | None) -> None:
        """Compares the end with the head of the export, None if there is none to compare with.

        Raises:
            ChainBroken: Entries are missing at the end, or it is not the chain that the known head is of.
        """
        if self._rest:
            raise ChainBroken(self.sequence + 1, f"Entry {self.sequence + 1} is cut short.")
        if head is not None and (head.sequence, head.hash) != (self.sequence, self.hash):
            if head.sequence > self.sequence:
                problem = f"Entries from {self.sequence + 1} on are missing; the head counts {head.sequence}."
                raise ChainBroken(self.sequence + 1, problem)
            raise ChainBroken(self.sequence, f"The head does not stand for entry {self.sequence}.")
        if self._known is not None and self._known.sequence > self.sequence:
            problem = f"Entries from {self.sequence + 1} on are missing; {self._known.sequence} had been noted."
            raise ChainBroken(self.sequence + 1, problem)

    def _follow(self, line: bytes) -> None:
        number = self.sequence + 1
        try:
            fields = json.loads(line)
            found, chain = fields.pop("hash"), str(fields["name"]).rpartition("/auditEntries/")[0]
            sequence, previous = fields["sequence"], fields["previous_hash"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ChainBroken(number, f"Entry {number} can't be read.") from None
        self.chain = self.chain or chain
        if sequence != number:
            problem = f"Entry {number} is missing or out of order; in its place is {sequence}."
            raise ChainBroken(number, problem)
        if hash_of(fields) != found or chain != self.chain:
            raise ChainBroken(number, f"Entry {number} was changed: its hash is not that of its fields.")
        if previous != self.hash:
            raise ChainBroken(number, f"Entry {number} does not follow the one before it: one of the two was replaced.")
        if self._known is not None and self._known.sequence == number and self._known.hash != found:
            raise ChainBroken(number, f"Entry {number} is not the one that was noted: the chain was written anew.")
        if fields.get("action") == HEAD_REPLACED:
            raise ChainBroken(number, f"The service found a head before entry {number} that it had not signed.")
        self.sequence, self.hash = number, found


def hash_of(fields: Mapping[str, object]) -> str:
    """Computes the hash of an entry from its other members."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def check_signature(head: Head, jwks_file: Path) -> None:
    """Checks who signed a head.

    Raises:
        CliError: The key set can't be read.
        ChainBroken: None of its keys signed just this head.
    """
    try:
        keys = {key["kid"]: _unpadded(key["x"]) for key in json.loads(jwks_file.read_bytes())["keys"]}
    except (ValueError, KeyError, TypeError) as error:
        mend = "It is what the services have as jwks_file."
        raise CliError(f"{jwks_file} is not a JSON Web Key Set of Ed25519 keys.", mend) from error
    try:
        signed, _, signature = head.signature.rpartition(".")
        header, payload = (json.loads(_unpadded(part)) for part in signed.split("."))
        key = Ed25519PublicKey.from_public_bytes(keys[header["kid"]])
        key.verify(_unpadded(signature), signed.encode())
        claims = {"chain": head.chain, "sequence": head.sequence, "hash": head.hash}
        if (header["typ"], header["alg"]) != (HEAD_TYPE, "EdDSA") or payload != claims:
            raise ValueError("signed for something else")
    except (ValueError, KeyError, TypeError, InvalidSignature):
        problem = f"The head's signature is not by a key of {jwks_file}, or not over this chain, sequence and hash."
        raise ChainBroken(head.sequence, problem) from None


def read_head(file: Path) -> Head | None:
    """Reads a head that was noted; None if there is no such file.

    Raises:
        CliError: It holds something else.
    """
    try:
        content = json.loads(file.read_bytes())
        return Head(
            str(content["chain"]), int(content["sequence"]), str(content["hash"]), str(content.get("signature", ""))
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CliError(f"{file} does not hold the head of an audit chain.", "Name another file.") from error


def write_head(file: Path, head: Head) -> None:
    """Notes a head; the file is whole at any moment."""
    partial = file.with_name(f"{file.name}.part")
    partial.write_text(json.dumps(asdict(head), indent=2) + "\n")
    partial.replace(file)


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
