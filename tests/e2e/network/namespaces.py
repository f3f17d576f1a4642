"""A public network, a NAT gateway that lets nobody in, and private networks behind it, as namespaces of a machine."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
# Of the range for benchmarks, which nobody routes; others for each process, so that several suites can run.
BLOCK = f"198.18.{os.getpid() % 255}"
HOST, PUBLIC_FROM_HOST = f"{BLOCK}.1", f"{BLOCK}.2"
PUBLIC, OUTSIDE = f"{BLOCK}.5", f"{BLOCK}.6"
PUBLIC_SIDE, HOST_SIDE = "public", "host"


class NotAllowed(Exception):
    """This machine lets nobody make such networks; the message says why."""


@dataclass(slots=True)
class Network:
    """The namespaces. Their names begin with the process's number, so that several suites can run.

    Attributes:
        sites: The private sites.
        mark: Tells it from another network of this process; a letter or two.
        has_host: Whether this machine itself reaches the public site; one network at a time has that.
    """

    sites: Sequence[str]
    mark: str = ""
    has_host: bool = True

    @property
    def public(self) -> str:
        """The namespace of the public site."""
        return self._name("p")

    @property
    def gateway(self) -> str:
        """The namespace of the NAT gateway."""
        return self._name("g")

    def site(self, name: str) -> str:
        """The namespace of a private site."""
        return self._name(f"s{self.sites.index(name)}")

    def address(self, name: str) -> str:
        """The address of a private site in its own network."""
        return f"198.19.{self.sites.index(name)}.1"

    def up(self) -> None:
        """Makes them.

        Raises:
            NotAllowed: The machine does not let.
        """
        try:
            self._make()
        except (OSError, subprocess.CalledProcessError) as error:
            self.down()
            why = getattr(error, "stderr", "") or str(error)
            raise NotAllowed(why.strip().splitlines()[-1]) from error

    def down(self) -> None:
        """Takes them away, with all that is left of them."""
        names = [self.public, self.gateway, *(self.site(site) for site in self.sites)]
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self._host_link], capture_output=True, check=False)

    def cut(self) -> None:
        """Has the gateway forward nothing and say nothing about it."""
        self._forward("0")

    def restore(self) -> None:
        """Ends that."""
        self._forward("1")

    def inside(self, namespace: str, argv: Sequence[str]) -> list[str]:
        """Gives the command that runs another one in a namespace, as the same process."""
        return ["ip", "netns", "exec", namespace, *argv]

    def run(self, namespace: str, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command in a namespace to its end."""
        return subprocess.run(self.inside(namespace, argv), capture_output=True, text=True, timeout=30, check=check)

    @property
    def _host_link(self) -> str:
        return self._name("h")

    def _name(self, part: str) -> str:
        return f"rdm{os.getpid()}{self.mark}{part}"

    def _make(self) -> None:
        for name in (self.public, self.gateway, *(self.site(site) for site in self.sites)):
            _ip("netns", "add", name)
            self.run(name, "ip", "link", "set", "lo", "up")
        if self.has_host:
            self._link_host()
        self._link(self.public, "out", f"{PUBLIC}/30", PUBLIC_SIDE, f"{OUTSIDE}/30")
        for number, site in enumerate(self.sites):
            inner = f"198.19.{number}.2"
            self._link(self.site(site), "out", f"{self.address(site)}/30", f"inside{number}", f"{inner}/30")
            self.run(self.site(site), "ip", "route", "add", "default", "via", inner)
            # The public site knows the way; it is the gateway that lets nobody in.
            self.run(self.public, "ip", "route", "add", f"{self.address(site)}/32", "via", OUTSIDE)
        self.restore()
        self.run(self.gateway, sys.executable, str(HERE / "nat.py"), PUBLIC_SIDE)

    def _link_host(self) -> None:
        _ip("link", "add", self._host_link, "type", "veth", "peer", "name", HOST_SIDE, "netns", self.public)
        _ip("addr", "add", f"{HOST}/30", "dev", self._host_link)
        _ip("link", "set", self._host_link, "up")
        self._join(self.public, HOST_SIDE, f"{PUBLIC_FROM_HOST}/30")
        _ip("route", "add", f"{PUBLIC}/32", "via", PUBLIC_FROM_HOST)

    def _link(self, namespace: str, name: str, address: str, other: str, other_address: str) -> None:
        """Links a namespace with the gateway."""
        self.run(namespace, "ip", "link", "add", name, "type", "veth", "peer", "name", other, "netns", self.gateway)
        self._join(namespace, name, address)
        self._join(self.gateway, other, other_address)

    def _join(self, namespace: str, name: str, address: str) -> None:
        self.run(namespace, "ip", "addr", "add", address, "dev", name)
        self.run(namespace, "ip", "link", "set", name, "up")

    def _forward(self, value: str) -> None:
        self.run(self.gateway, "sh", "-c", f"echo {value} > /proc/sys/net/ipv4/ip_forward")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=30, check=True)
