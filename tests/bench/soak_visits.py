"""What the clients of a soak do: each visit is one kind of use or misuse, and tells how it ended."""

import asyncio
import json
import os
import random
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import openai

from redoma.chat.v1 import conversation_pb2, conversation_pb2_grpc, message_pb2, message_pb2_grpc
from redoma.common.v1 import sampling_pb2
from tests.bench.load import Ask
from tests.bench.prompts import Prompts
from tests.bench.targets import EdgeSse, completion_body, completion_request

VICTIM = Path(__file__).with_name("soak_victim.py")
# Ways of being refused that a full site owes its callers.
REFUSALS = frozenset({"queue_full", "deadline_unreachable", "reader_too_slow"})
REFUSED, CANCELLED, KILLED, LATE = "refused", "cancelled", "killed", "deadline passed"
OK = "ok"
BURST = 40
SMALL_BUFFER_BYTES = 4_096
FORM = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Guest:
    """A tenant's user.

    Attributes:
        chance: Its own source of chance.
        prompts: Its own prompts.
        sse: The way by bare SSE.
    """

    tenant: str
    key: str
    address: str
    chance: random.Random
    prompts: Prompts
    client: openai.AsyncOpenAI
    channel: grpc.aio.Channel
    sse: EdgeSse

    @property
    def bearer(self) -> tuple[tuple[str, str], ...]:
        """Call metadata with its key."""
        return (("authorization", f"Bearer {self.key}"),)

    def ask(self, least_words: int, most_words: int, most_tokens: int) -> Ask:
        """Asks something of a random length for an answer of a random length."""
        content = self.prompts.passage(self.chance.randint(least_words, most_words))
        return Ask(self.tenant, self.prompts.turns(content), self.chance.randint(1, most_tokens))


class WrongAnswer(Exception):
    """An answer is not what was asked for."""


async def answer(guest: Guest) -> str:
    """Streams an answer to its end."""
    ask = guest.ask(1, 60, 200)
    tokens = 0
    async with aclosing(guest.sse.open(ask)) as stream:
        async for arrival in stream:
            tokens += arrival.tokens
    if tokens != ask.tokens:
        raise WrongAnswer(f"{tokens} tokens of {ask.tokens}")
    return OK


async def long_prompt(guest: Guest) -> str:
    """Sends a long prompt for a short answer."""
    async with aclosing(guest.sse.open(guest.ask(500, 2_000, 8))) as stream:
        async for _ in stream:
            pass
    return OK


async def talk(guest: Guest) -> str:
    """Talks for a few turns, with the whole history in each request."""
    turns: list[Any] = []
    for _ in range(guest.chance.randint(2, 5)):
        turns.append({"role": "user", "content": guest.prompts.passage(guest.chance.randint(3, 200))})
        said = await guest.client.chat.completions.create(model="", messages=turns, max_tokens=40, temperature=0.7)
        turns.append({"role": "assistant", "content": said.choices[0].message.content or "…"})
    return OK


async def fill_form(guest: Guest) -> str:
    """Asks for an answer in a form and checks it."""
    form: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": FORM}}
    messages: Any = [{"role": "user", "content": f"Tell of a city near {guest.prompts.number()}."}]
    said = await guest.client.chat.completions.create(
        model="", messages=messages, max_tokens=120, response_format=form, temperature=0.9
    )
    if said.choices[0].finish_reason == "stop":
        found = json.loads(said.choices[0].message.content or "")
        if sorted(found) != ["city", "people"]:
            raise WrongAnswer(f"a form with {sorted(found)}")
    return OK


async def embed(guest: Guest) -> str:
    """Embeds a few texts."""
    texts = [guest.prompts.passage(guest.chance.randint(1, 80)) for _ in range(guest.chance.randint(1, 8))]
    embedded = await guest.client.embeddings.create(model="", input=texts)
    if len(embedded.data) != len(texts):
        raise WrongAnswer(f"{len(embedded.data)} embeddings of {len(texts)} texts")
    return OK


async def converse(guest: Guest) -> str:
    """Keeps a conversation by gRPC, and deletes it at the end."""
    async with _conversation(guest) as name:
        for _ in range(guest.chance.randint(1, 3)):
            await _send(guest, name, sampling_pb2.SamplingOptions(max_output_tokens=guest.chance.randint(1, 60)))
    return OK


