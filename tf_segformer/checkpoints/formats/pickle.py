"""Reads pickles as data: an interpreter of the opcodes that plain data needs, which calls nothing the file names.

Python's own unpickler calls what a file says, and even one restricted to a list of classes sets attributes
on them. Here a global name is looked up in a closed table of values of ours; what is not in it is rejected.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

MAX_OPCODES = 500_000  # a B5 with the state of its optimizer has about 150,000
_MAX_KEY = 2**31
_MAX_PACKAGES = 8  # looked up around a module

_CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
    (
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
        *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING", "BINSTRING"),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
    )
)
_EMPTY: Mapping[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_TUPLE": tuple,
}
_TUPLES: Mapping[str, int] = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUT = frozenset(("BINPUT", "LONG_BINPUT", "PUT"))
_GET = frozenset(("BINGET", "LONG_BINGET", "GET"))
_IGNORED = frozenset(("PROTO", "FRAME"))


@dataclass(frozen=True)
class Rebuild:
    """A global that a pickle may call: `build` is a function of ours that makes plain data of the arguments."""

    build: Callable[..., Any]


class Placeholder:
    """Takes the place of an object that is known to be harmless and that no reader needs."""


_MARK = object()


def read_pickle(
    stream: BinaryIO,
    known_globals: Mapping[str, Any],
    load_persistent: Callable[[Any], Any],
) -> Any:
    """Reads one pickle from a stream and leaves the stream behind it.

    Args:
        stream: Where the pickle begins. Must be bounded in size: the caller reads the bytes.
        known_globals: Values by "module name", or by "package *" for all names of a package; only instances of
            `Rebuild` can be called by the file.
        load_persistent: Turns a persistent id into a value.

    Returns:
        Plain data: dictionaries, lists (also for sets), tuples, strings, numbers, and what the two tables give.

    Raises:
        ValueError: For a global that is not in the table, a damaged pickle, one with other opcodes, and one of more
            than `MAX_OPCODES`.

    Example:
        >>> import io, pickle
        >>> read_pickle(io.BytesIO(pickle.dumps({"a": [1, 2.5]})), {}, lambda key: key)
        {'a': [1, 2.5]}
    """
    machine = _Machine(known_globals, load_persistent)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count >= MAX_OPCODES:
                raise ValueError(f"a pickle of more than {MAX_OPCODES} opcodes")
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"a damaged pickle: {type(error).__name__}") from error
    raise ValueError("a pickle without an end")


def _look_up(known_globals: Mapping[str, Any], name: str) -> Any:
    """The value of a global by its own name or that of a package around it; None where neither is known."""
    if name in known_globals:
        return known_globals[name]
    parts = name.partition(" ")[0].split(".")[:_MAX_PACKAGES]
    packages = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
    return next((known_globals[f"{each} *"] for each in packages if f"{each} *" in known_globals), None)


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self, known_globals: Mapping[str, Any], load_persistent: Callable[[Any], Any]) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.known_globals = known_globals
        self.load_persistent = load_persistent

    def pop(self) -> Any:
        """Takes the top of the stack, which must be a value."""
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a damaged pickle: a mark where a value was due")
        return value

    def pop_to_mark(self) -> list[Any]:
        """Takes all values above the last mark, and the mark."""
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def step(self, name: str, argument: Any) -> None:
        """Carries out one opcode."""
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            self.stack.append(tuple([self.pop() for _ in range(_TUPLES[name])][::-1]))
        elif name in _PUT:
            self.memo[argument] = self.stack[-1]
        elif name in _GET:
            self.stack.append(self.memo[argument])
        elif name not in _IGNORED:
            if name not in _ACTIONS:
                raise ValueError(f"a pickle with the opcode {name}, which no checkpoint needs")
            _ACTIONS[name](self, argument)

    def find_global(self, argument: Any) -> None:
        """GLOBAL and STACK_GLOBAL: a name becomes what the closed table has for it."""
        if argument is None:
            name, module = self.pop(), self.pop()
            argument = f"{module} {name}"
        value = _look_up(self.known_globals, argument)
        if value is None:
            shown = str(argument)[:100].replace(" ", ".")
            raise ValueError(
                f"rejected the name {shown!r}: a checkpoint needs tensors and plain data only, "
                "anything else could run code. Save the state_dict alone, best as safetensors"
            )
        self.stack.append(value)

    def call(self, argument: Any) -> None:
        """REDUCE and NEWOBJ: calls one of our own functions, never what the file brings."""
        arguments, function = self.pop(), self.pop()
        if function is Placeholder:
            self.stack.append(Placeholder())
        elif isinstance(function, Rebuild) and isinstance(arguments, tuple):
            self.stack.append(function.build(*arguments))
        else:
            raise ValueError("a pickle that calls something that is no function")

    def set_items(self, items: list[Any]) -> None:
        """SETITEM and SETITEMS: fills a dictionary; keys are text or small numbers, which cannot be made to collide."""
        target = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(target, dict):
                if not (isinstance(key, str) or (isinstance(key, int) and abs(key) < _MAX_KEY)):
                    raise ValueError("a pickle with a dictionary whose keys are neither text nor small numbers")
                target[key] = value
            elif not isinstance(target, Placeholder):
                raise ValueError("a pickle that sets items of something that is no dictionary")

    def extend(self, values: list[Any]) -> None:
        """APPEND, APPENDS and ADDITEMS: lengthens a list."""
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)
        elif not isinstance(self.stack[-1], Placeholder):
            raise ValueError("a pickle that appends to something that is no list")


_ACTIONS: Mapping[str, Callable[[_Machine, Any], Any]] = {
    "MARK": lambda machine, _: machine.stack.append(_MARK),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "FROZENSET": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "LIST": lambda machine, _: machine.stack.append(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "MEMOIZE": lambda machine, _: machine.memo.__setitem__(len(machine.memo), machine.stack[-1]),
    "POP": lambda machine, _: machine.stack.pop(),
    "POP_MARK": lambda machine, _: machine.pop_to_mark(),
    "GLOBAL": _Machine.find_global,
    "STACK_GLOBAL": _Machine.find_global,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": lambda machine, _: machine.pop(),  # the state of an object, such as a state dict's _metadata
    "BINPERSID": lambda machine, _: machine.stack.append(machine.load_persistent(machine.pop())),
}
