"""`redoma audit`, against a stand-in that exports what the tenant service's own chain gives, whole or tampered with."""

import json
from collections.abc import Callable, Iterator
from concurrent import futures
from datetime import UTC, datetime
from pathlib import Path

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from redoma.tenant.v1 import audit_pb2 as pb
from redoma.tenant.v1 import audit_pb2_grpc
from redoma.tenant.v1.usage_pb2 import EXPORT_FORMAT_CSV, EXPORT_FORMAT_JSON_LINES
from redoma_cli.__main__ import build_app
from redoma_cli.audit_chain import ChainBroken, ExportedChain
from redoma_cli.errors import CliError
from redoma_cli.local.pki import public_jwk
from redoma_tenant.audit.chain import BEGINNING, Entry, Event, Position, extended
from redoma_tenant.audit.export import csv_heading, csv_lines, json_lines
from redoma_tenant.audit.heads import HeadKeys
from redoma_tenant.identity import SigningKey

ENTRIES = 7
TIME = datetime(2026, 11, 3, 12, tzinfo=UTC)


def events(count: int = ENTRIES, chain: str = "acme") -> list[Event]:
    """Gives so many events."""
    return [
        Event(
            chain, TIME, "tenants/acme/apiKeys/k", f"/redoma/Do{number}", "tenants/acme", "::1", "OK", "r", {"a": "é"}
        )
        for number in range(count)
    ]


class Keeper(audit_pb2_grpc.AuditServiceServicer):
    """Plays the tenant service, which may lie."""

    def __init__(self, keys: HeadKeys) -> None:
        self.keys = keys
        self.asked: list[object] = []
        self.keep(extended(BEGINNING, events()))

    def keep(self, entries: list[Entry]) -> None:
        """Replaces the chain by a whole one."""
        self.entries = entries
        last = Position(entries[-1].sequence, entries[-1].hash)
        head = self.keys.signed("acme", last)
        self.data = json_lines(entries)
        self.head = pb.AuditHead(sequence=last.sequence, hash=last.hash, signature=head.signature)

    def ListAuditEntries(
        self, request: pb.ListAuditEntriesRequest, context: grpc.ServicerContext
    ) -> pb.ListAuditEntriesResponse:
        copy = pb.ListAuditEntriesRequest()
        copy.CopyFrom(request)
        self.asked.append(copy)
        if request.parent == "tenants/nobody":
            return pb.ListAuditEntriesResponse()
        first = int(request.page_token or len(self.entries))
        found = [
            pb.AuditEntry(
                sequence=number,
                actor=self.entries[number - 1].event.actor,
                action=self.entries[number - 1].event.action,
                result="OK",
                count=3,
                details={"fields": "weight"},
            )
            for number in range(first, max(0, first - min(request.page_size, 3)), -1)
        ]
        left = first - len(found)
        return pb.ListAuditEntriesResponse(audit_entries=found, next_page_token=str(left) if left else "")

    def ExportAuditEntries(
        self, request: pb.ExportAuditEntriesRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ExportAuditEntriesResponse]:
        self.asked.append(request)
        data = self.data
        if request.format == EXPORT_FORMAT_CSV:
            data = csv_heading() + csv_lines(self.entries)
        for start in range(0, len(data), 700):
            yield pb.ExportAuditEntriesResponse(data=data[start : start + 700])
        yield pb.ExportAuditEntriesResponse(head=self.head)

    def VerifyAuditChain(
        self, request: pb.VerifyAuditChainRequest, context: grpc.ServicerContext
    ) -> pb.VerifyAuditChainResponse:
        raise AssertionError("the program verifies itself")


