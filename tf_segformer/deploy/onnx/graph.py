"""An ONNX graph as it is built: nodes, constants, and the few shapes that a SegFormer needs."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import onnx
from onnx import helper, numpy_helper


class OnnxGraph:
    """Nodes and constants, in the order in which they were added; a tensor is the name that nodes refer to it by.

    Example:
        >>> graph = OnnxGraph()
        >>> graph("Add", "x", np.float32([1, 2]))
        'Add_0'
    """

    def __init__(self) -> None:
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

    def constant(self, value: Any) -> str:
        """Stores a Keras variable in float32, or a NumPy array as it is; returns its name."""
        name = f"constant_{len(self.constants)}"
        array = value if isinstance(value, (np.ndarray, np.generic)) else as_array(value)
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def shape(self, *parts: int | str) -> str:
        """A shape made of numbers and of the names of one-dimensional int64 tensors."""
        pieces = [part if isinstance(part, str) else np.array([part], np.int64) for part in parts]
        return self("Concat", *pieces, axis=0)

    def slice(self, x: str, start: int, end: Any, axes: tuple[int, ...] = (0,)) -> str:
        """The part of a tensor from `start` to `end`, an int or the name of a tensor, along some axes."""
        starts = np.full(len(axes), start, np.int64)
        ends = np.full(len(axes), end, np.int64) if isinstance(end, int) else end
        return self("Slice", x, starts, ends, np.array(axes, np.int64))

    def reshape(self, x: str, *sizes: int) -> str:
        """A tensor in another shape; 0 keeps the size that is there, -1 is what is left."""
        return self("Reshape", x, np.array(sizes, np.int64))

    def model(self, inputs: dict[str, list], outputs: dict[str, list], opset: int) -> onnx.ModelProto:
        """The finished model.

        Args:
            inputs: Shape of each input by name, of numbers and of names of open sizes; all are float32.
            outputs: The same of the outputs.
            opset: Version of the operators.

        Returns:
            The model, checked.

        Raises:
            onnx.checker.ValidationError: A node that this version of the operators does not have.
        """
        graph = helper.make_graph(
            self.nodes, "segformer", _descriptions(inputs), _descriptions(outputs), initializer=self.constants
        )
        versions = [helper.make_opsetid("", opset)]
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
