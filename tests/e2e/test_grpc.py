"""A plain gRPC client against the edge: conversations, isolation, what is not routed, hostile bytes."""

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from redoma.chat.v1 import conversation_pb2, conversation_pb2_grpc, message_pb2, message_pb2_grpc
from redoma.common.v1 import sampling_pb2
from redoma.model.v1 import model_pb2, model_pb2_grpc
from redoma.tenant.v1 import api_key_pb2, api_key_pb2_grpc, tenant_pb2, tenant_pb2_grpc
from tests.e2e.conftest import Site, wait_until

SHORT = sampling_pb2.SamplingOptions(max_output_tokens=8, ignore_eos=True)


def reason_of(error: grpc.RpcError) -> str:
    """Gives the reason in the only ErrorInfo of a failed call."""
    trailers = dict(error.trailing_metadata())  # type: ignore[attr-defined]
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    infos = [
        error_details_pb2.ErrorInfo.FromString(detail.value)
        for detail in status.details
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)
    ]
    assert len(infos) == 1
    return str(infos[0].reason)


def new_conversation(site: Site, channel: grpc.Channel, tenant: str = "acme") -> str:
    """Creates a conversation and gives its name."""
    stub = conversation_pb2_grpc.ConversationServiceStub(channel)
    request = conversation_pb2.CreateConversationRequest(parent="tenants/-")
    return str(stub.CreateConversation(request, metadata=site.bearer(tenant), timeout=60).conversation.name)


def send(
    site: Site, channel: grpc.Channel, name: str, text: str, sampling: sampling_pb2.SamplingOptions = SHORT
) -> list[message_pb2.SendMessageResponse]:
    """Sends a message and gives all events."""
    stub = message_pb2_grpc.ChatServiceStub(channel)
    request = message_pb2.SendMessageRequest(conversation=name, content=text, sampling=sampling)
    return list(stub.SendMessage(request, metadata=site.bearer(), timeout=120))


def test_message_streams_and_is_kept(site: Site) -> None:
    with site.channel() as channel:
        name = new_conversation(site, channel)
        events = send(site, channel, name, "Say hello.")
        kinds = [event.WhichOneof("event") for event in events]
        assert kinds[0] == "started"
        assert kinds[-1] == "done"
        assert kinds.count("delta") >= 2
        answer = events[-1].done.answer
        assert answer.content == "".join(event.delta.text for event in events)
        assert answer.usage.output_tokens == 8
        stub = conversation_pb2_grpc.ConversationServiceStub(channel)
        listed = stub.ListMessages(
            conversation_pb2.ListMessagesRequest(parent=name), metadata=site.bearer(), timeout=60
        ).messages
        assert [message.content for message in listed] == ["Say hello.", answer.content]
        assert listed[1].parent_message == listed[0].name


def test_cut_answer_is_kept_and_continued(site: Site) -> None:
    endless = sampling_pb2.SamplingOptions(max_output_tokens=4_000, ignore_eos=True)
    with site.channel() as channel:
        name = new_conversation(site, channel)
        stub = message_pb2_grpc.ChatServiceStub(channel)
        request = message_pb2.SendMessageRequest(conversation=name, content="Tell a story.", sampling=endless)
        call = stub.SendMessage(request, metadata=site.bearer(), timeout=120)
        seen = ""
        for event in call:
            seen += event.delta.text
            if len(seen) > 20:
                break
        call.cancel()
        conversations = conversation_pb2_grpc.ConversationServiceStub(channel)

        def saved() -> message_pb2.Message | None:
            listing = conversation_pb2.ListMessagesRequest(parent=name)
            answer = conversations.ListMessages(listing, metadata=site.bearer(), timeout=60).messages[-1]
            return answer if answer.state == message_pb2.Message.STATE_PARTIAL else None

        partial = wait_until(saved, "the cut answer to be saved")
        assert partial.content.startswith(seen)
        assert partial.usage.output_tokens > 0
        resume = message_pb2.ContinueMessageRequest(message=partial.name, sampling=SHORT)
        events = list(stub.ContinueMessage(resume, metadata=site.bearer(), timeout=120))
        whole = events[-1].done.answer
        assert whole.content == partial.content + "".join(event.delta.text for event in events)
        assert whole.usage.output_tokens == partial.usage.output_tokens + 8


