"""Paint one picture in several looks, and score each with the neutral jury, ``nst_fast.evaluate``.

    python examples/compare_looks.py                          # the demo's pair
    python examples/compare_looks.py photo.jpg painting.jpg --looks faithful bold print

A look is a set of options (docs/looks.md). The columns shown here are none of the losses that looks optimise
(docs/jury.md): how near a picture is to the style, how much of the content it keeps, how noisy its colours are.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from demo_pair import demo_pair

from nst_fast import Evaluation, Networks, NstFastError, evaluate, stylize

COLUMNS = ("style_swd", "content_relu4_3", "content_ssim", "chroma_noise")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("content", nargs="?", type=Path, help="the picture whose scene is kept; by default the demo's")
    parser.add_argument("style", nargs="?", type=Path, help="the picture whose manner is taken")
    parser.add_argument("--looks", nargs="+", default=["faithful", "painterly", "bold"], help="names of presets")
    parser.add_argument("-o", "--output", type=Path, default=Path("nst-fast-examples"), help="the folder to write to")
    parser.add_argument("--image-size", type=int, default=256, help="longest side in pixels (default 256)")
    parser.add_argument("--steps", type=int, default=60, help="optimiser updates (default 60)")
    parser.add_argument("--weights", default="original", help="of painter and jury, as of nst-fast stylize")
    parser.add_argument("--overwrite", action="store_true", help="replace pictures that exist")
    given = parser.parse_args()
    if given.content and not given.style:
        parser.error("a content picture needs a style picture after it")
    return given


def paint(content: Path, style: Path, given: argparse.Namespace) -> list[Path]:
    """One picture per look; their paths."""
    networks, made = Networks(), []
    for look in given.looks:
        options = {
            "image_size": given.image_size,
            "steps": given.steps,
            "weights": given.weights,
            "monitor_every": 0,  # looks have taps of their own: the monitor would export a network for each
        }
        output = given.output / f"look-{look}.png"
        stylize(content, style, output=output, overwrite=given.overwrite, networks=networks, preset=look, **options)
        made.append(output)
    return made


def print_table(evaluation: Evaluation) -> None:
    meanings = {column["name"]: column for column in evaluation.as_dict()["columns"]}
    print(f"{'picture':<24}" + "".join(f"{name:>17}" for name in COLUMNS))
    for picture in evaluation.pictures:
        scores = (picture.scores[name] for name in COLUMNS)
        cells = ("-" if score is None else f"{score:.4f}" for score in scores)
        print(f"{picture.picture.name:<24}" + "".join(f"{cell:>17}" for cell in cells))
    print()
    for name in COLUMNS:
        print(f"{name} ({meanings[name]['better']} is better): {meanings[name]['what']}")


def main() -> int:
    given = arguments()
    try:
        if given.content:
            content, style = given.content, given.style
        else:
            content, style = demo_pair(given.output / "demo", given.image_size)
        print_table(evaluate(content, style, paint(content, style, given), weights=given.weights))
    except NstFastError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
