"""Every operator and type of our graphs is in TensorRT 10's list, as docs/step-graph.md has both."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Any

import onnx
import pytest
from graph_variants import VARIANTS, build, name_of
from onnx import TensorProto
from places import ROOT

TYPES = {TensorProto.FLOAT: "FP32", TensorProto.FLOAT16: "FP16", TensorProto.INT64: "INT64", TensorProto.BOOL: "BOOL"}
HEADING = "| operator | types in our graphs |"
AXES = {"Slice": 3, "Pad": 3, "ReduceSum": 1, "ReduceSumSquare": 1}  # which input
DATA = {"Where": 1}  # elsewhere the first input has the type that the list means

Table = dict[str, tuple[set[str], set[str]]]


def table() -> Table:
    """Operator -> types in our graphs, types in TensorRT 10's list."""
    text = (ROOT / "docs" / "step-graph.md").read_text()
    rows = text[text.index(HEADING) :].partition("\n\n")[0].splitlines()[2:]
    found: Table = {}
    for row in rows:
        operators, ours, theirs = ([part.strip() for part in cell.split(",")] for cell in row.split("|")[1:4])
        found |= {operator: (set(ours), set(theirs)) for operator in operators}
    return found


@cache
def models() -> list[Any]:
    return [onnx.shape_inference.infer_shapes(onnx.load_from_string(build(variant)[2].model)) for variant in VARIANTS]


def types_of(graph: Any) -> dict[str, int]:
    values = (*graph.value_info, *graph.input, *graph.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    return kinds | {tensor.name: tensor.data_type for tensor in graph.initializer}


def test_the_table_says_what_is_in_the_graphs() -> None:
    found = defaultdict(set)
    for model in models():
        kinds = types_of(model.graph)
        for node in model.graph.node:
            found[node.op_type].add(TYPES[kinds[node.input[DATA.get(node.op_type, 0)]]])
    assert {operator: ours for operator, (ours, _) in table().items()} == dict(found)


def test_tensorrt_has_each_operator_for_these_types() -> None:
    assert [operator for operator, (ours, theirs) in table().items() if not ours <= theirs] == []


@pytest.mark.parametrize("index", range(len(VARIANTS)), ids=map(name_of, VARIANTS))
def test_what_tensorrt_demands_of_them_is_so(index: int) -> None:
    graph = models()[index].graph
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        axes = node.input[AXES[node.op_type] :][:1] if node.op_type in AXES else []
        assert set(axes) <= {*constants, ""}, node.name
        assert not any(attribute.name == "dilations" and set(attribute.ints) != {1} for attribute in node.attribute)
        assert len(node.output) == 1, "indices of a pool, which TensorRT lacks"
