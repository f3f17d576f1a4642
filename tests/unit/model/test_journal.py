"""The usage journal: bounded, counted from several threads, and never wrong about what runs."""

import threading

from redoma_model.engine.usage import Ending, OpenedRequest, TokenCounts
from redoma_model.journal import UsageJournal


class Clock:
    """Goes on by a second each time it is asked."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def test_counts_add_up_and_the_end_is_kept() -> None:
    journal = UsageJournal(10, Clock())
    sink = journal.of("m")
    sink.opened(OpenedRequest("j", "acme", "sha256:a"))
    sink.counted("j", TokenCounts(input_tokens=10, cached_input_tokens=4))
    sink.counted("j", TokenCounts(output_tokens=1, reasoning_tokens=1))
    sink.counted("j", TokenCounts(output_tokens=2))
    (running,) = journal.latest(10)
    assert (running.ended_at_s, running.ending) == (None, None)
    sink.closed("j", Ending.STOP)
    (record,) = journal.latest(10)
    assert record.counts == TokenCounts(10, 4, 3, 1)
    assert (record.tenant, record.model, record.adapter) == ("acme", "m", "sha256:a")
    assert (record.started_at_s, record.ended_at_s, record.ending) == (1.0, 2.0, Ending.STOP)


def test_call_of_several_requests_runs_until_the_last_has_ended() -> None:
    journal = UsageJournal(10)
    sink = journal.of("m")
    for _ in range(3):
        sink.opened(OpenedRequest("j", "acme"))
        sink.counted("j", TokenCounts(input_tokens=5))
    sink.closed("j", Ending.STOP)
    sink.closed("j", Ending.INTERRUPTED)
    assert journal.latest(1)[0].ending is None
    sink.closed("j", Ending.CANCELLED)
    (record,) = journal.latest(10)
    assert record.counts.input_tokens == 15
    assert record.ending is Ending.INTERRUPTED


def test_oldest_is_forgotten_and_stays_so() -> None:
    journal = UsageJournal(2)
    sink = journal.of("m")
    for name in "abc":
        sink.opened(OpenedRequest(name, "acme"))
    sink.counted("a", TokenCounts(output_tokens=1))
    sink.closed("a", Ending.STOP)
    assert [record.token_id for record in journal.latest(10)] == ["c", "b"]


def test_listing_filters_and_goes_on_where_it_ended() -> None:
    journal = UsageJournal(10)
    for number in range(6):
        journal.of("m").opened(OpenedRequest(f"{number}", "acme" if number % 2 else "globex"))
    first = journal.latest(2, tenant="acme")
    assert [record.token_id for record in first] == ["5", "3"]
    rest = journal.latest(2, before=first[-1].place, tenant="acme")
    assert [record.token_id for record in rest] == ["1"]
    assert [record.token_id for record in journal.latest(10, token_ids=["2", "4", "2", "x"])] == ["4", "2"]
    assert journal.latest(10, tenant="acme", token_ids=["2"]) == []


def test_threads_lose_no_count() -> None:
    journal = UsageJournal(100)
    each = 2_000

    def write(model: str) -> None:
        sink = journal.of(model)
        sink.opened(OpenedRequest("shared", "acme"))
        for _ in range(each):
            sink.counted("shared", TokenCounts(output_tokens=1))
            journal.latest(5)
        sink.closed("shared", Ending.STOP)

    threads = [threading.Thread(target=write, args=(f"m{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (record,) = journal.latest(10)
    assert record.counts.output_tokens == 4 * each
    assert record.ending is Ending.STOP
