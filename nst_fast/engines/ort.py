"""The ort engine: losses and gradient by ONNX Runtime, from a graph written for the size of the picture.

PyTorch's memory is bound to the session, so nothing is copied on the way in; the results are copied once, since the
session writes into the same memory at every step. :mod:`nst_fast.engines.ort_step` has the update in the graph too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from nst_fast.errors import DeviceError, NumericsError, UsageError
from nst_fast.network.vgg import Encoder
from nst_fast.objective.evaluation import Evaluation
from nst_fast.objective.objective import Objective
from nst_fast.onnx.graph.step import GRADIENT_SCALE, AdamConstants, StepGraph, build_step_graph, constant_feeds
from nst_fast.onnx.providers import SessionConfig
from nst_fast.onnx.session import Binding, Session, make_session
from nst_fast.options.providers import find_provider
from nst_fast.system.files import cache_dir

ENGINE_CACHE = "tensorrt"
# The gradient of an fp16 graph is computed this many times too large, so that its small parts do not underflow, and
# divided again in fp32. The first evaluation lowers it until nothing overflows, and then leaves room for growth.
LARGEST_SCALE, SMALLEST_SCALE, ROOM = 2.0**40, 2.0**-8, 2.0**6

Graph = TypeVar("Graph", bound="PreparedGraph")


class OrtEvaluator:
    """The twin of the eager evaluator.

    Args:
        encoder: whose weights go into the graph.
        objective: what is minimised.
        provider: its name; ``auto`` is the one of the picture's device.
        precision: ``fp32``; ``tf32``, the same graph with products in TF32; or ``fp16`` for convolutions in fp16.
        allow_fallback: take the next best provider when this one does not work.
        cuda_graph: ``on`` captures the launches on a GPU once and replays them, ``off`` does not, ``auto`` does unless
            the capture fails.
        opened: receives every session that will be run.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        *,
        provider: str = "auto",
        precision: str = "fp32",
        allow_fallback: bool = False,
        cuda_graph: str = "auto",
        opened: Callable[[Session], None] = lambda session: None,
    ) -> None:
        self.encoder, self.objective = encoder, objective
        self.provider, self.allow_fallback = provider, allow_fallback
        self.precision, self.cuda_graph = precision, cuda_graph
        self.opened = opened
        self.prepared: GradientGraph | None = None

    def __call__(self, pastiche: Tensor) -> Evaluation:
        check_single(pastiche)
        if self.prepared is None or self.prepared.gradient.shape != pastiche.shape:
            self.prepared = self.prepare(lambda capture: GradientGraph(self, pastiche, capture), pastiche.device)
        return self.prepared(pastiche)

    def prepare(self, make: Callable[[bool], Graph], device: torch.device) -> Graph:
        """A graph on its session, which is reported to ``opened``.

        Args:
            make: makes it, given whether to capture its launches; it raises DeviceError when that fails.
            device: of the picture.

        Raises:
            UsageError: a CUDA graph is asked for where there are none.
            DeviceError: the provider does not work.
        """
        provider = self.provider_of(device)
        captures = find_provider(provider).memory == "cuda"
        if self.cuda_graph == "on" and not captures:
            raise UsageError(
                f"`cuda_graph` on: ONNX Runtime's provider is {provider}", "Use `device` cuda, or leave it out"
            )
        warnings = []
        if self.cuda_graph != "off" and captures:
            try:
                graph = make(True)
                self.opened(graph.session)
                return graph
            except DeviceError as error:
                if self.cuda_graph == "on":
                    raise
                warnings.append(f"no CUDA graph, every step launches anew ({error.message})")
        # Outside of the handler: the error's traceback holds the first session and its memory.
        graph = make(False)
        said = (f"{graph.session.actual}: {warning}" for warning in warnings)
        self.opened(replace(graph.session, warnings=(*graph.session.warnings, *said)))
        return graph

    def provider_of(self, device: torch.device) -> str:
        """ONNX Runtime's provider for a picture on a device."""
        return device.type if self.provider == "auto" else self.provider

    def open(self, spec: StepGraph, device: torch.device, stream: torch.cuda.Stream | None, capture: bool) -> Session:
        """A session of a graph on the provider asked for, and on a stream of PyTorch's.

        Raises:
            UsageError: ONNX Runtime shares no memory with this device.
            DeviceError: the provider does not work, or does not compute where the picture is.
        """
        if device.type not in ("cpu", "cuda"):
            raise UsageError(f"the ort engine does not run on {device.type}", "Use `device` cpu or cuda")
        config = SessionConfig(
            deterministic=device.type == "cpu",
            device_id=device.index or 0,
            cuda_graph=capture,
            compute_stream=stream.cuda_stream if stream is not None else None,
            precision=self.precision,
            engine_cache=cache_dir(ENGINE_CACHE),
        )
        model: bytes = build_step_graph(spec).SerializeToString()
        session = make_session(model, self.provider_of(device), config, allow_fallback=self.allow_fallback)
        if session.device != device.type:
            raise DeviceError(
                f"provider {session.actual} does not compute on {device}, where the picture is",
                f"Use `device` {session.device}",
            )
        return session


