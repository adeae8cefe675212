"""Numbers as JSON holds them: to significant digits, and None where they are not finite. Standard library only."""

from __future__ import annotations

import math
from typing import Any


def rounded(value: Any, digits: int = 7) -> Any:
    """Every float of plain data to so many significant digits; a float32 holds no more than 7, a timing hardly 6."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    return [rounded(item, digits) for item in value] if isinstance(value, list | tuple) else value
