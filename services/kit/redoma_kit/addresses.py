"""Where something listens, as settings and tokens write it."""


def split_address(address: str) -> tuple[str, int]:
    """Gives host and port of host:port, without the brackets of an IPv6 address.

    Raises:
        ValueError: It is none.
    """
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise ValueError(f"{address!r} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)
