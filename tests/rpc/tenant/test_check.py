"""ext_authz: who is let in, with what identity, and how a refusal is told."""

import base64
import json
import sqlite3
from datetime import timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from redoma.tenant.v1 import api_key_pb2, tenant_pb2
from redoma_kit.api_key import new_key
from redoma_kit.identity import IdentityVerifier
from tests.rpc.tenant.tenant_site import (
    API_KEYS,
    ASK,
    SEND,
    TENANTS,
    TenantSite,
    claims_in,
    failure_of_call,
    headers_of,
    identity_in,
    refusal_reason,
)

JSON = {"content-type": "application/json"}


@pytest.fixture
async def key(site: TenantSite) -> str:
    """A key of acme."""
    await site.add_tenant(weight=300)
    return (await site.add_key()).secret


async def test_a_key_becomes_an_identity_for_one_method(site: TenantSite, key: str) -> None:
    response = await site.check(key, SEND)
    identity = IdentityVerifier(site.pki.jwks_file, "chat").verify(identity_in(response))
    assert (identity.tenant, identity.method, identity.weight) == ("acme", SEND, 300)
    assert identity.scopes == {"generate", "conversations"}
    assert identity.principal == (await site.list_keys())[0].name
    claims = claims_in(response)
    assert claims["aud"] == ["chat", "model", "tenant"]
    assert claims["exp"] - claims["iat"] <= 60
    assert (claims["isolation"], claims["models"], claims["adapter"]) == ("SHARED", [], "")


async def test_each_identity_has_an_id_of_its_own(site: TenantSite, key: str) -> None:
    ids = {claims_in(await site.check(key))["jti"] for _ in range(5)}
    assert len(ids) == 5


async def test_the_credential_is_dropped_and_an_inbound_identity_overwritten(site: TenantSite, key: str) -> None:
    response = await site.check(key, headers={"content-type": "application/grpc", "redoma-identity": "forged"})
    assert set(response.ok_response.headers_to_remove) == {"authorization", "x-api-key"}
    option = response.ok_response.headers[0]
    assert option.append_action == option.OVERWRITE_IF_EXISTS_OR_ADD
    assert option.header.value != "forged"
    assert response.dynamic_metadata["tenant"] == "acme"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_bearer_scheme_has_no_case(site: TenantSite, key: str, scheme: str) -> None:
    response = await site.check(None, headers={"authorization": f"{scheme} {key}"})
    assert claims_in(response)["tenant"] == "acme"


async def test_x_api_key_works_where_there_is_no_authorization(site: TenantSite, key: str) -> None:
    assert claims_in(await site.check(None, headers={"x-api-key": key}))["tenant"] == "acme"
    both = await site.check(None, headers={"x-api-key": key, "authorization": "Basic YTpi", **JSON})
    assert both.denied_response.status.code == 401


@pytest.mark.parametrize(
    ("verb", "path", "method"),
    [
        ("POST", "/v1/chat/completions", "CreateChatCompletion"),
        ("POST", "/v1/chat/completions?trace=1", "CreateChatCompletion"),
        ("GET", "/v1/models", "ListModels"),
        ("GET", "/v1/models/smollm2-135m-instruct", "GetModel"),
        ("POST", "/v1/embeddings", "CreateEmbedding"),
        ("POST", "/ask", "Ask"),
    ],
)
async def test_rest_paths_are_those_of_the_protos(
    site: TenantSite, key: str, verb: str, path: str, method: str
) -> None:
    claims = claims_in(await site.check(key, path, verb, JSON))
    assert claims["method"] == f"/redoma.chat.v1.OpenAIService/{method}"


@pytest.mark.parametrize(
    ("verb", "path"),
    [("GET", "/v1/chat/completions"), ("POST", "/v1/models/a/b"), ("GET", "/"), ("GET", ""), ("POST", "/v1/../ask")],
)
async def test_unknown_rest_paths_are_not_found_in_openais_shape(
    site: TenantSite, key: str, verb: str, path: str
) -> None:
    denied = (await site.check(key, path, verb, JSON)).denied_response
    assert denied.status.code == 404
    assert json.loads(denied.body)["error"]["code"] == "resource_not_found"


@pytest.mark.parametrize(
    "path",
    [
        "/redoma.model.v1.ModelService/Generate",
        f"{TENANTS}GetContentChecks",
        "/envoy.service.auth.v3.Authorization/Check",
        "/grpc.health.v1.Health/Check",
    ],
)
async def test_methods_that_are_not_the_edges_are_denied_to_operators_too(site: TenantSite, path: str) -> None:
    response = await site.check(site.bootstrap_key, path)
    assert refusal_reason(response) == "METHOD_DENIED"
    assert response.denied_response.status.code == 403


async def test_a_revoked_key_is_refused_at_once(site: TenantSite, key: str) -> None:
    identity_in(await site.check(key))
    name = (await site.list_keys())[0].name
    await site.call(f"{API_KEYS}RevokeApiKey", api_key_pb2.RevokeApiKeyRequest(name=name))
    response = await site.check(key)
    assert refusal_reason(response) == "CREDENTIAL_REVOKED"
    assert response.denied_response.status.code == 401


