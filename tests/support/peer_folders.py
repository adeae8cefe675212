"""The folders of a comparison with other programs (bench/peers), with a stand-in for one of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from batches import draw


def make_folders(base: Path, names: str, stand_in: str, pairs: str) -> dict[str, Path]:
    """Sources, images by the letters of ``names``, outputs and results; ``pairs``: the text of tiny.toml."""
    found = {name: base / name for name in ("sources", "images", "output", "results")}
    for folder in found.values():
        folder.mkdir()
    for seed, name in enumerate(names):
        draw(found["images"] / f"{name}.png", seed, (40, 30))
    (found["sources"] / "neural-style-pt").mkdir()
    (found["sources"] / "neural-style-pt" / "neural_style.py").write_text(stand_in)
    (base / "tiny.toml").write_text(pairs)
    return found


def arguments(folders: dict[str, Path], programs: Sequence[str]) -> list[str]:
    given = [part for name, folder in folders.items() for part in (f"--{name}", str(folder))]
    return [*given, "--pairs", str(folders["images"].parent / "tiny.toml"), "--threads", "1", "--programs", *programs]
