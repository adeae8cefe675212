"""A small writer of ONNX graphs: one method per kind of thing that a graph holds.

Graphs are written node by node, not traced and optimised: onnxscript's rewriter takes ``x + 1e-8`` for ``x`` and would
remove Adam's epsilon (see docs/step-graph.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from nst_fast import __version__

IR_VERSION = 10  # the oldest that names its opsets as we use them; every ONNX Runtime since 1.18 reads it
FLOATS = {"fp16": np.float16, "fp32": np.float32, "fp64": np.float64}

Array = NDArray[Any]
Value = str  # the name of a tensor in the graph
Extent = int | str


class GraphWriter:
    """Collects nodes, constants, inputs and outputs, and makes a model of them.

    Attributes:
        precision: of inputs, outputs and constants where no other is given, see :data:`FLOATS`.
    """

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self._nodes: list[Any] = []
        self._constants: dict[bytes, Value] = {}
        self._initializers: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._scopes: list[str] = []

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Names of nodes written inside begin with it: ``conv1_1/Conv_3``."""
        self._scopes.append(name)
        yield
        self._scopes.pop()

    def op(self, operator: str, *inputs: Value, **attributes: Any) -> Value:
        """Write one node of one output; the name of that output."""
        name = "/".join([*self._scopes, f"{operator}_{len(self._nodes)}"])
        self._nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def split(self, value: Value, axis: int) -> tuple[Value, Value]:
        """Write a node that cuts a tensor into halves along an axis."""
        first = self.op("Split", value, axis=axis, num_outputs=2)
        self._nodes[-1].output.append(f"{first}/second")
        return first, f"{first}/second"

    def number(self, value: float, precision: str | None = None) -> Value:
        """A float constant of one element. Never rank 0: rewriters treat scalars as constants they may fold away."""
        return self.constant(np.array([value], FLOATS[precision or self.precision]))

    def integers(self, values: Sequence[int]) -> Value:
        """An int64 constant: axes, starts, shapes."""
        return self.constant(np.array(values, np.int64))

    def constant(self, array: Array, name: str | None = None) -> Value:
        """An initializer; equal ones without a name are stored once."""
        key = f"{array.dtype}{array.shape}".encode() + array.tobytes() if name is None else name.encode()
        if key not in self._constants:
            self._constants[key] = name or f"constant_{len(self._constants)}"
            self._initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), self._constants[key]))
        return self._constants[key]

    def input(self, name: str, shape: Sequence[Extent], kind: int | None = None) -> Value:
        """A graph input; ``kind`` is ONNX's number of its element type, by default that of :attr:`precision`."""
        kind = element_type(self.precision) if kind is None else kind
        self._inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def output(self, name: str, value: Value, shape: Sequence[Extent]) -> None:
        """Make a value an output of the graph, under a name of its own; nothing may use the value afterwards."""
        for node in self._nodes:
            for names in (node.input, node.output):
                for index, used in enumerate(names):
                    if used == value:
                        names[index] = name
        self._outputs.append(helper.make_tensor_value_info(name, element_type(self.precision), list(shape)))

    def model(self, name: str, opset: int) -> Any:
        """The finished ``onnx.ModelProto``."""
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, self._initializers)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset)],
            ir_version=IR_VERSION,
            producer_name="nst-fast",
            producer_version=__version__,
        )


def element_type(precision: str) -> int:
    """ONNX's number for a precision, as the operator Cast takes it."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(FLOATS[precision])))


INT64 = int(TensorProto.INT64)
