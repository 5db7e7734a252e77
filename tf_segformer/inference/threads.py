"""Work on many images in threads, in order and within bounds; Pillow, NumPy and the engines release Python's lock."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_AT_ONCE = 8
"""Images in work at most: each has its own activations."""

_MAX_PIXELS = 2**26  # of the images in work together, where there is more than one: 200 MB of RGB


def cores() -> int:
    """The number of cores that this process may use.

    Example:
        >>> cores() >= 1
        True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_threads(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    pixels_of: Callable[[Item], int] = lambda _: 0,
) -> Iterator[Result]:
    """What a function makes of items, in their order; as many as there are threads are in work, and as many more ready.

    Args:
        function: Called in threads.
        items: Taken in the caller's thread, one after the other, when a result is asked for.
        threads: Number of threads.
        pixels_of: The size of an item; it waits until it and those before that are not done have 64 million at most.

    Yields:
        The results.

    Raises:
        Exception: What the function raises; what `items` raises, after the results of the items before.

    Example:
        >>> list(map_in_threads(abs, [-3, -2, -1], threads=2))
        [3, 2, 1]
    """
    ahead: deque[tuple[Future[Result], int]] = deque()
    failure: Exception | None = None
    iterator = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        try:
            while True:
                try:
                    item = next(iterator)
                except StopIteration:
                    break
                except Exception as error:
                    failure = error
                    break
                pixels = pixels_of(item)
                while ahead and (len(ahead) == 2 * threads or sum(each for _, each in ahead) + pixels > _MAX_PIXELS):
                    yield ahead.popleft()[0].result()
                ahead.append((pool.submit(function, item), pixels))
            while ahead:
                yield ahead.popleft()[0].result()
        finally:
            for future, _ in ahead:
                future.cancel()
    if failure is not None:
        raise failure
