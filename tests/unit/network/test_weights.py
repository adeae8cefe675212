"""Weights by name, and files as users have them: wrapped, cut, damaged, of another network, hostile."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from nst_fast.errors import UsageError, WeightsError
from nst_fast.network.taps import layer_names
from nst_fast.network.vgg import Encoder
from nst_fast.network.weights import available_taps, load_weights, make_encoder
from nst_fast.network.weights.original import order_in_255
from nst_fast.system.files import sha256_of

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def blocks() -> State:
    """The first two blocks, which are the same in both networks: 260 thousand parameters."""
    return load_weights("random:3", "vgg19", ["relu2_2"]).state


def natural_image(seed: int, side: int = 112) -> Tensor:
    """Noise with the 1/f spectrum and the correlated channels of photographs, [1, 3, side, side] in [0, 1]."""
    noise = torch.randn(3, side, side, generator=torch.Generator().manual_seed(seed))
    frequency = torch.fft.fftfreq(side)[:, None].hypot(torch.fft.rfftfreq(side)[None]).clamp(min=1 / side)
    channels = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=(side, side))
    mixed = torch.einsum("ij,jhw->ihw", torch.tensor([[1, 0.3, 0.1], [1, 0, -0.1], [1, -0.3, 0.2]]), channels)
    return (0.45 + 0.25 * (mixed - mixed.mean()) / mixed.std()).clamp(0, 1)[None]


@pytest.mark.parametrize(("network", "seed"), [("vgg19", 0), ("vgg16", 1)])
def test_random_weights_keep_activations_near_unit_size_at_every_depth(network: str, seed: int) -> None:
    taps = [name for name in layer_names(network) if name.startswith("relu")]
    weights = load_weights(f"random:{seed}", network, taps)
    for pooling in ("max", "average"):
        encoder = Encoder(network, taps, pooling=pooling).load_features(weights.state)
        features = encoder(natural_image(seed))
        sizes = {tap: float(features[tap].square().mean().sqrt()) for tap in taps}
        assert all(0.5 < size < 2 for size in sizes.values()), (pooling, sizes)


def test_deep_random_features_still_tell_places_apart() -> None:
    encoder, _ = make_encoder("random", "vgg19", ["relu4_1"])
    places = torch.nn.functional.normalize(encoder(natural_image(0))["relu4_1"].flatten(2), dim=1)[0]
    similarity = (places.T @ places).mean()
    assert similarity < 0.5  # plain He filters: 0.86


def test_random_weights_depend_on_the_seed_and_not_on_the_cut(blocks: State) -> None:
    again = load_weights("random:3", "vgg19", ["relu2_2"])
    other = load_weights("random:4", "vgg19", ["relu2_2"])
    shallow = load_weights("random:3", "vgg19", ["relu1_1"])
    assert set(shallow.state) == {"features.0.weight", "features.0.bias"}
    assert torch.equal(shallow.state["features.0.weight"], blocks["features.0.weight"])
    assert shallow.sha256 == again.sha256
    assert all(torch.equal(again.state[name], blocks[name]) for name in blocks)
    assert not torch.equal(other.state["features.0.weight"], blocks["features.0.weight"])
    assert again.sha256 != other.sha256
    default, zero = (load_weights(spec, "vgg16", ["conv1_1"]) for spec in ("random", "random:0"))
    assert torch.equal(default.state["features.0.weight"], zero.state["features.0.weight"])
    assert (default.sha256, default.source) == (zero.sha256, "random, seed 0")


def test_random_weights_have_not_changed_since_they_were_published(blocks: State) -> None:
    digest = hashlib.sha256(b"".join(blocks[name].numpy().tobytes() for name in sorted(blocks))).hexdigest()
    assert digest == "a8f1bfa25a07d4a84b654154d9765276998b1b09504cc59909e99bf0946e8866", (
        "raise _RANDOM_RECIPE in weights.py, then this"
    )


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", " 1", "1_0", "9" * 5000])
def test_a_seed_that_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no seed"):
        load_weights(f"random:{text}", "vgg19", ["relu1_1"])


def test_unknown_network_and_tap_are_usage_errors_and_random_and_imagenet_serve_every_tap() -> None:
    with pytest.raises(UsageError, match="Did you mean vgg1"):
        load_weights("random", "vgg18", ["relu1_1"])
    with pytest.raises(UsageError, match="unknown tap"):
        load_weights("random", "vgg19", ["relu9_1"])
    assert available_taps("random:1", "vgg16") == available_taps("imagenet", "vgg16") == layer_names("vgg16")


def test_a_file_of_three_blocks_serves_their_taps_and_names_them_when_asked_for_more(tmp_path: Path) -> None:
    spec = str(tmp_path / "blocks.safetensors")
    save_file(load_weights("original", "vgg19", ["relu3_4"]).state, spec)
    encoder, weights = make_encoder(spec, "vgg19", ["relu3_4"])
    assert weights.sha256 == sha256_of(Path(spec))
    assert encoder(natural_image(0, 32))["relu3_4"].mean() > 1
    assert available_taps(spec, "vgg19")[-1] == "pool3"
    with pytest.raises(WeightsError, match=r"lacks conv4_1, conv4_2 .*conv1_1 to conv3_4; taps .*relu3_4, pool3\."):
        load_weights(spec, "vgg19", ["relu4_2"])
    with pytest.raises(WeightsError, match=r"features\.16\.weight is no layer of vgg16.*`network` vgg19"):
        load_weights(spec, "vgg16", ["relu1_1"])


# --- files


def saved(folder: Path, state: object, name: str = "vgg.pth") -> str:
    torch.save(state, folder / name)
    return str(folder / name)


WRAPPINGS: dict[str, Callable[[State], object]] = {
    "torchvision's own": lambda state: state,
    "ordered, with a classifier": lambda state: OrderedDict(state, **{"classifier.0.weight": torch.zeros(2)}),
    "DataParallel": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "DataParallel of the features": lambda state: {n.replace("s.", "s.module.", 1): t for n, t in state.items()},
    "part of another network": lambda state: {f"encoder.{name}": tensor for name, tensor in state.items()},
    "a training checkpoint": lambda state: {"epoch": 3, "state_dict": state},
    "features alone": lambda state: {name.removeprefix("features."): tensor for name, tensor in state.items()},
    "half precision": lambda state: {name: tensor.half() for name, tensor in state.items()},
    "parameters": lambda state: {name: torch.nn.Parameter(tensor) for name, tensor in state.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_common_ways_to_wrap_a_state_dict_are_understood(wrapping: str, blocks: State, tmp_path: Path) -> None:
    weights = load_weights(saved(tmp_path, WRAPPINGS[wrapping](blocks)), "vgg19", ["relu2_1"])
    assert set(weights.state) == {f"features.{n}.{kind}" for n in (0, 2, 5) for kind in ("weight", "bias")}
    tolerance = 1e-3 if wrapping == "half precision" else 0
    for name, tensor in weights.state.items():
        assert tensor.dtype == torch.float32
        assert not tensor.requires_grad
        torch.testing.assert_close(tensor, blocks[name], rtol=tolerance, atol=tolerance)


def test_safetensors_zip_and_legacy_files_give_the_same_encoder_and_their_own_hash(
    blocks: State, tmp_path: Path
) -> None:
    save_file(blocks, tmp_path / "a.safetensors")
    torch.save(blocks, tmp_path / "b.pt")
    torch.save(blocks, tmp_path / "c.pth", _use_new_zipfile_serialization=False)  # torchvision's VGG files are such
    image = torch.rand(1, 3, 24, 24)
    outputs = []
    for path in (tmp_path / name for name in ("a.safetensors", "b.pt", "c.pth")):
        digest = sha256_of(path)
        encoder, weights = make_encoder(str(path), "vgg16", ["relu2_2"], pooling="average")
        path.write_bytes(b"")  # what was loaded does not depend on the file
        outputs.append(encoder(image)["relu2_2"])
        assert (weights.sha256, weights.source, weights.network) == (digest, str(path), "vgg16")
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_a_file_cut_too_early_says_which_taps_it_can_serve(blocks: State, tmp_path: Path) -> None:
    path = saved(tmp_path, blocks)
    with pytest.raises(WeightsError) as raised:
        load_weights(path, "vgg19", ["relu1_1", "relu3_2"])
    assert "lacks conv3_1, conv3_2 of vgg19, which relu3_2 needs" in raised.value.message
    assert "conv1_1 to conv2_2" in raised.value.remedy
    assert "relu1_1, relu1_2, pool1, relu2_1, relu2_2, pool2" in raised.value.remedy
    assert available_taps(path, "vgg19") == layer_names("vgg19")[:10]


def test_a_file_with_a_hole_serves_what_lies_before_it(blocks: State, tmp_path: Path) -> None:
    path = saved(tmp_path, {name: tensor for name, tensor in blocks.items() if name != "features.5.bias"})
    assert available_taps(path, "vgg16")[-1] == "pool1"
    with pytest.raises(WeightsError, match=r"lacks conv2_1 of vgg16.*missing: features\.5\.bias"):
        load_weights(path, "vgg16", ["relu2_2"])


def test_the_first_three_differences_are_listed(blocks: State, tmp_path: Path) -> None:
    strange = {name: tensor[:5] for name, tensor in blocks.items()}
    with pytest.raises(WeightsError) as raised:
        load_weights(saved(tmp_path, strange), "vgg19", ["relu1_1"])
    assert "features.0.weight is [5, 3, 3, 3], not [64, 3, 3, 3]; features.0.bias is [5]" in raised.value.message
    assert raised.value.message.count(" is [") == 3
    assert "and 5 more differences" in raised.value.message


def test_the_other_network_is_recognised(blocks: State, tmp_path: Path) -> None:
    vgg16 = blocks | {"features.17.weight": torch.zeros(512, 256, 3, 3), "features.17.bias": torch.zeros(512)}
    with pytest.raises(WeightsError, match=r"features\.17\.weight is no layer of vgg19.*`network` vgg16"):
        load_weights(saved(tmp_path, vgg16), "vgg19", ["relu1_1"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_where_they_are_needed(
    value: float, blocks: State, tmp_path: Path
) -> None:
    bias = blocks["features.5.bias"].clone()
    bias[7] = value
    path = saved(tmp_path, blocks | {"features.5.bias": bias})
    load_weights(path, "vgg19", ["relu1_2"])
    with pytest.raises(WeightsError, match=r"features\.5\.bias has values that are not finite"):
        load_weights(path, "vgg19", ["relu2_1"])


@pytest.mark.parametrize("odd", [torch.zeros(64, dtype=torch.int8), torch.zeros(64).to_sparse()])
def test_tensors_that_are_no_plain_numbers_are_refused(odd: Tensor, blocks: State, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"features\.0\.bias is not a plain tensor"):
        load_weights(saved(tmp_path, blocks | {"features.0.bias": odd}), "vgg19", ["relu1_1"])


class Canary:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (self.mark, "executed")


@pytest.mark.parametrize("make", ["zip", "legacy", "bare pickle", "renamed"])
def test_a_malicious_pickle_runs_no_code(make: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / ("a.safetensors" if make == "renamed" else "a.pth")
    payload = {"features.0.weight": Canary(mark)}
    if make == "bare pickle":
        path.write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=make != "legacy")
    with pytest.raises(WeightsError, match=r"refused|not a readable") as raised:
        load_weights(str(path), "vgg19", ["relu1_1"])
    assert raised.value.exit_code == 5
    assert "\n" not in str(raised.value)
    assert not mark.exists()


def test_an_archive_that_unpacks_to_more_than_its_size_is_refused(blocks: State, tmp_path: Path) -> None:
    plain = zipfile.ZipFile(saved(tmp_path, blocks))
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in plain.infolist():
            bomb.writestr(entry.filename, bytes(entry.file_size))
    plain.close()
    with pytest.raises(WeightsError, match="more than its size"):
        load_weights(str(tmp_path / "bomb.pth"), "vgg19", ["relu1_1"])


NOT_WEIGHTS: dict[str, tuple[str, bytes, str]] = {
    "empty": ("vgg.pth", b"", "is empty"),
    "text": ("vgg.pth", b"these are\nno weights", "is a text file"),
    "HTML": ("vgg.safetensors", b"\n<!DOCTYPE html><title>Sign in</title>", "is an HTML page"),
    "LFS": ("vgg.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
    "suffix": ("vgg.zip", b"PK\3\4", "does not end in"),
    "junk": ("vgg.pth", bytes(range(256)), "is refused"),
    "junk safetensors": ("vgg.safetensors", bytes(range(256)), "not a readable safetensors file"),
}


@pytest.mark.parametrize("kind", NOT_WEIGHTS)
def test_files_that_are_no_weights_are_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    name, content, message = NOT_WEIGHTS[kind]
    (tmp_path / name).write_bytes(content)
    for load in (lambda spec: load_weights(spec, "vgg19", ["relu1_1"]), lambda spec: available_taps(spec, "vgg19")):
        with pytest.raises(WeightsError, match=message) as raised:
            load(str(tmp_path / name))
        assert raised.value.remedy
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content", [torch.zeros(3), [1, 2], {"a": 1}, {3: torch.zeros(1)}, {"head.weight": torch.ones(1)}]
)
def test_checkpoints_of_something_else_are_refused(content: object, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"not a state_dict|has no VGG features"):
        load_weights(saved(tmp_path, content), "vgg19", ["relu1_1"])


def test_a_file_with_two_networks_is_refused(blocks: State, tmp_path: Path) -> None:
    both = {f"{net}.{name}": tensor for net in ("a", "b") for name, tensor in blocks.items()}
    with pytest.raises(WeightsError, match="several networks"):
        load_weights(saved(tmp_path, both), "vgg19", ["relu1_1"])


def test_truncated_files_are_refused(blocks: State, tmp_path: Path) -> None:
    save_file(blocks, tmp_path / "whole.safetensors")
    torch.save(blocks, tmp_path / "whole.pth")
    for whole in (tmp_path / "whole.safetensors", tmp_path / "whole.pth"):
        cut = whole.with_stem("cut")
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        with pytest.raises(WeightsError, match=r"refused|not a readable"):
            load_weights(str(cut), "vgg19", ["relu1_1"])


def test_a_missing_file_and_a_folder_name_what_is_near(tmp_path: Path) -> None:
    (tmp_path / "vgg19-features.safetensors").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"no weight file.*Did you mean vgg19-features\.safetensors"):
        load_weights(str(tmp_path / "vgg19-feature.safetensors"), "vgg19", ["relu1_1"])
    with pytest.raises(WeightsError, match=r"is a folder.*has vgg19-features\.safetensors"):
        load_weights(str(tmp_path), "vgg19", ["relu1_1"])
    with pytest.raises(WeightsError, match="Did you mean imagenet"):
        load_weights("imagnet", "vgg19", ["relu1_1"])
    with pytest.raises(WeightsError, match=r"cannot read|no weight file"):
        load_weights("a\0b.pth", "vgg19", ["relu1_1"])


@pytest.fixture(scope="module")
def caffe() -> dict[str, torch.Tensor]:
    """The original network's first blocks as they were published: BGR, 0 to 255, means subtracted."""
    weights = load_weights("original", "vgg19", ["relu2_1"])
    return weights.state | weights.raw


