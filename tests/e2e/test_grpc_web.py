"""grpc-web as a browser speaks it: Connect-ES under our own Node, through the edge."""

import json
import os
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor

from redoma.chat.v1 import conversation_pb2, message_pb2
from tests.e2e.conftest import Site, wait_until

FOLDER = Path(__file__).parent / "grpc_web"
NODE = Path(__file__).parents[2] / ".tools/venv/bin/node"


@pytest.fixture(scope="session")
def descriptors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FileDescriptorSet of the chat API for the JavaScript client."""
    files = descriptor_pb2.FileDescriptorSet()
    seen: set[str] = set()

    def add(file: FileDescriptor) -> None:
        if file.name not in seen:
            seen.add(file.name)
            for dependency in file.dependencies:
                add(dependency)
            file.CopyToProto(files.file.add())

    for root in (conversation_pb2, message_pb2):
        add(root.DESCRIPTOR)
    path = tmp_path_factory.mktemp("descriptors") / "chat.binpb"
    path.write_bytes(files.SerializeToString())
    return path


def run(site: Site, descriptors: Path, key: str, *command: str) -> list[dict[str, Any]]:
    """Runs the JavaScript client and gives what it printed."""
    result = subprocess.run(
        [NODE, "client.mjs", descriptors, site.edge, key, *command],
        cwd=FOLDER,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_stream_arrives_in_order_with_its_end(site: Site, descriptors: Path) -> None:
    lines = run(site, descriptors, site.keys["acme"], "send", "Say hello.")
    events = [line["event"] for line in lines if "event" in line]
    assert events[0] == "started"
    assert events[-1] == "done"
    assert events.count("delta") > 1
    assert lines[-1] == {"code": "ok"}


def test_abort_in_the_browser_frees_the_slot(site: Site, descriptors: Path) -> None:
    lines = run(site, descriptors, site.keys["acme"], "abort", "Tell a story.")
    assert lines[-1]["code"] == "Canceled"
    wait_until(lambda: site.metric("redoma_model_running_requests") == 0, "the slot to be free", 20)


def test_deadline_reaches_the_service(site: Site, descriptors: Path) -> None:
    lines = run(site, descriptors, site.keys["acme"], "deadline", "Tell a story.")
    assert lines[-1]["code"] == "DeadlineExceeded"
    wait_until(lambda: site.metric("redoma_model_running_requests") == 0, "the slot to be free", 20)


def test_errors_carry_code_and_details(site: Site, descriptors: Path) -> None:
    refused = run(site, descriptors, "rdm_aaaaaaaa_" + "b" * 43, "send", "x")[-1]
    assert refused["code"] == "Unauthenticated"
    assert refused["details"] == ["google.rpc.ErrorInfo"]
    missing = run(site, descriptors, site.keys["acme"], "get", "tenants/acme/conversations/none")[-1]
    assert missing["code"] == "NotFound"
    assert missing["details"] == ["google.rpc.ErrorInfo"]


@pytest.mark.parametrize(("origin", "allowed"), [("http://localhost:5173", True), ("https://evil.example", False)])
def test_preflight_needs_no_key_and_names_allowed_origins_only(site: Site, origin: str, allowed: bool) -> None:
    request = urllib.request.Request(
        f"{site.edge}/redoma.chat.v1.ChatService/SendMessage",
        method="OPTIONS",
        headers={
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,x-grpc-web,grpc-timeout",
        },
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
        if allowed:
            assert "authorization" in answer.headers["access-control-allow-headers"]