def test_another_tenants_conversation_is_out_of_reach(site: Site) -> None:
    with site.channel() as channel:
        name = new_conversation(site, channel, "acme")
        stub = conversation_pb2_grpc.ConversationServiceStub(channel)
        chat = message_pb2_grpc.ChatServiceStub(channel)
        guess = name.replace("tenants/acme", "tenants/globex")
        globex = {"metadata": site.bearer("globex"), "timeout": 60}
        calls = [
            (stub.GetConversation, conversation_pb2.GetConversationRequest(name=name)),
            (stub.DeleteConversation, conversation_pb2.DeleteConversationRequest(name=name)),
            (stub.ListMessages, conversation_pb2.ListMessagesRequest(parent=name)),
            (stub.ListConversations, conversation_pb2.ListConversationsRequest(parent="tenants/acme")),
            (stub.CreateConversation, conversation_pb2.CreateConversationRequest(parent="tenants/acme")),
            (stub.GetMessage, conversation_pb2.GetMessageRequest(name=f"{name}/messages/x")),
            (chat.ContinueMessage, message_pb2.ContinueMessageRequest(message=f"{name}/messages/x")),
            (chat.SendMessage, message_pb2.SendMessageRequest(conversation=name, content="x")),
            (
                stub.UpdateConversation,
                conversation_pb2.UpdateConversationRequest(
                    conversation=conversation_pb2.Conversation(name=name, title="x"),
                    update_mask=FieldMask(paths=["title"]),
                ),
            ),
        ]
        for method, request in calls:
            with pytest.raises(grpc.RpcError) as caught:
                answer = method(request, **globex)
                list(answer if hasattr(answer, "__next__") else [answer])
            assert reason_of(caught.value) == "TENANT_MISMATCH", request
        for request in (name, guess):
            with pytest.raises(grpc.RpcError) as caught:
                stub.GetConversation(conversation_pb2.GetConversationRequest(name=guess), **globex)
            assert reason_of(caught.value) == "RESOURCE_NOT_FOUND", request
        own = stub.ListConversations(conversation_pb2.ListConversationsRequest(parent="tenants/-"), **globex)
        assert name not in [conversation.name for conversation in own.conversations]
        assert stub.GetConversation(
            conversation_pb2.GetConversationRequest(name=name), metadata=site.bearer("acme"), timeout=60
        )


def test_revoked_key_is_refused_at_once(site: Site) -> None:
    with site.channel() as channel:
        keys = api_key_pb2_grpc.ApiKeyServiceStub(channel)
        admin = (("authorization", f"Bearer {site.admin_key}"),)
        made = keys.CreateApiKey(api_key_pb2.CreateApiKeyRequest(parent="tenants/acme"), metadata=admin, timeout=60)
        stub = conversation_pb2_grpc.ConversationServiceStub(channel)
        listing = conversation_pb2.ListConversationsRequest(parent="tenants/-")
        bearer = (("authorization", f"Bearer {made.secret}"),)
        stub.ListConversations(listing, metadata=bearer, timeout=60)
        keys.RevokeApiKey(api_key_pb2.RevokeApiKeyRequest(name=made.api_key.name), metadata=admin, timeout=60)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListConversations(listing, metadata=bearer, timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]
        assert reason_of(caught.value) == "CREDENTIAL_REVOKED"


def test_tenant_key_may_not_administer(site: Site) -> None:
    with site.channel() as channel:
        tenants = tenant_pb2_grpc.TenantServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            tenants.ListTenants(tenant_pb2.ListTenantsRequest(), metadata=site.bearer(), timeout=60)
        assert reason_of(caught.value) == "SCOPE_MISSING"


def test_private_methods_and_reflection_are_not_routed(site: Site) -> None:
    with site.channel() as channel:
        model = model_pb2_grpc.ModelServiceStub(channel)
        checks = tenant_pb2_grpc.TenantServiceStub(channel)
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        for call in (
            lambda: model.ListModels(model_pb2.ListModelsRequest(), metadata=site.bearer(), timeout=60),
            lambda: checks.GetContentChecks(tenant_pb2.GetContentChecksRequest(), metadata=site.bearer(), timeout=60),
            lambda: list(reflection.ServerReflectionInfo(iter([question]), metadata=site.bearer(), timeout=60)),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code() in (  # type: ignore[attr-defined]
                grpc.StatusCode.UNIMPLEMENTED,
                grpc.StatusCode.PERMISSION_DENIED,
                grpc.StatusCode.NOT_FOUND,
            )


def test_identity_in_the_clients_metadata_is_dropped(site: Site) -> None:
    with site.channel() as channel:
        stub = conversation_pb2_grpc.ConversationServiceStub(channel)
        listing = conversation_pb2.ListConversationsRequest(parent="tenants/-")
        with pytest.raises(grpc.RpcError) as caught:
            stub.ListConversations(listing, metadata=(("redoma-identity", "forged"),), timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]
        stub.ListConversations(listing, metadata=(*site.bearer(), ("redoma-identity", "forged")), timeout=60)


@pytest.mark.parametrize("payload", [b"\xff" * 64, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xff\xfe"])
def test_malformed_protobuf_is_refused_and_the_server_lives(site: Site, payload: bytes) -> None:
    with site.channel() as channel:
        raw = channel.unary_unary(
            "/redoma.chat.v1.ConversationService/CreateConversation",
            request_serializer=lambda value: value,
            response_deserializer=lambda value: value,
        )
        with pytest.raises(grpc.RpcError) as caught:
            raw(payload, metadata=site.bearer(), timeout=60)
        assert reason_of(caught.value) == "INVALID_FIELD"
        assert new_conversation(site, channel)


def test_deadline_of_the_client_ends_the_stream(site: Site) -> None:
    endless = sampling_pb2.SamplingOptions(max_output_tokens=8_000, ignore_eos=True)
    with site.channel() as channel:
        name = new_conversation(site, channel)
        stub = message_pb2_grpc.ChatServiceStub(channel)
        request = message_pb2.SendMessageRequest(conversation=name, content="Tell a story.", sampling=endless)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.SendMessage(request, metadata=site.bearer(), timeout=2))
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]
    wait_until(lambda: site.metric("redoma_model_running_requests") == 0, "the slot to be free", 20)
