"""Runs models by the wheel onnxruntime-openvino, in an environment that has nothing else; see test_openvino.py.

Every line of standard input names a model, a file of its inputs and a file for its outputs; the answer is a line, empty
or what was wrong. No node may fall back to the CPU provider.
"""

from __future__ import annotations

import sys
from functools import cache

import numpy as np
import onnxruntime


@cache
def session(model: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return onnxruntime.InferenceSession(model, options, providers=[("OpenVINOExecutionProvider", {})])


def answer(model: str, inputs: str, outputs: str) -> str:
    try:
        opened = session(model)
        provider = opened.get_providers()[0]
        if provider != "OpenVINOExecutionProvider":
            return f"runs on {provider}"
        with np.load(inputs) as feeds:
            found = opened.run(None, dict(feeds))
    except Exception as error:  # ONNX Runtime's have no base of their own
        return " ".join(str(error).split()) or repr(error)
    names = [output.name for output in opened.get_outputs()]
    np.savez(outputs, **dict(zip(names, found, strict=True)))
    return ""


for line in sys.stdin:
    sys.stdout.write(answer(*line.rstrip("\n").split("\t")) + "\n")
    sys.stdout.flush()