@pytest.mark.parametrize("kind", ["pth", "safetensors", "half", "RGB"])
def test_weights_of_caffes_convention_are_converted_with_a_note(
    tmp_path: Path, caffe: dict[str, torch.Tensor], kind: str
) -> None:
    stored = dict(caffe)
    if kind == "RGB":
        stored["features.0.weight"] = stored["features.0.weight"].flip(1)
    if kind == "half":
        stored = {name: tensor.half() for name, tensor in stored.items()}
    if kind == "safetensors":
        spec = str(tmp_path / "blocks.safetensors")
        save_file({name: tensor.contiguous() for name, tensor in stored.items()}, spec)
    else:
        spec = saved(tmp_path, stored)
    expected = load_weights("original", "vgg19", ["relu2_1"]).state
    for network in ("vgg19", "vgg16"):  # the first blocks fit both
        weights = load_weights(spec, network, ["relu2_1"])
        assert ("RGB" if kind == "RGB" else "BGR") in weights.note
        for name, tensor in expected.items():
            # Half precision rounds a filter's 27 values, which the shift of the bias adds up.
            torch.testing.assert_close(weights.state[name], tensor, rtol=2e-3, atol=0.2 if kind == "half" else 1e-4)
        assert torch.equal(weights.raw["features.0.weight"], stored["features.0.weight"].float())
    as_published = weights.encoder(["relu1_1"], normalize_input=False)
    kernel = as_published.layers["conv1_1"].weight
    assert torch.equal(kernel, stored["features.0.weight"].float())


