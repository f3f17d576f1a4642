"""Why a site could not join: a sentence, and what to do about it."""

from datetime import datetime, timedelta

from redoma_provisioner.trust.standing_file import JoinError

ANOTHER_TOKEN = "Ask for another token: `redoma van grant --site SITE` on the public site prints one."  # noqa: S105
AGAIN = "The token is still good: run the same command again."
MENDS = {
    "GRANT_UNKNOWN": "Check that all of the token was copied and that it is of this public site, or ask for another.",
    "GRANT_REDEEMED": ANOTHER_TOKEN,
    "GRANT_EXPIRED": ANOTHER_TOKEN,
    "GRANT_REVOKED": ANOTHER_TOKEN,
    "SIGN_IN_SLOWED": "Wait a minute, then run the same command again.",
    "STORAGE_UNAVAILABLE": f"The public site's database does not answer. {AGAIN}",
}


class JoinFailed(Exception):
    """A site could not join.

    Attributes:
        error: Why, and what to do.
    """

    def __init__(self, reason: str, message: str, mend: str) -> None:
        super().__init__(message)
        self.error = JoinError(reason, message, mend)


def name_unknown(address: str) -> JoinFailed:
    """The host's name has no address."""
    return JoinFailed(
        "PUBLIC_SITE_NAME_UNKNOWN",
        f"The name in {address} can't be resolved.",
        f"Check this machine's DNS, or have the public site name another address. {AGAIN}",
    )


def nobody_listens(address: str) -> JoinFailed:
    """The machine refuses connections to the port."""
    return JoinFailed(
        "PUBLIC_SITE_REFUSED",
        f"Nothing listens on {address}.",
        f"See with `redoma status` on the public site that its egress runs, and on which port. {AGAIN}",
    )


def silent(address: str) -> JoinFailed:
    """Nothing comes back."""
    return JoinFailed(
        "PUBLIC_SITE_SILENT",
        f"{address} does not answer.",
        f"A firewall may drop the connection: open {address} for connections that leave this machine. {AGAIN}",
    )


def unreachable(address: str, cause: str) -> JoinFailed:
    """There is no way to the machine."""
    return JoinFailed(
        "PUBLIC_SITE_UNREACHABLE",
        f"{address} can't be reached from this machine: {cause}.",
        f"Check this machine's network. {AGAIN}",
    )


def another_server(address: str) -> JoinFailed:
    """What answers is not the public site that the token names."""
    return JoinFailed(
        "AUTHORITY_MISMATCH",
        f"The server at {address} is not the public site that made this token: another server answers there, "
        "or the token is of another Redoma.",
        "Check the address with who made the token; a proxy that opens TLS in between must let this port pass.",
    )


def clock_wrong(offset: timedelta | None) -> JoinFailed:
    """This machine's clock is off by `offset`, which is positive where it is behind; None is not known."""
    if offset is None:
        how = "earlier than the public site's certificate begins, so it is behind"
    else:
        how = f"{describe(abs(offset))} {'behind' if offset > timedelta() else 'ahead of'} the public site's"
    return JoinFailed(
        "CLOCK_WRONG",
        f"The clock of one of the two machines is wrong: this one's is {how}.",
        f"Set it, for example with `timedatectl set-ntp true`. {AGAIN}",
    )


def certificate_expired(address: str, expire_time: datetime) -> JoinFailed:
    """The certificate of the public site's egress has expired."""
    return JoinFailed(
        "PUBLIC_SITE_EXPIRED",
        f"The certificate at {address} expired at {expire_time:%Y-%m-%d %H:%M:%S} UTC.",
        f"Renew it there (`redoma doctor` tells how), or mend this machine's clock. {AGAIN}",
    )


def refused(reason: str, message: str) -> JoinFailed:
    """The public site answered, and would not."""
    return JoinFailed(reason, message, MENDS.get(reason, "See the log of the public site's provisioner."))


def not_through(address: str, cause: str) -> JoinFailed:
    """The call broke on its way."""
    return JoinFailed(
        "PUBLIC_SITE_UNREACHABLE",
        f"The call to {address} did not get through: {cause}.",
        "See with `redoma status` on the public site that its egress and its provisioner run; then run the same "
        "command again.",
    )


def unusable(problem: str) -> JoinFailed:
    """The public site's answer can't be believed or used."""
    return JoinFailed(
        "ANSWER_UNUSABLE",
        f"The public site's answer can't be used: {problem}",
        f"Check that both sites have the same release. {ANOTHER_TOKEN}",
    )


def disk_failed(error: OSError, is_redeemed: bool) -> JoinFailed:
    """Nothing can be written; `is_redeemed` says whether the token was used up by now."""
    again = f"Run the same command again within a minute; after that: {ANOTHER_TOKEN}" if is_redeemed else AGAIN
    return JoinFailed(
        "DISK_FAILED",
        f"The site's files can't be written: {error.filename or 'the disk'}: {error.strerror or error}.",
        f"Mend it, for example the owner of the directory or the space on the disk. {again}",
    )


def describe(length: timedelta) -> str:
    """Gives a length of time in words, in its two largest units."""
    seconds = round(length.total_seconds())
    parts = []
    for name, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts[:2]) or "0 s"
