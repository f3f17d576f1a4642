"""The chat service and the model service of the small deployment."""

import json
from collections.abc import AsyncIterator

import grpc
from google.api.httpbody_pb2 import HttpBody

from redoma.chat.v1 import (
    conversation_pb2,
    conversation_pb2_grpc,
    message_pb2,
    message_pb2_grpc,
    openai_pb2,
    openai_pb2_grpc,
)
from redoma.chat.v1.message_pb2 import Message
from redoma.model.v1 import engine_pb2, engine_pb2_grpc
from redoma.model.v1.model_pb2 import Model
from tests.unit.cli.conformance.tenancy import Context, Servicer, abort, page_token, read_page_token, telling
from tests.unit.cli.conformance.world import Defect, Kept, Refused, absent

RATES = (("x-ratelimit-limit-requests", "100"), ("x-ratelimit-remaining-requests", "99"))


@telling
class Conversations(Servicer, conversation_pb2_grpc.ConversationServiceServicer):
    async def CreateConversation(
        self, request: conversation_pb2.CreateConversationRequest, context: Context
    ) -> conversation_pb2.CreateConversationResponse:
        tenant = self.tenant(context, request.parent)
        made = conversation_pb2.Conversation()
        made.CopyFrom(request.conversation)
        made.name = f"tenants/{tenant}/conversations/c{len(self.world.kept):011d}"
        self.world.kept[made.name] = Kept(self.who(context).principal, made)
        return conversation_pb2.CreateConversationResponse(conversation=made)

    async def GetConversation(
        self, request: conversation_pb2.GetConversationRequest, context: Context
    ) -> conversation_pb2.GetConversationResponse:
        kept = self.world.keep(request.name, self.who(context))
        return conversation_pb2.GetConversationResponse(conversation=kept.conversation)

    async def ListConversations(
        self, request: conversation_pb2.ListConversationsRequest, context: Context
    ) -> conversation_pb2.ListConversationsResponse:
        self.tenant(context, request.parent)
        who = self.who(context)
        foreign = self.world.has(Defect.TAKES_FOREIGN_PAGE_TOKENS)
        first = read_page_token(request.page_token, who.principal, foreign=foreign)
        seen = [
            kept.conversation
            for kept in self.world.kept.values()
            if (self.world.sees(who, kept) or (foreign and request.page_token))
            and request.filter in kept.conversation.title
        ]
        size = request.page_size or 50
        token = page_token(who.principal, first + size) if len(seen) > first + size else ""
        return conversation_pb2.ListConversationsResponse(
            conversations=seen[first : first + size], next_page_token=token
        )

    async def UpdateConversation(
        self, request: conversation_pb2.UpdateConversationRequest, context: Context
    ) -> conversation_pb2.UpdateConversationResponse:
        kept = self.world.keep(request.conversation.name, self.who(context))
        kept.conversation.title = request.conversation.title
        return conversation_pb2.UpdateConversationResponse(conversation=kept.conversation)

    async def DeleteConversation(
        self, request: conversation_pb2.DeleteConversationRequest, context: Context
    ) -> conversation_pb2.DeleteConversationResponse:
        self.world.keep(request.name, self.who(context))
        del self.world.kept[request.name]
        return conversation_pb2.DeleteConversationResponse()

    async def GetMessage(
        self, request: conversation_pb2.GetMessageRequest, context: Context
    ) -> conversation_pb2.GetMessageResponse:
        kept = self.world.keep(request.name.partition("/messages/")[0], self.who(context))
        found = next((message for message in kept.messages if message.name == request.name), None)
        if found is None:
            raise absent(request.name)
        return conversation_pb2.GetMessageResponse(message=found)

    async def ListMessages(
        self, request: conversation_pb2.ListMessagesRequest, context: Context
    ) -> conversation_pb2.ListMessagesResponse:
        kept = self.world.keep(request.parent, self.who(context))
        return conversation_pb2.ListMessagesResponse(messages=kept.messages)


