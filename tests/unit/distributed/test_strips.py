"""Rows exchanged between ranks that are threads of this process."""

from __future__ import annotations

import pytest
import torch
from thread_ranks import ThreadRanks, run_ranks

from nst_fast.distributed.group import Ranks
from nst_fast.distributed.strips import make_strip

TAPS = ["relu2_2", "relu1_1"]


@pytest.mark.parametrize(("height", "count"), [(50, 3), (64, 2), (97, 5)])
def test_the_sum_of_what_viewers_saw_of_a_row_is_given_back_to_it(height: int, count: int) -> None:
    """Over all ranks <seen rows, contributions> equals <own rows, what came back>: give_back is fetch transposed."""
    picture = torch.rand(1, 3, height, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(height))

    def work(me: ThreadRanks) -> tuple[float, float, bool]:
        strip = make_strip(me, "vgg19", TAPS, height, 7)
        own = strip.own(picture)
        around = strip.halos.fetch(own)
        said = torch.rand(around.shape, dtype=around.dtype, generator=torch.Generator().manual_seed(me.rank))
        exact = torch.equal(around, picture[:, :, strip.mine.low : strip.mine.high])
        assert torch.equal(strip.whole(own), picture)
        return (around * said).sum().item(), (own * strip.halos.give_back(said)).sum().item(), exact

    found = run_ranks(count, work)
    assert all(exact for _, _, exact in found)
    assert sum(seen for seen, _, _ in found) == pytest.approx(sum(back for _, back, _ in found), rel=1e-12)


def test_a_single_rank_copies_and_sends_nothing() -> None:
    picture, ranks = torch.rand(1, 3, 40, 30), Ranks()
    strip = make_strip(ranks, "vgg19", TAPS, 40, 30)
    assert strip.own(picture) is picture
    assert strip.whole(picture) is picture
    assert strip.halos.fetch(picture) is picture
    assert strip.halos.give_back(picture) is picture
    ranks.exchange({}, {})
    assert (ranks.maximum([2.0, -1.0]), ranks.broadcast("text")) == ([2.0, -1.0], "text")
