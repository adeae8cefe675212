"""The two pictures of ``nst-fast demo``, drawn by code with NumPy and Pillow; both look the same at every size."""

from nst_fast.jobs.sample_art.lake import draw_content
from nst_fast.jobs.sample_art.painting import draw_style

__all__ = ["draw_content", "draw_style"]
