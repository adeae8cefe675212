"""The inverse Hessian of L-BFGS: the compact form is the two-loop recursion, and bad pairs count for nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from nst_fast.optimizers.curvature import CurvaturePairs

SIZE, VALUES = 5, 24


def quadratic(seed: int) -> Tensor:
    """A positive definite Hessian."""
    root = torch.randn(VALUES, VALUES, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return root @ root.T / VALUES + 0.1 * torch.eye(VALUES, dtype=torch.float64)


def vectors(count: int, seed: int) -> Tensor:
    return torch.randn(count, VALUES, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def two_loops(steps: list[Tensor], changes: list[Tensor], gradient: Tensor) -> Tensor:
    """Nocedal & Wright 2006, algorithm 7.4."""
    q, alphas = gradient.clone(), []
    for s, y in zip(reversed(steps), reversed(changes), strict=True):
        alphas.append((s @ q) / (s @ y))
        q -= alphas[-1] * y
    q *= (steps[-1] @ changes[-1]) / (changes[-1] @ changes[-1])
    for s, y, alpha in zip(steps, changes, reversed(alphas), strict=True):
        q += s * (alpha - (y @ q) / (s @ y))
    return q


@pytest.mark.parametrize("pairs", [1, 3, SIZE, SIZE + 1, 2 * SIZE + 3])
def test_the_compact_form_is_the_two_loop_recursion(pairs: int) -> None:
    hessian, steps, gradient = quadratic(0), list(vectors(pairs, 1)), vectors(1, 2)
    known = CurvaturePairs(gradient, SIZE)
    for step in steps:
        known.add(step[None], (hessian @ step)[None])
    newest = steps[-SIZE:]
    expected = two_loops(newest, [hessian @ step for step in newest], gradient[0])
    torch.testing.assert_close(known.inverse_times(gradient)[0], expected, rtol=1e-10, atol=0)


def test_without_pairs_the_gradient_itself_comes_back() -> None:
    gradient = vectors(1, 2)
    assert torch.equal(CurvaturePairs(gradient, SIZE).inverse_times(gradient), gradient)


def test_the_newest_pair_satisfies_the_secant_equation() -> None:
    hessian, steps = quadratic(0), vectors(7, 1)
    known = CurvaturePairs(steps[:1], SIZE)
    for step in steps:
        known.add(step[None], (hessian @ step)[None])
    torch.testing.assert_close(known.inverse_times((hessian @ steps[-1])[None])[0], steps[-1], rtol=1e-9, atol=0)


@pytest.mark.parametrize("at", [0, 2, 8])
def test_a_pair_of_negative_curvature_counts_for_nothing(at: int) -> None:
    hessian, steps, gradient = quadratic(0), list(vectors(9, 1)), vectors(1, 2)
    known, without = CurvaturePairs(gradient, 20), CurvaturePairs(gradient, 20)
    for index, step in enumerate(steps):
        if index == at:
            known.add(step[None], -(hessian @ step)[None])
        else:
            known.add(step[None], (hessian @ step)[None])
            without.add(step[None], (hessian @ step)[None])
    torch.testing.assert_close(known.inverse_times(gradient), without.inverse_times(gradient), rtol=1e-10, atol=0)


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_a_change_that_is_no_number_leaves_the_product_finite(bad: float) -> None:
    steps = vectors(3, 1)
    known = CurvaturePairs(steps[:1], SIZE)
    known.add(steps[:1], 2 * steps[:1])
    known.add(steps[1:2], torch.full_like(steps[:1], bad))
    torch.testing.assert_close(known.inverse_times(2 * steps[:1]), steps[:1], rtol=1e-10, atol=0)


def test_a_state_of_before_the_rings_were_stacked_is_taken_over() -> None:
    steps, gradients = vectors(2 * (SIZE + 2), 1).view(SIZE + 2, 2, VALUES), vectors(2, 2)
    known, resumed = CurvaturePairs(gradients, SIZE), CurvaturePairs(gradients, SIZE)
    for step in steps:
        known.add(step.clone(), 3 * step)
    state = known.state()
    rings = state["pairs"].view(2, 2, SIZE, VALUES)
    old = {"steps": rings[:, 0].reshape(-1, VALUES), "changes": rings[:, 1].reshape(-1, VALUES)}
    resumed.restore({"added": state["added"], "sy": torch.zeros(2, SIZE, SIZE), "yy": state["yy"], **old})
    torch.testing.assert_close(resumed.inverse_times(gradients), known.inverse_times(gradients), rtol=1e-10, atol=1e-12)


def test_problems_of_a_batch_do_not_see_each_other() -> None:
    steps, gradients = vectors(6, 1).view(3, 2, VALUES), vectors(2, 2)
    both = CurvaturePairs(gradients, SIZE)
    alone = [CurvaturePairs(gradients[:1], SIZE) for _ in range(2)]
    hessians = torch.stack([quadratic(0), quadratic(7)])
    for step in steps:
        change = (hessians @ step.unsqueeze(2)).squeeze(2)
        both.add(step, change)
        for index, one in enumerate(alone):
            one.add(step[index : index + 1], change[index : index + 1])
    found = both.inverse_times(gradients)
    for index, one in enumerate(alone):
        torch.testing.assert_close(found[index : index + 1], one.inverse_times(gradients[index : index + 1]))


class Meeting:
    """Sums what two threads bring, as an all-reduce of two processes does."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(2, timeout=10)
        self.brought: dict[int, Tensor] = {}

    def member(self, rank: int) -> Callable[[Tensor], Tensor]:
        def total(part: Tensor) -> Tensor:
            self.brought[rank] = part
            self.barrier.wait()
            found = self.brought[0] + self.brought[1]
            self.barrier.wait()
            return found

        return total


def test_values_may_be_shared_out_among_processes() -> None:
    steps, changes, gradient = vectors(7, 1), vectors(7, 1) @ quadratic(0), vectors(1, 2)
    meeting = Meeting()

    def product(part: slice, total: Callable[[Tensor], Tensor]) -> Tensor:
        known = CurvaturePairs(gradient[:, part], SIZE, total)
        for step, change in zip(steps, changes, strict=True):
            known.add(step[None, part], change[None, part])
        return known.inverse_times(gradient[:, part])

    with ThreadPoolExecutor(2) as threads:
        parts = [slice(0, 9), slice(9, None)]
        halves = list(threads.map(product, parts, [meeting.member(0), meeting.member(1)]))
    torch.testing.assert_close(torch.cat(halves, 1), product(slice(None), lambda part: part), rtol=1e-9, atol=1e-12)
