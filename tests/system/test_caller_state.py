"""A call neither depends on the caller's global state nor changes it: contexts times engines, and what is left."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import importlib.util
import os
import pickle
import pkgutil
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import tiny
import torch
from matplotlib import style
from PIL import Image
from processes import python

import nst_fast
from nst_fast import Networks, evaluate, resume, stylize, stylize_together
from nst_fast.run.outputs import Pastiche

TINY = tiny.TINY | {"style_taps": "relu1_1,relu2_1", "image_size": 32, "monitor_every": 1, "engine": "auto"}


def setting(enter: Callable[[], object], leave: Callable[[], object]) -> Callable[[], AbstractContextManager[None]]:
    @contextmanager
    def context() -> Iterator[None]:
        enter()
        try:
            yield
        finally:
            leave()

    return context


def flag(owner: Any, name: str, value: object) -> Callable[[], AbstractContextManager[None]]:
    before = getattr(owner, name)
    return setting(lambda: setattr(owner, name, value), lambda: setattr(owner, name, before))


def float_format(number: int) -> Callable[[], AbstractContextManager[None]]:
    return setting(lambda: np.set_printoptions(precision=number), lambda: np.set_printoptions(precision=8))


@contextmanager
def warnings_as_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def default_dtype(dtype: torch.dtype) -> Callable[[], AbstractContextManager[None]]:
    return setting(lambda: torch.set_default_dtype(dtype), lambda: torch.set_default_dtype(torch.float32))


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "default dtype float16": default_dtype(torch.float16),
    "default dtype bfloat16": default_dtype(torch.bfloat16),
    "default dtype float64": default_dtype(torch.float64),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default device": setting(lambda: torch.set_default_device("meta"), lambda: torch.set_default_device(None)),
    "device context": lambda: torch.device("meta"),
    "deterministic": setting(
        lambda: torch.use_deterministic_algorithms(True), lambda: torch.use_deterministic_algorithms(False)
    ),
    "anomaly mode": setting(
        lambda: torch.autograd.set_detect_anomaly(True), lambda: torch.autograd.set_detect_anomaly(False)
    ),
    "oneDNN off": flag(torch.backends.mkldnn, "enabled", False),
    "matmul precision medium": setting(
        lambda: torch.set_float32_matmul_precision("medium"), lambda: torch.set_float32_matmul_precision("highest")
    ),
    "saved tensors on the CPU": torch.autograd.graph.save_on_cpu,
    "warnings as errors": warnings_as_errors,
    "NumPy errors": lambda: np.errstate(all="raise"),
    "NumPy's print options": float_format(1),
    "matplotlib style": lambda: style.context("dark_background"),
    "seeds": setting(lambda: (torch.manual_seed(5), np.random.seed(5), random.seed(5)), lambda: None),
}


def state() -> dict[str, object]:
    """The global state that a caller can see."""
    return {
        "torch RNG": torch.get_rng_state().tolist(),
        "NumPy RNG": repr(np.random.get_state()),
        "random": random.getstate(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": (torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32),
        "newer precision": [level.fp32_precision for level in (torch.backends, torch.backends.mkldnn.matmul)],  # type: ignore[attr-defined]
        "cudnn": (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark, torch.backends.mkldnn.enabled),
        "threads": torch.get_num_threads(),
        "warnings": list(warnings.filters),
        "NumPy errors": np.geterr(),
        "environment": {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        "folder": Path.cwd(),
        "matplotlib": dict(mpl.rcParams),
        "handlers": [threading.excepthook, sys.excepthook],
    }


@pytest.fixture(scope="module", autouse=True)
def imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Libraries set things when they are imported, once, and are no call of ours."""
    shape = (32, 40, 3)
    picture = np.random.default_rng(0).random(shape, np.float32)
    for engine in ("fast", "ort"):
        made = stylize(picture, picture[::-1], **TINY | {"engine": engine})
    made.save(tmp_path_factory.mktemp("first") / "first.png")


CASES = [(name, "fast") for name in CONTEXTS]
CASES += [(name, engine) for name in list(CONTEXTS)[:8:2] for engine in ("eager", "ort")]


def pixels_of(path: Path) -> bytes:
    """Of a loss curve, whose text says when its run began."""
    with Image.open(path) as picture:
        return picture.tobytes()


