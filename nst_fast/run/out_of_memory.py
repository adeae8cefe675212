"""What happens when memory runs out during a run: smaller tiles once, or an error with a remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from nst_fast.engines import Evaluation, Evaluator
from nst_fast.errors import DeviceError, OutOfMemoryError


class RetryInTiles:
    """Evaluates; when memory runs out, continues once with another evaluator.

    Args:
        evaluate: used until memory runs out.
        smaller: makes the evaluator that is used from then on.
    """

    def __init__(self, evaluate: Evaluator, smaller: Callable[[], Evaluator]) -> None:
        self.evaluate = evaluate
        self.smaller: Callable[[], Evaluator] | None = smaller

    def __call__(self, pastiche: Tensor) -> Evaluation:
        if self.smaller is not None:
            try:
                return self.evaluate(pastiche)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Outside of the handler: the error's traceback holds the tensors of the failed evaluation.
            smaller, self.smaller = self.smaller, None
            del self.evaluate  # and its tensors, before the next one is made
            self.evaluate = smaller()
        return self.evaluate(pastiche)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn exhausted memory into :class:`OutOfMemoryError`, a GPU that stops working into :class:`DeviceError`."""
    try:
        yield
    except RuntimeError as error:
        said = str(error).splitlines()[0]
        if is_out_of_memory(error):
            remedy = "Use `on_oom` tile, `max_memory` or fewer pixels"
            raise OutOfMemoryError(f"memory ran out ({said})", remedy) from error
        if isinstance(error, torch.AcceleratorError):  # it was reset, or met a fault that its process cannot survive
            remedy = "See `nst-fast doctor`; `nst-fast resume OUT` continues from the last checkpoint"
            raise DeviceError(f"the device stopped working ({said})", remedy) from error
        raise


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch ran out of memory: a class of its own on GPUs, a plain RuntimeError on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
