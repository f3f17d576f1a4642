"""How keys are compared, which are not looked up, and what of a key and its tenant reaches the identity."""

import hmac
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redoma_kit.api_key import digest_of, new_key, prefix_of
from redoma_tenant.caller import TenantFacts, Verdict, models_of, parse_networks, with_implied
from redoma_tenant.errors import CannotStart
from redoma_tenant.key_sign_in import KeySignIn, StoredKey, load_bootstrap_digest
from redoma_tenant.sources import parse_address, source_of

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
ACME = TenantFacts("acme", True, 300, "SHARED_TUNED", "sha256:9f", ("a", "b"))
MODELS = st.lists(st.sampled_from("abc"), unique=True).map(tuple)


class OneKeyStore:
    """Knows at most one key, and remembers what was asked for."""

    def __init__(self, key: StoredKey | None = None, operators: bool = False) -> None:
        self.key = key
        self.operators = operators
        self.asked: list[str] = []

    async def find_key(self, prefix: str) -> StoredKey | None:
        """Finds the key."""
        self.asked.append(prefix)
        return self.key

    async def has_operator_key(self) -> bool:
        """Says so."""
        return self.operators


def stored(
    key: str,
    tenant: TenantFacts | None = ACME,
    scopes: Iterable[str] = ("generate",),
    models: tuple[str, ...] = (),
    cidrs: tuple[str, ...] = (),
    expire_time: datetime | None = None,
) -> StoredKey:
    """Gives a key as the store has it."""
    return StoredKey("0123456789abcdef", digest_of(key), tuple(scopes), expire_time, False, None, models, cidrs, tenant)


async def judge(store: OneKeyStore, key: str) -> Verdict:
    """Gives what the key is worth at noon."""
    return await KeySignIn(store, None, lambda: NOON).verdict(key, digest_of(key))


def reason_of(verdict: Verdict) -> str:
    """Gives the class of the refusal."""
    assert verdict.caller is None and verdict.refusal is not None
    return type(verdict.refusal()).__name__


