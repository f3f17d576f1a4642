"""Makes a network namespace a NAT gateway, by nftables' netlink: what `nft` would do, which not every machine has.

Run in the namespace, `python nat.py OUTSIDE` masquerades what goes out, and drops every connection
that somebody at the interface OUTSIDE begins.
"""

import socket
import struct
import sys

NETFILTER, NFTABLES, IPV4 = 12, 10, 2
NEW_TABLE, NEW_CHAIN, NEW_RULE = 0, 3, 6
BATCH_BEGIN, BATCH_END = 0x10, 0x11
REQUEST, ACKNOWLEDGE, CREATE, APPEND = 0x1, 0x4, 0x400, 0x800
FORWARD, POSTROUTING = 2, 4
SOURCE_NAT_PRIORITY = 100
VERDICT, FIRST_REGISTER = 0, 1
IN_NAME = 6
# `ct state new`, a bit by the state's number.
STATE_NEW = 8
NESTED = 0x8000


def attribute(kind: int, content: bytes) -> bytes:
    """Gives a netlink attribute."""
    padding = -len(content) % 4
    return struct.pack("=HH", 4 + len(content), kind) + content + b"\0" * padding


def nested(kind: int, *parts: bytes) -> bytes:
    """Gives an attribute of attributes."""
    return attribute(kind | NESTED, b"".join(parts))


def number(kind: int, value: int) -> bytes:
    """Gives an attribute that is a number, in network order."""
    return attribute(kind, struct.pack("!I", value))


def text(kind: int, value: str) -> bytes:
    """Gives an attribute that is a text."""
    return attribute(kind, value.encode() + b"\0")


def expression(name: str, *parts: bytes) -> bytes:
    """Gives one step of a rule."""
    return nested(1, text(1, name), nested(2, *parts))


def message(kind: int, flags: int, content: bytes, sequence: int, batch: bool = False) -> bytes:
    """Gives a message of nftables, or a mark of a batch."""
    family = struct.pack("!BBH", 0, 0, NFTABLES) if batch else struct.pack("!BBH", IPV4, 0, 0)
    kind = kind if batch else (NFTABLES << 8) | kind
    return struct.pack("=IHHII", 20 + len(content), kind, REQUEST | flags, sequence, 0) + family + content


def chain(name: str, hook: int, kind: str, priority: int) -> bytes:
    """Gives a chain of the table."""
    at = nested(4, number(1, hook), number(2, priority))
    return text(1, "rdm") + text(3, name) + at + text(7, kind)


def rule(chain_name: str, *steps: bytes) -> bytes:
    """Gives a rule of a chain."""
    return text(1, "rdm") + text(2, chain_name) + nested(4, *steps)


def rules(outside: str) -> list[tuple[int, int, bytes]]:
    """Gives all that the gateway needs: kind, flags and content of each message."""
    from_outside = (
        expression("meta", number(1, FIRST_REGISTER), number(2, IN_NAME)),
        expression(
            "cmp", number(1, FIRST_REGISTER), number(2, 0), nested(3, attribute(1, outside.encode().ljust(16, b"\0")))
        ),
    )
    is_new = (
        expression("ct", number(1, FIRST_REGISTER), number(2, 0)),
        expression(
            "bitwise",
            *(number(1, FIRST_REGISTER), number(2, FIRST_REGISTER), number(3, 4)),
            nested(4, attribute(1, struct.pack("=I", STATE_NEW))),
            nested(5, attribute(1, b"\0" * 4)),
        ),
        expression("cmp", number(1, FIRST_REGISTER), number(2, 1), nested(3, attribute(1, b"\0" * 4))),
    )
    drop = expression("immediate", number(1, VERDICT), nested(2, nested(2, number(1, 0))))
    return [
        (NEW_TABLE, CREATE, text(1, "rdm")),
        (NEW_CHAIN, CREATE, chain("out", POSTROUTING, "nat", SOURCE_NAT_PRIORITY)),
        (NEW_RULE, CREATE | APPEND, rule("out", expression("masq"))),
        (NEW_CHAIN, CREATE, chain("through", FORWARD, "filter", 0)),
        (NEW_RULE, CREATE | APPEND, rule("through", *from_outside, *is_new, drop)),
    ]


def main(outside: str) -> None:
    """Makes this namespace the gateway."""
    batch = message(BATCH_BEGIN, 0, b"", 0, batch=True)
    wanted = rules(outside)
    for sequence, (kind, flags, content) in enumerate(wanted, 1):
        batch += message(kind, flags | ACKNOWLEDGE, content, sequence)
    batch += message(BATCH_END, 0, b"", len(wanted) + 1, batch=True)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER) as netlink:
        netlink.bind((0, 0))
        netlink.settimeout(5)
        netlink.send(batch)
        acknowledged = 0
        while acknowledged < len(wanted):
            answer = netlink.recv(65_536)
            while answer:
                length, kind = struct.unpack_from("=IH", answer)
                error = struct.unpack_from("=i", answer, 16)[0]
                if kind == 2 and error:
                    raise OSError(-error, f"nftables refused message {struct.unpack_from('=I', answer, 8)[0]}")
                acknowledged += kind == 2
                answer = answer[(length + 3) & ~3 :]


if __name__ == "__main__":
    main(sys.argv[1])