async def hurry(guest: Guest) -> str:
    """Asks for more than there is time for."""
    async with _conversation(guest) as name:
        options = sampling_pb2.SamplingOptions(max_output_tokens=400, ignore_eos=True)
        await _send(guest, name, options, timeout_s=guest.chance.uniform(0.05, 2))
    return OK


@asynccontextmanager
async def _conversation(guest: Guest) -> AsyncIterator[str]:
    """Gives the name of a conversation, which is deleted at the end."""
    conversations = conversation_pb2_grpc.ConversationServiceStub(guest.channel)
    creation = conversation_pb2.CreateConversationRequest(parent="tenants/-")
    name = (await conversations.CreateConversation(creation, metadata=guest.bearer)).conversation.name
    try:
        yield name
    finally:
        deletion = conversation_pb2.DeleteConversationRequest(name=name)
        await conversations.DeleteConversation(deletion, metadata=guest.bearer)


async def _send(guest: Guest, name: str, options: sampling_pb2.SamplingOptions, timeout_s: float | None = None) -> None:
    content = guest.prompts.passage(guest.chance.randint(3, 40))
    request = message_pb2.SendMessageRequest(conversation=name, content=content, sampling=options)
    chat = message_pb2_grpc.ChatServiceStub(guest.channel)
    async for _ in chat.SendMessage(request, metadata=guest.bearer, timeout=timeout_s):
        pass


async def leave(guest: Guest) -> str:
    """Goes away in the middle, or before anything came."""
    stays_for = guest.chance.randint(0, 60)
    reading = asyncio.create_task(_read_some(guest, stays_for))
    if stays_for == 0:
        await asyncio.sleep(guest.chance.uniform(0, 0.5))
        reading.cancel()
    await asyncio.wait([reading])
    if not reading.cancelled():
        reading.result()
    return CANCELLED


async def _read_some(guest: Guest, most: int) -> None:
    ask = Ask(guest.tenant, guest.prompts.turns(guest.prompts.passage(guest.chance.randint(1, 400))), 400)
    async with aclosing(guest.sse.open(ask)) as stream:
        async for _ in stream:
            most -= 1
            if most == 0:
                return


async def dawdle(guest: Guest) -> str:
    """Reads a long answer far more slowly than it comes, then leaves."""
    host, port = guest.address.split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(connection, (host, int(port)))
        ask = Ask(guest.tenant, guest.prompts.turns(guest.prompts.passage(20)), 1_500)
        await loop.sock_sendall(connection, completion_request(host, guest.key, ask))
        for _ in range(guest.chance.randint(5, 60)):
            if not await loop.sock_recv(connection, 512):
                break
            await asyncio.sleep(0.25)
    finally:
        connection.close()
    return CANCELLED


async def die(guest: Guest) -> str:
    """Is a process that is killed while it reads."""
    ask = Ask(guest.tenant, guest.prompts.turns(guest.prompts.passage(20)), 400)
    host, port = guest.address.split(":")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(VICTIM), host, port),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "REDOMA_API_KEY": guest.key},
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(completion_body(ask))
        process.stdin.close()
        status = (await process.stdout.readline()).decode().strip()
        await asyncio.sleep(guest.chance.uniform(0, 1))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    if status not in ("200", "429"):
        raise WrongAnswer(f"status {status or 'missing'}")
    return KILLED if status == "200" else REFUSED


async def burst(guest: Guest) -> str:
    """Sends many requests at once, more than may wait."""
    visits = (guarded(answer, guest) for _ in range(BURST))
    outcomes = await asyncio.gather(*visits)
    return REFUSED if REFUSED in outcomes else OK


async def guarded(visit: Callable[[Guest], Awaitable[str]], guest: Guest) -> str:
    """Makes a visit; being refused for a reason that a full site may have is one of its ends.

    Raises:
        Exception: It ended in any other way.
    """
    try:
        return await visit(guest)
    except openai.APIError as error:
        if error.code in REFUSALS:
            return REFUSED
        raise
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return REFUSED
        if visit is hurry and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return LATE
        raise
    except RuntimeError as error:
        if any(reason in str(error) for reason in REFUSALS):
            return REFUSED
        raise


# How often each is chosen, relative to the others.
VISITS: Mapping[Callable[[Guest], Awaitable[str]], int] = {
    answer: 30,
    talk: 10,
    converse: 10,
    leave: 15,
    fill_form: 8,
    embed: 8,
    die: 5,
    dawdle: 4,
    hurry: 5,
    long_prompt: 4,
    burst: 1,
}
