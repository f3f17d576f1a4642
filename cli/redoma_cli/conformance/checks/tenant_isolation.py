"""Whether a tenant can read, change or even notice what belongs to another."""

import re
from collections.abc import Iterator, Sequence

from google.protobuf.message import Message

from redoma.chat.v1 import conversation_pb2 as conversations
from redoma.chat.v1 import message_pb2 as messages
from redoma.tenant.v1 import api_key_pb2 as keys
from redoma.tenant.v1 import audit_pb2 as audit
from redoma.tenant.v1 import privacy_pb2 as privacy
from redoma.tenant.v1 import quota_pb2 as quotas
from redoma.tenant.v1 import tenant_pb2 as tenants
from redoma.tenant.v1 import usage_pb2 as usage
from redoma.tenant.v1 import user_pb2 as users
from redoma_cli.conformance.answer import OK, Answer
from redoma_cli.conformance.caller import path_of
from redoma_cli.conformance.check import Probes, Severity
from redoma_cli.conformance.lab import Lab, LabTenant, random_id
from redoma_cli.conformance.treasure import Treasure, bury

DENIED = ("PERMISSION_DENIED", "NOT_FOUND")
OWN = "tenants/-"
# Characters at the end of an id that are sure to be its own.
TURNED = 8


def by_name(tenant: str, conversation: str, message: str, key: str, user: str) -> Iterator[Message]:
    """Gives every request that names something of a tenant."""
    yield conversations.GetConversationRequest(name=conversation)
    yield conversations.ListMessagesRequest(parent=conversation)
    yield conversations.GetMessageRequest(name=message)
    yield conversations.UpdateConversationRequest(
        conversation=conversations.Conversation(name=conversation, title="taken")
    )
    yield conversations.DeleteConversationRequest(name=conversation)
    yield messages.SendMessageRequest(conversation=conversation, content="Hello.")
    yield messages.ContinueMessageRequest(message=message)
    yield keys.UpdateApiKeyRequest(api_key=keys.ApiKey(name=key, display_name="taken"))
    yield keys.RotateApiKeyRequest(name=key)
    yield keys.RevokeApiKeyRequest(name=key)
    yield users.GetUserRequest(name=user)
    yield users.UpdateUserRequest(user=users.User(name=user, display_name="taken"))
    yield users.DeleteUserRequest(name=user)


def of_tenant(tenant: str) -> Iterator[Message]:
    """Gives every request that names a tenant as a whole and that its own key may make."""
    yield conversations.ListConversationsRequest(parent=tenant)
    yield conversations.CreateConversationRequest(parent=tenant)
    yield tenants.GetTenantRequest(name=tenant)
    yield keys.ListApiKeysRequest(parent=tenant)
    yield keys.CreateApiKeyRequest(parent=tenant)
    yield users.ListUsersRequest(parent=tenant)
    yield users.CreateUserRequest(
        parent=tenant, user=users.User(issuer="https://login.example.com", subject="taken", role=users.ROLE_MEMBER)
    )
    yield quotas.GetQuotaRequest(name=f"{tenant}/quota")
    yield usage.QueryUsageRequest(selection=usage.UsageSelection(parent=tenant))
    yield usage.ExportUsageRequest(selection=usage.UsageSelection(parent=tenant))
    yield usage.ListLedgerTransactionsRequest(parent=tenant)
    yield usage.ReconcileUsageRequest(parent=tenant)
    yield audit.ListAuditEntriesRequest(parent=tenant)
    yield audit.ExportAuditEntriesRequest(parent=tenant)
    yield audit.VerifyAuditChainRequest(parent=tenant)
    yield privacy.ExportDataRequest(parent=tenant)
    yield privacy.ListErasuresRequest(parent=tenant)
    yield privacy.EraseDataRequest(parent=tenant, purpose="conformance")


def own_lists(word: str) -> Iterator[Message]:
    """Gives every request for a list of the caller's own, which must not hold anything of others."""
    yield conversations.ListConversationsRequest(parent=OWN)
    yield conversations.ListConversationsRequest(parent=OWN, filter=word)
    yield keys.ListApiKeysRequest(parent=OWN)
    yield users.ListUsersRequest(parent=OWN)
    yield quotas.GetQuotaRequest(name=f"{OWN}/quota")
    yield usage.QueryUsageRequest(
        selection=usage.UsageSelection(parent=OWN, dimensions=[usage.DIMENSION_TENANT, usage.DIMENSION_API_KEY])
    )
    yield usage.ExportUsageRequest(selection=usage.UsageSelection(parent=OWN, dimensions=[usage.DIMENSION_TENANT]))
    yield usage.ListLedgerTransactionsRequest(parent=OWN)
    yield audit.ListAuditEntriesRequest(parent=OWN)
    yield privacy.ListErasuresRequest(parent=OWN)


