"""Weights by name: random ones stay near unit size at every depth, a file or a name leads to the right source."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from nst_fast.errors import UsageError, WeightsError
from nst_fast.network.taps import layer_names
from nst_fast.network.vgg import Encoder
from nst_fast.network.weights import available_taps, load_weights, make_encoder
from nst_fast.system.files import sha256_of


@pytest.fixture(scope="module")
def blocks() -> dict[str, Tensor]:
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


def test_random_weights_are_the_same_for_the_same_seed_and_others_for_another(blocks: dict[str, Tensor]) -> None:
    again = load_weights("random:3", "vgg19", ["relu2_2"])
    other = load_weights("random:4", "vgg19", ["relu2_2"])
    assert all(torch.equal(again.state[name], blocks[name]) for name in blocks)
    assert not torch.equal(other.state["features.0.weight"], blocks["features.0.weight"])
    assert again.sha256 != other.sha256


def test_random_weights_have_not_changed_since_they_were_published(blocks: dict[str, Tensor]) -> None:
    digest = hashlib.sha256(b"".join(blocks[name].numpy().tobytes() for name in sorted(blocks))).hexdigest()
    assert digest == "a8f1bfa25a07d4a84b654154d9765276998b1b09504cc59909e99bf0946e8866", (
        "raise _RANDOM_RECIPE in weights.py, then this"
    )


def test_a_deeper_cut_leaves_shallow_random_layers_and_the_hash_as_they_are(blocks: dict[str, Tensor]) -> None:
    shallow = load_weights("random:3", "vgg19", ["relu1_1"])
    deep = load_weights("random:3", "vgg19", ["relu2_2"])
    assert set(shallow.state) == {"features.0.weight", "features.0.bias"}
    assert torch.equal(shallow.state["features.0.weight"], blocks["features.0.weight"])
    assert shallow.sha256 == deep.sha256


def test_random_without_a_seed_is_seed_zero() -> None:
    default, zero = (load_weights(spec, "vgg16", ["conv1_1"]) for spec in ("random", "random:0"))
    assert torch.equal(default.state["features.0.weight"], zero.state["features.0.weight"])
    assert (default.sha256, default.source) == (zero.sha256, "random, seed 0")


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", " 1", "1_0", "9" * 5000])
def test_a_seed_that_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no seed"):
        load_weights(f"random:{text}", "vgg19", ["relu1_1"])


def test_unknown_network_and_tap_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="Did you mean vgg1"):
        load_weights("random", "vgg18", ["relu1_1"])
    with pytest.raises(UsageError, match="unknown tap"):
        load_weights("random", "vgg19", ["relu9_1"])


def test_random_and_imagenet_serve_every_tap() -> None:
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
    with pytest.raises(WeightsError, match=r"features\.16\.weight is no layer of vgg16.*--network vgg19"):
        load_weights(spec, "vgg16", ["relu1_1"])