class Program:
    """Runs commands against the stand-in, in a folder of their own."""

    def __init__(self, edge: str, keeper: Keeper, folder: Path) -> None:
        self.edge = edge
        self.keeper = keeper
        self.folder = folder
        self.jwks = folder / "jwks.json"
        self.head = folder / "noted.json"

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(build_app(), ["audit", *arguments, "--edge", self.edge, "--key", "rdm_k"])

    def ok(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.output

    def verify(self, *more: str) -> Result:
        return self.run("verify", "acme", "--jwks", str(self.jwks), "--head", str(self.head), *more)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    monkeypatch.setenv("REDOMA_HOME", str(tmp_path / "home"))
    private = Ed25519PrivateKey.generate()
    jwk = public_jwk(private.public_key())
    keeper = Keeper(HeadKeys(SigningKey(private, jwk["kid"]), tmp_path / "jwks.json"))
    server = grpc.server(futures.ThreadPoolExecutor(4))
    audit_pb2_grpc.add_AuditServiceServicer_to_server(keeper, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    made = Program(f"http://127.0.0.1:{port}", keeper, tmp_path)
    made.jwks.write_text(json.dumps({"keys": [jwk]}))
    yield made
    server.stop(None)


def test_a_whole_chain_is_whole_and_its_head_noted(program: Program) -> None:
    assert "7 entries" in program.ok("verify", "acme", "--jwks", str(program.jwks), "--head", str(program.head))
    assert json.loads(program.head.read_text()) == {
        "chain": "tenants/acme",
        "sequence": 7,
        "hash": program.keeper.head.hash,
        "signature": program.keeper.head.signature,
    }
    program.keeper.keep([*program.keeper.entries, *extended(_end(program.keeper.entries), events(2))])
    assert json.loads(program.ok("verify", "acme", "--head", str(program.head), "--json"))["sequence"] == 9
    assert json.loads(program.head.read_text())["sequence"] == 9


def _end(entries: list[Entry]) -> Position:
    return Position(entries[-1].sequence, entries[-1].hash)


def _edited(lines: list[bytes]) -> list[bytes]:
    return [*lines[:3], lines[3].replace(b"/redoma/Do3", b"/redoma/Do9"), *lines[4:]]


def _deleted(lines: list[bytes]) -> list[bytes]:
    return lines[:3] + lines[4:]


def _reordered(lines: list[bytes]) -> list[bytes]:
    return [*lines[:3], lines[4], lines[3], *lines[5:]]


def _doubled(lines: list[bytes]) -> list[bytes]:
    return [*lines[:3], lines[2], *lines[3:]]


def _garbled(lines: list[bytes]) -> list[bytes]:
    return [*lines[:3], b"{\n", *lines[4:]]


def _shortened(lines: list[bytes]) -> list[bytes]:
    return lines[:3]


def _cut(lines: list[bytes]) -> list[bytes]:
    return [*lines[:3], lines[3][:-5]]


@pytest.mark.parametrize("change", [_edited, _deleted, _reordered, _doubled, _garbled, _shortened, _cut])
def test_what_was_changed_is_named_and_the_status_is_1(
    program: Program, change: Callable[[list[bytes]], list[bytes]]
) -> None:
    program.keeper.data = b"".join(change(program.keeper.data.splitlines(keepends=True)))
    result = program.verify()
    assert result.exit_code == 1
    assert "broken at entry 4" in result.output
    assert not program.head.exists()
    as_json = json.loads(program.verify("--json").stdout)
    assert (as_json["intact"], as_json["broken_sequence"]) == (False, 4)


def test_a_chain_written_anew_and_not_signed_is_found(program: Program) -> None:
    signature = program.keeper.head.signature
    program.keeper.keep(extended(BEGINNING, [*events(3), *events(4)]))
    program.keeper.head.signature = signature
    result = program.verify()
    assert result.exit_code == 1
    assert "signature" in result.output


def test_a_head_that_was_signed_for_another_chain_is_found(program: Program) -> None:
    position = _end(program.keeper.entries)
    program.keeper.head.signature = program.keeper.keys.signed("globex", position).signature
    assert program.verify().exit_code == 1


def test_a_head_that_is_an_identity_is_found(program: Program, tmp_path: Path) -> None:
    claims = {"chain": "tenants/acme", "sequence": 7, "hash": program.keeper.head.hash}
    key = program.keeper.keys._key
    program.keeper.head.signature = jwt.encode(claims, key.private, algorithm="EdDSA", headers={"kid": key.id})
    assert program.verify().exit_code == 1


def test_a_chain_written_anew_and_signed_differs_from_the_noted_head(program: Program) -> None:
    assert program.verify().exit_code == 0
    noted = program.head.read_text()
    program.keeper.keep(extended(BEGINNING, [*events(3), *events(6)]))
    result = program.verify()
    assert result.exit_code == 1
    assert "broken at entry 7" in result.output
    # What was noted is kept.
    assert program.head.read_text() == noted


def test_a_chain_put_back_differs_from_the_noted_head(program: Program) -> None:
    assert program.verify().exit_code == 0
    program.keeper.keep(program.keeper.entries[:5])
    result = program.verify()
    assert result.exit_code == 1
    assert "7 had been noted" in result.output


def test_a_head_of_another_chain_is_no_head_of_this(program: Program) -> None:
    program.head.write_text(json.dumps({"chain": "tenants/globex", "sequence": 2, "hash": "x", "signature": ""}))
    program.keeper.keep(extended(BEGINNING, events(1)))
    result = program.verify()
    assert isinstance(result.exception, CliError)
    assert "tenants/globex" in result.exception.message


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"sequence": "x"}'])
def test_files_that_are_no_heads_or_keys_are_told(program: Program, content: str) -> None:
    program.head.write_text(content)
    assert isinstance(program.verify().exception, CliError)
    program.head.unlink()
    program.jwks.write_text(content)
    assert isinstance(program.verify().exception, CliError)


def test_an_export_is_verified_without_the_service(program: Program) -> None:
    file = program.folder / "acme.jsonl"
    program.ok("export", "acme", "--output", str(file))
    assert json.loads((program.folder / "acme.jsonl.head.json").read_text())["sequence"] == 7
    asked = len(program.keeper.asked)
    assert "its signature is good" in program.ok("verify", "--file", str(file), "--jwks", str(program.jwks))
    assert len(program.keeper.asked) == asked
    file.write_bytes(b"".join(_edited(file.read_bytes().splitlines(keepends=True))))
    assert program.run("verify", "--file", str(file)).exit_code == 1


def test_an_export_replaces_no_file_and_leaves_no_half(program: Program) -> None:
    file = program.folder / "acme.csv"
    program.ok("export", "acme", "--output", str(file), "--format", "csv")
    assert file.read_bytes().startswith(b"name,sequence,time,")
    assert isinstance(program.run("export", "acme", "-o", str(file)).exception, CliError)
    assert isinstance(program.run("export", "acme", "-o", str(file), "--format", "xml").exception, CliError)
    assert not list(program.folder.glob("*.part"))


def test_list_asks_for_what_is_wanted_page_by_page(program: Program) -> None:
    shown = program.ok("list", "acme", "--action", "Do", "--since", "7d", "--limit", "5")
    assert [line.split()[0] for line in shown.splitlines()[1:]] == ["7", "6", "5", "4", "3"]
    assert "fields=weight" in shown
    first, *_ = program.keeper.asked
    assert isinstance(first, pb.ListAuditEntriesRequest)
    assert (first.parent, first.action, first.page_size) == ("tenants/acme", "Do", 5)
    assert first.HasField("start_time")


@pytest.mark.parametrize(
    ("named", "parent"),
    [((), "tenants/-"), (("platform",), "platform"), (("acme",), "tenants/acme"), (("tenants/x",), "tenants/x")],
)
def test_a_chain_is_named_by_its_tenant(program: Program, named: tuple[str, ...], parent: str) -> None:
    program.ok("list", *named, "--json")
    request = program.keeper.asked[0]
    assert isinstance(request, pb.ListAuditEntriesRequest)
    assert request.parent == parent


def test_a_chain_without_entries_is_whole(program: Program) -> None:
    program.keeper.data, program.keeper.head = b"", pb.AuditHead(hash="0" * 64)
    assert "0 entries" in program.ok("verify", "nobody", "--jwks", str(program.jwks))


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@given(st.lists(st.tuples(TEXT, TEXT, st.dictionaries(st.text("abc_", min_size=1), TEXT)), min_size=1), st.integers(1))
def test_both_sides_compute_the_same_hashes(content: list[tuple[str, str, dict[str, str]]], size: int) -> None:
    chain = [Event("acme", TIME, actor, action, "", "", "OK", "", details) for actor, action, details in content]
    data = json_lines(extended(BEGINNING, chain))
    follower = ExportedChain()
    for start in range(0, len(data), size):
        follower.feed(data[start : start + size])
    follower.end(None)
    assert follower.sequence == len(content)
    with pytest.raises(ChainBroken):
        # A chain that goes on after its end.
        follower.feed(data)


def test_the_form_is_asked_for(program: Program) -> None:
    program.ok("verify", "acme")
    assert any(
        isinstance(asked, pb.ExportAuditEntriesRequest) and asked.format == EXPORT_FORMAT_JSON_LINES
        for asked in program.keeper.asked
    )
