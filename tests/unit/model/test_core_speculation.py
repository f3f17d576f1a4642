"""Drafts in the core: they change no answer, pay where answers repeat, and push nobody out."""

from hypothesis import given, settings
from hypothesis import strategies as st

from redoma_model.engine.backend import TokenLogprob
from redoma_model.engine.places import PlaceLimits
from redoma_model.engine.sampling import Sampling
from redoma_model.engine.stream import Delta
from tests.fakes.driven_core import DrivenCore, Reader
from tests.fakes.model_backend import IM_END


def answers(
    speculation: bool, prompts: list[str], sampling: Sampling, certainty: float
) -> list[tuple[str, list[TokenLogprob], int]]:
    driven = DrivenCore(cells=900, speculation=speculation, places=PlaceLimits(spare_slots=0, headroom_tokens=16))
    driven.backend.certainty = certainty
    readers = [driven.submit(prompt, "ab"[place % 2], sampling=sampling) for place, prompt in enumerate(prompts)]
    driven.end_idle()
    return [(reader.text, logprobs_of(reader), reader.done.output_tokens if reader.done else -1) for reader in readers]


def logprobs_of(reader: Reader) -> list[TokenLogprob]:
    return [logprob for event in reader.events if isinstance(event, Delta) for logprob in event.logprobs]


WORDS = st.lists(st.sampled_from(["abc", "xyz ", "abcabc", "klm", "q"]), max_size=12).map("".join)


@settings(max_examples=25, deadline=None)
@given(
    prompts=st.lists(st.one_of(WORDS.map("{}?".format), WORDS.map("say:{}".format)), min_size=1, max_size=6),
    certainty=st.sampled_from([2.0, 8.0, 30.0]),
    sampling=st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 0.7, 1.5]),
        seed=st.integers(0, 2**32 - 1),
        frequency_penalty=st.sampled_from([0.0, 1.0]),
        stop=st.sampled_from([(), ("ef",), ("aa", "q")]),
        grammar=st.sampled_from(["", "", 'root ::= "abcabcabcabcabc"']),
        max_output_tokens=st.integers(1, 90),
        logprobs=st.just(True),
        logit_bias=st.just({IM_END: 1.0}),
    ),
)
def test_what_is_emitted_with_drafts_is_what_is_emitted_without(
    prompts: list[str], certainty: float, sampling: Sampling
) -> None:
    assert answers(True, prompts, sampling, certainty) == answers(False, prompts, sampling, certainty)


def test_drafts_shorten_an_answer_that_repeats() -> None:
    plain, drafted = DrivenCore(speculation=False), DrivenCore(speculation=True)
    for driven in (plain, drafted):
        driven.submit("go", output=200)
        driven.end_idle()
    snapshot = drafted.core.snapshot()
    assert snapshot.accepted_draft_tokens > 100
    assert drafted.clock.now < 0.7 * plain.clock.now


def test_one_wrong_draft_does_not_end_drafting_for_good() -> None:
    driven = DrivenCore(speculation=True)
    # After "jkl" the prompt goes on otherwise than the answer, which then repeats itself from its 28th token on.
    driven.submit("jklZZZZZZZZ", output=400)
    driven.end_idle()
    assert driven.core.snapshot().accepted_draft_tokens > 100


def test_drafts_at_the_edge_of_the_cells_push_nobody_out() -> None:
    driven = DrivenCore(
        cells=256, context_tokens=256, speculation=True, places=PlaceLimits(spare_slots=0, prefix_cache=False)
    )
    reader = driven.submit("go", output=None)
    driven.end_idle()
    assert reader.done is not None
    assert reader.done.output_tokens == 254
    assert driven.core.snapshot().drafted_tokens > 0
    assert driven.core.snapshot().preemptions == 0


def test_a_text_that_begins_after_drafts_went_badly_tries_fewer() -> None:
    driven = DrivenCore(speculation=True)
    driven.backend.certainty = 0.0
    # With three letters to choose from, the last few always stood before; what follows them is chance.
    letters = {ord(letter): 100.0 for letter in "abc"}

    def drafted(seed: int) -> int:
        before = driven.core.snapshot().drafted_tokens
        sampling = Sampling(temperature=1.0, seed=seed, max_output_tokens=100, logit_bias=letters)
        driven.submit("abc" * 9, sampling=sampling)
        driven.end_idle()
        return driven.core.snapshot().drafted_tokens - before

    first, *_ = counts = [drafted(seed) for seed in range(30)]
    assert 0 < sum(counts[20:]) / 10 < first / 2
