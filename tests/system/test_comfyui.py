"""The pack for ComfyUI: by a stub of its API, and in ComfyUI itself where NST_FAST_COMFYUI names its folder."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comfy_stub import Comfy, Executor, InterruptError, loaded_pack
from PIL import Image
from places import ROOT
from processes import PATIENCE, wait_until

import nst_fast
from nst_fast import stylize
from nst_fast.jobs.runner import JobObserver
from nst_fast.jobs.sample_art import draw_content, draw_style
from nst_fast.jobs.series import run_series
from nst_fast.jobs.texture import plan_textures
from nst_fast.options.commands import TextureConfig

PACK = ROOT / "integrations" / "comfyui"
OF_TEXTURE = 'weights = "random:0"\nstyle_taps = "relu1_1,relu2_1"'
TINY = f'{OF_TEXTURE}\ncontent_taps = "relu2_1"'
VALUES = {"weights": "random:0", "style_taps": "relu1_1,relu2_1", "content_taps": "relu2_1", "monitor_every": 0}
WIDGETS = {"preset": "painterly", "image_size": 32, "steps": 3, "strength": 1.0, "style_scale": 1.0}
WIDGETS |= {"color": "preset", "seed": 0, "options": TINY}


@pytest.fixture
def comfy() -> Comfy:
    return Comfy()


@pytest.fixture
def nodes(comfy: Comfy) -> Iterator[dict[str, Any]]:
    with loaded_pack(PACK, comfy) as found:
        yield found


@pytest.fixture(scope="module")
def drawn() -> dict[str, Image.Image]:
    """Pictures by the names of the workflows."""
    content, style = draw_content(48), draw_style(48)
    mask = np.zeros_like(content)
    mask[:12] = 255
    drawn = {"content": content, "style": style, "sky_style": style[::-1].copy(), "sky": mask}
    return {f"{name}.png": Image.fromarray(pixels) for name, pixels in drawn.items()}


@pytest.fixture
def folder(drawn: dict[str, Image.Image], tmp_path: Path) -> Path:
    for name, picture in drawn.items():
        picture.save(tmp_path / name)
    return tmp_path


def workflow(name: str, **changes: dict[str, Any]) -> dict[str, Any]:
    """A workflow of the pack, small; ``changes``: of the inputs of nodes, by class."""
    nodes: dict[str, Any] = json.loads((PACK / "workflows" / f"{name}.json").read_text("utf-8"))
    small = {
        "NstFastStylize": {"image_size": 32, "steps": 3, "options": TINY},
        "NstFastTexture": {"width": 32, "height": 32, "style_size": 32, "steps": 2, "options": OF_TEXTURE},
        "NstFastEvaluate": {"weights": "random:0"},
    }
    for node in nodes.values():
        node["inputs"] |= small.get(node["class_type"], {}) | changes.get(node["class_type"], {})
    return nodes


def image(path: Path) -> torch.Tensor:
    with Image.open(path) as opened:
        return torch.from_numpy(np.array(opened.convert("RGB"), np.float32) / 255)


def test_the_workflow_runs_headless_and_makes_the_picture_that_the_library_makes(
    nodes: dict[str, Any], folder: Path
) -> None:
    done = Executor(nodes, folder).run(workflow("stylize"))
    made, records = done["3"]
    expected = stylize(
        image(folder / "content.png").numpy(), image(folder / "style.png").numpy(), image_size=32, steps=3, **VALUES
    )
    assert torch.equal(made, expected.image.permute(0, 2, 3, 1))
    (record,) = json.loads(records)
    assert (record["status"], record["steps"]) == ("complete", 3)
    assert image(folder / "nst-fast_00001_.png").shape == (24, 32, 3)
    scores, shown = done["5"]
    assert json.loads(scores)["pictures"][0]["scores"]["style_swd"] > 0
    assert shown["text"][0].startswith("style_swd ")


def test_regions_and_a_texture_run_headless(nodes: dict[str, Any], folder: Path) -> None:
    done = Executor(nodes, folder).run(workflow("regions"))
    plain = Executor(nodes, folder).run(workflow("stylize"))["3"][0]
    assert done["6"][0].shape == plain.shape
    assert not torch.equal(done["6"][0], plain)
    assert json.loads(done["6"][1])[0]["options"]["region"] == "region_0.png=region_style_0.png"
    assert image(folder / "nst-fast-texture_00001_.png").shape == (32, 32, 3)


def test_a_texture_is_the_one_that_the_command_makes(nodes: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    made = Executor(nodes, folder).run(workflow("regions"))["8"][0]
    config = TextureConfig(image_size=32, steps=2, seamless="xy", weights="random:0", monitor_every=0)
    series = plan_textures([folder / "sky_style.png"], ["relu1_1,relu2_1"], "0", config, (32, 32))
    run_series(series, tmp_path / "series", JobObserver())
    (path,) = (tmp_path / "series" / "pictures").glob("*.png")
    assert torch.equal((made[0] * 255).round(), (image(path) * 255).round())


def test_each_image_of_a_batch_is_painted_with_its_own_mask_and_styles_are_blended(
    nodes: dict[str, Any], comfy: Comfy, folder: Path
) -> None:
    content, style = image(folder / "content.png"), image(folder / "style.png")
    masks = torch.ones(2, 36, 48)
    masks[1, :, :24] = 0
    batches = {
        "content": (torch.stack([content, content.flip(1), content]),),
        "style": (torch.stack([style, style.flip(0)]),),
        "content_mask": (masks,),
    }
    inputs = WIDGETS | {name: [name, 0] for name in batches}
    prompt = {"1": {"class_type": "NstFastStylize", "inputs": inputs}}
    made, records = Executor(nodes, folder).run(prompt, **batches)["1"]
    assert made.shape == (3, 24, 32, 3)
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    assert not torch.equal(made[0], made[2])  # the same picture under the first mask and under the last
    assert [len(record["inputs"]["styles"]) for record in json.loads(records)] == [2, 2, 2]
    values = [value for value, *_ in comfy.progress]
    assert values == sorted(values)
    assert values[-1] == comfy.progress[-1][1] == 9


def test_progress_is_that_of_its_node_with_previews(nodes: dict[str, Any], comfy: Comfy, folder: Path) -> None:
    Executor(nodes, folder).run(workflow("stylize"))
    assert comfy.progress[-1][:2] == (3, 3)
    assert {node for _, _, node, _ in comfy.progress} == {"3"}
    assert all(shown for *_, shown in comfy.progress)


def test_an_interrupt_ends_the_run_within_a_step(nodes: dict[str, Any], comfy: Comfy, folder: Path) -> None:
    comfy.interrupt_at = 10
    with pytest.raises(InterruptError):
        Executor(nodes, folder).run(workflow("stylize", NstFastStylize={"steps": 1000}))
    assert comfy.progress[-1][0] == 10
    assert comfy.asked == 1  # once a step: it did not take another
    assert not (folder / "nst-fast_00001_.png").exists()


def test_networks_are_loaded_once_for_all_prompts(
    nodes: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nst_fast.run import problem

    loads = []
    monkeypatch.setattr(problem, "load_weights", counted(problem.load_weights, loads))
    for seed in (0, 1):
        Executor(nodes, folder).run(workflow("stylize", NstFastStylize={"seed": seed}))
    assert len(loads) == 1


def counted(function: Callable[..., Any], calls: list[Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        calls.append(arguments)
        return function(*arguments)

    return call


@pytest.mark.parametrize(
    ("options", "message"),
    [("style_los = 'gram'", "style_loss"), ("steps =", "options: "), ("steps = 0", "from 1"), ("x = {", "options: ")],
)
def test_a_wrong_option_is_refused_before_the_prompt_runs(
    options: str, message: str, nodes: dict[str, Any], comfy: Comfy, folder: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        Executor(nodes, folder).run(workflow("stylize", NstFastStylize={"options": options}))
    assert comfy.progress == []


def test_a_preset_keeps_what_the_widgets_leave_to_it(nodes: dict[str, Any], folder: Path) -> None:
    changes = {"preset": "classic", "steps": 0, "image_size": 0, "options": TINY + "\nsteps = 2\nimage_size = 24"}
    (record,) = json.loads(Executor(nodes, folder).run(workflow("stylize", NstFastStylize=changes))["3"][1])
    assert record["options"]["color"] == "keep"
    assert (record["options"]["steps"], record["options"]["image_size"]) == (2, 24)


def test_the_registry_finds_what_it_asks_for() -> None:
    about = tomllib.loads((PACK / "pyproject.toml").read_text("utf-8"))
    assert about["project"]["version"] == nst_fast.__version__
    assert about["project"]["dependencies"] == [f"nst-fast=={nst_fast.__version__}"]
    assert {"PublisherId", "DisplayName"} <= about["tool"]["comfy"].keys()


# In ComfyUI itself.


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """ComfyUI on the CPU with the pack as its only custom nodes: its address, and its folder of files."""
    given = os.environ.get("NST_FAST_COMFYUI")
    if given is None:
        pytest.skip("no ComfyUI: NST_FAST_COMFYUI may name its folder, NST_FAST_COMFYUI_PYTHON its Python")
    base = tmp_path_factory.mktemp("comfyui")
    for name in ("custom_nodes", "input", "output"):
        (base / name).mkdir()
    (base / "custom_nodes" / "nst-fast").symlink_to(PACK)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    python = os.environ.get("NST_FAST_COMFYUI_PYTHON", sys.executable)
    command = [python, str(Path(given) / "main.py"), "--cpu", "--disable-api-nodes", "--base-directory", str(base)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (base / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--database-url", "sqlite:///:memory:"],
            stdout=log, stderr=log, env=environment, cwd=given,
        )  # fmt: skip
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until(lambda: process.poll() is not None or listens(port))
            yield address, base
        finally:
            process.terminate()
            process.wait(PATIENCE)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def asked(address: str, path: str, data: Any = None) -> Any:
    body = json.dumps(data).encode() if data is not None else None
    request = urllib.request.Request(address + path, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def prompted(address: str, prompt: dict[str, Any]) -> str:
    return str(asked(address, "/prompt", {"prompt": prompt})["prompt_id"])


def ended(address: str, prompt_id: str) -> Any:
    return wait_until(lambda: asked(address, f"/history/{prompt_id}").get(prompt_id))


def test_comfyui_itself_runs_the_workflows(server: tuple[str, Path], folder: Path) -> None:
    address, base = server
    for path in folder.glob("*.png"):
        (base / "input" / path.name).write_bytes(path.read_bytes())
    for name in ("stylize", "regions"):
        found = ended(address, prompted(address, workflow(name)))
        assert found["status"]["status_str"] == "success", found["status"]
    made = (image(base / "output" / "nst-fast_00001_.png") * 255).numpy()
    expected = stylize(folder / "content.png", folder / "style.png", image_size=32, steps=3, **VALUES)
    own = (expected.image[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)  # as ComfyUI rounds
    assert np.array_equal(made, own)
    assert {path.name for path in (base / "output").iterdir()} >= {"nst-fast-regions_00001_.png"}


def test_comfyui_itself_is_interrupted_within_a_step(server: tuple[str, Path], folder: Path) -> None:
    address, base = server
    for path in folder.glob("*.png"):
        (base / "input" / path.name).write_bytes(path.read_bytes())
    prompt_id = prompted(address, workflow("stylize", NstFastStylize={"steps": 100_000, "seed": 7}))
    wait_until(lambda: asked(address, "/queue")["queue_running"])
    time.sleep(1)
    asked(address, "/interrupt", {})
    messages = dict(ended(address, prompt_id)["status"]["messages"])
    assert messages["execution_interrupted"]["node_type"] == "NstFastStylize"
