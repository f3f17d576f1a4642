"""Health: the service's own, and the model's as seen from here."""

from grpc_health.v1 import health_pb2, health_pb2_grpc

from .conftest import World, eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
OWN = ("", "redoma.chat.v1.ChatService", "redoma.chat.v1.OpenAIService", "redoma.chat.v1.ConversationService")


async def test_health_mirrors_the_model_and_keeps_its_own(world: World) -> None:
    stub = health_pb2_grpc.HealthStub(world.channel)

    async def serves(name: str) -> bool:
        response = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=30)
        return bool(response.status == SERVING)

    async def model_is(up: bool) -> None:
        async def holds() -> bool:
            return await serves("redoma.model.v1.ModelService") is up

        await eventually(holds)
        assert [await serves(name) for name in OWN] == [True] * 4

    await model_is(True)
    await world.model.set_serving(False)
    await model_is(False)
    await world.model.set_serving(True)
    await model_is(True)
    await world.model.stop()
    await model_is(False)
    await world.model.start()
    await model_is(True)
