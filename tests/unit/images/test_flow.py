"""Optical flow: what is found of a made clip's true motion, what is trusted, and where a scene ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from clips import Clip, made_clip
from torch import Tensor

from nst_fast.errors import UsageError
from nst_fast.images import flow, from_uint8
from nst_fast.images.flow import Motion, dense_inverse_search, estimator, is_cut, motion_boundaries, motion_to, warp

pytest.importorskip("cv2", reason="motion is found by OpenCV (extra video)")
SIZE = (96, 128)


def motion_of(clip: Clip, at: int) -> Motion:
    before, frame = (from_uint8(clip.frames[each]) for each in (at - 1, at))
    return motion_to(before, frame, dense_inverse_search)


def true_flow(clip: Clip, at: int) -> Tensor:
    return torch.from_numpy(clip.flow[at]).permute(2, 0, 1)[None]


def test_a_picture_is_moved_to_where_the_flow_points() -> None:
    image = torch.rand(1, 3, 20, 30)
    there = torch.zeros(1, 2, 20, 30)
    there[:, 0], there[:, 1] = 3, -2
    moved = warp(image, there)
    torch.testing.assert_close(moved[:, :, 2:, :-3], image[:, :, :-2, 3:], rtol=0, atol=1e-5)
    torch.testing.assert_close(warp(image, torch.zeros_like(there)), image, rtol=0, atol=1e-5)


def test_the_motion_of_a_pan_is_found_and_what_was_hidden_is_not() -> None:
    clip = made_clip(3, SIZE, pan=3)
    motion = motion_of(clip, 2)
    error = (motion.flow - true_flow(clip, 2)).square().sum(1).sqrt()[0].numpy()
    trusted, hidden = motion.trusted[0, 0].numpy() > 0, clip.occluded[2]
    assert trusted.mean() > 0.8
    assert np.median(error[trusted & ~hidden]) < 0.1
    assert trusted[hidden].mean() < 0.4 < trusted[~hidden].mean()
    assert motion.still.mean() < 0.1


def test_what_leaves_the_picture_is_not_seen() -> None:
    away = torch.zeros(1, 2, 16, 16)
    away[:, 0] = 4
    seen = flow.consistent(away, -away)
    assert seen[..., :12].all()
    assert not seen[..., 12:].any()


def test_a_border_of_motion_is_not_trusted() -> None:
    halves = torch.zeros(1, 2, 8, 8)
    halves[:, 0, :, 4:] = 5
    assert motion_boundaries(halves)[0, 0, 0].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]


def test_what_does_not_move_is_known_to_be_still_and_moves_by_nothing() -> None:
    clip = made_clip(3, SIZE, pan=0)
    motion = motion_of(clip, 2)
    background = clip.still[2] & ~clip.occluded[2]
    assert motion.still[0, 0].numpy()[background].mean() > 0.98
    held = motion.holding(motion.still)
    assert not held.flow[0].abs().sum(0).numpy()[motion.still[0, 0].numpy() > 0].any()
    assert held.trusted.max() == flow.STILL


def test_noise_is_no_change_and_light_is_one() -> None:
    clip, noise = made_clip(1, SIZE, pan=0), np.random.default_rng(0).normal(0, 3, (2, *SIZE, 3))
    frame, again = (from_uint8((clip.frames[0] + each).round().clip(0, 255).astype(np.uint8)) for each in noise)
    assert motion_to(frame, again, dense_inverse_search).still.mean() > 0.9
    assert motion_to(frame, again - 6 / 255, dense_inverse_search).still.mean() < 0.1


def test_a_cut_is_found_and_motion_is_none() -> None:
    clip = made_clip(4, SIZE, pan=4, cut=2)
    frames = [from_uint8(picture) for picture in clip.frames]
    found = [is_cut(frames[at - 1], frames[at], motion_of(clip, at)) for at in (1, 2, 3)]
    assert found == [False, True, False]


def test_the_flow_does_not_depend_on_the_number_of_threads() -> None:
    import cv2

    clip, threads = made_clip(2, SIZE), cv2.getNumThreads()
    one, other = (from_uint8(picture) for picture in clip.frames)
    found = []
    for count in (1, 3):
        cv2.setNumThreads(count)
        found.append(dense_inverse_search(one, other))
        assert cv2.getNumThreads() == count
    cv2.setNumThreads(threads)
    assert torch.equal(*found)


def test_raft_without_its_weights_is_refused_with_their_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UsageError, match=r"raft: the network's weights are not there.*https://download"):
        estimator("raft", torch.device("cpu"))


def test_raft_takes_frames_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With random weights, which say nothing of motion."""
    from torchvision.models.optical_flow import Raft_Large_Weights, raft_large

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    name = Raft_Large_Weights.DEFAULT.url.rpartition("/")[2]
    torch.save(raft_large().state_dict(), tmp_path / "checkpoints" / name)
    estimate = estimator("raft", torch.device("cpu"))
    assert estimate(torch.rand(1, 3, 33, 50), torch.rand(1, 3, 33, 50)).shape == (1, 2, 33, 50)


def test_without_opencv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"not installed.*opencv-python-headless"):
        estimator("dis", torch.device("cpu"))
