"""People get what is held of them, and an erasure is complete only when every place has said so."""

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from google.protobuf.duration_pb2 import Duration

from redoma.tenant.v1 import api_key_pb2, privacy_pb2, privacy_pb2_grpc, tenant_pb2, user_pb2, user_pb2_grpc
from redoma_kit.errors import Failure, failure_from_status
from redoma_kit.settings import UpstreamSettings
from redoma_tenant.store.erasures import SqlErasureStore
from tests.conftest import TestPki
from tests.fakes.content_service import FakeContent, FakePurge, FakeServer
from tests.fakes.replica_directory import FakeEgress, FakeReplicaDirectory
from tests.rpc.tenant.tenant_site import API_KEYS, TENANTS, TenantSite

PRIVACY = "/redoma.tenant.v1.PrivacyService/"
USERS = "/redoma.tenant.v1.UserService/"
REPLICA, OTHER = "private.model-0", "other.model-0"
WAIT_S = 30.0
POLLS, POLL_S = 600, 0.05


class Places:
    """A running tenant service, with the chat and model services that it erases from."""

    def __init__(self, pki: TestPki, folder: Path, database_url: str) -> None:
        self.site = TenantSite(pki, folder, database_url)
        self.content, self.purge = FakeContent(), FakePurge()
        self._chat = FakeServer(pki.tls("public", "chat"))
        self.provisioner = FakeReplicaDirectory(pki.tls("public", "provisioner"))
        self.egress = FakeEgress(pki.tls("public", "egress"), **{REPLICA: self.purge})

    async def start(self) -> None:
        await self._chat.start(content=self.content)
        await self.egress.start()
        await self.provisioner.start()
        await self.provisioner.show(REPLICA)
        await self.start_tenant()

    async def start_tenant(self) -> None:
        chat = UpstreamSettings(target=f"127.0.0.1:{self._chat.port}", server_name="chat.public.redoma")
        await self.site.start(chat=chat, egress=self.egress.upstream, provisioner=self.provisioner.upstream)

    async def stop(self) -> None:
        await self.site.stop()
        await self._chat.stop()
        await self.egress.stop()
        await self.provisioner.stop()

    def metadata(self, method: str, **claims: Any) -> Any:
        claims = {"method": f"{PRIVACY}{method}", "tenant": "acme", "scopes": ("tenant.owner",)} | claims
        return self.site.pki.metadata(["tenant"], **claims)

    @property
    def stub(self) -> Any:
        return privacy_pb2_grpc.PrivacyServiceStub(self.site.channel())

    async def call(self, method: str, request: Any, **claims: Any) -> Any:
        return await getattr(self.stub, method)(request, metadata=self.metadata(method, **claims), timeout=WAIT_S)

    async def erase(self, principal: str = "", **claims: Any) -> privacy_pb2.Erasure:
        request = privacy_pb2.EraseDataRequest(parent="tenants/acme", principal=principal, purpose="ticket 4711")
        erasure: privacy_pb2.Erasure = (await self.call("EraseData", request, **claims)).erasure
        return erasure

    async def erasure(self, name: str) -> privacy_pb2.Erasure:
        response = await self.call("GetErasure", privacy_pb2.GetErasureRequest(name=name))
        erasure: privacy_pb2.Erasure = response.erasure
        return erasure

    async def until(self, name: str, holds: Callable[[privacy_pb2.Erasure], object]) -> privacy_pb2.Erasure:
        for _ in range(POLLS):
            erasure = await self.erasure(name)
            if holds(erasure):
                return erasure
            await asyncio.sleep(POLL_S)
        raise AssertionError(f"waited in vain; it is {erasure}")

    async def complete(self, name: str) -> privacy_pb2.Erasure:
        return await self.until(name, lambda erasure: erasure.state == privacy_pb2.Erasure.STATE_COMPLETE)

    async def archive(self, principal: str = "") -> dict[str, list[Any]]:
        request = privacy_pb2.ExportDataRequest(parent="tenants/acme", principal=principal)
        call = self.stub.ExportData(request, metadata=self.metadata("ExportData"), timeout=WAIT_S)
        data = b"".join([response.data async for response in call])
        with zipfile.ZipFile(io.BytesIO(data)) as opened:
            assert opened.testzip() is None
            assert {"README.md", "manifest.json"} < set(opened.namelist())
            return {
                name: [json.loads(line) for line in opened.read(name).splitlines()]
                for name in opened.namelist()
                if name.endswith(".jsonl")
            }

    async def add_user(self, subject: str) -> str:
        user = user_pb2.User(issuer="https://login.example.com", subject=subject, role=user_pb2.ROLE_MEMBER)
        stub: Any = user_pb2_grpc.UserServiceStub(self.site.channel())
        claims = {"method": f"{USERS}CreateUser", "tenant": "", "scopes": ("platform.admin",)}
        metadata = self.site.pki.metadata(["tenant"], **claims)
        request = user_pb2.CreateUserRequest(parent="tenants/acme", user=user)
        return str((await stub.CreateUser(request, metadata=metadata, timeout=WAIT_S)).user.name)