def test_a_published_file_is_known_by_its_hash(caffe: dict[str, torch.Tensor]) -> None:
    other = torch.zeros(64)
    assert order_in_255(caffe["features.0.weight"], other, "00b39a1b" + "0" * 56) == "BGR"
    assert order_in_255(caffe["features.0.weight"], other, "88682ab5" + "0" * 56) == "RGB"
    assert order_in_255(caffe["features.0.weight"], other, "397923af" + "0" * 56) == ""


def test_weights_of_torchvisions_convention_and_any_other_are_taken_as_they_are(
    tmp_path: Path, caffe: dict[str, torch.Tensor]
) -> None:
    original = load_weights("original", "vgg19", ["relu2_1"]).state
    random = load_weights("random:1", "vgg19", ["relu2_1"]).state
    small = random | {"features.0.weight": random["features.0.weight"] / 100}
    empty = {name: torch.zeros_like(tensor) for name, tensor in random.items()}
    for state in (original, random, small, empty):
        weights = load_weights(saved(tmp_path, state), "vgg19", ["relu2_1"])
        assert (weights.note, weights.raw) == ("", {})
        assert all(torch.equal(weights.state[name], tensor) for name, tensor in state.items())


def test_red_stays_red_with_weights_of_caffes_convention(tmp_path: Path, caffe: dict[str, torch.Tensor]) -> None:
    picture = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    spec = saved(tmp_path, caffe)
    found, expected = (make_encoder(source, "vgg19", ["relu2_1"])[0](picture) for source in (spec, "original"))
    torch.testing.assert_close(found["relu2_1"], expected["relu2_1"])