@pytest.mark.parametrize(("name", "engine"), CASES)
def test_a_call_depends_on_no_context_and_changes_none(
    name: str, engine: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    # Without a monitor, which leaves readings out when the machine is busy: the plot shows them.
    options = TINY | {"engine": engine, "output": tmp_path / "out.png", "overwrite": True, "monitor_every": 0}
    expected = stylize(*pair, **options)
    plot = pixels_of(tmp_path / "out-losses.png")
    networks = Networks()
    with CONTEXTS[name]():
        before = state()
        made = stylize(*pair, networks=networks, **options)
        assert state() == before
        assert pixels_of(tmp_path / "out-losses.png") == plot
    assert torch.equal(made.image, expected.image)
    assert not made.image.is_inference()
    assert made.record.history == expected.record.history
    assert torch.equal(stylize(*pair, networks=networks, **options).image, expected.image)  # they are not broken


@pytest.mark.parametrize("name", ["inference_mode", "default dtype float16", "default device", "warnings as errors"])
def test_every_other_function_is_as_independent(name: str, pair: tuple[Path, Path], tmp_path: Path) -> None:
    content, painting = pair
    options = TINY | {"monitor_every": 0}
    expected = stylize(*pair, **options)
    scores = evaluate(*pair, content, weights="random:0").pictures[0].scores
    (alone,) = stylize_together([content], painting, **options)
    stops = iter([False, True])
    interrupted = {"listeners": nst_fast.Listeners(stop=lambda: next(stops, True)), "output": tmp_path / "out.png"}
    stylize(*pair, **options, **interrupted)
    with CONTEXTS[name]():
        before = state()
        assert evaluate(*pair, content, weights="random:0").pictures[0].scores == scores
        (together,) = stylize_together([content], painting, **options)
        resumed = resume(tmp_path / "out.png")
        resumed.save(tmp_path / "again.png")
        assert state() == before
    assert torch.equal(together.image, alone.image)
    assert torch.equal(resumed.image, expected.image)


def test_an_error_leaves_the_state_as_it_was(pair: tuple[Path, Path]) -> None:
    with torch.inference_mode(), default_dtype(torch.float64)():
        before = state()
        with pytest.raises(nst_fast.NstFastError):
            stylize(*pair, **TINY | {"weights": "nowhere.pth"})
        assert state() == before


def test_the_number_of_threads_is_the_callers(pair: tuple[Path, Path]) -> None:
    """Whose sums it changes by rounding."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        stylize(*pair, **TINY)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_calls_of_several_threads_share_the_state_and_restore_it_once(pair: tuple[Path, Path]) -> None:
    expected = stylize(*pair, **TINY).image
    with default_dtype(torch.float64)():
        before = state()
        with ThreadPoolExecutor(3) as pool:
            made = pool.map(lambda steps: stylize(*pair, **TINY | {"steps": steps}).image, (2, 6, 2))
        assert state() == before
    assert [torch.equal(image, expected) for image in made] == [True, False, True]


FORK = """
import os, sys, torch
import numpy as np
from nst_fast import stylize
from nst_fast.errors import UsageError
torch.set_num_threads(2)
picture = np.random.default_rng(0).random((32, 32, 3), np.float32)
def call():
    stylize(picture, picture, weights="random:0", image_size=32, steps=1, device="cpu", monitor_every=0)
early = os.fork()
call()
if not early:
    os._exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
try:
    call()
except UsageError as error:
    os._exit(5 if "spawn" in str(error) else 6)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_after_a_call_is_refused_rather_than_hang_and_one_before_works() -> None:
    done = python("-c", FORK)
    assert done.returncode == 5, done.stderr


def test_a_pastiche_equals_its_copies_and_no_class_with_tensors_compares_them(pair: tuple[Path, Path]) -> None:
    made = stylize(*pair, **TINY)
    copies = [copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))]
    assert [made == other for other in copies] == [True] * 3
    assert made != Pastiche(made.image.flip(3), made.record)
    assert made != Pastiche(made.image[..., :8], made.record)
    assert made != "a picture"
    assert made in copies
    faulty = []
    for module in pkgutil.walk_packages(nst_fast.__path__, "nst_fast."):
        if "bundle_files" in module.name or module.name.endswith(("__main__", "kernels")):
            continue
        if module.name.endswith("jobs.cluster") and importlib.util.find_spec("ray") is None:
            continue
        for found in vars(importlib.import_module(module.name)).values():
            if isinstance(found, type) and found.__module__ == module.name and dataclasses.is_dataclass(found):
                kinds = [str(field.type) for field in dataclasses.fields(found)]
                held = any(word in kind for kind in kinds for word in ("Tensor", "Array", "Statistics"))
                if held and found.__dataclass_params__.eq:  # type: ignore[attr-defined]
                    faulty.append(found.__qualname__)
    assert faulty == []


def test_several_contexts_at_once(pair: tuple[Path, Path]) -> None:
    expected = stylize(*pair, **TINY)
    with ExitStack() as stack:
        for name in ("default dtype float64", "autocast", "default device", "deterministic", "inference_mode"):
            stack.enter_context(CONTEXTS[name]())
        assert torch.equal(stylize(*pair, **TINY).image, expected.image)
