"""An erasure is complete when every place has acknowledged, and not before; the certificate says so and no more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import jwt
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from structlog.testing import capture_logs

from redoma_tenant.identity import SigningKey
from redoma_tenant.privacy.certificate import certificate_of
from redoma_tenant.privacy.eraser import Eraser, NotAcknowledged
from redoma_tenant.privacy.erasures import Erasure, ErasureState, Parts, Step, Subject

AT = datetime(2026, 3, 1, tzinfo=UTC)
KEY = SigningKey(Ed25519PrivateKey.generate(), "key-1")


@dataclass
class Place:
    """A place that may be away."""

    name: str
    away: bool = False
    asked: list[Subject] = field(default_factory=list)
    parts: Parts = field(default_factory=dict)
    done: Parts = field(default_factory=dict)

    async def erase(self, subject: Subject, done: Parts) -> Mapping[str, int]:
        self.asked.append(subject)
        self.done = done
        if self.away:
            raise NotAcknowledged("It is away.", self.parts)
        return {"conversations": 3}


class Store:
    """Keeps one erasure."""

    def __init__(self, erasure: Erasure) -> None:
        self.erasure = erasure

    async def pending_erasures(self, after: Erasure | None, limit: int) -> Sequence[Erasure]:
        return [self.erasure] if after is None and self.erasure.state is ErasureState.PENDING else []

    async def save_erasure(self, erasure: Erasure) -> None:
        self.erasure = erasure

    def complete(self) -> bool:
        return self.erasure.state is ErasureState.COMPLETE


def pending(*places: str) -> Erasure:
    return Erasure("e" * 32, Subject("acme", "tenants/acme/users/jo"), "ticket", AT, tuple(map(Step, places)))


def eraser(store: Store, *places: Place) -> Eraser:
    return Eraser(store, places, lambda erasure: certificate_of(erasure, KEY), lambda: AT, structlog.get_logger())


async def test_a_place_that_is_away_keeps_the_erasure_pending_and_the_others_are_not_asked_again() -> None:
    chat, model = Place("chat"), Place("model/a", away=True)
    store = Store(pending("chat", "model/a"))
    work = eraser(store, chat, model).work
    await work()
    await work()
    assert not store.complete()
    assert store.erasure.certificate == ""
    assert [step.problem for step in store.erasure.steps] == ["", "It is away."]
    assert (len(chat.asked), len(model.asked)) == (1, 2)
    model.away = False
    await work()
    assert store.complete()
    await work()
    assert len(model.asked) == 3


async def test_parts_that_have_erased_are_remembered_until_all_have() -> None:
    model = Place("model", away=True, parts={"a": {"kv_cells": 1}})
    store = Store(pending("model"))
    work = eraser(store, model).work
    await work()
    assert store.erasure.steps[0].done == {"a": {"kv_cells": 1}}
    await work()
    assert model.done == {"a": {"kv_cells": 1}}
    model.away = False
    await work()
    assert store.complete()
    assert store.erasure.steps[0].done == {}


async def test_a_step_that_names_a_part_of_a_place_is_the_places() -> None:
    store = Store(pending("model/127.0.0.1:7002"))
    await eraser(store, Place("model")).work()
    assert store.complete()


async def test_a_place_that_is_not_configured_any_more_is_never_taken_for_erased() -> None:
    store = Store(pending("chat", "model/gone"))
    await eraser(store, Place("chat")).work()
    assert not store.complete()
    assert "not configured" in store.erasure.steps[1].problem


async def test_a_defect_that_one_erasure_meets_keeps_no_other_waiting() -> None:
    class Both(Store):
        async def pending_erasures(self, after: Erasure | None, limit: int) -> Sequence[Erasure]:
            broken = Erasure("b" * 32, Subject("globex"), "", AT, (Step("chat"),))
            return [broken, self.erasure] if after is None else []

    class Picky(Place):
        async def erase(self, subject: Subject, done: Parts) -> Mapping[str, int]:
            if subject.tenant == "globex":
                raise RuntimeError("a defect")
            return await super().erase(subject, done)

    store = Both(pending("chat"))
    with capture_logs() as logs:
        await eraser(store, Picky("chat")).work()
    assert store.complete()
    assert [entry["erasure"] for entry in logs if entry["log_level"] == "error"] == [
        f"tenants/globex/erasures/{'b' * 32}"
    ]


async def test_the_certificate_verifies_and_names_what_was_erased() -> None:
    store = Store(pending("chat"))
    await eraser(store, Place("chat")).work()
    claims = jwt.decode(store.erasure.certificate, KEY.private.public_key(), algorithms=["EdDSA"])
    assert claims["sub"] == f"tenants/acme/erasures/{'e' * 32}"
    assert claims["principal"] == "tenants/acme/users/jo"
    assert claims["places"] == [
        {"place": "chat", "acknowledge_time": AT.isoformat(), "erased": {"conversations": 3}},
    ]
    other = Ed25519PrivateKey.generate().public_key()
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(store.erasure.certificate, other, algorithms=["EdDSA"])


def test_what_is_pending_is_not_certified() -> None:
    with pytest.raises(ValueError, match="complete"):
        certificate_of(pending("chat"), KEY)
