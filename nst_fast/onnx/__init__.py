"""Everything ONNX: export, parity, the step as one graph, sessions of ONNX Runtime and their providers, the monitor.

May import: errors, network, objective, options, system.
"""

from __future__ import annotations

import os

TELEMETRY_VARIABLE = "ORT_DISABLE_TELEMETRY"
# From its import on ONNX Runtime would keep a device id in the cache folder and report its use to Microsoft. Here, as
# PyTorch's exporter may import it too. A user who sets 0 lets it.
os.environ.setdefault(TELEMETRY_VARIABLE, "1")
