"""Peak memory of reading and writing files of 100 megapixels: python bench/memory/files.py [--old] > OUT.json

Every row is a fresh process; its peak is the kernel's (ru_maxrss), less what the imports hold; rows of writing are also
less the picture itself. The files are made in a temporary folder with Pillow and tifffile, so that the script can
measure an older tree: started in that tree, with PYTHONPATH=. and ``--old``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from peaks import peak_mib
from PIL import Image

SCHEMA = "nst-fast/files/1"
WIDTH, HEIGHT = 12_000, 8_336
NOISE = 6.0  # of 255, so that the files compress as photographs do
READ_SIDES = (1024, 2048, 8192)
FILES = ("baseline.jpg", "progressive.jpg", "8-bit.png", "16-bit.tif", "8-bit-tiled.tif")
IMPORTS = "import json, sys, tifffile, torch\nfrom nst_fast.images import load_image, save_image\n"
READ = IMPORTS + "load_image(sys.argv[1], longest_side=int(sys.argv[2]))"
# Rows of one value each are enough: what an encoder holds does not depend on what is in the picture.
HOLD = IMPORTS + (
    "rows = torch.linspace(0, 1, int(sys.argv[2])).view(1, 1, -1, 1)\n"
    "picture = rows.expand(1, 3, -1, int(sys.argv[3])).contiguous()\n"
)
WRITE = HOLD + "save_image(picture, sys.argv[1], **json.loads(sys.argv[4]))"


def photograph() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A smooth picture with noise, [HEIGHT, WIDTH, 3], made a strip at a time."""
    chance = np.random.default_rng(0)
    picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    across = np.linspace(0, 6, WIDTH, dtype=np.float32)[:, None] + np.arange(3, dtype=np.float32)
    for top in range(0, HEIGHT, 128):
        rows = np.linspace(top, top + 128, 128, dtype=np.float32)[: HEIGHT - top, None, None] / 900
        noise = chance.standard_normal((len(rows), WIDTH, 3), np.float32)
        picture[top : top + 128] = np.clip(128 + 90 * np.sin(across + rows) + NOISE * noise, 0, 255)
    return picture


def make_file(path: Path) -> None:
    pixels = photograph()
    picture = Image.fromarray(pixels)
    if path.name == "16-bit.tif":
        deep = pixels.astype(np.uint16) * 257
        tifffile.imwrite(path, deep, photometric="rgb", compression="zlib", rowsperstrip=64)
    elif path.name == "8-bit-tiled.tif":
        tifffile.imwrite(path, pixels, photometric="rgb", tile=(256, 256))
    elif path.suffix == ".png":
        picture.save(path, compress_level=1)
    else:
        picture.save(path, quality=90, progressive=path.name.startswith("progressive"))


def rows_of(folder: Path, *, old: bool) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []

    def add(row: dict[str, object], peak: float) -> None:
        rows.append(row | {"peak_mib": round(peak)})
        sys.stderr.write(f"{rows[-1]}\n")

    picture = 3 * 4 * WIDTH * HEIGHT / 2**20
    # Not the peak of the imports alone: they need more for a moment than they hold, and later work takes its place.
    idle = peak_mib(["-c", HOLD, "", str(HEIGHT), str(WIDTH)]) - picture
    for path in (folder / name for name in FILES):
        # By a process of its own: what this one held would count as the first peak of those that it starts.
        subprocess.run([sys.executable, __file__, "--make", str(path)], check=True)
        for side in READ_SIDES:
            add({"read": path.name, "image_size": side}, peak_mib(["-c", READ, str(path), str(side)]) - idle)
        path.unlink()
    for name, depth in (("a.png", 8), ("a.tif", 8), ("a.jpg", 8), ("a.bmp", 8), ("a.png", 16), ("a.tif", 16)):
        if depth == 16 and old:
            continue
        options = json.dumps({} if old else {"bit_depth": depth})
        command = ["-c", WRITE, str(folder / name), str(HEIGHT), str(WIDTH), options]
        add({"write": name, "bit_depth": depth}, peak_mib(command) - idle - picture)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--old", action="store_true", help="measure a tree without --bit-depth")
    parser.add_argument("--make", type=Path, metavar="FILE", help="make one of the files and end")
    arguments = parser.parse_args()
    if arguments.make:
        make_file(arguments.make)
        sys.exit()
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(Path(folder), old=arguments.old)
    # Not before: it comes with PyTorch, whose memory would have counted as the children's.
    from nst_fast.system.machine import describe_machine

    facts = {"schema": SCHEMA, "width": WIDTH, "height": HEIGHT, "machine": describe_machine(), "rows": rows}
    sys.stdout.write(json.dumps(facts, indent=1) + "\n")
