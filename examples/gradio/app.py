"""A page of Gradio to paint with, as for a Space of Hugging Face; ``python app.py`` opens it here.

The picture is shown as it grows. *Stop*, and a visitor who leaves, end the run within a step.
"""

from __future__ import annotations

import queue
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from nst_fast import Networks, NstFastError, Observer, Pastiche, stylize
from nst_fast.jobs.sample_art import draw_content, draw_style
from nst_fast.options.presets import LOOKS

if TYPE_CHECKING:
    from nst_fast.run.observer import StepEvent

LARGEST, MOST_STEPS = 1024, 400  # what one visitor may take of a shared machine
NETWORKS = Networks()  # loaded once for all visitors


class Follower(Observer):
    """Passes pictures and sentences on to the thread that serves the page."""

    def __init__(self) -> None:
        self.news: queue.Queue[tuple[Any, str] | Pastiche | Exception] = queue.Queue()
        self.stopped = threading.Event()

    def event(self, event: StepEvent) -> None:
        pixels = event.pastiche.detach()[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
        self.news.put((Image.fromarray(pixels), f"step {event.step} of {event.steps}"))

    def stop(self) -> bool:
        return self.stopped.is_set()


def paint(
    content: Image.Image | None, style: Image.Image | None, preset: str, **options: Any
) -> Iterator[tuple[Any, str]]:
    """The picture and a sentence on it, again and again until it is finished: at last a PNG with its record inside."""
    if content is None or style is None:
        raise gr.Error("Give a content and a style picture")
    follower = Follower()

    def run() -> None:
        try:
            made = stylize(content, style, preset=preset, listeners=follower, networks=NETWORKS, **options)
            follower.news.put(made)
        except Exception as error:  # raised below, in the thread of the page
            follower.news.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while isinstance(news := follower.news.get(), tuple):
            yield news
    finally:  # also where the visitor has left
        follower.stopped.set()
    if isinstance(news, NstFastError):
        raise gr.Error(str(news))
    if isinstance(news, Exception):
        raise news
    with tempfile.TemporaryDirectory(prefix="nst-fast-") as folder:  # Gradio keeps a copy of its own
        path = Path(folder) / "pastiche.png"
        path.write_bytes(news.png())
        yield str(path), f"{news.record.status}: {news.record.steps} steps in {news.record.seconds:.0f} s"


def page() -> gr.Blocks:
    """The page; the first pictures are drawn by code."""
    with gr.Blocks(title="nst-fast") as made:
        gr.Markdown(
            "# nst-fast\nNeural style transfer by optimisation: the scene of one picture, painted like another."
        )
        with gr.Row():
            content = gr.Image(draw_content(320), type="pil", label="Content")
            style = gr.Image(draw_style(320), type="pil", label="Style")
            picture = gr.Image(label="Pastiche", format="png", interactive=False)
        with gr.Row():
            preset = gr.Dropdown([look.name for look in LOOKS], value=LOOKS[0].name, label="Look")
            image_size = gr.Slider(64, LARGEST, value=320, step=16, label="Longest side in pixels")
            steps = gr.Slider(10, MOST_STEPS, value=100, step=10, label="Steps")
            strength = gr.Slider(0, 1, value=1, step=0.05, label="Strength")
            seed = gr.Number(0, precision=0, minimum=0, label="Seed")
        with gr.Row():
            start, stop = gr.Button("Paint", variant="primary"), gr.Button("Stop")
        state = gr.Markdown()

        def painted(*values: Any) -> Iterator[tuple[Any, str]]:
            names = ("content", "style", "preset", "image_size", "steps", "strength", "seed")
            yield from paint(**dict(zip(names, values, strict=True)), monitor_every=0)

        inputs = [content, style, preset, image_size, steps, strength, seed]
        painting = start.click(painted, inputs, [picture, state], concurrency_limit=1)
        stop.click(None, cancels=[painting])
    return made


if __name__ == "__main__":
    page().launch()
