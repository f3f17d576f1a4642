"""Calls of one chat meet the same replica, whichever process asks; the key tells no text, and no tenant of another."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redoma_chat.affinity import KEY_DIGITS, affinity_key, routing_metadata
from redoma_chat.inference import Prompt, Role, Turn
from redoma_kit.identity import Identity

SYSTEM, QUESTION = Turn(Role.SYSTEM, "Be brief."), Turn(Role.USER, "What is a redoma?")
FIRST = Prompt("", (SYSTEM, QUESTION))
LATER = Prompt("", (SYSTEM, QUESTION, Turn(Role.ASSISTANT, "A glass dome."), Turn(Role.USER, "Why?")))
ACME = Identity("p", "acme", frozenset(), "", "SHARED", 100, (), "", "jti", "")
TURNS = st.lists(st.builds(Turn, st.sampled_from(Role), st.text(max_size=30)), min_size=1, max_size=6).map(tuple)


def test_all_processes_compute_the_same_key() -> None:
    assert affinity_key("acme", FIRST) == "f32f868ddb856346"
    assert affinity_key("acme", Prompt("", (), conversation="01j")) == "5486200b0c9d7b1c"


def test_all_turns_of_a_chat_that_nobody_keeps_have_one_key() -> None:
    assert affinity_key("acme", FIRST) == affinity_key("acme", LATER) == affinity_key("acme", replace(LATER, model="m"))
    for other in (Turn(Role.USER, "What is a dome?"), Turn(Role.SYSTEM, QUESTION.content)):
        assert affinity_key("acme", Prompt("", (SYSTEM, other))) != affinity_key("acme", FIRST)
    assert affinity_key("acme", Prompt("", (QUESTION,))) != affinity_key("acme", FIRST)


@given(TURNS, TURNS)
def test_all_branches_of_a_conversation_have_one_key(some: tuple[Turn, ...], others: tuple[Turn, ...]) -> None:
    one, another = (Prompt("", turns, conversation="01j") for turns in (some, others))
    assert affinity_key("acme", one) == affinity_key("acme", another)
    assert affinity_key("acme", one) != affinity_key("acme", replace(one, conversation="01k"))


@given(TURNS, st.sampled_from(["", "01j"]))
def test_tenants_share_no_key_and_it_is_a_short_word(turns: tuple[Turn, ...], conversation: str) -> None:
    prompt = Prompt("", turns, conversation=conversation)
    key = affinity_key("acme", prompt)
    assert key != affinity_key("globex", prompt)
    assert len(key) == KEY_DIGITS
    assert set(key) <= set("0123456789abcdef")


def test_a_boundary_between_texts_is_part_of_the_key() -> None:
    one = Prompt("", (Turn(Role.SYSTEM, "ab"), Turn(Role.SYSTEM, "c")))
    another = Prompt("", (Turn(Role.SYSTEM, "a"), Turn(Role.SYSTEM, "bc")))
    assert affinity_key("acme", one) != affinity_key("acme", another)


@pytest.mark.parametrize("isolation", ["SHARED", "SHARED_TUNED", "DEDICATED"])
def test_only_a_tenant_with_a_model_of_its_own_is_named(isolation: str) -> None:
    identity = replace(ACME, isolation=isolation)
    named = (("redoma-tenant", "acme"),) if isolation == "DEDICATED" else ()
    assert routing_metadata(identity) == named
    assert routing_metadata(identity, FIRST) == (*named, ("redoma-affinity", affinity_key("acme", FIRST)))
