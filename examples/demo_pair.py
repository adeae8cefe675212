"""The scene and the painting that ``nst-fast demo`` draws, as files: the examples need no picture of yours."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from nst_fast.jobs.sample_art import draw_content, draw_style


def demo_pair(folder: Path, size: int) -> tuple[Path, Path]:
    """Draw content and style, longest side ``size`` pixels, into a folder; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    content, style = folder / "content.png", folder / "style.png"
    Image.fromarray(draw_content(size)).save(content)
    Image.fromarray(draw_style(size)).save(style)
    return content, style