def check_single(pastiche: Tensor) -> None:
    if pastiche.shape[0] != 1:
        raise UsageError("the ort engine optimises one picture at a time", "Use `engine` eager for a batch")


class PreparedGraph:
    """A session for one size; its constant inputs and its results are in memory of PyTorch's.

    Args:
        engine: whose objective and options hold.
        pastiche: the graph is for its size and device.
        capture: capture the launches as CUDA graphs.
        adam: makes the graph that of the whole step.
    """

    def __init__(
        self, engine: OrtEvaluator, pastiche: Tensor, capture: bool, adam: AdamConstants | None = None
    ) -> None:
        device = pastiche.device
        size = (pastiche.shape[2], pastiche.shape[3])
        precision = "fp32" if engine.precision == "tf32" else engine.precision
        for_cpu = engine.provider_of(device) == "cpu" and precision == "fp32"
        objective, encoder = engine.objective, engine.encoder
        masked = (objective.guides, objective.style_terms)
        self.spec = StepGraph(encoder, objective.options, precision, adam, size, for_cpu, *masked)
        self.device, self.capture = device, capture
        self.stream: torch.cuda.Stream | None = None
        if device.type == "cuda":  # launches on PyTorch's default stream cannot be captured
            own = torch.cuda.Stream(device) if capture else None  # type: ignore[no-untyped-call]  # torch's
            self.stream = own or torch.cuda.current_stream(device)
        self.session = engine.open(self.spec, device, self.stream, capture)
        feeds = constant_feeds(self.spec, objective.targets, size)
        self.constant = {name: torch.from_numpy(array).to(device) for name, array in feeds.items()}
        self.scale: Tensor | None = None
        if self.spec.precision == "fp16":
            self.scale = self.constant[GRADIENT_SCALE] = torch.full((1,), LARGEST_SCALE, device=device)
        self.term_names = objective.term_names
        self.losses = torch.empty(len(self.term_names), device=device)
        self.total = torch.empty(1, device=device)
        self.gradient = torch.empty(pastiche.shape, device=device)

    def bound(self, session: Session, inputs: dict[str, Tensor], outputs: dict[str, Tensor], graph: int = 1) -> Binding:
        """All inputs and outputs of a session bound to tensors that stay where they are; see :class:`Binding`."""
        binding = Binding(session, shared=True, graph=graph)
        results = {"losses": self.losses, "total": self.total, "gradient": self.gradient}
        for name, tensor in {**self.constant, **inputs}.items():
            binding.bind_input(name, tensor)
        for name, tensor in {**results, **outputs}.items():
            binding.bind_output(name, tensor)
        return binding

    def run(self, binding: Binding) -> Evaluation:
        """Run what is bound, after what PyTorch has queued on the device and before what it will queue there.

        The evaluation's gradient is overwritten by the next run.
        """
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
        binding.run()
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
        losses = self.losses.clone()
        terms = {name: losses[index : index + 1] for index, name in enumerate(self.term_names)}
        return Evaluation(self.total.clone(), terms, self.gradient)

    def try_out(self, binding: Binding) -> None:
        """Before the loop begins: try the capture, and for fp16 find the scale of the gradient."""
        if self.capture or self.scale is not None:
            self.run(binding)
        if self.scale is None:
            return
        while not torch.isfinite(self.gradient).all():
            self.scale /= 4
            if float(self.scale) < SMALLEST_SCALE:
                raise NumericsError("the gradient overflows in fp16", "Use `precision` fp32")
            self.run(binding)
        self.scale /= ROOM


class GradientGraph(PreparedGraph):
    """Losses and gradient of any picture of one size, for every optimizer of PyTorch's."""

    def __init__(self, engine: OrtEvaluator, pastiche: Tensor, capture: bool) -> None:
        super().__init__(engine, pastiche, capture)
        self.pastiche = pastiche.detach().clone(memory_format=torch.contiguous_format)
        self.binding = self.bound(self.session, {"pastiche": self.pastiche}, {})
        self.try_out(self.binding)

    def __call__(self, pastiche: Tensor) -> Evaluation:
        self.pastiche.copy_(pastiche)  # its address stays, as CUDA graphs need it
        evaluation = self.run(self.binding)
        return replace(evaluation, gradient=evaluation.gradient.clone())
