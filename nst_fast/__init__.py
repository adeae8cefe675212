"""nst-fast: optimisation-based neural style transfer (Gatys et al. 2016), fast and trustworthy.

The Python API is the command line's: ``stylize`` takes every option of ``nst-fast stylize`` by its name.

    from nst_fast import stylize
    pastiche = stylize("photo.jpg", "painting.jpg", image_size=512, steps=200)
    pastiche.save("out.png")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nst_fast.errors import NstFastError

if TYPE_CHECKING:
    from nst_fast.api import Listeners, Observer, Pastiche, ProgressBar, resume, stylize, stylize_together, texture
    from nst_fast.jury.evaluation import Evaluation, Scores, evaluate
    from nst_fast.options.config import StylizeConfig
    from nst_fast.run.problem import Networks

__version__ = "0.1.0"

__all__ = [
    "Evaluation",
    "Listeners",
    "Networks",
    "NstFastError",
    "Observer",
    "Pastiche",
    "ProgressBar",
    "Scores",
    "StylizeConfig",
    "__version__",
    "evaluate",
    "resume",
    "stylize",
    "stylize_together",
    "texture",
]


def __getattr__(name: str) -> Any:
    """Load what needs torch, or takes a while, only when it is asked for."""
    if name == "StylizeConfig":
        from nst_fast.options.config import StylizeConfig

        return StylizeConfig
    if name in ("Evaluation", "Scores", "evaluate"):
        from nst_fast.jury import evaluation

        return getattr(evaluation, name)
    if name in __all__:
        from nst_fast import api

        return getattr(api, name)
    raise AttributeError(f"module 'nst_fast' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, also of what is not loaded yet."""
    return sorted({*globals(), *__all__})