@pytest.fixture
async def places(pki: TestPki, tmp_path: Path, migrated_url: str) -> AsyncIterator[Places]:
    places = Places(pki, tmp_path, migrated_url)
    await places.start()
    await places.site.add_tenant("acme", display_name="Acme")
    yield places
    await places.stop()


async def refused(call: Any) -> Failure:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    failure = failure_from_status(raised.value)
    assert failure is not None
    return failure


async def test_an_erasure_is_complete_when_chat_and_every_model_process_have_acknowledged(places: Places) -> None:
    places.content.principals = ["tenants/acme/apiKeys/a"]
    erasure = await places.complete((await places.erase()).name)
    assert places.content.erased == [("acme", "")]
    assert places.purge.purged == ["acme"]
    assert "redoma-identity" in places.purge.metadata
    assert places.purge.metadata["redoma-replica"] == REPLICA
    assert [step.place for step in erasure.steps] == ["chat", "model", "tenant"]
    assert dict(erasure.steps[1].erased) == {"kv_cells": 7, "host_bytes": 0, "replicas": 1}
    assert dict(erasure.steps[0].erased) == {"conversations": 1, "messages": 1, "content_keys": 1}


async def test_the_certificate_verifies_with_the_published_keys(places: Places) -> None:
    erasure = await places.complete((await places.erase()).name)
    key = places.site.pki.signing_key.public_key()
    claims = jwt.decode(erasure.certificate, key, algorithms=["EdDSA"])
    assert (claims["sub"], claims["purpose"]) == (erasure.name, "ticket 4711")
    keys = {entry["kid"] for entry in json.loads(places.site.pki.jwks_file.read_text())["keys"]}
    assert jwt.get_unverified_header(erasure.certificate)["kid"] in keys


async def test_a_chat_service_that_is_away_keeps_the_erasure_pending_and_says_why(places: Places) -> None:
    places.content.fails = True
    name = (await places.erase()).name
    erasure = await places.until(name, lambda erasure: erasure.steps[0].problem)
    assert erasure.state == privacy_pb2.Erasure.STATE_PENDING
    assert not erasure.certificate
    places.content.fails = False
    await places.complete(name)


async def test_an_erasure_goes_on_after_a_restart(places: Places) -> None:
    places.content.fails = True
    name = (await places.erase()).name
    await places.until(name, lambda erasure: erasure.steps[1].HasField("acknowledge_time"))
    await places.site.stop()
    places.content.fails = False
    await places.start_tenant()
    await places.complete(name)
    assert places.purge.purged == ["acme"]