async def test_an_expired_key_is_refused(site: TenantSite, key: str) -> None:
    expire_time = Timestamp()
    expire_time.FromDatetime(site.clock() + timedelta(hours=1))
    brief = (await site.add_key(expire_time=expire_time)).secret
    identity_in(await site.check(brief))
    site.clock.ahead = timedelta(hours=1, seconds=1)
    assert refusal_reason(await site.check(brief)) == "CREDENTIAL_EXPIRED"
    identity_in(await site.check(key))


async def test_keys_of_a_disabled_tenant_are_refused_until_it_is_enabled(site: TenantSite, key: str) -> None:
    await site.call(f"{TENANTS}DisableTenant", tenant_pb2.DisableTenantRequest(name="tenants/acme"))
    response = await site.check(key)
    assert refusal_reason(response) == "TENANT_DISABLED"
    assert response.denied_response.status.code == 403
    await site.call(f"{TENANTS}EnableTenant", tenant_pb2.EnableTenantRequest(name="tenants/acme"))
    identity_in(await site.check(key))


async def test_only_who_has_the_whole_key_learns_that_it_was_revoked(site: TenantSite, key: str) -> None:
    name = (await site.list_keys())[0].name
    await site.call(f"{API_KEYS}RevokeApiKey", api_key_pb2.RevokeApiKeyRequest(name=name))
    await site.call(f"{TENANTS}DisableTenant", tenant_pb2.DisableTenantRequest(name="tenants/acme"))
    guess = key[:-1] + ("A" if key[-1] != "A" else "B")
    unknown = await site.check(new_key())
    assert refusal_reason(unknown) == "CREDENTIAL_INVALID"
    assert (await site.check(guess)) == unknown


@pytest.mark.parametrize(
    "credential",
    ["", "rdm_", "sk-1234", "rdm_abcdefgh_" + "a" * 42, "rdm_ABCDEFGH_" + "a" * 43, "x" * 100_000, "rdm_'; --", "ключ"],
)
async def test_malformed_credentials_are_invalid(site: TenantSite, key: str, credential: str) -> None:
    assert refusal_reason(await site.check(credential)) == "CREDENTIAL_INVALID"


async def test_no_credential_is_invalid_and_says_what_to_send(site: TenantSite) -> None:
    response = await site.check(None)
    assert refusal_reason(response) == "CREDENTIAL_INVALID"
    assert "Authorization: Bearer" in response.denied_response.body


@pytest.mark.parametrize("sent", ["", "Bearer", "Bearer ", "Basic Zm9vOmJhcg==", "rdm_bare"])
async def test_another_scheme_is_told_which_to_send(site: TenantSite, sent: str) -> None:
    response = await site.check(None, headers={"authorization": sent, "content-type": "application/grpc"})
    assert refusal_reason(response) == "CREDENTIAL_INVALID"
    assert "Authorization: Bearer" in response.denied_response.body


async def test_a_long_credential_is_refused_without_a_lookup(site: TenantSite, key: str) -> None:
    await _break_database(site)
    assert refusal_reason(await site.check(key + "a" * 256)) == "CREDENTIAL_INVALID"


async def test_rest_refusals_have_openais_shape(site: TenantSite, key: str) -> None:
    denied = (await site.check(new_key(), "/v1/chat/completions", headers=JSON)).denied_response
    assert denied.status.code == 401
    assert json.loads(denied.body) == {
        "error": {
            "message": "The API key is not valid; `redoma key create` makes one.",
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_api_key",
        }
    }
    headers = {option.header.key: option.header.value for option in denied.headers}
    assert headers == {"content-type": "application/json", "www-authenticate": "Bearer"}


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto", "application/grpc-web+proto"])
async def test_grpc_refusals_carry_the_error_info(site: TenantSite, content_type: str) -> None:
    response = await site.check(None, headers={"content-type": content_type})
    assert refusal_reason(response) == "CREDENTIAL_INVALID"
    assert set(headers_of(response)) == {"grpc-status", "grpc-status-details-bin"}
    assert headers_of(response)["grpc-status"] == "16"


async def test_a_key_without_the_scope_is_told_which(site: TenantSite, key: str) -> None:
    admin = (await site.add_key(scopes=["tenant.admin"])).secret
    assert refusal_reason(await site.check(admin, SEND)) == "SCOPE_MISSING"
    response = await site.check(key, f"{API_KEYS}CreateApiKey")
    assert refusal_reason(response) == "SCOPE_MISSING"
    assert "tenant.admin" in response.denied_response.body
    assert "platform.admin" in (await site.check(admin, f"{TENANTS}ListTenants")).denied_response.body


async def test_identities_carry_only_the_scopes_that_fit_the_method(site: TenantSite, key: str) -> None:
    everything = (await site.add_key(scopes=["generate", "conversations", "tenant.admin"])).secret
    assert claims_in(await site.check(everything, SEND))["scopes"] == ["conversations", "generate"]
    admin = claims_in(await site.check(everything, f"{API_KEYS}ListApiKeys"))
    assert (admin["scopes"], admin["aud"]) == (["tenant.admin"], ["tenant"])
    narrow = (await site.add_key(scopes=["generate"])).secret
    assert claims_in(await site.check(narrow, SEND))["scopes"] == ["generate"]