class TenantIsolation:
    """Reads and guesses of one tenant at what another has."""

    id = "tenant-isolation"
    title = "A tenant can't read, change or notice anything of another"
    severity = Severity.CRITICAL
    why = "This is the promise all others rest on: what one customer says to the model is seen by no other."
    alone = False

    async def run(self, lab: Lab, probes: Probes) -> None:
        """Buries something in one tenant and digs for it as another, who has every scope there is."""
        probes.step("making a tenant that has something")
        treasure = await bury(lab, probes)
        thief = await lab.tenant()
        # First: later the thief's own audit trail rightly tells what he asked for.
        probes.step("lists, filters and page tokens")
        await self._lists(probes, treasure, thief)
        probes.step("exact names and guesses over gRPC")
        await self._by_name(probes, treasure, thief)
        await self._of_tenant(probes, treasure, thief)
        await self._guessed_under_own_name(probes, treasure, thief)
        probes.step("the same over grpc-web and REST")
        await self._over_http(probes, treasure, thief)
        probes.step("another key of the same tenant")
        await self._other_principal(lab, probes, treasure)
        await self._unharmed(lab, probes, treasure)

    async def _by_name(self, probes: Probes, treasure: Treasure, thief: LabTenant) -> None:
        there = _names(treasure, treasure.tenant.name)
        absent = _absent_names(there)
        for real, imagined in zip(by_name(*there), by_name(*absent), strict=True):
            if not treasure.user and path_of(real).startswith("/redoma.tenant.v1.UserService"):
                continue
            await self._pair(probes, treasure, thief, real, imagined, "by exact name")

    async def _of_tenant(self, probes: Probes, treasure: Treasure, thief: LabTenant) -> None:
        for real, imagined in zip(of_tenant(treasure.tenant.name), of_tenant(f"tenants/{random_id()}"), strict=True):
            await self._pair(probes, treasure, thief, real, imagined, "by the tenant's name")

    async def _guessed_under_own_name(self, probes: Probes, treasure: Treasure, thief: LabTenant) -> None:
        there = _names(treasure, thief.name)
        absent = _absent_names(there)
        for real, imagined in zip(by_name(*there), by_name(*absent), strict=True):
            if not treasure.user and path_of(real).startswith("/redoma.tenant.v1.UserService"):
                continue
            await self._pair(probes, treasure, thief, real, imagined, "by its id under the thief's own tenant")

    async def _pair(
        self, probes: Probes, treasure: Treasure, thief: LabTenant, real: Message, imagined: Message, how: str
    ) -> None:
        """Asks for what is there and for what is not: both must be refused, and in the same words."""
        probe = f"{_method(real)} of another tenant, {how}"
        answer = await thief.caller.ask(real, patient=True)
        if answer.code == "UNIMPLEMENTED":
            probes.leave_out(f"{_method(real)}: it is not offered")
            return
        _expect_denied(probes, probe, answer, treasure)
        other = await thief.caller.ask(imagined, patient=True)
        said, said_of_none = _without_names(answer), _without_names(other)
        probes.expect(
            said == said_of_none,
            f"{probe}, against one that does not exist",
            f"the same answer to both: {other.label}",
            f"{answer.label} ({answer.message}) where it exists, {other.label} ({other.message}) where it does not",
        )

    async def _lists(self, probes: Probes, treasure: Treasure, thief: LabTenant) -> None:
        pages: Sequence[Message] = (
            conversations.ListConversationsRequest(
                parent=OWN, page_size=1, page_token=treasure.conversations_token or "x"
            ),
            keys.ListApiKeysRequest(parent=OWN, page_size=1, page_token=treasure.keys_token or "x"),
        )
        for request in (*own_lists(treasure.marker), *pages):
            answer = await thief.caller.ask(request, patient=True)
            how = "with another tenant's page token" if getattr(request, "page_token", "") else "of the caller's own"
            traces = (*treasure.traces, treasure.tenant.id)
            found = Answer("", bodies=answer.bodies).holds(traces)
            probes.expect(
                not found,
                f"{_method(request)} {how}",
                "nothing of another tenant",
                f"it holds {found} of another tenant",
            )

    async def _over_http(self, probes: Probes, treasure: Treasure, thief: LabTenant) -> None:
        for request in (*list(by_name(*_names(treasure, treasure.tenant.name)))[:4], *of_tenant(treasure.tenant.name)):
            answer = await thief.caller.web(request)
            if answer.code != "UNIMPLEMENTED":
                _expect_denied(probes, f"{_method(request)} of another tenant, by grpc-web", answer, treasure)
        name = treasure.conversation
        for target in (f"/v1/{name}", f"/{name}", f"/v1/conversations/{name.rsplit('/', 1)[-1]}", f"/v1/models/{name}"):
            answer = await thief.caller.rest("GET", target)
            found = Answer("", bodies=answer.bodies).holds((treasure.marker,))
            probes.expect(
                answer.code != OK and not found, f"GET {_blank(target)}", "an error without content", answer.label
            )

    async def _other_principal(self, lab: Lab, probes: Probes, treasure: Treasure) -> None:
        sibling = lab.caller(treasure.spare.secret)
        for request in list(by_name(*_names(treasure, treasure.tenant.name)))[:7]:
            answer = await sibling.ask(request, patient=True)
            _expect_denied(probes, f"{_method(request)} of another key's conversation", answer, treasure)
        answer = await sibling.ask(conversations.ListConversationsRequest(parent=OWN), patient=True)
        found = answer.holds((treasure.marker,))
        probes.expect(not found, "ListConversations of another key of the tenant", "its own alone", f"it holds {found}")

    async def _unharmed(self, lab: Lab, probes: Probes, treasure: Treasure) -> None:
        owner = treasure.tenant.caller
        request = conversations.ListConversationsRequest(parent=OWN)
        listing = await owner.must(request, conversations.ListConversationsResponse)
        titles = [item.title for item in listing.conversations]
        whole = treasure.conversation in {item.name for item in listing.conversations} and "taken" not in titles
        probes.expect(whole, "the owner's conversations after all that", "as they were", f"titled {titles}")
        answer = await lab.caller(treasure.spare.secret).ask(request, patient=True)
        probes.expect(answer.code == OK, "the owner's other key after all that", "it works", answer.label)


