"""Every variant of the step graph, on a shallow network: what other runtimes must take."""

from __future__ import annotations

import itertools

import numpy as np

from nst_fast.network.vgg import Encoder
from nst_fast.onnx.checked_export import encoder_for
from nst_fast.onnx.export import ExportedGraph, build_graph
from nst_fast.onnx.graph.writer import GraphWriter
from nst_fast.options.config import ExportConfig

SHALLOW = {"weights": "random:0", "content_taps": "pool1", "style_taps": "relu1_1"}
TV = ({"tv_weight": 0.0, "chroma_tv_weight": 0.0}, {"tv_weight": 1.0, "chroma_tv_weight": 1.0})
OTHERS = [{"graph": graph} for graph in ("encoder", "objective", "gradient")]
EVERY_LOSS = {"graph": "gradient", "style_loss": "wasserstein", "edge_weight": 1.0}
VARIANTS = [*OTHERS, EVERY_LOSS] + [
    {"graph": "step", "pooling": pooling, "padding": padding, "precision": precision, **tv}
    for pooling, padding, precision, tv in itertools.product(
        ("max", "average"), ("zeros", "replicate", "reflect"), ("fp32", "fp16"), TV
    )
]


def name_of(variant: dict[str, object]) -> str:
    return "-".join(map(str, variant.values()))


def build(variant: dict[str, object]) -> tuple[Encoder, ExportConfig, ExportedGraph]:
    config = ExportConfig(**{**SHALLOW, **variant})
    encoder, weights_sha256 = encoder_for(config)
    return encoder, config, build_graph(encoder, config, weights_sha256)


def with_a_bad_operator() -> bytes:
    """A model whose MaxUnpool neither TensorRT nor OpenVINO takes."""
    writer = GraphWriter("fp32")
    picture = writer.op("Relu", writer.input("image", [1, 3, 4, 4]))
    indices = writer.constant(np.arange(48, dtype=np.int64).reshape(1, 3, 4, 4) * 4)
    writer.output("large", writer.op("MaxUnpool", picture, indices, kernel_shape=[2, 2], strides=[2, 2]), [1, 3, 8, 8])
    return bytes(writer.model("control", opset=18).SerializeToString())
