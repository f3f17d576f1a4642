"""What the design promises on a running site: a frozen model, a locked database, TLS, a storm of dropped streams."""

import json
import os
import random
import signal
import socket
import sqlite3
import ssl
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from redoma.chat.v1 import conversation_pb2, conversation_pb2_grpc, message_pb2, message_pb2_grpc
from redoma.common.v1 import sampling_pb2
from tests.e2e.conftest import Site, wait_until
from tests.e2e.test_grpc import new_conversation, reason_of, send
from tests.e2e.test_recovery import ENDLESS, answers

SERVICES = (
    *(("public", name) for name in ("chat", "tenant", "provisioner", "egress")),
    *(("private", name) for name in ("model", "provisioner")),
)

STREAMS = 3


class Reader(threading.Thread):
    """Reads an endless answer in a thread of its own, and keeps how it ended."""

    def __init__(self, site: Site, channel: grpc.Channel, conversation: str, sampling: Any = ENDLESS) -> None:
        super().__init__(daemon=True)
        self._site = site
        self._stub = message_pb2_grpc.ChatServiceStub(channel)
        self._request = message_pb2.SendMessageRequest(
            conversation=conversation, content="Tell a story.", sampling=sampling
        )
        self.conversation = conversation
        self.flows = threading.Event()
        self.error: grpc.RpcError | None = None
        self.last: Any = None
        self.start()

    def run(self) -> None:
        try:
            for event in self._stub.SendMessage(self._request, metadata=self._site.bearer(), timeout=120):
                self.last = event
                if event.delta.usage.output_tokens >= 5:
                    self.flows.set()
        except grpc.RpcError as error:
            self.error = error


def history(site: Site, channel: grpc.Channel, conversation: str) -> list[message_pb2.Message]:
    """Lists a conversation's messages."""
    stub = conversation_pb2_grpc.ConversationServiceStub(channel)
    request = conversation_pb2.ListMessagesRequest(parent=conversation)
    return list(stub.ListMessages(request, metadata=site.bearer(), timeout=60).messages)


def refusal(site: Site, channel: grpc.Channel, conversation: str) -> str:
    """Sends a message that must be refused, and gives the reason."""
    with pytest.raises(grpc.RpcError) as caught:
        send(site, channel, conversation, "Hi.")
    return reason_of(caught.value)


def frozen(pid: int) -> bool:
    """Says whether the process is there and stopped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def test_frozen_model_is_noticed_while_it_is_still_frozen(site: Site) -> None:
    with site.channel() as channel:
        spare = new_conversation(site, channel)
        readers = [Reader(site, channel, new_conversation(site, channel)) for _ in range(STREAMS)]
        for reader in readers:
            assert reader.flows.wait(60)
        pid = site.kill("model", signal.SIGSTOP)
        for reader in readers:
            reader.join(60)
        # Not the supervisor's kill ended them: the pings did, within the 3 s of the promise.
        assert frozen(pid)
        assert refusal(site, channel, spare) == "MODEL_UNREACHABLE"
        saved = [history(site, channel, reader.conversation)[-1] for reader in readers]
        assert frozen(pid)
        for reader in readers:
            assert reader.error is not None
            assert reason_of(reader.error) == "MODEL_UNREACHABLE"
        assert {answer.state for answer in saved} == {message_pb2.Message.STATE_PARTIAL}
        assert all(answer.content for answer in saved)
    wait_until(lambda: answers(site), "an answer through the edge")


def test_locked_database_is_told_leaves_nothing_half_written_and_hurts_no_running_answer(site: Site) -> None:
    with site.channel() as channel:
        spare = new_conversation(site, channel)
        reader = Reader(
            site,
            channel,
            new_conversation(site, channel),
            sampling_pb2.SamplingOptions(max_output_tokens=200, ignore_eos=True),
        )
        assert reader.flows.wait(60)
        with closing(sqlite3.connect(site.home / "data/chat.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            assert refusal(site, channel, spare) == "STORAGE_UNAVAILABLE"
            assert history(site, channel, spare) == []
        reader.join(60)
        assert reader.error is None
        assert reader.last.done.answer.usage.output_tokens == 200
        assert history(site, channel, reader.conversation)[-1] == reader.last.done.answer
        send(site, channel, spare, "Hi.")


def dial(site: Site, place: str, service: str) -> socket.socket:
    """Connects to a service of the public or the private site, where it listens."""
    plain = socket.socket(socket.AF_INET if place == "public" else socket.AF_UNIX)
    plain.settimeout(30)
    if place == "public":
        plain.connect(("127.0.0.1", json.loads((site.home / "config/ports.json").read_text())[service]))
        return plain
    # A path below a temporary folder may be longer than an address may be.
    folder = os.open(site.home / "private/run", os.O_PATH)
    try:
        plain.connect(f"/proc/self/fd/{folder}/{service}.sock")
    finally:
        os.close(folder)
    return plain


@pytest.mark.parametrize(("place", "service"), SERVICES)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_services_speak_tls_1_3_alone(site: Site, place: str, service: str, version: ssl.TLSVersion) -> None:
    identity = site.home / "pki/chat"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(identity / "ca.crt")
    context.load_cert_chain(identity / "tls.crt", identity / "tls.key")
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = version

    def handshake() -> str | None:
        with (
            dial(site, place, service) as plain,
            context.wrap_socket(plain, server_hostname=f"{service}.{place}.redoma") as secure,
        ):
            return secure.version()

    if version is ssl.TLSVersion.TLSv1_3:
        assert handshake() == "TLSv1.3"
    else:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            handshake()


def test_storm_of_dropped_streams_leaves_nothing_behind(site: Site) -> None:
    pids = site.processes()
    chance = random.Random(7)

    def storm() -> None:
        with site.channel() as channel:
            stub = message_pb2_grpc.ChatServiceStub(channel)
            conversation = new_conversation(site, channel)
            for _ in range(10):
                request = message_pb2.SendMessageRequest(
                    conversation=conversation, content="Tell a story.", sampling=ENDLESS
                )
                call = stub.SendMessage(request, metadata=site.bearer(), timeout=chance.uniform(0.01, 1.0))
                try:
                    for _event in call:
                        if chance.random() < 0.1:
                            call.cancel()
                except grpc.RpcError:
                    continue

    def one_storm() -> dict[str, int]:
        threads = [threading.Thread(target=storm) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for name in ("running_requests", "waiting_requests"):
            wait_until(lambda name=name: site.metric(f"redoma_model_{name}") == 0, f"{name} to be 0")
        # What is left is the cached prefixes', and nobody's else.
        cells = [site.metric(f"redoma_model_{name}_kv_cells") for name in ("used", "cached")]
        assert cells[0] == cells[1]
        return {name: len(os.listdir(f"/proc/{pids[name]}/fd")) for name in ("chat", "model", "tenant")}

    before = one_storm()
    # Connections to the database are kept for the next storm, and no more than these.
    after = one_storm()
    assert site.processes() == pids
    for name, descriptors in after.items():
        assert descriptors <= before[name] + 16, f"{name} keeps descriptors: {before} then {after}"
    assert answers(site)