def _names(treasure: Treasure, tenant: str) -> tuple[str, str, str, str, str]:
    """Gives the names of what is there, under `tenant`."""
    own = treasure.tenant.name
    user = treasure.user or f"{own}/users/0198f2c0d1a2b3c4"
    names = [treasure.conversation, treasure.message, treasure.spare.name, user]
    conversation, message, key, user = (name.replace(own, tenant, 1) for name in names)
    return tenant, conversation, message, key, user


def _absent_names(there: tuple[str, str, str, str, str]) -> tuple[str, str, str, str, str]:
    tenant, conversation, message, key, user = there
    absent = _absent(conversation)
    return tenant, absent, _absent(message.replace(conversation, absent)), _absent(key), _absent(user)


def _absent(name: str) -> str:
    """Gives a name that does not exist and looks as one that does: the end of its last part is turned by one place."""
    kept, end = name[:-TURNED], name[-TURNED:]
    turned = end[1:] + end[0]
    return kept + (turned if turned != end else end[:-1] + ("1" if end[-1] != "1" else "2"))


def _expect_denied(probes: Probes, probe: str, answer: Answer, treasure: Treasure) -> None:
    found = Answer("", bodies=answer.bodies).holds(treasure.traces)
    happened = f"{answer.label}, and it holds {found}" if found else answer.label
    probes.expect(
        answer.code in DENIED and not found, probe, "PERMISSION_DENIED or NOT_FOUND, without content", happened
    )


def _without_names(answer: Answer) -> tuple[str, str, str]:
    """Gives what an answer says, less the names that the caller sent."""
    return answer.code, answer.reason, _blank(answer.message)


def _blank(text: str) -> str:
    return re.sub(r"(tenants|conversations|messages|apiKeys|users)/[^/\s,;:'\"]+", r"\1/…", text)


def _method(request: Message) -> str:
    return path_of(request).rsplit("/", 1)[-1]
