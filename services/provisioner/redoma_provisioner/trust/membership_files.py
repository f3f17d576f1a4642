"""Where a private site keeps its keys, its certificates and whom it trusts.

`current` leads to one of `versions/`, each a whole and consistent set that never changes; it is swapped in one step.
Whatever a crash leaves, `current` leads to the former set or to the new one, and the next write tidies up.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from redoma_provisioner.network.driver import DriverKind
from redoma_provisioner.trust.atomic_files import (
    PRIVATE_DIRECTORY,
    PRIVATE_FILE,
    point_to,
    sync_directory,
    write_new,
    write_whole,
)
from redoma_provisioner.trust.bundle import KeySet
from redoma_provisioner.trust.keys import PendingKey
from redoma_provisioner.trust.names import SERVICES

CURRENT, VERSIONS, PENDING, LINK, LOCK = "current", "versions", "pending", "link.yaml", ".lock"
AUTHORITIES, KEY_SET, BUNDLE, MEMBERSHIP = "authorities.pem", "jwks.json", "trust.jws", "membership.json"
CERTIFICATE, KEY, CA = "tls.crt", "tls.key", "ca.crt"
# The set before the current one stays for those who are reading it.
KEPT_VERSIONS = 2


class MembershipBusy(Exception):
    """Another process is changing the membership; the message says what to do."""

    def __init__(self, directory: Path) -> None:
        super().__init__(f"Another process is joining with {directory}; wait until it has ended.")


@dataclass(frozen=True, slots=True)
class ServiceIdentity:
    """The certificate of a service with what leads to the authority's, and its key, PEM."""

    chain: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class MembershipSet:
    """One consistent set.

    Attributes:
        authorities: Whose certificates are trusted, PEM.
        identity_keys: Who signs callers' identities.
        bundle: The trust bundle that says so, signed.
        identities: By service.
        driver: What carries the site's links.
        link_address: host:port where the embedded driver links.
        joined_with: A hash of the code by which the site joined.
    """

    authorities: str
    identity_keys: KeySet
    bundle: str
    identities: Mapping[str, ServiceIdentity]
    driver: DriverKind
    link_address: str
    joined_with: str = ""


class MembershipFiles:
    """Reads and writes the files below `directory`. Every method raises OSError where the disk fails."""

    __slots__ = ("directory",)

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def current(self) -> Path:
        """What leads to the set in force; the services' settings name their files through it."""
        return self.directory / CURRENT

    def prepare(self) -> None:
        """Makes the directory, for its owner alone, unless there is one."""
        (self.directory / VERSIONS).mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)
        self.directory.chmod(PRIVATE_DIRECTORY)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from changing anything, until the block ends.

        Raises:
            MembershipBusy: Another one does.
        """
        descriptor = os.open(self.directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise MembershipBusy(self.directory) from None
            yield
        finally:
            os.close(descriptor)

    def read(self) -> MembershipSet | None:
        """Gives the set in force; None where nothing was joined.

        Raises:
            ValueError: A file of it is damaged.
        """
        try:
            # One version throughout, whatever becomes of the link meanwhile.
            version = self.current.resolve(strict=True)
        except FileNotFoundError:
            return None
        identities = {
            service: ServiceIdentity(
                (version / service / CERTIFICATE).read_bytes(), (version / service / KEY).read_bytes()
            )
            for service in SERVICES
            if (version / service).is_dir()
        }
        membership = json.loads((version / MEMBERSHIP).read_bytes())
        try:
            return MembershipSet(
                (version / AUTHORITIES).read_text(),
                json.loads((version / KEY_SET).read_bytes()),
                (version / BUNDLE).read_text(),
                identities,
                DriverKind(membership["driver"]),
                str(membership["link_address"]),
                str(membership["joined_with"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"{version / MEMBERSHIP} lacks something") from error

    def write(self, content: MembershipSet) -> None:
        """Puts a new set in force, and forgets old ones."""
        versions = self.directory / VERSIONS
        number = 1 + max(self._numbers(), default=0)
        fresh, final = versions / f".{number}.new", versions / str(number)
        if fresh.exists():
            shutil.rmtree(fresh)
        self._fill(fresh, content)
        fresh.rename(final)
        sync_directory(versions)
        point_to(self.current, f"{VERSIONS}/{number}")
        self._prune()

    def read_pending(self) -> Sequence[PendingKey]:
        """Gives the keys that wait for their certificates."""
        folder = self.directory / PENDING
        if not folder.is_dir():
            return ()
        return tuple(
            PendingKey(service, (folder / f"{service}.key").read_bytes(), (folder / f"{service}.csr").read_bytes())
            for service in SERVICES
            if (folder / f"{service}.key").exists()
        )

    def write_pending(self, keys: Sequence[PendingKey]) -> None:
        """Keeps keys that wait for their certificates, all or none, in place of former ones."""
        self.drop_pending()
        folder = self.directory / PENDING
        fresh = folder.with_name(f".{PENDING}.new")
        if fresh.exists():
            shutil.rmtree(fresh)
        fresh.mkdir(mode=PRIVATE_DIRECTORY)
        for key in keys:
            write_new(fresh / f"{key.service}.key", key.key)
            write_new(fresh / f"{key.service}.csr", key.csr)
        sync_directory(fresh)
        fresh.rename(folder)
        sync_directory(self.directory)

    def drop_pending(self) -> None:
        """Forgets the keys that wait for their certificates, all at once."""
        folder = self.directory / PENDING
        old = folder.with_name(f".{PENDING}.old")
        if old.exists():
            shutil.rmtree(old)
        if folder.exists():
            folder.rename(old)
            shutil.rmtree(old)

    def read_link(self) -> str:
        """Gives the documents by which this site's own network links; empty where there are none."""
        file = self.directory / LINK
        return file.read_text() if file.exists() else ""

    def write_link(self, resources: str) -> None:
        """Keeps the documents by which this site's own network links."""
        if resources:
            write_whole(self.directory / LINK, resources.encode())
        else:
            (self.directory / LINK).unlink(missing_ok=True)

    def _fill(self, folder: Path, content: MembershipSet) -> None:
        folder.mkdir(mode=PRIVATE_DIRECTORY)
        authorities = content.authorities.encode()
        write_new(folder / AUTHORITIES, authorities)
        write_new(folder / KEY_SET, (json.dumps(content.identity_keys, indent=2) + "\n").encode())
        write_new(folder / BUNDLE, content.bundle.encode())
        membership = {
            "driver": content.driver.value,
            "link_address": content.link_address,
            "joined_with": content.joined_with,
        }
        write_new(folder / MEMBERSHIP, (json.dumps(membership, indent=2) + "\n").encode())
        for service, identity in content.identities.items():
            (folder / service).mkdir(mode=PRIVATE_DIRECTORY)
            write_new(folder / service / CERTIFICATE, identity.chain)
            write_new(folder / service / KEY, identity.key)
            write_new(folder / service / CA, authorities)
            sync_directory(folder / service)
        sync_directory(folder)

    def _numbers(self) -> list[int]:
        return [int(entry.name) for entry in (self.directory / VERSIONS).iterdir() if entry.name.isdigit()]

    def _prune(self) -> None:
        versions = self.directory / VERSIONS
        kept = {str(number) for number in sorted(self._numbers())[-KEPT_VERSIONS:]}
        kept.add(self.current.resolve().name)
        for entry in versions.iterdir():
            if entry.name not in kept:
                shutil.rmtree(entry, ignore_errors=True)
