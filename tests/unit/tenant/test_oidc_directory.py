"""Keys of identity providers: found when they change, of use while the provider is away, and not asked for often."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import rsa

from redoma_tenant.errors import IdentityProviderUnavailable
from redoma_tenant.oidc import fetcher as fetching
from redoma_tenant.oidc.directory import REFRESH_S, RETRY_S, STALE_S, OidcDirectory
from redoma_tenant.oidc.fetcher import MAX_BYTES, HttpFetcher
from redoma_tenant.oidc.keys import MAX_KEYS
from tests.fakes.oidc_provider import DISCOVERY, KEYS, OidcProvider, public_jwk


@dataclass(slots=True)
class Site:
    """A directory, a provider, and the directory's clock."""

    provider: OidcProvider = field(default_factory=OidcProvider)
    fetcher: HttpFetcher = field(default_factory=HttpFetcher)
    passed_s: float = 0.0
    directory: OidcDirectory = field(init=False)

    def __post_init__(self) -> None:
        self.directory = OidcDirectory(self.fetcher, lambda: self.passed_s, structlog.get_logger())

    async def has_key(self, key_id: str = "") -> bool:
        """Says whether the newest key, or the one named, is found."""
        found = await self.directory.find_key(self.provider.issuer, "ES256", key_id or list(self.provider.keys)[-1])
        return found is not None

    async def settle(self) -> None:
        """Waits for what is fetched in the background."""
        task = self.directory._issuers[self.provider.issuer].fetching
        if task is not None:
            await task


@asynccontextmanager
async def running() -> AsyncIterator[Site]:
    """A directory and a provider that answers."""
    site = Site()
    await site.provider.start()
    yield site
    await site.directory.stop()
    await site.fetcher.close()
    await site.provider.stop()


async def test_keys_are_fetched_once() -> None:
    async with running() as site:
        for _ in range(3):
            assert await site.has_key()
        assert site.provider.asked == [DISCOVERY, KEYS]


async def test_a_new_key_is_found_by_a_token_that_is_signed_with_it() -> None:
    async with running() as site:
        await site.has_key()
        site.provider.rotate(keep=True)
        site.passed_s += RETRY_S
        assert await site.has_key()
        assert len(site.provider.asked) == 4


async def test_a_flood_of_unknown_keys_asks_no_more_than_every_ten_seconds() -> None:
    async with running() as site:
        for _ in range(100):
            assert not await site.has_key("made-up")
            site.passed_s += 0.3
        assert len(site.provider.asked) <= 2 * (100 * 0.3 / RETRY_S + 1)


async def test_keys_still_count_while_the_provider_is_away_but_not_for_ever() -> None:
    async with running() as site:
        await site.has_key()
        await site.provider.stop()
        site.passed_s += STALE_S - 1
        assert await site.has_key()
        await site.settle()
        site.passed_s += RETRY_S + 1
        with pytest.raises(IdentityProviderUnavailable):
            await site.has_key()
        await site.provider.start()
        site.passed_s += RETRY_S
        assert await site.has_key()


async def test_whether_an_unknown_key_is_new_cant_be_told_while_the_provider_is_away() -> None:
    async with running() as site:
        await site.has_key()
        await site.provider.stop()
        site.passed_s += RETRY_S
        with pytest.raises(IdentityProviderUnavailable):
            await site.has_key("new")
        assert await site.has_key(), "a key that is known counts all the same"


async def test_a_withdrawn_key_counts_no_more_within_minutes() -> None:
    async with running() as site:
        await site.has_key()
        withdrawn = list(site.provider.keys)[-1]
        site.provider.rotate()
        site.passed_s += REFRESH_S + 1
        assert await site.has_key(withdrawn), "it is refreshed behind the request"
        await site.settle()
        assert not await site.has_key(withdrawn)


async def test_a_token_without_a_key_id_needs_that_there_is_one_key() -> None:
    async with running() as site:
        issuer = site.provider.issuer
        assert await site.directory.find_key(issuer, "ES256", "")
        assert await site.directory.find_key(issuer, "RS256", "") is None
        site.provider.rotate(keep=True)
        site.passed_s += RETRY_S
        assert await site.has_key()
        assert await site.directory.find_key(issuer, "ES256", "") is None


async def test_weak_and_foreign_keys_are_passed_over() -> None:
    async with running() as site:
        weak = public_jwk(rsa.generate_private_key(public_exponent=65537, key_size=1024)) | {"kid": "weak"}
        shared = {"kty": "oct", "k": "c2VjcmV0", "kid": "shared", "alg": "HS256"}
        encryption = site.provider.key_set()["keys"][0] | {"kid": "enc", "use": "enc"}
        broken = {"kty": "EC", "crv": "P-256", "kid": "broken"}
        document = {"keys": [weak, shared, encryption, broken, "text", *site.provider.key_set()["keys"]]}
        site.provider.answers[KEYS] = (200, json.dumps(document).encode())
        assert await site.has_key()
        for algorithm, key_id in (("RS256", "weak"), ("HS256", "shared"), ("ES256", "enc"), ("ES256", "broken")):
            assert await site.directory.find_key(site.provider.issuer, algorithm, key_id) is None


@pytest.mark.parametrize(
    ("path", "status", "body", "problem"),
    [
        (DISCOVERY, 200, b'{"issuer": "https://evil.example", "jwks_uri": "https://evil.example"}', "another issuer"),
        (DISCOVERY, 200, b"<html>", "not JSON"),
        (DISCOVERY, 200, b"[]", "no JSON object"),
        (DISCOVERY, 200, b"[" * 100_000, "not JSON"),
        (DISCOVERY, 302, b"", "HTTP status 302"),
        (DISCOVERY, 500, b"", "HTTP status 500"),
        (DISCOVERY, 200, b" " * (MAX_BYTES + 1), "too large"),
        (KEYS, 200, b'{"keys": {}}', "has not the form"),
        (KEYS, 200, json.dumps({"keys": [{}] * (MAX_KEYS + 1)}).encode(), "has not the form"),
        (KEYS, 200, b'{"keys": []}', "no key of a kind"),
    ],
)
async def test_what_is_wrong_with_a_provider_is_told(path: str, status: int, body: bytes, problem: str) -> None:
    async with running() as site:
        site.provider.answers[path] = (status, body)
        with pytest.raises(IdentityProviderUnavailable, match=problem):
            await site.directory.check(site.provider.issuer)


@pytest.mark.parametrize("keys_url", ["http://192.0.2.1/keys", "file:///etc/passwd", "https://", "//x", 7])
async def test_keys_come_over_tls(keys_url: object) -> None:
    async with running() as site:
        document = {"issuer": site.provider.issuer, "jwks_uri": keys_url}
        site.provider.answers[DISCOVERY] = (200, json.dumps(document).encode())
        with pytest.raises(IdentityProviderUnavailable):
            await site.directory.check(site.provider.issuer)


async def test_a_provider_that_works_is_fine() -> None:
    async with running() as site:
        await site.directory.check(site.provider.issuer)


async def test_a_provider_that_is_not_there_or_silent_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as site:
        await site.provider.stop()
        with pytest.raises(IdentityProviderUnavailable, match="can't be reached"):
            await site.directory.check(site.provider.issuer)
        monkeypatch.setattr(fetching, "TOTAL_TIMEOUT_S", 0.0)
        with pytest.raises(IdentityProviderUnavailable, match="in time"):
            await site.directory.check(site.provider.issuer)
