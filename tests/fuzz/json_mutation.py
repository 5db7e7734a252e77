"""Changes JSON as JSON: bytes changed at random seldom give a value of another type in a place that is read."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

EDGES = (
    *(None, True, False, 0, 1, -1, 0.5, 255, 256, 2**31, 2**63, 10**9, 10**400, 1e308, float("nan"), float("inf")),
    *("", "a", "a" * 300, "../a.png", "\ud800", "\0", [], {}, [[]], [{}], [0, 0], [[0, 0], [9, 9], [9, 0]], {"a": 1}),
)


def mutate(data: bytes, max_size: int, seed: int, mutate_bytes: Callable[[bytes, int], bytes]) -> bytes:
    """An input with one to three values replaced, removed, doubled or exchanged, or with other bytes.

    Args:
        data: JSON, or anything else, whose bytes are changed.
        max_size: Most bytes of the result.
        seed: Decides the change.
        mutate_bytes: Changes bytes, given these and the most of them.

    Returns:
        The changed input.

    Example:
        >>> mutate(b'{"a": 1}', 100, 0, lambda data, _: data)
        b'{"a": {"a": 1}}'
    """
    generator = random.Random(seed)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, (dict, list)) or generator.random() < 0.2:
        return mutate_bytes(data, max_size)
    for _ in range(generator.choice((1, 1, 2, 3))):
        change(value, generator)
    changed = json.dumps(value).encode()
    return changed if len(changed) <= max_size else mutate_bytes(data, max_size)


def change(value: dict | list, generator: random.Random) -> None:
    """Changes a JSON value in one place."""
    found = list(places(value))
    if not found:
        return
    container, key = generator.choice(found)
    kind = generator.randrange(6)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))
    elif kind == 2:
        other, other_key = generator.choice(found)
        container[key] = copy.deepcopy(other[other_key])
    elif kind == 3 and isinstance(container[key], (int, float)):
        container[key] = -container[key]
    else:
        container[key] = copy.deepcopy(generator.choice(EDGES))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container within a value, with each of its keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])