async def test_an_unknown_prefix_costs_the_same_lookup_and_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    compared, really = [], hmac.compare_digest

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return really(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    store, key = OneKeyStore(), new_key()
    assert reason_of(await judge(store, key)) == "CredentialInvalid"
    assert store.asked == [prefix_of(key)]
    assert compared == [(digest_of(key), "0" * 64)]


@pytest.mark.parametrize("credential", ["", "x" * 257, "rdm_x7f2k9qa_" + "a" * 400])
async def test_malformed_credentials_are_refused_without_a_lookup(credential: str) -> None:
    store = OneKeyStore()
    assert reason_of(await judge(store, credential)) == "CredentialInvalid"
    assert store.asked == []


async def test_the_identity_has_what_is_in_force_of_the_tenant() -> None:
    key = new_key()
    verdict = await judge(OneKeyStore(stored(key, models=("b", "c"))), key)
    assert verdict.caller is not None
    principal = verdict.caller.principal
    assert principal.name == "tenants/acme/apiKeys/0123456789abcdef"
    assert (principal.tenant, principal.weight, principal.isolation) == ("acme", 300, "SHARED_TUNED")
    assert (principal.adapter, principal.models) == ("sha256:9f", ("b",))


async def test_a_key_for_other_models_than_its_tenants_uses_none() -> None:
    key = new_key()
    key_of_c = stored(key, scopes=("generate", "conversations", "tenant.read"), models=("c",))
    verdict = await judge(OneKeyStore(key_of_c), key)
    assert verdict.caller is not None
    assert verdict.caller.lacks_models
    assert verdict.caller.principal.scopes == {"tenant.read"}
    # Were it used all the same, an empty list would stand for every model.
    assert verdict.caller.principal.models == ("c",)


@given(tenant=MODELS, own=MODELS)
def test_no_model_is_allowed_that_either_forbids(tenant: tuple[str, ...], own: tuple[str, ...]) -> None:
    allowed = models_of(tenant, own)
    for model in "abc":
        both = (not tenant or model in tenant) and (not own or model in own)
        assert both == (allowed is not None and (not allowed or model in allowed))


async def test_a_tenants_key_never_administers_the_platform() -> None:
    key = new_key()
    verdict = await judge(OneKeyStore(stored(key, scopes=("generate", "platform.admin"))), key)
    assert verdict.caller is not None
    assert verdict.caller.principal.scopes == {"generate"}


async def test_an_operators_key_does_nothing_else() -> None:
    key = new_key()
    verdict = await judge(OneKeyStore(stored(key, tenant=None, scopes=("generate", "platform.admin"))), key)
    assert verdict.caller is not None
    principal = verdict.caller.principal
    assert (principal.name, principal.tenant) == ("platform/apiKeys/0123456789abcdef", "")
    assert principal.scopes == {"platform.admin"}


async def test_a_verdict_ends_with_its_key() -> None:
    key = new_key()
    soon = NOON + timedelta(seconds=1)
    assert (await judge(OneKeyStore(stored(key, expire_time=soon)), key)).until == soon
    assert reason_of(await judge(OneKeyStore(stored(key, expire_time=NOON)), key)) == "CredentialExpired"


def test_greater_scopes_imply_the_lesser() -> None:
    assert with_implied(["tenant.owner"]) == {"tenant.owner", "tenant.admin", "tenant.read"}
    assert with_implied(["tenant.admin", "generate"]) == {"tenant.admin", "tenant.read", "generate"}
    assert with_implied(["tenant.read"]) == {"tenant.read"}


@pytest.mark.parametrize(
    ("cidrs", "source", "allowed"),
    [
        (["203.0.113.0/24"], "203.0.113.9", True),
        (["203.0.113.0/24"], "::ffff:203.0.113.9", True),
        (["203.0.113.0/24"], "203.0.114.9", False),
        (["2001:db8::/32", "10.0.0.0/8"], "2001:db8::1", True),
        (["2001:db8::/32"], "10.1.2.3", False),
        (["203.0.113.0/24"], "", False),
        (["not a network"], "203.0.113.9", False),
    ],
)
async def test_networks(cidrs: list[str], source: str, allowed: bool) -> None:
    key = new_key()
    verdict = await judge(OneKeyStore(stored(key, cidrs=tuple(cidrs))), key)
    assert verdict.caller is not None
    assert verdict.caller.may_call_from(parse_address(source)) is allowed


def test_no_networks_are_no_restriction_and_broken_ones_are_no_hole() -> None:
    assert parse_networks([]) is None
    assert parse_networks(["nonsense"]) == ()


@pytest.mark.parametrize(
    ("forwarded_for", "trusted_hops", "source"),
    [
        ("", 0, "192.0.2.7"),
        ("", 1, ""),
        ("198.51.100.1", 0, "198.51.100.1"),
        # The first is what the client made up.
        ("6.6.6.6, 198.51.100.1", 0, "198.51.100.1"),
        ("6.6.6.6, 198.51.100.1, 10.0.0.1", 1, "198.51.100.1"),
        ("10.0.0.1", 1, "10.0.0.1"),
        ("rdm_no_address", 0, ""),
    ],
)
def test_a_client_cant_make_its_address_up(forwarded_for: str, trusted_hops: int, source: str) -> None:
    assert source_of(forwarded_for, "192.0.2.7", trusted_hops) == source


async def test_the_bootstrap_key_ends_with_the_first_operators_key() -> None:
    key = new_key()
    store = OneKeyStore()
    sign_in = KeySignIn(store, digest_of(key), lambda: NOON)
    assert sign_in.is_bootstrap(digest_of(key))
    assert not sign_in.is_bootstrap(digest_of(new_key()))
    assert (await sign_in.bootstrap()).caller is not None
    store.operators = True
    assert reason_of(await sign_in.bootstrap()) == "CredentialRevoked"


def test_the_bootstrap_hash_is_read_in_either_case(tmp_path: Path) -> None:
    file = tmp_path / "hash"
    file.write_text(digest_of("key").upper() + "\n")
    assert load_bootstrap_digest(file) == digest_of("key")


def test_no_bootstrap_hash_is_no_operator(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text(" \n")
    assert load_bootstrap_digest(None) is None
    assert load_bootstrap_digest(tmp_path / "missing") is None
    assert load_bootstrap_digest(tmp_path / "empty") is None


@pytest.mark.parametrize("content", ["rdm_x7f2k9qa_" + "a" * 43, "abc", "é" * 64])
def test_a_bootstrap_hash_of_another_form_stops_the_start_and_is_not_shown(tmp_path: Path, content: str) -> None:
    file = tmp_path / "hash"
    file.write_text(content)
    with pytest.raises(CannotStart) as raised:
        load_bootstrap_digest(file)
    assert content not in str(raised.value)
