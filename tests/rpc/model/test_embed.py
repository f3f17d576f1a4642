"""Embeddings over the wire: each in its place, all or none, and what is refused."""

import asyncio
import math

import grpc
import pytest

from redoma.model.v1 import model_pb2 as pb
from tests.fakes.model_backend import EMBEDDING_SIZE, VOCABULARY_SIZE, FakeBackend, loader
from tests.rpc.model.conftest import Serve, Service, read
from tests.rpc.model.test_generate import refused
from tests.rpc.model.test_hazards import idle


def inputs(*given: str | list[int]) -> list[pb.EmbedInput]:
    return [
        pb.EmbedInput(text=one) if isinstance(one, str) else pb.EmbedInput(tokens=pb.TokenIds(ids=one)) for one in given
    ]


async def embed(service: Service, *given: str | list[int]) -> pb.EmbedResponse:
    return await service.stub.Embed(pb.EmbedRequest(inputs=inputs(*given)), metadata=service.metadata(), timeout=120)


async def test_vectors_have_length_1_and_the_inputs_order(service: Service) -> None:
    answer = await embed(service, "The sea.", "A dome of glass.", "The sea.")
    assert answer.model
    size = (await service.stub.GetModel(pb.GetModelRequest(), metadata=service.metadata())).model.embedding_size
    for embedding in answer.embeddings:
        assert len(embedding.values) == size
        assert math.isclose(math.fsum(value * value for value in embedding.values), 1, rel_tol=1e-4)
    first, second, third = (embedding.values for embedding in answer.embeddings)
    assert sum(a * b for a, b in zip(first, third, strict=True)) > 0.999
    assert sum(a * b for a, b in zip(first, second, strict=True)) < 0.999
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens == 0


async def test_more_inputs_than_may_wait_are_computed_in_turn(fake_service: Service, backend: FakeBackend) -> None:
    texts = [f"text {number}" for number in range(60)]
    answer = await embed(fake_service, *texts)
    alone = [(await embed(fake_service, text)).embeddings[0].values for text in texts[:3]]
    assert len(answer.embeddings) == 60
    assert len(answer.embeddings[0].values) == EMBEDDING_SIZE
    for embedding, values in zip(answer.embeddings, alone, strict=False):
        assert list(embedding.values) == pytest.approx(list(values), abs=1e-6)
    assert answer.usage.input_tokens == sum(map(len, texts))


async def test_tokens_are_the_text_they_stand_for(fake_service: Service) -> None:
    text, tokens = (await embed(fake_service, "abc", [97, 98, 99])).embeddings
    assert list(text.values) == pytest.approx(list(tokens.values))


async def test_text_can_not_name_a_special_token(fake_service: Service) -> None:
    answer = await embed(fake_service, "<|im_start|>")
    assert answer.usage.input_tokens == len("<|im_start|>")


async def test_one_that_fails_ends_the_others(fake_service: Service, backend: FakeBackend) -> None:
    backend.poison = tuple(b"poison")
    call = fake_service.stub.Embed(
        pb.EmbedRequest(inputs=inputs(*["fine"] * 20, "poison", *["fine"] * 20)), metadata=fake_service.metadata()
    )
    code, info, _ = await refused(call)
    assert (code, info.reason) == (grpc.StatusCode.INTERNAL, "GENERATION_FAILED")
    await idle(fake_service)
    assert (await read(fake_service.generate("say:hi"))).text == "hi"


async def test_caller_who_leaves_frees_everything(fake_service: Service, backend: FakeBackend) -> None:
    backend.pause()
    call = fake_service.stub.Embed(pb.EmbedRequest(inputs=inputs(*["abc"] * 30)), metadata=fake_service.metadata())
    await asyncio.to_thread(backend.wait_paused)
    call.cancel()
    backend.resume()
    await idle(fake_service)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ([], "inputs"),
        ([pb.EmbedInput()], "inputs[0]"),
        ([*inputs("x"), pb.EmbedInput(text="")], "inputs[1]"),
        ([pb.EmbedInput(tokens=pb.TokenIds())], "inputs[0]"),
        (inputs([1, VOCABULARY_SIZE]), "inputs[0].tokens.ids[1]"),
        (inputs([-1]), "inputs[0].tokens.ids[0]"),
        (inputs(*["x"] * 2_049), "inputs"),
        (inputs(*[[1] * 500] * 525), "inputs"),
    ],
    ids=["none", "neither", "empty text", "no tokens", "past the vocabulary", "negative", "many", "tokens in all"],
)
async def test_what_can_not_be_embedded_names_its_field(
    fake_service: Service, backend: FakeBackend, given: list[pb.EmbedInput], field: str
) -> None:
    call = fake_service.stub.Embed(pb.EmbedRequest(inputs=given), metadata=fake_service.metadata())
    code, info, _ = await refused(call)
    assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert info.metadata["field"] == field
    assert backend.steps == []


@pytest.mark.parametrize("given", ["x" * 513, [1] * 513, "x" * (2 << 20)], ids=["text", "tokens", "by its bytes"])
async def test_input_past_the_context_window_is_refused_by_its_number(
    fake_service: Service, given: str | list[int]
) -> None:
    call = fake_service.stub.Embed(pb.EmbedRequest(inputs=inputs("x", given)), metadata=fake_service.metadata())
    code, info, _ = await refused(call)
    assert (code, info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PROMPT_TOO_LONG")
    assert info.metadata["field"] == "inputs[1]"
    assert (await embed(fake_service, "x" * 512)).usage.input_tokens == 512


async def test_embedding_and_generating_share_the_engine(serve: Serve) -> None:
    backend = FakeBackend(step_s=0.001)
    async with serve(loader(backend)) as service:
        call = service.generate("Go on.", sampling={"max_output_tokens": 200, "ignore_eos": True})
        vectors, answer = await asyncio.gather(embed(service, *["abc"] * 40), read(call))
        assert len(vectors.embeddings) == 40
        assert answer.done.usage.output_tokens == 200
        assert {lane.pooled for lane in backend.lanes} == {False, True}
