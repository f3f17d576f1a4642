"""The setting that says which database a service keeps its rows in."""

import re
from typing import Annotated

from pydantic import AfterValidator, PlainSerializer

PASSWORDS = (re.compile(r"(://[^:/@]*:)[^@/]*(@)"), re.compile(r"([?&]password=)[^&]*()"))
POSTGRES = re.compile(r"^postgres(?:ql)?(?:\+asyncpg)?://")
SQLITE = "sqlite+aiosqlite://"


def shown_url(url: str) -> str:
    """Gives a database's URL without its password."""
    for password in PASSWORDS:
        url = password.sub(r"\1***\2", url)
    return url


def _usable(url: str) -> str:
    """Names the driver, and TLS's mode as the driver calls it."""
    if POSTGRES.match(url):
        return re.sub(r"([?&])sslmode=", r"\1ssl=", POSTGRES.sub("postgresql+asyncpg://", url))
    if url.startswith(SQLITE):
        return url
    raise ValueError("use sqlite+aiosqlite:///FILE or postgresql+asyncpg://USER:PASSWORD@HOST/DATABASE")


DatabaseUrl = Annotated[str, AfterValidator(_usable), PlainSerializer(shown_url)]