async def test_each_replica_purges_once_however_long_another_is_away(places: Places) -> None:
    other = FakePurge()
    other.fails_as = grpc.StatusCode.UNAVAILABLE
    places.egress.replicas[OTHER] = other
    await places.provisioner.show(REPLICA, OTHER)
    name = (await places.erase()).name
    erasure = await places.until(name, lambda erasure: "1. The model other.model-0" in erasure.steps[1].problem)
    assert erasure.state == privacy_pb2.Erasure.STATE_PENDING
    await places.site.stop()
    await places.start_tenant()
    other.fails_as = None
    erasure = await places.complete(name)
    assert (places.purge.purged, other.purged) == (["acme"], ["acme"])
    assert dict(erasure.steps[1].erased) == {"kv_cells": 14, "host_bytes": 0, "replicas": 2}


async def test_a_listed_replica_without_a_way_to_it_holds_the_erasure_until_it_is_gone(places: Places) -> None:
    await places.provisioner.show(REPLICA, OTHER)
    name = (await places.erase()).name
    erasure = await places.until(name, lambda erasure: OTHER in erasure.steps[1].problem)
    assert erasure.state == privacy_pb2.Erasure.STATE_PENDING
    await places.provisioner.show(REPLICA)
    await places.complete(name)
    assert places.purge.purged == ["acme"]


async def test_no_erasure_is_complete_before_the_provisioner_has_said_which_models_there_are(places: Places) -> None:
    await places.site.stop()
    await places.provisioner.stop()
    await places.start_tenant()
    name = (await places.erase()).name
    erasure = await places.until(name, lambda erasure: "provisioner" in erasure.steps[1].problem)
    assert erasure.state == privacy_pb2.Erasure.STATE_PENDING
    assert places.purge.purged == []
    await places.provisioner.start()
    await places.complete(name)
    assert places.purge.purged == ["acme"]


async def test_the_last_list_stands_while_the_provisioner_is_away(places: Places) -> None:
    await places.complete((await places.erase()).name)
    await places.provisioner.stop()
    places.purge.fails_as = grpc.StatusCode.CANCELLED
    name = (await places.erase()).name
    await places.until(name, lambda erasure: REPLICA in erasure.steps[1].problem)
    places.purge.fails_as = None
    await places.complete(name)


async def test_a_person_is_erased_with_what_his_keys_said_and_his_account(places: Places) -> None:
    user = await places.add_user("jo")
    key = (await places.site.add_key("acme", user=user)).api_key.name
    other = (await places.site.add_key("acme")).api_key.name
    former = (await places.site.add_key("acme", user=user, display_name="laptop of jo")).api_key.name
    await places.site.call(f"{API_KEYS}RevokeApiKey", api_key_pb2.RevokeApiKeyRequest(name=former))
    places.content.principals = [user, key, other]
    erasure = await places.complete((await places.erase(principal=user)).name)
    assert places.content.principals == [other]
    assert dict(erasure.steps[2].erased) == {"users": 1}
    states = {found.name: found.state for found in await places.site.list_keys("acme")}
    assert states[key] == api_key_pb2.ApiKey.STATE_REVOKED
    assert states[other] == api_key_pb2.ApiKey.STATE_ACTIVE
    assert "laptop of jo" not in str(await places.site.list_keys("acme"))
    again = await refused(places.erase(principal=user))
    assert again.reason == "RESOURCE_NOT_FOUND"


async def test_an_export_holds_what_is_held_and_no_secret(places: Places) -> None:
    made = await places.site.add_key("acme", display_name="ci")
    places.content.principals = [made.api_key.name]
    found = await places.archive()
    assert found["tenant.jsonl"][0]["display_name"] == "Acme"
    assert found["api_keys.jsonl"][0]["display_name"] == "ci"
    assert [sorted(record) for record in found["conversations.jsonl"]] == [["conversation"], ["message"]]
    assert made.secret not in json.dumps(found)
    assert "digest" not in found["api_keys.jsonl"][0]