@telling
class Chat(Servicer, message_pb2_grpc.ChatServiceServicer):
    async def SendMessage(
        self, request: message_pb2.SendMessageRequest, context: Context
    ) -> AsyncIterator[message_pb2.SendMessageResponse]:
        who = self.who(context)
        kept = self.world.keep(request.conversation, who)
        said = Message(name=f"{request.conversation}/messages/m{len(kept.messages):011d}", content=request.content)
        answer = Message(name=f"{said.name}a", state=Message.STATE_STREAMING)
        kept.messages += [said, answer]
        kept.conversation.latest_message = answer.name
        try:
            speech = self.world.speak(who, request.content, request.sampling.max_output_tokens, context)
            async for usage in speech:
                answer.usage.CopyFrom(usage)
                if usage.output_tokens:
                    yield message_pb2.SendMessageResponse(delta=message_pb2.AnswerDelta(text="x ", usage=usage))
                else:
                    begun = message_pb2.AnswerStarted(input_tokens=usage.input_tokens)
                    yield message_pb2.SendMessageResponse(started=begun)
            answer.state = Message.STATE_COMPLETE
            yield message_pb2.SendMessageResponse(done=message_pb2.AnswerDone(answer=answer))
        finally:
            if answer.state != Message.STATE_COMPLETE and not self.world.has(Defect.LEAVES_ANSWERS_STREAMING):
                answer.state = Message.STATE_PARTIAL

    async def ContinueMessage(
        self, request: message_pb2.ContinueMessageRequest, context: Context
    ) -> AsyncIterator[message_pb2.ContinueMessageResponse]:
        self.world.keep(request.message.partition("/messages/")[0], self.who(context))
        raise absent(request.message)
        yield


@telling
class OpenAI(Servicer, openai_pb2_grpc.OpenAIServiceServicer):
    async def ListModels(self, request: openai_pb2.ListModelsRequest, context: Context) -> HttpBody:
        return HttpBody(content_type="application/json", data=b'{"object":"list","data":[]}')

    async def GetModel(self, request: openai_pb2.GetModelRequest, context: Context) -> HttpBody:
        raise absent("The model")

    async def Ask(self, request: HttpBody, context: Context) -> HttpBody:
        self._body(request)
        return HttpBody(content_type="application/json", data=b'{"answer":"x"}')

    async def CreateChatCompletion(self, request: HttpBody, context: Context) -> AsyncIterator[HttpBody]:
        body = self._body(request)
        rates = () if self.world.has(Defect.REFUSES_WITHOUT_HEADERS) else RATES
        began = False
        try:
            prompt = " ".join(message["content"] for message in body["messages"])
            async for usage in self.world.speak(self.who(context), prompt, body.get("max_tokens", 0), context):
                if not began:
                    await context.send_initial_metadata(rates)
                    began = True
                text = "x " if usage.output_tokens else ""
                yield _event({"choices": [{"index": 0, "delta": {"content": text}}]})
        except Refused as refused:
            if began:
                yield _event({"error": {"message": "ended", "code": refused.failure.reason.lower()}})
            refused.headers = (*refused.headers, *rates)
            await abort(context, refused)
        counts = {"prompt_tokens": usage.input_tokens, "completion_tokens": usage.output_tokens}
        details = {"prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens}}
        yield _event({"choices": [], "usage": {**counts, **details}})
        yield HttpBody(content_type="text/event-stream", data=b"data: [DONE]\n\n")

    def _body(self, request: HttpBody) -> dict:  # type: ignore[type-arg]
        try:
            body = json.loads(request.data)
            texts = all(isinstance(message["content"], str) for message in body["messages"]) and body["messages"]
            if texts and isinstance(body.get("max_tokens", 0), int):
                return dict(body)
        except (ValueError, KeyError, TypeError):
            pass
        told = request.data.decode()[:200] if self.world.has(Defect.ECHOES_BODIES) else "The body is not well-formed."
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", told)


def _event(content: object) -> HttpBody:
    return HttpBody(content_type="text/event-stream", data=f"data: {json.dumps(content)}\n\n".encode())


@telling
class Engine(Servicer, engine_pb2_grpc.EngineServiceServicer):
    async def GetEngineState(
        self, request: engine_pb2.GetEngineStateRequest, context: Context
    ) -> engine_pb2.GetEngineStateResponse:
        running: dict[str, int] = {}
        for run in self.world.runs:
            running[run.who.tenant] = running.get(run.who.tenant, 0) + 1
        state = engine_pb2.ModelState(model=Model(id="double"), adapters=self.world.adapters)
        state.tenants.extend(engine_pb2.TenantState(tenant=tenant, running=count) for tenant, count in running.items())
        return engine_pb2.GetEngineStateResponse(state=engine_pb2.EngineState(models=[state]))

    async def ListUsageRecords(
        self, request: engine_pb2.ListUsageRecordsRequest, context: Context
    ) -> engine_pb2.ListUsageRecordsResponse:
        records = [record for record in self.world.journal if record.tenant == request.tenant]
        return engine_pb2.ListUsageRecordsResponse(records=reversed(records))
