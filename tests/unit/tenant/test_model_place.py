"""An erasure reaches every replica that is listed: none is forgotten, none is asked twice, what is gone is gone."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redoma_tenant.privacy.eraser import NotAcknowledged
from redoma_tenant.privacy.erasures import Parts, Subject
from redoma_tenant.privacy.places import ModelPlace

SUBJECT = Subject("acme")


class Models:
    """Replicas that are listed, and those of them that don't answer."""

    def __init__(self, known: tuple[str, ...] | None, *away: str) -> None:
        self.known = known
        self.away = set(away)
        self.purged: list[str] = []

    async def purge(self, replica: str, tenant: str) -> Mapping[str, int]:
        assert tenant == "acme"
        if replica in self.away:
            raise NotAcknowledged(f"The model {replica} did not purge: UNAVAILABLE.")
        self.purged.append(replica)
        return {"kv_cells": 2}


async def erase(models: Models, done: Parts | None = None) -> Mapping[str, int]:
    return await ModelPlace(models, models).erase(SUBJECT, done or {})


async def refused(models: Models, done: Parts | None = None) -> NotAcknowledged:
    with pytest.raises(NotAcknowledged) as raised:
        await erase(models, done)
    return raised.value


async def test_a_list_that_nobody_knows_is_not_an_empty_one() -> None:
    error = await refused(Models(None), {"a": {"kv_cells": 1}})
    assert "provisioner" in str(error)
    assert error.done == {"a": {"kv_cells": 1}}
    assert await erase(Models(())) == {"replicas": 0}


async def test_only_those_that_have_not_purged_are_asked_again() -> None:
    models = Models(("a", "b", "c"), "b")
    error = await refused(models)
    assert str(error) == "Models that have not purged: 1. The model b did not purge: UNAVAILABLE."
    assert sorted(models.purged) == sorted(error.done) == ["a", "c"]
    models.away.clear()
    assert await erase(models, error.done) == {"kv_cells": 6, "replicas": 3}
    assert models.purged.count("a") == models.purged.count("b") == 1


async def test_one_that_is_listed_no_more_is_gone_and_one_that_is_new_is_asked() -> None:
    models = Models(("a", "b"), "b")
    done = (await refused(models)).done
    models.known = ("a", "c")
    assert await erase(models, done) == {"kv_cells": 4, "replicas": 2}
    assert models.purged == ["a", "c"]


async def test_one_that_is_listed_while_others_purge_is_not_passed_over() -> None:
    class Growing(Models):
        async def purge(self, replica: str, tenant: str) -> Mapping[str, int]:
            self.known = ("a", "b")
            return await super().purge(replica, tenant)

    models = Growing(("a",))
    error = await refused(models)
    assert str(error) == "Models that have not purged: 1."
    assert await erase(models, error.done) == {"kv_cells": 4, "replicas": 2}


@given(st.lists(st.tuples(st.frozensets(st.sampled_from("abcd")), st.frozensets(st.sampled_from("abcd"))), max_size=8))
async def test_it_is_acknowledged_exactly_when_all_that_are_listed_have_purged(
    rounds: list[tuple[frozenset[str], frozenset[str]]],
) -> None:
    models = Models(())
    done: Parts = {}
    for listed, away in rounds:
        models.known, models.away = tuple(sorted(listed)), set(away)
        try:
            await erase(models, done)
        except NotAcknowledged as error:
            done = error.done
            assert listed - set(models.purged)
        else:
            assert listed <= set(models.purged)
        assert len(models.purged) == len(set(models.purged))
        if not listed - set(models.purged):
            return
