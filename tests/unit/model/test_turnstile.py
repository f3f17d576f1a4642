"""The turnstile: one at a time, first come first served, whoever was there before."""

import threading
import time

import pytest

from redoma_model.engine.turnstile import Turnstile

PATIENCE_S = 60.0


def await_waiting(turnstile: Turnstile, count: int) -> None:
    """Returns once so many threads wait."""
    until = time.monotonic() + PATIENCE_S
    while turnstile.waiting < count:
        assert time.monotonic() < until, "nobody came"
        time.sleep(0)


def test_turns_are_given_in_the_order_of_arrival() -> None:
    turnstile = Turnstile()
    order: list[int] = []

    def pass_through(number: int) -> None:
        with turnstile:
            order.append(number)

    threads = [threading.Thread(target=pass_through, args=(number,)) for number in range(8)]
    with turnstile:
        for number, thread in enumerate(threads):
            thread.start()
            await_waiting(turnstile, number + 1)
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == list(range(8))


def test_busy_engine_takes_no_two_turns_while_another_waits() -> None:
    turnstile = Turnstile()
    order: list[str] = []

    def greedy(name: str) -> None:
        for _ in range(50):
            with turnstile:
                order.append(name)
                # Both are there, but for the one that has had its last turn.
                if order.count("a") < 50 and order.count("b") < 50:
                    await_waiting(turnstile, 1)

    threads = [threading.Thread(target=greedy, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert "".join(order) in ("ab" * 50, "ba" * 50)


def test_only_one_is_inside() -> None:
    turnstile = Turnstile()
    inside = most = 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(2_000):
            with turnstile:
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert (most, turnstile.waiting) == (1, 0)


def test_step_that_fails_gives_its_turn_back() -> None:
    turnstile = Turnstile()
    with pytest.raises(ZeroDivisionError), turnstile:
        raise ZeroDivisionError
    passed = threading.Event()

    def pass_through() -> None:
        with turnstile:
            passed.set()

    thread = threading.Thread(target=pass_through)
    thread.start()
    assert passed.wait(PATIENCE_S)
    thread.join()