async def test_an_export_of_a_principal_holds_nothing_of_others(places: Places) -> None:
    mine = (await places.site.add_key("acme", display_name="mine")).api_key.name
    other = (await places.site.add_key("acme", display_name="another's")).api_key.name
    places.content.principals = [mine, other]
    found = await places.archive(principal=mine)
    assert [record["display_name"] for record in found["api_keys.jsonl"]] == ["mine"]
    assert found["tenant.jsonl"] == []
    assert other not in json.dumps(found["conversations.jsonl"])


async def test_an_export_without_chat_fails_and_is_not_taken_for_whole(places: Places) -> None:
    places.content.fails = True
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await places.archive()
    failure = failure_from_status(raised.value)
    assert failure is not None
    assert failure.reason == "SERVICE_UNREACHABLE"


@pytest.mark.parametrize("scopes", [("tenant.admin",), ("generate",)])
async def test_only_an_owner_may_erase(places: Places, scopes: tuple[str, ...]) -> None:
    failure = await refused(places.erase(scopes=scopes))
    assert failure.reason == "SCOPE_MISSING"
    assert places.content.erased == []


async def test_another_tenants_data_is_out_of_reach(places: Places) -> None:
    await places.site.add_tenant("globex")
    name = (await places.erase()).name
    for method, request in (
        ("EraseData", privacy_pb2.EraseDataRequest(parent="tenants/acme")),
        ("GetErasure", privacy_pb2.GetErasureRequest(name=name)),
        ("ListErasures", privacy_pb2.ListErasuresRequest(parent="tenants/acme")),
    ):
        assert (await refused(places.call(method, request, tenant="globex"))).reason == "TENANT_MISMATCH"


@pytest.mark.parametrize("principal", ["tenants/globex/users/a", "users/a", "tenants/acme", "x" * 300])
async def test_a_principal_of_another_form_or_tenant_is_refused(places: Places, principal: str) -> None:
    assert (await refused(places.erase(principal=principal))).reason == "INVALID_FIELD"


async def test_a_deleted_tenant_is_purged_when_its_time_has_come_and_not_before(places: Places) -> None:
    site = places.site
    await site.add_key("acme")
    request = tenant_pb2.DeleteTenantRequest(name="tenants/acme", grace=Duration(seconds=3_600))
    await site.call(f"{TENANTS}DeleteTenant", request)
    listing = privacy_pb2.ListErasuresRequest(parent="tenants/acme")
    assert not (await places.call("ListErasures", listing)).erasures
    await site.call(f"{TENANTS}UndeleteTenant", tenant_pb2.UndeleteTenantRequest(name="tenants/acme"))
    request.grace.CopyFrom(Duration())
    await site.call(f"{TENANTS}DeleteTenant", request)
    site.clock.ahead = timedelta(seconds=1)
    for _ in range(POLLS):
        if found := (await places.call("ListErasures", listing)).erasures:
            break
        await asyncio.sleep(POLL_S)
    await places.complete(found[0].name)
    keys = await site.call(f"{API_KEYS}ListApiKeys", api_key_pb2.ListApiKeysRequest(parent="tenants/acme"))
    assert not keys.api_keys
    assert not (await site.call(f"{TENANTS}ListTenants", tenant_pb2.ListTenantsRequest())).tenants
    taken = tenant_pb2.CreateTenantRequest(tenant_id="acme")
    assert (await refused(site.call(f"{TENANTS}CreateTenant", taken))).reason == "RESOURCE_EXISTS"


async def test_no_erasure_waits_behind_others_that_can_not_go_on(places: Places) -> None:
    places.content.fails = True
    names = [(await places.erase()).name for _ in range(3)]
    store = SqlErasureStore(places.site.server.database)
    seen: list[str] = []
    last = None
    while found := await store.pending_erasures(last, 1):
        last = found[-1]
        seen.append(last.name)
    assert seen == names