async def test_the_operators_key_administers_and_does_not_chat(site: TenantSite) -> None:
    claims = claims_in(await site.check(site.bootstrap_key, f"{TENANTS}CreateTenant"))
    assert (claims["sub"], claims["tenant"], claims["scopes"]) == ("platform/bootstrap", "", ["platform.admin"])
    response = await site.check(site.bootstrap_key, SEND)
    assert refusal_reason(response) == "SCOPE_MISSING"
    assert "create a tenant key with `redoma key create`" in response.denied_response.body


@pytest.mark.parametrize("content", ["", "\n", None])
async def test_without_a_hash_there_is_no_operators_key(site: TenantSite, content: str | None) -> None:
    await site.stop()
    file = site.folder / "other.sha256"
    if content is not None:
        file.write_text(content)
    await site.start(bootstrap_admin_key_hash_file=file)
    assert refusal_reason(await site.check(site.bootstrap_key, f"{TENANTS}ListTenants")) == "CREDENTIAL_INVALID"


@pytest.mark.parametrize(("service", "folder"), [("model", "private"), ("chat", "public"), ("supervisor", "public")])
async def test_only_the_edge_may_ask(site: TenantSite, key: str, service: str, folder: str) -> None:
    site.channel(service, folder)
    failure = await failure_of_call(site.check(key, service=service))
    assert failure.reason == "METHOD_DENIED"


async def test_a_broken_database_is_unavailable_and_not_unauthenticated(site: TenantSite, key: str) -> None:
    await _break_database(site)
    response = await site.check(key)
    assert refusal_reason(response) == "STORAGE_UNAVAILABLE"
    assert response.denied_response.status.code == 503
    denied = (await site.check(key, "/ask", headers=JSON)).denied_response
    assert denied.status.code == 503
    assert {option.header.key: option.header.value for option in denied.headers}["retry-after"] == "1"
    for text in (denied.body, response.denied_response.body):
        assert "sqlite" not in text.lower()
        assert str(site.folder) not in text


async def test_whether_the_bootstrap_key_still_counts_needs_the_database(site: TenantSite) -> None:
    await _break_database(site)
    response = await site.check(site.bootstrap_key, f"{TENANTS}ListTenants")
    assert refusal_reason(response) == "STORAGE_UNAVAILABLE"


async def test_a_check_does_not_wait_for_a_writer(site: TenantSite, key: str) -> None:
    writer = sqlite3.connect(site.database_file, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE tenants SET weight = 1")
    try:
        assert claims_in(await site.check(key))["weight"] == 300
    finally:
        writer.execute("ROLLBACK")
        writer.close()


async def test_last_use_is_kept_to_the_minute_and_off_the_hot_path(site: TenantSite, key: str) -> None:
    assert not (await site.list_keys())[0].HasField("last_use_time")
    used_at = site.clock()
    await site.check(key)
    await site.server.sign_in.last_uses.flush()
    first = (await site.list_keys())[0].last_use_time.ToDatetime(tzinfo=used_at.tzinfo)
    assert first in {used_at.replace(second=0, microsecond=0), site.clock().replace(second=0, microsecond=0)}
    site.clock.ahead = timedelta(minutes=10)
    await site.check(key)
    await site.stop()
    site.clock.ahead = timedelta()
    await site.start()
    second = (await site.list_keys())[0].last_use_time.ToDatetime(tzinfo=used_at.tzinfo)
    assert timedelta(minutes=9) <= second - first <= timedelta(minutes=11)


async def test_a_refused_key_counts_as_no_use(site: TenantSite, key: str) -> None:
    await site.check(key, f"{TENANTS}ListTenants")
    await site.server.sign_in.last_uses.flush()
    assert not (await site.list_keys())[0].HasField("last_use_time")


async def test_no_credential_in_logs_errors_or_the_database(
    site: TenantSite, key: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    guess, bodies = new_key(), []
    for credential in (key, guess, site.bootstrap_key):
        for path, headers in ((ASK, None), ("/ask", JSON), (f"{TENANTS}ListTenants", None), ("/v1/x", JSON)):
            response = await site.check(credential, path, headers=headers)
            if not response.HasField("ok_response"):
                bodies.append(str(response))
    await _break_database(site)
    bodies.append(str(await site.check(key)))
    captured = capfd.readouterr()
    written = "\n".join((site.log_text.getvalue(), captured.out, captured.err, caplog.text, *bodies))
    assert "refused" in written
    files = b"".join(file.read_bytes() for file in site.folder.rglob("*") if file.is_file())
    for credential in (key, guess, site.bootstrap_key):
        for text in (credential[len("rdm_x7f2k9qa_") :], base64.b64encode(credential.encode()).decode()):
            assert text not in written
            assert text.encode() not in files
    assert key[:12].encode() in files, "the scan must see the database"


async def _break_database(site: TenantSite) -> None:
    """Takes the database away from the running service."""
    await site.server.database.close()
    site.database_file.parent.rename(site.folder / "away")
