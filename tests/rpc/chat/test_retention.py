"""What is older than its tenant keeps it goes, and nothing else."""

from collections.abc import AsyncIterator, Sequence

import pytest
from google.protobuf.duration_pb2 import Duration

from redoma.chat.v1 import conversation_pb2
from redoma.tenant.v1 import tenant_pb2
from redoma_chat.content_storage import ContentPolicy, ContentStorage
from redoma_chat.errors import ChecksUnavailable
from redoma_chat.measurements import ContentMeasurements
from redoma_chat.retention import Retention
from redoma_chat.store.content import ROWS_A_BATCH
from redoma_kit.settings import MetricsSettings, TracingSettings
from redoma_kit.telemetry import Telemetry

from .chat_store import ACME, ACME_TWO, GLOBEX, LOG, Kept, kept_on
from .conftest import World, eventually
from .test_encryption import bytes_of

HOUR_S = 3_600.0


class Policies:
    def __init__(self, *policies: ContentPolicy, fails: bool = False) -> None:
        self._policies: Sequence[ContentPolicy] = policies
        self._fails = fails

    async def content_policies(self) -> AsyncIterator[ContentPolicy]:
        for policy in self._policies:
            yield policy
        if self._fails:
            raise ChecksUnavailable()


def keep_for(tenant: str, retention_s: float | None) -> ContentPolicy:
    return ContentPolicy(tenant, ContentStorage.PUBLIC, retention_s)


async def sweep(kept: Kept, *policies: ContentPolicy, fails: bool = False) -> float:
    """Sweeps once; gives how many conversations were counted."""
    telemetry = Telemetry("chat", MetricsSettings(), TracingSettings())
    source = Policies(*policies, fails=fails)
    retention = Retention(source, kept.store, kept.databases.scrub, kept.clock, ContentMeasurements(telemetry), LOG)
    await retention.sweep()
    return telemetry.registry.get_sample_value("redoma_chat_conversations_expired_total") or 0.0


async def test_only_what_was_not_changed_within_the_retention_goes(database_url: str) -> None:
    async with kept_on(database_url) as kept:
        await kept.conversation(ACME, "old")
        spoken = await kept.conversation(ACME_TWO, "old but spoken in")
        kept.clock.pass_s(HOUR_S)
        await kept.said(ACME_TWO, spoken, "hi")
        await kept.conversation(ACME, "young")
        kept.clock.pass_s(HOUR_S / 2)
        assert await sweep(kept, keep_for("acme", HOUR_S)) == 1
        assert await kept.titles(ACME) == ["young"]
        assert await kept.titles(ACME_TWO) == ["old but spoken in"]
        assert len(await kept.store.list_messages(ACME_TWO, spoken.id, "", 10)) == 2


async def test_conversation_lives_to_its_last_moment_and_no_longer(database_url: str) -> None:
    async with kept_on(database_url) as kept:
        await kept.conversation(ACME)
        kept.clock.pass_s(HOUR_S)
        assert await sweep(kept, keep_for("acme", HOUR_S)) == 0
        kept.clock.pass_s(0.000_001)
        assert await sweep(kept, keep_for("acme", HOUR_S)) == 1


async def test_other_tenants_and_those_that_keep_for_ever_lose_nothing(database_url: str) -> None:
    async with kept_on(database_url) as kept:
        await kept.conversation(ACME)
        await kept.conversation(GLOBEX)
        kept.clock.pass_s(1_000 * HOUR_S)
        assert await sweep(kept, keep_for("acme", None), keep_for("initech", HOUR_S)) == 0
        assert (len(await kept.titles(ACME)), len(await kept.titles(GLOBEX))) == (1, 1)


async def test_conversation_with_a_streaming_answer_stays_until_it_has_ended(database_url: str) -> None:
    async with kept_on(database_url) as kept:
        answer = await kept.streaming(ACME, await kept.conversation(ACME), "hi")
        kept.clock.pass_s(2 * HOUR_S)
        assert await sweep(kept, keep_for("acme", HOUR_S)) == 0
        await kept.store.save_answer(ACME, kept.whole(answer, "there"))
        assert await sweep(kept, keep_for("acme", HOUR_S)) == 0
        kept.clock.pass_s(2 * HOUR_S)
        assert await sweep(kept, keep_for("acme", HOUR_S)) == 1


async def test_more_than_a_batch_goes_in_one_sweep(database_url: str) -> None:
    async with kept_on(database_url) as kept:
        for _ in range(ROWS_A_BATCH + 3):
            await kept.conversation(ACME)
        kept.clock.pass_s(2 * HOUR_S)
        await kept.conversation(ACME, "young")
        assert await sweep(kept, keep_for("acme", HOUR_S)) == ROWS_A_BATCH + 3
        assert await kept.titles(ACME) == ["young"]


async def test_tenant_service_that_fails_half_way_leaves_the_rest_for_the_next_time(database_url: str) -> None:
    async with kept_on(database_url) as kept:
        await kept.conversation(ACME)
        await kept.conversation(GLOBEX)
        kept.clock.pass_s(2 * HOUR_S)
        assert await sweep(kept, keep_for("acme", HOUR_S), fails=True) == 1
        assert (await kept.titles(ACME), len(await kept.titles(GLOBEX))) == ([], 1)


async def test_service_sweeps_what_the_tenant_service_says_when_it_starts(world: World) -> None:
    caller, other = world.caller(), world.caller("globex")
    await caller.create()
    theirs = await other.create()
    world.tenant.tenant.policies = [
        tenant_pb2.ContentPolicy(tenant="tenants/globex"),
        tenant_pb2.ContentPolicy(tenant="tenants/acme", retention=Duration(nanos=1_000)),
    ]
    await world.restart_chat()
    caller, other = world.caller(), world.caller("globex")

    async def is_gone() -> bool:
        request = conversation_pb2.ListConversationsRequest(parent="tenants/-")
        return not (await caller.conversations.ListConversations(request)).conversations

    await eventually(is_gone)
    assert (await other.conversation(theirs)).name == theirs


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_expired_is_not_left_in_the_file(database_url: str) -> None:
    async with kept_on(database_url) as kept:
        conversation = await kept.conversation(ACME)
        await kept.conversation(ACME_TWO)
        kept.clock.pass_s(2 * HOUR_S)
        assert await sweep(kept, keep_for("acme", HOUR_S)) == 2
        assert conversation.id.encode() not in bytes_of(database_url)
