"""Pictures for browsers: WebP, small, encoded beside the loop at a bounded cost."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from PIL import Image

from nst_fast.errors import NumericsError
from nst_fast.images import resize_to, scaled_size, to_uint8

if TYPE_CHECKING:
    from torch import Tensor

    from nst_fast.api import StepEvent

DISPLAY, PREVIEW, THUMBNAIL = 2048, 640, 256  # longest sides in pixels
QUALITY = 82
# Processor time that previews may take: so many seconds, and this share of the run's wall clock or processor time,
# whichever is less: of a run on many cores, and of one on a busy machine, more would be felt.
ALLOWANCE, SHARE = 0.1, 0.01


def webp(image: Tensor, longest_side: int, *, effort: int = 2) -> bytes:
    """Image [1, 3, H, W] as WebP, no larger than ``longest_side``; ``effort`` from 0 (fast) to 6."""
    sink = io.BytesIO()
    Image.fromarray(to_uint8(smaller(image, longest_side))).save(sink, "WEBP", quality=QUALITY, method=effort)
    return sink.getvalue()


def smaller(image: Tensor, longest_side: int) -> Tensor:
    """The image, shrunk if its longest side is longer."""
    height, width = image.shape[2:]
    width, height = scaled_size(width, height, min(longest_side, max(height, width)))
    return resize_to(image, (height, width))


class Previews:
    """Encodes previews of a run in a thread of its own, in which ``show`` receives step and WebP.

    One that comes while it is busy, or costs too much, is dropped.
    """

    def __init__(self, show: Callable[[int, bytes], None]) -> None:
        self._show = show
        self._encoder = ThreadPoolExecutor(1, "previews")
        self._encoding: Future[None] | None = None
        self._spent, self._begun = 0.0, (time.monotonic(), time.process_time())

    def offer(self, event: StepEvent) -> None:
        """Called by the loop: takes a small copy, or nothing."""
        passed = min(time.monotonic() - self._begun[0], time.process_time() - self._begun[1])
        if self.busy or self._spent > ALLOWANCE + SHARE * passed:
            return
        started = time.thread_time()
        copy = smaller(event.pastiche.detach(), PREVIEW).to("cpu", copy=True)
        self._spent += time.thread_time() - started
        self._encoding = self._encoder.submit(self._encode, event.step, copy)
        self._encoding.add_done_callback(Future.result)  # an error is logged, and the run goes on

    @property
    def busy(self) -> bool:
        return self._encoding is not None and not self._encoding.done()

    def close(self) -> None:
        """End the thread; what it has begun is finished."""
        self._encoder.shutdown()

    def _encode(self, step: int, image: Tensor) -> None:
        started = time.thread_time()
        with suppress(NumericsError):  # of a run that diverges: the guard sees to it
            self._show(step, webp(image, PREVIEW, effort=0))
        self._spent += time.thread_time() - started
