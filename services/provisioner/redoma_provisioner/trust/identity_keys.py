"""The keys that sign callers' identities, from a file that others renew."""

import json
from pathlib import Path

from redoma_provisioner.errors import CannotStart
from redoma_provisioner.trust.bundle import KeySet

PUBLIC_MEMBERS = ("kty", "crv", "x", "y", "n", "e", "alg", "use", "kid")


class IdentityKeys:
    """Reads a JSON Web Key Set again when its file changes; what can't be read leaves the former set in force."""

    __slots__ = ("_file", "_keys", "_stamp")

    def __init__(self, file: Path) -> None:
        """Reads the file.

        Raises:
            CannotStart: It can't be read, or is no key set.
        """
        self._file = file
        self._stamp: tuple[int, int, int] = (0, 0, 0)
        self._keys: KeySet = {}
        try:
            self._read()
        except (OSError, ValueError) as error:
            raise CannotStart(f"The keys of identities in {file} can't be used: {error}.") from error

    def current(self) -> KeySet:
        """Gives the set as the file has it."""
        try:
            self._read()
        except (OSError, ValueError):
            return self._keys
        return self._keys

    def _read(self) -> None:
        status = self._file.stat()
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp == self._stamp:
            return
        keys = json.loads(self._file.read_bytes())
        if not isinstance(keys, dict) or not isinstance(keys.get("keys"), list):
            raise ValueError("it is no JSON Web Key Set")
        # Private members never leave: the set goes to every site.
        public = [
            {name: key[name] for name in PUBLIC_MEMBERS if name in key} for key in keys["keys"] if isinstance(key, dict)
        ]
        self._keys, self._stamp = {"keys": public}, stamp
