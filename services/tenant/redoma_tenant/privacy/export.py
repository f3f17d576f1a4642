"""What is held of a tenant or of one principal of it, as an archive."""

from collections.abc import AsyncGenerator, Callable
from datetime import datetime
from typing import Protocol

from redoma_tenant.names import tenant_name
from redoma_tenant.privacy.archive import Record, Section, archive
from redoma_tenant.privacy.erasures import Subject


class Holdings(Protocol):
    """What this service itself holds of a subject. Every iteration may raise StorageUnavailable."""

    async def check(self, subject: Subject) -> None:
        """Raises ResourceNotFound if the tenant or the principal is missing."""

    def tenant(self, subject: Subject) -> AsyncGenerator[Record, None]:
        """Gives the tenant's settings; nothing for a principal."""

    def users(self, subject: Subject) -> AsyncGenerator[Record, None]:
        """Gives users."""

    def api_keys(self, subject: Subject) -> AsyncGenerator[Record, None]:
        """Gives API keys, without what could be used to call."""

    def usage(self, subject: Subject) -> AsyncGenerator[Record, None]:
        """Gives what was used, by the hour."""

    def ledger(self, subject: Subject) -> AsyncGenerator[Record, None]:
        """Gives the ledger's transactions with their entries."""

    def audit(self, subject: Subject) -> AsyncGenerator[Record, None]:
        """Gives the audit trail: the tenant's chain, or what a principal did."""


class Content(Protocol):
    """The conversations, which the chat service holds."""

    def export(self, subject: Subject) -> AsyncGenerator[Record, None]:
        """Gives conversations, each followed by its messages.

        Raises:
            ServiceUnreachable: The chat service does not answer.
        """


class Exports:
    """Makes archives."""

    __slots__ = ("_content", "_holdings", "_now")

    def __init__(self, holdings: Holdings, content: Content, now: Callable[[], datetime]) -> None:
        self._holdings = holdings
        self._content = content
        self._now = now

    async def export(self, subject: Subject) -> AsyncGenerator[bytes, None]:
        """Gives the archive's bytes.

        Raises:
            ResourceNotFound: There is no such tenant or principal.
            ServiceUnreachable: The chat service does not answer.
        """
        await self._holdings.check(subject)
        of = subject.principal or tenant_name(subject.tenant)
        async for piece in archive(f"Data held of {of}", self._now(), self._sections(subject)):
            yield piece

    def _sections(self, subject: Subject) -> list[Section]:
        held = self._holdings
        return [
            Section("tenant.jsonl", "The tenant's settings.", held.tenant(subject)),
            Section("users.jsonl", "A user.", held.users(subject)),
            Section("api_keys.jsonl", "An API key, without its secret.", held.api_keys(subject)),
            Section(
                "conversations.jsonl",
                "`conversation`, or `message` of the conversation that came last.",
                self._content.export(subject),
            ),
            Section("usage.jsonl", "What was used in an hour.", held.usage(subject)),
            Section("ledger.jsonl", "A transaction of the ledger, with its entries.", held.ledger(subject)),
            Section("audit.jsonl", "An entry of the audit trail.", held.audit(subject)),
        ]
