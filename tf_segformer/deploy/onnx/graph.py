"""An ONNX graph as it is built: nodes, constants, and the few shapes that a SegFormer needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import onnx
from onnx import helper, numpy_helper

FOLDED: dict[str, Callable[..., np.ndarray]] = {
    "Add": np.add,
    "And": np.logical_and,
    "Div": np.floor_divide,
    "Equal": np.equal,
    "Less": np.less,
    "Max": np.maximum,
    "Mul": np.multiply,
    "Not": np.logical_not,
    "Range": lambda end: np.arange(end[0]),
    "Sub": np.subtract,
}
"""Operators on numbers that are not negative, and the same in NumPy."""


class OnnxGraph:
    """Nodes and constants, in the order in which they were added; a tensor is the name that nodes refer to it by.

    Args:
        opset: Version of the operators.
        precision: "float32", or "float16" for weights and the values between input and output.

    Example:
        >>> graph = OnnxGraph()
        >>> graph("Add", "x", np.float32([1, 2]))
        'Add_0'
    """

    def __init__(self, opset: int = 18, precision: str = "float32") -> None:
        self.opset = opset
        self.float = np.dtype(precision)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(self, operator: str, *inputs: Any, output: str | None = None, **attributes: Any) -> str:
        """Adds one node.

        Args:
            operator: Name of the ONNX operator.
            *inputs: Names of tensors ("" where an input is left out), Keras variables or NumPy arrays.
            output: Name of the result; one is made up by default.
            **attributes: Attributes of the operator.

        Returns:
            Name of the result.
        """
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        output = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], name=output, **attributes))
        return output

    def constant(self, value: Any, floats: Any = None) -> str:
        """Stores a Keras variable or a NumPy array, floats in the graph's precision or another; returns its name."""
        name = f"constant_{len(self.constants)}"
        array = np.asarray(value if isinstance(value, (np.ndarray, np.generic)) else as_array(value))
        array = array.astype(floats or self.float) if array.dtype.kind == "f" else array
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def cast(self, x: str, precision: str, **output: str) -> str:
        """A tensor in another type of floats."""
        return self("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(precision)), **output)

    def shape(self, *parts: Any) -> Any:
        """A shape made of numbers, arrays of them, and of the names of one-dimensional int64 tensors."""
        pieces = [part if isinstance(part, str) else np.ravel(np.int64(part)) for part in parts]
        if not any(isinstance(piece, str) for piece in pieces):
            return np.concatenate(pieces)
        return self("Concat", *pieces, axis=0)

    def fold(self, operator: str, *inputs: Any) -> Any:
        """A node on whole numbers and truth values; where no input is the name of a tensor, its result right away.

        Args:
            operator: One of `FOLDED`; `Range` takes the end alone, with shape (1,).
            *inputs: Names of tensors or NumPy arrays.

        Returns:
            Name of the result, or an array.
        """
        if not any(isinstance(each, str) for each in inputs):
            return FOLDED[operator](*inputs)
        if operator == "Range":
            inputs = np.int64(0), self("Squeeze", *inputs), np.int64(1)
        return self(operator, *inputs)

    def smallest(self, x: str, count: Any) -> str:
        """Where the `count` (1,) smallest numbers lie along the last axis of a tensor, in any order."""
        number = len(self.nodes)
        values, indices = f"TopK_{number}_values", f"TopK_{number}"
        count = count if isinstance(count, str) else self.constant(count)
        self.nodes.append(
            helper.make_node("TopK", [x, count], [values, indices], name=indices, axis=-1, largest=0, sorted=0)
        )
        return indices

    def slice(self, x: str, start: int, end: Any, axes: tuple[int, ...] = (0,)) -> str:
        """The part of a tensor from `start` to `end`, an int or the name of a tensor, along some axes."""
        starts = np.full(len(axes), start, np.int64)
        ends = np.full(len(axes), end, np.int64) if isinstance(end, int) else end
        return self("Slice", x, starts, ends, np.array(axes, np.int64))

    def reshape(self, x: str, *sizes: int) -> str:
        """A tensor in another shape; 0 keeps the size that is there, -1 is what is left."""
        return self("Reshape", x, np.array(sizes, np.int64))

    def model(self, inputs: dict[str, list], outputs: dict[str, list]) -> onnx.ModelProto:
        """The finished model.

        Args:
            inputs: Shape of each input by name, of numbers and of names of open sizes; all are float32.
            outputs: The same of the outputs.

        Returns:
            The model, checked.

        Raises:
            onnx.checker.ValidationError: A node that this version of the operators does not have.
        """
        graph = helper.make_graph(
            self.nodes, "segformer", _descriptions(inputs), _descriptions(outputs), initializer=self.constants
        )
        versions = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(
            graph,
            producer_name="tf_segformer",
            opset_imports=versions,
            ir_version=helper.find_min_ir_version_for(versions),
        )
        onnx.checker.check_model(model)
        return model


def _descriptions(shapes: dict[str, list]) -> list[onnx.ValueInfoProto]:
    """What a graph says of its inputs or outputs: the name and shape of each."""
    return [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]


def as_array(variable: Any) -> np.ndarray:
    """Value of a Keras variable or tensor as a float32 array."""
    return keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32"))
