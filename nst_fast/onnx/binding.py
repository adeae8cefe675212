"""A session's inputs and outputs bound to memory that somebody else owns: nothing is copied, nothing is allocated."""

from __future__ import annotations

from typing import Protocol

import onnxruntime

from nst_fast.onnx.runtime import ORT_ERRORS, failure
from nst_fast.onnx.session import Session


class Shareable(Protocol):
    """An array or tensor whose memory can be shared by DLPack: contiguous, and outside any autograd graph."""

    def __dlpack__(self) -> object: ...


class SharedBinding:
    """Runs a session on tensors of PyTorch, or arrays of NumPy, where they lie.

    Args:
        session: one that runs on the stream of those who write and read the tensors, if it is on a GPU: nobody waits
            for the GPU then.
        graph: number of the CUDA graph that is captured for this binding. Addresses are part of a graph, so that
            bindings which share a number would replay each other's (onnxruntime-genai#2446).
    """

    def __init__(self, session: Session, graph: int = 1) -> None:
        self._owner = session
        self._options = onnxruntime.RunOptions()
        if session.actual != "cpu":
            self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if session.cuda_graph:
            self._options.add_run_config_entry("gpu_graph_id", str(graph))
        self._binding = session.session.io_binding()
        self._kept: dict[str, Shareable] = {}  # ONNX Runtime keeps the address, not the tensor

    def bind_input(self, name: str, tensor: Shareable) -> None:
        """Read this input from the tensor's memory, as it is when :meth:`run` is called."""
        self._binding.bind_ortvalue_input(name, self._value(name, tensor))

    def bind_output(self, name: str, tensor: Shareable) -> None:
        """Write this output into the tensor's memory. Never an input's: what reads it might come later."""
        self._binding.bind_ortvalue_output(name, self._value(name, tensor))

    def run(self) -> None:
        """Compute the outputs that are bound.

        Raises:
            OutOfMemoryError, DeviceError, OnnxModelError: as :func:`nst_fast.onnx.session.make_session`.
        """
        try:
            self._owner.session.run_with_iobinding(self._binding, self._options)
        except ORT_ERRORS as error:
            raise failure(error, "the model cannot be run", self._owner.actual) from error

    def _value(self, name: str, tensor: Shareable) -> object:
        self._kept[name] = tensor
        return onnxruntime.OrtValue.from_dlpack(tensor)
