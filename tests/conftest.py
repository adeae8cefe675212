"""Shared fixtures: a cache of its own for every session, small encoders, the optional assets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from batches import draw
from hypothesis import settings
from in_process import Run, run_command, run_script

from nst_fast.images import save_image
from nst_fast.network.vgg import Encoder
from nst_fast.network.weights import make_encoder

if "PYTEST_XDIST_WORKER" in os.environ:  # workers that each use every core would only wait for one another
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
    torch.set_num_threads(1)

settings.register_profile("nst-fast", deadline=None)  # a loaded machine is slow, and no test measures time this way
settings.load_profile("nst-fast")

ASSETS = Path(os.environ.get("NST_FAST_ASSETS", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the user's cache, and none reaches the network by accident."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NST_FAST_CACHE", str(folder))
        patch.setenv("NST_FAST_CONFIG_DIR", str(folder / "config"))
        patch.setenv("NST_FAST_OFFLINE", "1")
        yield folder


@pytest.fixture(scope="session")
def assets() -> Path:
    """Real pictures and weights, where somebody has put them; they are not part of the project."""
    if not ASSETS.is_dir():
        pytest.skip(f"no assets at {ASSETS} (set NST_FAST_ASSETS)")
    return ASSETS


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``nst-fast ARGUMENTS`` in this process, where starting it costs nothing."""
    return partial(run_command, monkeypatch, capsys)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A script in this process: its ``main`` with ARGUMENTS."""
    return partial(run_script, monkeypatch, capsys)


@pytest.fixture(scope="session")
def shallow_encoder() -> Encoder:
    """VGG-19 up to relu2_1 with random weights: enough for everything that does not depend on depth."""
    encoder, _ = make_encoder(
        "random:0", "vgg19", ["relu1_1", "relu2_1"], pooling="max", padding="zeros", normalize_input=True
    )
    return encoder


@pytest.fixture
def picture() -> torch.Tensor:
    """A smooth seeded picture [1, 3, 24, 32] in [0, 1]."""
    coarse = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(7))
    return torch.nn.functional.interpolate(coarse, (24, 32), mode="bicubic").clamp(0, 1)


@pytest.fixture
def pair(tmp_path: Path, picture: torch.Tensor) -> tuple[Path, Path]:
    """Files of a content and a style picture."""
    save_image(picture, tmp_path / "content.png")
    save_image(picture.flip(3) ** 2, tmp_path / "style.png")
    return tmp_path / "content.png", tmp_path / "style.png"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a picture in it, in a folder of it, and things that are none."""
    folder = tmp_path / "photos"
    draw(folder / "a.jpg", 1)
    draw(folder / "deep" / "er" / "b.PNG", 2)
    draw(folder / ".hidden.png", 3)
    draw(folder / ".trash" / "c.png", 3)
    (folder / "notes.txt").write_text("no picture")
    draw(tmp_path / "style.png", 9)
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device("cuda")
