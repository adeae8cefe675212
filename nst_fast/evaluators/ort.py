"""The ort engine: losses and gradient by ONNX Runtime, from a graph written for the very size of the picture.

PyTorch's memory is bound to the session, so nothing is copied on the way in; the results are copied once, since the
session writes into the same memory at every step.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from nst_fast.errors import NumericsError, UsageError
from nst_fast.evaluators.base import Evaluation
from nst_fast.files import cache_dir
from nst_fast.objective import Objective
from nst_fast.ort.binding import SharedBinding
from nst_fast.ort.providers import CudaOptions, TensorrtOptions
from nst_fast.ort.session import Session, make_session
from nst_fast.step.export import graph_for, network_weights, objective_feeds
from nst_fast.step.graph import build_step_graph
from nst_fast.step.spec import GRADIENT_SCALE, StepGraph
from nst_fast.vgg import Encoder

OPSET = 18
ENGINE_CACHE = "tensorrt"
# The gradient of an fp16 graph is computed this many times too large, so that its small parts do not underflow, and
# divided again in fp32. The first evaluation lowers it until nothing overflows, and then leaves room for growth.
LARGEST_SCALE, SMALLEST_SCALE, ROOM = 2.0**40, 2.0**-8, 2.0**6


class OrtEvaluator:
    """The twin of the eager evaluator.

    Args:
        encoder: whose weights go into the graph.
        objective: what is minimised.
        provider: ``cpu``, ``cuda`` or ``tensorrt``; ``auto`` is the one of the encoder's device.
        precision: ``fp32``, or ``fp16`` for convolutions in fp16.
        allow_fallback: take the next best provider when this one does not work.
        cuda_graph: capture the launches on a GPU once and replay them.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        *,
        provider: str = "auto",
        precision: str = "fp32",
        allow_fallback: bool = False,
        cuda_graph: bool = False,
    ) -> None:
        self.encoder = encoder
        self.objective = objective
        self.provider = provider
        self.precision = precision
        self.allow_fallback = allow_fallback
        self.cuda_graph = cuda_graph
        self.prepared: PreparedGraph | None = None

    def __call__(self, pastiche: Tensor) -> Evaluation:
        size = (pastiche.shape[2], pastiche.shape[3])
        if self.prepared is None or self.prepared.spec.size != size:
            self.prepared = self._prepare(pastiche)
        return self.prepared(pastiche)

    def _prepare(self, pastiche: Tensor) -> PreparedGraph:
        spec = graph_for(
            self.encoder, self.objective.options, precision=self.precision, size=(pastiche.shape[2], pastiche.shape[3])
        )
        return PreparedGraph(self, spec, pastiche)

    def session_for(self, spec: StepGraph, device: torch.device) -> Session:
        """A session of a graph on the provider asked for, on the device and the stream of PyTorch."""
        if device.type not in ("cpu", "cuda"):
            raise UsageError(f"the ort engine does not run on {device.type}", "Use --device cpu or cuda")
        provider = device.type if self.provider == "auto" else self.provider
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None
        model = build_step_graph(spec, network_weights(self.encoder), OPSET).SerializeToString()
        index = device.index or 0
        return make_session(
            model,
            provider,
            allow_fallback=self.allow_fallback,
            cuda=CudaOptions(device_id=index, compute_stream=stream, cuda_graph=self.cuda_graph),
            tensorrt=TensorrtOptions(
                device_id=index,
                precision=self.precision,
                cache=cache_dir(ENGINE_CACHE),
                compute_stream=stream,
                cuda_graph=self.cuda_graph,
            ),
        )


class PreparedGraph:
    """A session for one size, with all its inputs and outputs bound to tensors.

    Attributes:
        seconds: what the graph and the session, with a TensorRT engine where there is one, took to build.
    """

    def __init__(self, engine: OrtEvaluator, spec: StepGraph, pastiche: Tensor) -> None:
        started = time.perf_counter()
        self.spec = spec
        self.session = engine.session_for(spec, pastiche.device)
        self.binding = SharedBinding(self.session)
        device = pastiche.device
        self.tensors: dict[str, Tensor] = {}
        assert spec.size is not None
        feeds = objective_feeds(spec, engine.objective.options, engine.objective.targets, spec.size)
        for name, array in feeds.items():
            self.bind_input(name, torch.from_numpy(array).to(device))
        self.bind_input("pastiche", torch.empty(pastiche.shape, device=device))
        self.bind_output("losses", torch.empty(len(spec.term_names), device=device))
        self.bind_output("total", torch.empty(1, device=device))
        self.bind_output("gradient", torch.empty(pastiche.shape, device=device))
        self.seconds = time.perf_counter() - started
        if spec.precision == "fp16":
            self.bind_input(GRADIENT_SCALE, torch.full((1,), LARGEST_SCALE, device=device))
            self._choose_scale(pastiche)

    def bind_input(self, name: str, tensor: Tensor) -> None:
        self.tensors[name] = tensor
        self.binding.bind_input(name, tensor)

    def bind_output(self, name: str, tensor: Tensor) -> None:
        self.tensors[name] = tensor
        self.binding.bind_output(name, tensor)

    def __call__(self, pastiche: Tensor) -> Evaluation:
        if pastiche.shape[0] != 1:
            raise UsageError("the ort engine optimises one picture at a time", "Use --engine eager for a batch")
        self.tensors["pastiche"].copy_(pastiche)  # its address stays, as CUDA graphs need it
        self.binding.run()
        losses = self.tensors["losses"].clone()
        terms = {name: losses[index : index + 1] for index, name in enumerate(self.spec.term_names)}
        return Evaluation(self.tensors["total"].clone(), terms, self.tensors["gradient"].clone())

    def _choose_scale(self, pastiche: Tensor) -> None:
        """Lower the gradient's scale until it is finite. Looks at the device, once, before the loop begins."""
        scale = self.tensors[GRADIENT_SCALE]
        while not torch.isfinite(self(pastiche).gradient).all():
            scale /= 4
            if float(scale) < SMALLEST_SCALE:
                raise NumericsError("the gradient overflows in fp16", "Use --precision fp32")
        scale /= ROOM
