"""What the design promises when processes die, freeze or are told to stop."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest

from redoma.chat.v1 import conversation_pb2, conversation_pb2_grpc, message_pb2, message_pb2_grpc
from redoma.common.v1 import sampling_pb2
from tests.e2e.conftest import Site, wait_until
from tests.e2e.test_grpc import SHORT, new_conversation, reason_of, send

SERVICES = ("tenant", "chat", "model", "edge")
ENDLESS = sampling_pb2.SamplingOptions(max_output_tokens=4_000, ignore_eos=True)


def answers(site: Site) -> bool:
    """Asks a whole question through the edge."""
    try:
        answer = site.openai(timeout=30).chat.completions.create(
            model="", messages=[{"role": "user", "content": "Hi"}], max_tokens=2
        )
    except openai.OpenAIError:
        return False
    return bool(answer.choices)


@pytest.mark.parametrize("name", SERVICES)
def test_killed_process_comes_back_and_nothing_saved_is_lost(site: Site, name: str) -> None:
    with site.channel() as channel:
        conversation = new_conversation(site, channel)
        saved = send(site, channel, conversation, "Say hello.")[-1].done.answer
    pid = site.kill(name)
    wait_until(lambda: site.processes().get(name) not in (None, pid), f"{name} to be started again")
    wait_until(lambda: answers(site), "an answer through the edge")
    with site.channel() as channel:
        stub = conversation_pb2_grpc.ConversationServiceStub(channel)
        listing = conversation_pb2.ListMessagesRequest(parent=conversation)
        messages = stub.ListMessages(listing, metadata=site.bearer(), timeout=60).messages
    assert messages[-1].content == saved.content


@pytest.mark.parametrize("name", SERVICES)
def test_frozen_process_is_replaced(site: Site, name: str) -> None:
    pid = site.kill(name, signal.SIGSTOP)
    wait_until(lambda: site.processes().get(name) not in (None, pid), f"frozen {name} to be replaced")
    wait_until(lambda: answers(site), "an answer through the edge")
    assert not Path(f"/proc/{pid}").exists()


def test_model_killed_mid_stream_ends_the_stream_with_a_status_and_keeps_the_answer(site: Site) -> None:
    with site.channel() as channel:
        name = new_conversation(site, channel)
        stub = message_pb2_grpc.ChatServiceStub(channel)
        request = message_pb2.SendMessageRequest(conversation=name, content="Tell a story.", sampling=ENDLESS)
        call = stub.SendMessage(request, metadata=site.bearer(), timeout=120)
        seen = ""
        with pytest.raises(grpc.RpcError) as caught:
            for event in call:
                seen += event.delta.text
                if event.delta.usage.output_tokens == 5:
                    site.kill("model")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        assert reason_of(caught.value) == "MODEL_UNREACHABLE"
        listing = conversation_pb2.ListMessagesRequest(parent=name)
        stub_c = conversation_pb2_grpc.ConversationServiceStub(channel)
        answer = stub_c.ListMessages(listing, metadata=site.bearer(), timeout=60).messages[-1]
        assert answer.state == message_pb2.Message.STATE_PARTIAL
        assert answer.content == seen
        wait_until(lambda: answers(site), "an answer through the edge")
        resume = message_pb2.ContinueMessageRequest(message=answer.name, sampling=SHORT)
        whole = list(stub.ContinueMessage(resume, metadata=site.bearer(), timeout=120))[-1].done.answer
        assert whole.content.startswith(seen)


def test_chat_killed_mid_stream_keeps_the_answer_as_partial(site: Site) -> None:
    with site.channel() as channel:
        name = new_conversation(site, channel)
        stub = message_pb2_grpc.ChatServiceStub(channel)
        request = message_pb2.SendMessageRequest(conversation=name, content="Tell a story.", sampling=ENDLESS)
        killed = False
        with pytest.raises(grpc.RpcError):
            for event in stub.SendMessage(request, metadata=site.bearer(), timeout=120):
                if event.delta.usage.output_tokens > 300 and not killed:
                    killed = True
                    site.kill("chat")
        wait_until(lambda: answers(site), "an answer through the edge")
        listing = conversation_pb2.ListMessagesRequest(parent=name)
        stub_c = conversation_pb2_grpc.ConversationServiceStub(channel)

        def messages() -> Any:
            found = stub_c.ListMessages(listing, metadata=site.bearer(), timeout=60).messages
            return found if found[-1].state != message_pb2.Message.STATE_STREAMING else None

        question, answer = wait_until(messages, "the lease of the dead process's answer to lapse")
    assert question.content == "Tell a story."
    assert answer.state == message_pb2.Message.STATE_PARTIAL
    assert answer.content


@pytest.mark.parametrize("name", ["chat", "model"])
def test_sigterm_lets_the_running_stream_finish(site: Site, name: str) -> None:
    """The stream that runs when the process is told to stop gets its `done`; the process is then started again."""
    with site.channel() as channel:
        conversation = new_conversation(site, channel)
        stub = message_pb2_grpc.ChatServiceStub(channel)
        sampling = sampling_pb2.SamplingOptions(max_output_tokens=200, ignore_eos=True)
        request = message_pb2.SendMessageRequest(conversation=conversation, content="Tell a story.", sampling=sampling)
        pid = None
        last: Any = None
        for event in stub.SendMessage(request, metadata=site.bearer(), timeout=120):
            last = event
            if event.delta.usage.output_tokens == 5:
                pid = site.kill(name, signal.SIGTERM)
    assert last.done.answer.usage.output_tokens == 200
    wait_until(lambda: site.processes().get(name) not in (None, pid), f"{name} to be started again")
    wait_until(lambda: answers(site), "an answer through the edge")


def test_tenant_frozen_means_denied_with_503_not_401(site: Site) -> None:
    pid = site.kill("tenant", signal.SIGSTOP)
    try:
        with pytest.raises(openai.APIStatusError) as caught:
            site.openai(timeout=30).models.list()
        assert caught.value.status_code == 503
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: answers(site), "an answer through the edge")


def test_services_outlive_the_supervisor_and_up_adopts_them(site: Site) -> None:
    before = site.processes()
    supervisor = before.pop("supervisor")
    finished = threading.Event()
    failures: list[BaseException] = []

    def stream() -> None:
        try:
            with site.channel() as channel:
                name = new_conversation(site, channel)
                sampling = sampling_pb2.SamplingOptions(max_output_tokens=150, ignore_eos=True)
                send(site, channel, name, "Tell a story.", sampling)
        except BaseException as error:
            failures.append(error)
        finished.set()

    reader = threading.Thread(target=stream)
    reader.start()
    os.kill(supervisor, signal.SIGKILL)
    site.up()
    assert finished.wait(120)
    reader.join()
    assert not failures
    after = site.processes()
    assert after.pop("supervisor") != supervisor
    assert after == before
    site.kill("chat")
    wait_until(lambda: site.processes().get("chat") not in (None, before["chat"]), "the adopted chat to be restarted")
    wait_until(lambda: answers(site), "an answer through the edge")
