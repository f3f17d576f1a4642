"""The outbox in SQL, shared by replicas, and the lease of a streaming answer."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy.exc import IntegrityError

from redoma_chat.checkpoints import LEASE_US
from redoma_chat.content_storage import ContentStorage
from redoma_chat.conversations import MessageState
from redoma_chat.inference import FinishReason, Usage
from redoma_chat.metering.meter import CallKey, Settlement
from redoma_chat.store.outbox import CLAIM_US, SqlOutbox
from tests.rpc.chat.chat_store import ACME, kept_on


def settlement(number: int, tenant: str = "acme") -> Settlement:
    return Settlement(CallKey(tenant, f"call-{number:03}"), Usage(9, 3, number, 1), False, FinishReason.CANCELLED, "m")


async def test_settlements_come_back_as_they_were_put_in(database_url: str) -> None:
    async with kept_on(database_url) as kept:
        outbox = SqlOutbox(kept.databases, kept.clock)
        whole = Settlement(CallKey("globex", "x"), Usage(), True)
        await outbox.keep([settlement(1), whole])
        assert sorted(await outbox.claim(10), key=lambda one: one.key.tenant) == [settlement(1), whole]


async def test_what_was_put_in_first_stays(database_url: str) -> None:
    async with kept_on(database_url) as kept:
        outbox = SqlOutbox(kept.databases, kept.clock)
        first = settlement(1)
        await outbox.keep([first])
        await outbox.keep([Settlement(first.key, Usage(0, 0, 99, 0), True)])
        assert await outbox.claim(10) == [first]


async def test_two_replicas_never_claim_the_same_at_once(database_url: str) -> None:
    async with kept_on(database_url) as kept:
        one, other = (SqlOutbox(kept.databases, kept.clock) for _ in range(2))
        await one.keep([settlement(number) for number in range(40)])
        claims = await asyncio.gather(*(outbox.claim(10) for outbox in (one, other, one, other)))
        claimed = [found.key for some in claims for found in some]
        assert len(claimed) == len(set(claimed)) > 0
        # What a claim skipped since another had it in hand is there for the next.
        rest = {found.key for found in await one.claim(40)}
        assert rest | set(claimed) == {settlement(number).key for number in range(40)}
        assert not rest & set(claimed)
        assert await other.claim(40) == []


async def test_claim_of_a_dead_replica_lapses(database_url: str) -> None:
    async with kept_on(database_url) as kept:
        outbox = SqlOutbox(kept.databases, kept.clock)
        await outbox.keep([settlement(1)])
        assert len(await outbox.claim(10)) == 1
        assert await outbox.claim(10) == []
        kept.clock.now_us += CLAIM_US
        assert await outbox.claim(10) == [settlement(1)]


async def test_what_the_meter_has_is_forgotten_of_that_tenant_alone(database_url: str) -> None:
    async with kept_on(database_url) as kept:
        outbox = SqlOutbox(kept.databases, kept.clock)
        await outbox.keep([settlement(1), settlement(1, "globex"), settlement(2)])
        await outbox.forget([settlement(1)])
        assert sorted(one.key.tenant for one in await outbox.claim(10)) == ["acme", "globex"]


async def test_answer_is_interrupted_only_when_nobody_renews_its_lease(database_url: str) -> None:
    async with kept_on(database_url) as kept:
        conversation = await kept.conversation(ACME)
        dead, alive = [await kept.streaming(ACME, conversation, text) for text in ("dead", "alive")]
        kept.clock.now_us += LEASE_US - 1
        assert await kept.store.interrupt_streaming(ContentStorage.PUBLIC, kept.clock()) == 0
        await kept.store.renew_answers([(ACME, alive.id)], kept.clock() + LEASE_US)
        kept.clock.pass_s(1)
        assert await kept.store.interrupt_streaming(ContentStorage.PUBLIC, kept.clock()) == 1
        states = {each.id: each.state for each in await kept.store.list_messages(ACME, conversation.id, "", 10)}
        assert (states[dead.id], states[alive.id]) == (MessageState.PARTIAL, MessageState.STREAMING)


async def test_answer_and_settlement_are_saved_together_or_not_at_all(database_url: str) -> None:
    async with kept_on(database_url) as kept:
        conversation = await kept.conversation(ACME)
        answer = await kept.streaming(ACME, conversation, "q")
        outbox = SqlOutbox(kept.databases, kept.clock)
        broken = replace(settlement(1), model=None)  # type: ignore[arg-type]
        with pytest.raises(IntegrityError):
            await kept.store.save_answer(ACME, kept.whole(answer, "a"), broken)
        found = await kept.store.get_message(ACME, conversation.id, answer.id)
        assert found is not None
        assert found.state is MessageState.STREAMING
        await kept.store.save_answer(ACME, kept.whole(answer, "a"), settlement(1))
        assert await outbox.claim(10) == [settlement(1)]
