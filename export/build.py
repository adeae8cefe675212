"""Export recipes: ``python export/build.py export/vgg19.toml --output models``. See README.md beside this file."""

from __future__ import annotations

import argparse
import sys
import tomllib
from pathlib import Path

from nst_fast.benchmark.scripts import say, script
from nst_fast.errors import InputError
from nst_fast.onnx.checked_export import export_model
from nst_fast.options.config import ExportConfig


@script
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="+", type=Path, help="recipe files (.toml)")
    parser.add_argument("--output", type=Path, required=True, help="the folder to write models and manifests to")
    parser.add_argument("--weights", help="instead of the recipe's: imagenet, random[:SEED] or a file")
    parser.add_argument("--provider", action="append", help="prove on this provider; may be given again [cpu]")
    parser.add_argument("--overwrite", action="store_true", help="replace models that exist")
    arguments = parser.parse_args()
    # All are read before the first is exported: a typing error in the last must not cost minutes.
    for name, config in [(path.stem, read_recipe(path, arguments.weights)) for path in arguments.recipes]:
        model = arguments.output / f"{name}.onnx"
        providers = arguments.provider or ["cpu"]
        published = export_model(config, model, providers=providers, overwrite=arguments.overwrite)
        worst = max(row.relative_err for row in published.rows)
        say(f"{name}: {len(published.rows)} comparisons, largest relative error {worst:.1e}")
        sys.stdout.write(f"{published.path}\n")


def read_recipe(path: Path, weights: str | None) -> ExportConfig:
    """The options of a recipe: all of its keys but ``description`` are those of ``nst-fast export``."""
    try:
        options = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: cannot be read as TOML: {error}") from error
    options.pop("description", None)
    return ExportConfig().replace(**options | ({"weights": weights} if weights else {}))


if __name__ == "__main__":
    sys.exit(main())
