"""Neural style transfer with NumPy, Pillow and ONNX Runtime alone: python run.py content.jpg style.jpg -o out.png

targets.onnx measures the two pictures; step.onnx holds losses, gradient and Adam's update. manifest.json says what the
models take and give. Nothing here knows a network: any language that ONNX Runtime serves can do the same.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported; 0 lets it report its use

import numpy as np
import onnxruntime
from PIL import Image

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]
HERE = Path(__file__).resolve().parent
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
TURNS = dict(zip(range(2, 9), map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), strict=True))  # by EXIF orientation


def number(value: float) -> Array:
    return np.array([value], np.float32)


def load_picture(path: Path, longest_side: int) -> Array:
    """A picture as [1, 3, H, W], RGB, float32 in [0, 1], its longest side as many pixels as asked for.

    As nst-fast resizes: a large JPEG is decoded smaller, squares of pixels are averaged, then comes the cubic filter.
    """
    with Image.open(path) as file:
        size = [max(1, int(side * longest_side / max(file.size) + 0.5)) for side in file.size]
        spare = max(1, max(file.size) // (3 * longest_side))
        drafted = file.draft(None, (file.width // spare, file.height // spare)) if spare > 1 else None
        extent = drafted[1][2:] if drafted else file.size  # may end within the last pixel
        pixels: Array = np.asarray(file.convert("RGBA"), np.float32)
        turn = TURNS.get(file.getexif().get(0x0112, 1))
    spare = max(1, max(pixels.shape[:2]) // (3 * longest_side))
    box = (0, 0, extent[0] / spare, extent[1] / spare)
    pixels = pixels[..., :3] * (pixels[..., 3:] / 255) + (255 - pixels[..., 3:])  # on white
    # Channel by channel in float: on bytes Pillow would round after every direction.
    planes = [Image.fromarray(plane).reduce(spare) for plane in np.ascontiguousarray(pixels.transpose(2, 0, 1))]
    planes = [plane.resize(size, Image.Resampling.BICUBIC, box) for plane in planes]
    upright = [np.asarray(plane if turn is None else plane.transpose(turn)) for plane in planes]
    return np.clip(np.stack(upright)[None] / 255, 0, 1).astype(np.float32)


def save_picture(image: Array, path: Path) -> None:
    """Beside the old picture first, and then in its place: an interrupted write leaves the old one."""
    unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    try:
        Image.fromarray((image[0].transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8)).save(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def open_model(name: str, provider: str, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(HERE / name, options, providers=[PROVIDERS[provider]])
    if session.get_providers()[0] != PROVIDERS[provider]:
        sys.exit(f"error: provider {provider} does not work here. Use --provider cpu")
    return session


def measure(session: Any, image: Array) -> Feeds:
    """content/TAP -> features, gram/TAP -> the sum over positions of products of features."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": image}), strict=True))


def constant_inputs(manifest: Any, content: Feeds, style: Feeds, sizes: Any) -> Feeds:
    """Every input of the step model that stays the same: targets, weights of the terms, what depends on the size."""
    (height, width), (style_height, style_width) = sizes
    feeds: Feeds = {}
    for term in manifest["terms"]:
        tap, halvings = term["tap"], term["halvings"]
        positions = (height >> halvings) * (width >> halvings)
        if term["kind"] == "content":
            target = feeds[f"target/content/{tap}"] = content[f"content/{tap}"]
        else:
            seen = (style_height >> halvings) * (style_width >> halvings)
            target = feeds[f"target/gram/{tap}"] = style[f"gram/{tap}"] / np.float32(seen)
            feeds[f"inverse_positions/{tap}"] = number(1 / positions)
        energy = max(float(np.square(target, dtype=np.float64).sum()), 1e-30) if term["relative"] else 1.0
        weight = term["factor"] * float(positions) ** term["power"] / energy
        feeds[f"weight/{term['kind']}/{tap}"] = number(weight)
    for pool in manifest["pools"]:
        odd = [(side >> pool["halvings"]) % 2 for side in (height, width)]
        feeds[f"pads/{pool['name']}"] = np.array([0] * 6 + odd, np.int64)
    if manifest["tv_colors"]:
        feeds["weight/tv/colors"] = np.array(manifest["tv_colors"], np.float32).reshape(3, 3, 1, 1)
        feeds["weight/tv/down"] = number(1 / (3 * (height - 1) * width))
        feeds["weight/tv/right"] = number(1 / (3 * height * (width - 1)))
    return feeds


def optimise(session: Any, feeds: Feeds, pastiche: Array, steps: int, rate: float, adam: dict[str, float]) -> Array:
    state = {"pastiche": pastiche, "m": np.zeros_like(pastiche), "v": np.zeros_like(pastiche)}
    outputs = ["new_pastiche", "new_m", "new_v", "total"]
    started = time.perf_counter()
    for step in range(1, steps + 1):
        corrections = {f"correction{i}": number(1 - adam[f"beta{i}"] ** step) for i in (1, 2)}
        scalars = {"learning_rate": number(rate), **corrections}
        *new, total = session.run(outputs, {**feeds, **state, **scalars})
        state = dict(zip(state, new, strict=True))
        if step == 1 or step % 10 == 0 or step == steps:
            speed = step / (time.perf_counter() - started)
            print(f"step {step}/{steps}: loss {total[0]:.6g}, {speed:.2f} steps/s", file=sys.stderr)
    return state["pastiche"]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Paint CONTENT in the style of STYLE.")
    parser.add_argument("content", type=Path)
    parser.add_argument("style", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--image-size", type=int, default=512, help="longest side in pixels [512]")
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--provider", choices=PROVIDERS, default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="on the CPU; 0 leaves it to ONNX Runtime")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error("--steps must be at least 1")
    return arguments


def main() -> None:
    arguments = parse()
    try:
        manifest = json.loads((HERE / "manifest.json").read_text())
        content, style = (load_picture(path, arguments.image_size) for path in (arguments.content, arguments.style))
    except (OSError, ValueError, RecursionError) as error:
        sys.exit(f"error: {error}")
    if min(*content.shape[2:], *style.shape[2:]) < manifest["smallest_side"]:
        sys.exit(f"error: a side of under {manifest['smallest_side']} pixels. Use a larger --image-size")
    targets = open_model("targets.onnx", arguments.provider, arguments.threads)
    sizes = (content.shape[2:], style.shape[2:])
    feeds = constant_inputs(manifest, measure(targets, content), measure(targets, style), sizes)
    del targets  # its weights are no longer needed
    session = open_model("step.onnx", arguments.provider, arguments.threads)
    pastiche = optimise(session, feeds, content, arguments.steps, arguments.learning_rate, manifest["adam"])
    save_picture(pastiche, arguments.output)
    print(arguments.output)


if __name__ == "__main__":
    main()
