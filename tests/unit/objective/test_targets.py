"""Targets that several runs share are built once, are the right ones, and do not fill the memory."""

from __future__ import annotations

import weakref

import pytest
import torch

from nst_fast.network.vgg import Encoder
from nst_fast.objective import losses, targets
from nst_fast.objective.objective import build_targets
from nst_fast.objective.targets import TargetCache
from nst_fast.options.config import ObjectiveOptions, StylizeConfig

CONFIG = StylizeConfig(content_taps="relu2_1", style_taps="relu1_1,relu2_1")


def test_equal_pictures_are_measured_once(shallow_encoder: Encoder, picture: torch.Tensor) -> None:
    cache = TargetCache()
    first = cache.build(shallow_encoder, CONFIG, picture, [picture.flip(3)])
    again = cache.build(shallow_encoder, CONFIG.replace(style_weight=3.0), picture.clone(), [picture.flip(3)])
    assert cache.built == 2  # content and style
    assert again.content["relu2_1"] is first.content["relu2_1"]
    assert again.style["style/relu1_1"] is first.style["style/relu1_1"]


def test_other_pixels_taps_or_weights_are_other_targets(shallow_encoder: Encoder, picture: torch.Tensor) -> None:
    cache = TargetCache()
    styles = [picture.flip(3), picture.flip(2)]
    for config, content, blend in [
        (CONFIG, picture, [1.0, 1.0]),
        (CONFIG, picture * 0.5, [1.0, 3.0]),
        (CONFIG.replace(content_taps="relu1_1", style_taps="relu2_1"), picture, [1.0, 1.0]),
    ]:
        actual = cache.build(shallow_encoder, config, content, styles, blend)
        expected = build_targets(shallow_encoder, config, content, styles, blend)
        for tap, features in expected.content.items():
            assert torch.equal(actual.content[tap], features)
        for name, statistic in expected.style.items():
            assert torch.equal(actual.style[name], statistic)
    assert cache.built == 6


def test_features_are_dropped_as_they_are_measured(
    shallow_encoder: Encoder, picture: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    gram_matrix = losses.gram_matrix

    def watched(features: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        alive.append(sum(each() is not None for each in seen))
        seen.append(weakref.ref(features))
        return gram_matrix(features, weights)

    expected = {tap: gram_matrix(features) for tap, features in shallow_encoder(picture).items()}
    monkeypatch.setattr(losses, "gram_matrix", watched)
    found = build_targets(shallow_encoder, CONFIG, None, [picture]).style
    assert alive == [0, 0]
    assert list(found) == ["style/relu1_1", "style/relu2_1"]
    assert all(torch.equal(found[f"style/{tap}"], expected[tap]) for tap in expected)


def test_layers_beyond_the_taps_that_are_measured_are_not_computed(
    shallow_encoder: Encoder, picture: torch.Tensor
) -> None:
    ran: list[str] = []
    hooks = [
        layer.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, layer in shallow_encoder.layers.items()
    ]
    options = ObjectiveOptions(content_taps="relu1_1", style_taps="relu2_1")
    build_targets(shallow_encoder, options, picture, [])
    for hook in hooks:
        hook.remove()
    assert ran == ["conv1_1", "relu1_1"]


def test_without_content_or_style_there_are_only_the_other_targets_and_large_ones_are_not_kept(
    shallow_encoder: Encoder, picture: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "KEPT_BYTES", 1000)
    cache = TargetCache()
    assert not cache.build(shallow_encoder, CONFIG, None, [picture]).content
    for _ in range(2):
        assert not cache.build(shallow_encoder, CONFIG, picture, []).style
    assert cache.built == 3
