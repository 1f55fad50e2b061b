import signal
import threading
import traceback

import pytest

from kshot.trainer.loop.prefetch import AHEAD, prefetch

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def test_things_come_in_order_from_one_other_thread() -> None:
    def make(number: int) -> tuple[int, int]:
        return number, threading.get_ident()

    with prefetch(make, 3, 40) as made:
        numbers, threads = zip(*made, strict=True)

    assert numbers == tuple(range(3, 40))
    assert len(set(threads)) == 1
    assert threading.get_ident() not in threads


@pytest.mark.parametrize(("start", "stop", "wanted"), [(0, 0, []), (4, 3, []), (7, 8, [7])])
def test_few_things_are_made(start: int, stop: int, wanted: list[int]) -> None:
    with prefetch(lambda number: number, start, stop) as made:
        assert list(made) == wanted


def test_what_comes_next_is_made_while_one_is_used_and_no_more() -> None:
    """The using side waits for the next one to be made: it would wait for ever were it not."""
    done = [threading.Event() for _ in range(10)]

    def make(number: int) -> int:
        done[number].set()
        return number

    with prefetch(make, 0, 10) as made:
        for number in made:
            last = min(number + AHEAD, 9)
            assert done[last].wait(60)
            assert not any(event.is_set() for event in done[last + 1 :])


def test_an_error_is_raised_in_its_turn_with_its_traceback() -> None:
    def make(number: int) -> int:
        if number == 3:
            raise ValueError("three is bad")
        return number

    used: list[int] = []
    with (
        pytest.raises(ValueError, match="three is bad") as caught,
        prefetch(make, 0, 10) as made,
    ):
        used.extend(iter(lambda: next(made), None))

    assert used == [0, 1, 2]
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "make"


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_thread_ends_when_its_user_stops_half_way(error: type[BaseException]) -> None:
    made_numbers: list[int] = []

    def make(number: int) -> int:
        made_numbers.append(number)
        return number

    with pytest.raises(error), prefetch(make, 0, 10**9) as made:
        for number in made:
            if number == 5:
                raise error

    assert made_numbers[-1] <= 5 + AHEAD


def test_a_signal_while_a_thing_is_waited_for_ends_thread_and_wait() -> None:
    def make(number: int) -> int:
        if number == 3:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return number

    with pytest.raises(KeyboardInterrupt), prefetch(make, 0, 10**9) as made:
        for _ in made:
            pass
