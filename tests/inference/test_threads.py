"""Work in threads: in order, within bounds, errors after the results of what came before."""

from __future__ import annotations

import threading
import time

import pytest

from tf_segformer.inference import threads
from tf_segformer.inference.threads import map_in_threads


def test_results_come_in_order_and_several_are_in_work():
    together = threading.Barrier(2, timeout=10)  # only two calls at once pass it

    def work(item):
        together.wait()
        time.sleep(0.01 * (item % 2))
        return -item

    assert list(map_in_threads(work, range(6), threads=2)) == [0, -1, -2, -3, -4, -5]


def test_no_more_items_are_taken_than_threads_need():
    taken = []
    results = map_in_threads(abs, (taken.append(each) or each for each in range(100)), threads=2)
    next(results)
    assert len(taken) <= 5


def test_large_items_are_in_work_one_after_the_other(monkeypatch):
    monkeypatch.setattr(threads, "_MAX_PIXELS", 100)
    running, most = [], []

    def work(item):
        running.append(item)
        most.append(len(running))
        time.sleep(0.01)
        running.remove(item)
        return item

    assert list(map_in_threads(work, range(4), 4, pixels_of=lambda _: 90)) == [0, 1, 2, 3]
    assert max(most) == 1
    most.clear()
    assert list(map_in_threads(work, range(4), 4, pixels_of=lambda _: 20)) == [0, 1, 2, 3]
    assert max(most) > 1


def test_errors_come_after_the_results_of_what_was_before():
    def items():
        yield from (1, 2)
        raise OSError("the third cannot be read")

    results = map_in_threads(abs, items(), threads=2)
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(OSError, match="the third"):
        next(results)
    results = map_in_threads(lambda item: 1 // item, [1, 0, 1], threads=2)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
