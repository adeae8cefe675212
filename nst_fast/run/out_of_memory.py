"""What happens when memory runs out during an evaluation: another evaluator once, or an error with a remedy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nst_fast.engines import Evaluation, Evaluator
from nst_fast.errors import DeviceError, OutOfMemoryError


class OnOutOfMemory:
    """Turns exhausted memory into :class:`OutOfMemoryError`, or continues once with another evaluator.

    A GPU that stops working is a :class:`DeviceError`.

    Args:
        evaluate: used until memory runs out.
        smaller: makes the evaluator that is used from then on; None raises at once.
    """

    def __init__(self, evaluate: Evaluator, smaller: Callable[[], Evaluator] | None) -> None:
        self.evaluate: Evaluator | None = evaluate
        self.smaller = smaller

    def __call__(self, pastiche: Tensor) -> Evaluation:
        if self.evaluate is not None:
            try:
                return self.evaluate(pastiche)
            except RuntimeError as error:
                if isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error):
                    raise lost_device(error) from error
                if not is_out_of_memory(error):
                    raise
                said = str(error).splitlines()[0]
            # Outside of the handler: the error's traceback holds the tensors of the failed evaluation.
            self.evaluate = None
        else:
            said = "a second time"
        if self.smaller is None:
            message = f"memory ran out ({said})"
            raise OutOfMemoryError(message, "Use `on_oom` tile, `max_memory` or fewer pixels")
        smaller, self.smaller = self.smaller, None
        self.evaluate = smaller()
        return self(pastiche)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch ran out of memory: a class of its own on GPUs, a plain RuntimeError on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def lost_device(error: RuntimeError) -> DeviceError:
    """A GPU that fell off the bus, was reset, or met a fault from which its process cannot recover."""
    said = str(error).splitlines()[0]
    remedy = "See `nst-fast doctor`; `nst-fast resume OUT` goes on from the last checkpoint"
    return DeviceError(f"the device stopped working ({said})", remedy)
