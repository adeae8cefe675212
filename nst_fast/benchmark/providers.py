"""A session laid out for benchmarking, its inputs bound to the provider's device. Never imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from nst_fast.onnx.providers import SessionConfig
from nst_fast.onnx.session import make_session


def bind(
    model: bytes, provider: str, feeds: Mapping[str, NDArray[Any]], *, allow_fallback: bool = False
) -> tuple[str, Callable[[], None]]:
    """Load a model for the given inputs and lay them on the provider's device.

    Returns:
        The provider that really runs it, and what evaluates them: inputs and outputs stay on the device.

    Raises:
        DeviceError: the provider does not work here, or not for all of the model.
    """
    # An engine for this one size is the best that TensorRT can build.
    config = SessionConfig(profile={name: (array.shape,) * 3 for name, array in feeds.items()})
    session = make_session(model, provider, config, allow_fallback=allow_fallback)
    return session.actual, session.bind(feeds).run
