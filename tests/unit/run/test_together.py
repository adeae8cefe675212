"""Pictures in one loop: each becomes what it would be alone, with its own record; a bad one takes no other down."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import Watcher
from loops import bowl, ramp, run_loop, stepper_on
from PIL import Image
from torch import Tensor

from nst_fast.api import Listeners, Networks, stylize, stylize_together
from nst_fast.distributed.group import Ranks
from nst_fast.distributed.strips import make_strip
from nst_fast.engines import Evaluation, Evaluator, choice, make_evaluator
from nst_fast.engines.fast import FastEvaluator
from nst_fast.engines.fast_network import FastNetwork
from nst_fast.engines.tiled import TiledEvaluator
from nst_fast.errors import NumericsError, OutOfMemoryError, OutputError, UsageError
from nst_fast.images import load_image, save_image
from nst_fast.images.decoding import size_at
from nst_fast.jobs.batch import BatchRequest, BatchResult, groups_of, run_batch
from nst_fast.jobs.painter import Picture
from nst_fast.memory.planner import MemoryTask, make_plan
from nst_fast.network.vgg import Encoder
from nst_fast.network.weights import make_encoder
from nst_fast.objective.evaluation import EagerEvaluator
from nst_fast.objective.objective import Objective, build_targets
from nst_fast.optimizers import make_optimizer
from nst_fast.options.commands import BatchConfig
from nst_fast.options.config import OptimizerOptions, StopOptions, StylizeConfig
from nst_fast.run import layout as planned
from nst_fast.run import together
from nst_fast.run.guard import Guard, StopRules
from nst_fast.run.problem import load_problem

OPTIONS: dict[str, Any] = {
    "weights": "random:0",
    "content_taps": "relu2_1",
    "style_taps": "relu1_1,relu2_1",
    "image_size": 32,
    "precision": "fp32",
    "steps": 8,
}
TINY = StylizeConfig(**OPTIONS, monitor_every=0)


def drawn(seed: int, size: tuple[int, int] = (32, 24)) -> Tensor:
    coarse = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (size[1], size[0]), mode="bicubic").clamp(0, 1)


def paint(path: Path, seed: int, size: tuple[int, int] = (32, 24)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(drawn(seed, size), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    paint(folder / "style.png", 9)
    return folder


@pytest.fixture(scope="module")
def style(folder: Path) -> Path:
    return folder / "style.png"


@pytest.fixture(scope="module")
def contents(folder: Path) -> list[Path]:
    return [paint(folder / f"{seed}.png", seed) for seed in range(3)]


@pytest.fixture(scope="module")
def networks() -> Networks:
    return Networks()


# Rounding differs in a batch, and decides now and then on which side of 0 a ReLU falls, or whether L-BFGS holds a value
# at the border; what the optimisers do with it is compared in float64 below.
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"optimizer": "adam"}, 1e-3),
        ({"optimizer": "lbfgs"}, 0.03),
        ({"optimizer": "adam", "engine": "eager", "scales": 2, "min_size": 16, "init": "content+noise"}, 1e-3),
        ({"optimizer": "lbfgs", "scales": 2, "min_size": 16, "init": "recolored", "tv_weight": 0.1}, 0.03),
        ({"optimizer": "adam", "average_decay": 0.8, "smooth_every": 3, "color": "match"}, 1e-3),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_each_picture_becomes_what_it_would_be_alone(
    style: Path, contents: list[Path], networks: Networks, options: dict[str, Any], tolerance: float
) -> None:
    joint = stylize_together(contents, style, TINY, networks=networks, **options)
    for content, pastiche in zip(contents, joint, strict=True):
        alone = stylize(content, style, TINY, networks=networks, **options)
        assert pastiche.image.shape == alone.image.shape
        assert (pastiche.image - alone.image).abs().mean() < tolerance / 10
        for name, column in alone.record.history.items():
            assert pastiche.record.history[name] == pytest.approx(column, rel=tolerance), name
        assert pastiche.record.losses == pytest.approx(alone.record.losses, rel=tolerance)
        assert pastiche.record.finish == alone.record.finish


@pytest.fixture(scope="module")
def precise() -> Encoder:
    encoder, _ = make_encoder(
        "random:0", "vgg19", ["relu1_1", "relu2_1"], pooling="max", padding="zeros", normalize_input=True
    )
    return encoder.double()


def objective_of(encoder: Encoder, *seeds: int, styles: tuple[int, ...] = (9,)) -> Objective:
    content = torch.cat([drawn(seed) for seed in seeds]).double()
    return Objective(TINY, build_targets(encoder, TINY, content, [torch.cat([drawn(s) for s in styles]).double()]))


ENGINES: dict[str, Callable[[Encoder, Objective], Evaluator]] = {
    "eager": EagerEvaluator,
    "fast": lambda encoder, objective: FastEvaluator(encoder, objective, torch.float64),
    "tiled": lambda encoder, objective: TiledEvaluator(
        FastNetwork(encoder, torch.float64), objective, make_strip(Ranks(), "vgg19", TINY.taps, 24, 32, (1, 2))
    ),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("styles", [(9,), (9, 10, 11)], ids=["one style", "a style each"])
def test_every_engine_gives_each_picture_its_own_gradient(
    precise: Encoder, engine: str, styles: tuple[int, ...]
) -> None:
    pictures = torch.cat([drawn(seed) for seed in (4, 5, 6)]).double()
    joint = ENGINES[engine](precise, objective_of(precise, 0, 1, 2, styles=styles))(pictures)
    for index in range(3):
        own = styles[index : index + 1] if len(styles) > 1 else styles
        alone = ENGINES[engine](precise, objective_of(precise, index, styles=own))(pictures[index : index + 1])
        torch.testing.assert_close(joint.gradient[index], alone.gradient[0], rtol=1e-10, atol=1e-16)
        torch.testing.assert_close(joint.total[index], alone.total[0], rtol=1e-12, atol=0)
        for name, term in alone.terms.items():
            torch.testing.assert_close(joint.terms[name][index], term[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_optimisers_lead_each_picture_of_a_batch_where_they_lead_it_alone(precise: Encoder, optimizer: str) -> None:
    def led(*seeds: int) -> Tensor:
        evaluate = ENGINES["fast"](precise, objective_of(precise, *seeds))
        pastiche = torch.cat([drawn(seed) for seed in seeds]).double()
        made = make_optimizer(pastiche, OptimizerOptions(optimizer=optimizer))
        for _ in range(10):
            made.update(evaluate(pastiche), evaluate, 0.05 if optimizer == "adam" else 1.0)
        return pastiche

    joint = led(0, 1, 2)
    for seed in range(3):
        torch.testing.assert_close(joint[seed], led(seed)[0], rtol=0, atol=1e-11)


def test_records_are_those_of_each_picture_but_for_the_time(
    style: Path, contents: list[Path], networks: Networks, tmp_path: Path
) -> None:
    outputs = [tmp_path / f"{index}.png" for index in range(3)]
    notes: list[str] = []
    listeners = Listeners(note=notes.append, detail=notes.append)
    options: dict[str, Any] = {"monitor_every": 5, "save_every": 4}
    stylize_together(contents, style, TINY, networks=networks, outputs=outputs, listeners=listeners, **options)
    records = [json.loads(path.with_suffix(".json").read_text()) for path in outputs]
    assert [record["inputs"]["content"]["name"] for record in records] == ["0.png", "1.png", "2.png"]
    assert [record["plan"]["together"] for record in records] == [3, 3, 3]
    for shared in ("seconds", "steps_per_second", "engine", "status"):
        assert len({record[shared] for record in records}) == 1
    for own in ("output_sha256", "losses"):
        assert len({str(record[own]) for record in records}) == 3
    assert all(record["losses"]["total"] == record["history"]["total"][TINY.steps] for record in records)
    assert any("no monitor" in note for note in notes)
    assert sorted(path.name for path in tmp_path.glob("1-*")) == ["1-000004.png", "1-000008.png", "1-losses.png"]


def test_pictures_of_several_sizes_come_back_in_their_order(
    style: Path, contents: list[Path], networks: Networks, tmp_path: Path
) -> None:
    tall = [paint(tmp_path / f"{seed}.png", seed, (24, 32)) for seed in (5, 6)]
    mixed = [contents[0], tall[0], contents[1], tall[1], paint(tmp_path / "square.png", 7, (32, 32))]
    made = stylize_together(mixed, style, TINY, networks=networks, steps=1)
    assert [tuple(pastiche.image.shape[2:]) for pastiche in made] == [(24, 32), (32, 24), (24, 32), (32, 24), (32, 32)]
    assert [pastiche.record.inputs["content"]["name"] for pastiche in made] == [path.name for path in mixed]
    assert [pastiche.record.plan.get("together") for pastiche in made] == [2, 2, 2, 2, None]


def test_when_one_picture_is_poisoned_all_go_back_each_to_its_own_best() -> None:
    calls = iter(range(1000))

    def poisoned(pastiche: Tensor) -> Evaluation:
        good, call = bowl(pastiche), next(calls)
        bad = torch.tensor([1.0, math.nan if call == 8 else 1.0, -1.0 if 3 <= call < 10 else 1.0])  # the third climbs
        total = good.total * bad.abs()
        return Evaluation(total, {"bowl": total}, good.gradient * bad.view(-1, 1, 1, 1))

    options = OptimizerOptions(optimizer="adam", adam_beta1=0.0, steps=20, learning_rate=0.02)
    loop = run_loop(stepper_on(pastiche := ramp(3), options, poisoned), options)
    history, recoveries = loop.history, loop.observer.recoveries
    assert [(recovery.step, recovery.picture, recovery.best_step) for recovery in recoveries] == [(10, 1, 7)]
    assert loop.best_steps[:3] == [[0, 0, 0], [5, 5, 3], [10, 7, 3]]
    totals = [history.rows(picture)["total"] for picture in range(3)]
    assert [column[10] for column in totals] == [totals[0][10], totals[1][7], totals[2][3]]
    last = loop.events[-1]
    assert last.totals == tuple(column[-1] for column in totals)
    assert last.terms["total"] == pytest.approx(sum(last.totals) / 3)
    assert torch.isfinite(pastiche).all()


def test_a_jump_of_one_picture_is_seen_where_the_mean_hides_it() -> None:
    guard = Guard(torch.zeros(2, 3, 2, 2), factor=10)
    guard.observe(0, torch.zeros(2, 3, 2, 2), Evaluation(torch.tensor([1e6, 1.0]), {}, torch.zeros(1)))
    assert guard.check(5, [1e6, 9.9]) is None
    recovery = guard.check(5, [1e6, 10.1])
    assert recovery is not None
    assert (recovery.picture, recovery.best_total) == (1, 1.0)


def test_pictures_go_on_until_none_of_them_improves() -> None:
    rules = StopRules(StopOptions(patience=10, min_improvement=0.1))
    totals = [(1000.0, 0.8 ** min(step, 20)) for step in range(0, 40, 5)]
    verdicts = [rules.verdict(5 * index, pair, 0.0, 1.0) for index, pair in enumerate(totals)]
    assert verdicts.index("converged") == 6  # ten steps after the second one stood still at 20


def test_a_run_that_is_stopped_ends_with_the_best_of_each_picture(
    style: Path, contents: list[Path], networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def staged(options: Any, chosen: Any, network: Any, objective: Objective, *more: Any) -> Evaluator:
        def evaluate(pastiche: Tensor) -> Evaluation:
            step = len(seen)
            seen.append(pastiche.clone())
            total = torch.tensor([8.0 - step, 1.0 + abs(step - 2), 1.0 + step])  # the best at the end, at 2 and at 0
            share = total / len(objective.term_names)
            return Evaluation(total, dict.fromkeys(objective.term_names, share), pastiche - 0.5)

        return evaluate

    monkeypatch.setattr(planned, "make_evaluator", staged)
    listeners = Listeners(stop=lambda: len(seen) >= 7)
    made = stylize_together(contents, style, TINY, networks=networks, listeners=listeners, steps=50)
    assert {pastiche.record.status for pastiche in made} == {"stopped"}
    assert [pastiche.record.losses["total"] for pastiche in made] == [2, 1, 1]
    for index, (pastiche, best) in enumerate(zip(made, (6, 2, 0), strict=True)):
        assert len(pastiche.record.history["total"]) == 7
        assert torch.equal(pastiche.image[0], seen[best][index])


@pytest.mark.parametrize(
    ("flag", "options"),
    [
        ("`line_search` strong_wolfe", {"optimizer": "lbfgs", "line_search": "strong_wolfe"}),
        ("`engine` ort", {"engine": "ort"}),
        ("`tile_size`", {"tile_size": 128}),
        ("`on_oom` tile", {"on_oom": "tile"}),
    ],
)
def test_what_needs_a_picture_to_itself_is_refused(
    style: Path, contents: list[Path], flag: str, options: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match=flag):
        stylize_together(contents, style, TINY, **options)


def test_outputs_are_one_for_each_and_no_input(style: Path, contents: list[Path]) -> None:
    with pytest.raises(UsageError, match="2 outputs for 3"):
        stylize_together(contents, style, TINY, outputs=["a.png", "b.png"])
    with pytest.raises(UsageError, match="3 outputs for 3"):
        stylize_together(contents, style, TINY, outputs=["a.png", "b.png", "a.png"])
    with pytest.raises(UsageError, match="no content"):
        stylize_together([], style, TINY)
    with pytest.raises(OutputError, match="input"):
        stylize_together(contents, style, TINY, outputs=["a.png", "b.png", contents[1]], overwrite=True)


def test_a_plan_counts_every_picture() -> None:
    job = MemoryTask(StylizeConfig(), "fast", "fp32", 512, 512)
    one, four = (make_plan(replace(job, pictures=count), 2**40).parts for count in (1, 4))
    for part in ("pictures", "optimiser", "content targets", "step"):
        assert four[part] == pytest.approx(4 * one[part], rel=1e-6)
    assert four["network"] == one["network"]


def test_what_does_not_fit_into_memory_is_split_into_equal_parts(
    style: Path, contents: list[Path], networks: Networks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = [load_problem(TINY, content, [style], networks) for content in [*contents, *contents]]
    fits = together.fits
    monkeypatch.setattr(together, "fits", lambda parts, choice: len(parts) <= 4)
    notes: list[str] = []
    made = list(together.run_together(problems, [None] * 6, Listeners(note=notes.append)))
    assert [(index, pastiche.record.plan["together"]) for index, pastiche in made] == [(n, 3) for n in range(6)]
    assert notes == ["3 of 6 pictures at a time, as memory allows"]
    settled = choice.choose(TINY, problems[0].encoder, problems[0].device)
    monkeypatch.setattr(together, "budget_of", lambda config, device: 2**40)
    assert fits(problems, settled)
    monkeypatch.setattr(together, "budget_of", lambda config, device: 2**20)
    assert not fits(problems, settled)


def test_pictures_that_no_longer_fit_are_not_cut_into_tiles(
    style: Path, contents: list[Path], networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planned, "budget_of", lambda config, device: 1)
    monkeypatch.setattr(together, "budget_of", lambda config, device: 2**40)
    with pytest.raises(OutOfMemoryError):
        stylize_together(contents, style, TINY, networks=networks)


def test_a_header_tells_the_size_that_a_picture_will_have(tmp_path: Path) -> None:
    picture = Image.new("RGB", (61, 40))
    for suffix in (".png", ".jpg", ".webp", ".tif", ".avif"):
        for orientation in (1, 3, 6):
            exif = Image.Exif()
            exif[0x0112] = orientation
            path = tmp_path / f"{orientation}{suffix}"
            picture.save(path, exif=exif)
            assert size_at(path, 32, 100) == tuple(load_image(path, longest_side=32).tensor.shape[2:]), path.name
    (tmp_path / "text.png").write_text("no picture")
    assert [size_at(tmp_path / name, 32, 100) for name in ("text.png", "missing.png", ".")] == [None] * 3
    assert size_at(tmp_path / "1.png", 32, 0.001) is None


def test_groups_are_full_or_of_what_is_left_and_rivals_for_a_name_stand_apart(tmp_path: Path) -> None:
    sizes = {"a.png": (32, 24), "b.png": (24, 32), "a.jpg": (32, 24), "c.png": (64, 48), "d.png": (32, 24)}
    for name, size in sizes.items():
        paint(tmp_path / name, 0, size)
    (tmp_path / "e.png").write_text("no picture")

    def named(count: int, **options: Any) -> list[str]:
        request = BatchRequest(
            inputs=[], styles=[], folder=tmp_path, config=BatchConfig(**{**TINY.as_dict(), **options}), together=count
        )
        pictures = [Picture(name, name, tmp_path / name) for name in [*sizes, "e.png"]]
        return ["".join(picture.name[0] for picture in group) for group in groups_of(pictures, request)]

    assert named(1) == ["a", "b", "a", "c", "d", "e"]
    assert named(2) == ["a", "ac", "e", "b", "d"]
    assert named(9) == ["a", "e", "acd", "b"]
    assert named(9, content_fit="square") == ["a", "abcde"]


def run(folder: Path, **options: Any) -> tuple[BatchResult, list[str], list[str]]:
    watcher = Watcher()
    given: dict[str, Any] = {"config": BatchConfig(**OPTIONS), "together": 3, **options}
    batch = BatchRequest(inputs=[folder / "in"], styles=[folder / "style.png"], folder=folder / "out", **given)
    return run_batch(batch, watcher), watcher.titles, watcher.notes


def test_a_batch_takes_pictures_of_one_size_together_and_a_bad_file_takes_none_down(tmp_path: Path) -> None:
    paint(tmp_path / "style.png", 9)
    for seed in range(4):
        paint(tmp_path / "in" / f"wide{seed}.png", seed)
    for seed in range(2):
        paint(tmp_path / "in" / f"tall{seed}.jpg", seed, (24, 32))
    whole = paint(tmp_path / "in" / "bad.png", 3).read_bytes()
    (tmp_path / "in" / "bad.png").write_bytes(whole[: len(whole) // 2])
    small = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    command = ("-m", "nst_fast", "batch", "in", "--style", "style.png", "-o", "out", "--together", "3", "--json")
    result = subprocess.run(
        [sys.executable, *command, *small], cwd=tmp_path, capture_output=True, text=True, env=dict(os.environ)
    )
    facts = json.loads(result.stdout)
    assert (result.returncode, facts["done"], facts["made"]) == (10, 6, 6), result.stderr
    assert [failure["input"] for failure in facts["failed"]] == ["bad.png"]
    together_of = {
        path.stem: json.loads(path.read_text())["plan"].get("together") for path in (tmp_path / "out").glob("*.json")
    }
    # The header of the bad one claims the size of the wide ones: it is found out when it is loaded.
    assert together_of == {"wide0": 2, "wide1": 2, "wide2": 2, "wide3": 2, "tall0": 2, "tall1": 2}
    lines = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert sorted((line["input"], line["status"]) for line in lines) == sorted(
        [
            ("bad.png", "failed"),
            *((f"wide{n}.png", "done") for n in range(4)),
            *((f"tall{n}.jpg", "done") for n in (0, 1)),
        ]
    )
    outcome, titles, _ = run(tmp_path, retry_failed=False)
    assert (outcome.made, titles) == (0, [])


def test_a_picture_that_diverges_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint(tmp_path / "style.png", 9)
    for seed in range(3):
        paint(tmp_path / "in" / f"{seed}.png", seed)
    encoder, _ = Networks().encoder(TINY, TINY.taps, torch.device("cpu"))
    with torch.no_grad():
        marked = encoder(load_image(tmp_path / "in" / "1.png", longest_side=32).tensor)["relu2_1"]

    def poisoned(options: Any, chosen: Any, network: Encoder, objective: Objective, *more: Any) -> Evaluator:
        evaluate = make_evaluator(options, chosen, network, objective, *more)
        bad = (objective.targets.content["relu2_1"] - marked).abs().amax((1, 2, 3)) < 1e-3

        def evaluated(pastiche: Tensor) -> Evaluation:
            good = evaluate(pastiche)
            total = good.total.masked_fill(bad, math.nan)
            return Evaluation(total, good.terms, good.gradient)

        return evaluated

    monkeypatch.setattr(planned, "make_evaluator", poisoned)
    outcome, titles, notes = run(tmp_path)
    assert [(entry.input, entry.status) for entry in outcome.entries.values()] == [
        ("0.png", "done"),
        ("1.png", "failed"),
        ("2.png", "done"),
    ]
    assert titles == ["1/3 0.png and 2 more of its size", "1/3 0.png", "2/3 1.png", "3/3 2.png"]
    assert any("continuing one by one" in note and "diverged" in note for note in notes)


def test_a_batch_together_needs_a_sensible_number_and_options(tmp_path: Path) -> None:
    paint(tmp_path / "style.png", 9)
    paint(tmp_path / "in" / "0.png", 0)
    with pytest.raises(UsageError, match="`together` 0"):
        run(tmp_path, together=0)
    with pytest.raises(UsageError, match="`tile_size`"):
        run(tmp_path, config=BatchConfig(**OPTIONS, tile_size=64))


def test_the_worst_picture_decides_whether_bf16_will_do(precise: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, turned = torch.ones(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    turned[1, :, :2] = -1.0

    def engine(encoder: Encoder, objective: Objective, dtype: torch.dtype, *, kernels: bool) -> Evaluator:
        gradient = straight if dtype == torch.float32 else turned
        return lambda pastiche: Evaluation(torch.ones(2), {}, gradient)

    monkeypatch.setattr(choice, "FastEvaluator", engine)
    chosen = choice.Choice("fast", "bf16", "", {})
    assert choice.confirm_precision(chosen, precise, objective_of(precise, 0), straight).precision == "fp32"
    turned[1] = 1.0
    assert choice.confirm_precision(chosen, precise, objective_of(precise, 0), straight).precision == "bf16"


def test_a_failure_of_pictures_together_is_raised_once_all_are_written(
    style: Path, contents: list[Path], networks: Networks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> Evaluator:
        calls = iter(range(1000))

        def evaluate(pastiche: Tensor) -> Evaluation:
            bad = torch.tensor([1.0, math.nan if next(calls) > 3 else 1.0, 1.0])
            names = ("content/relu2_1", "style/relu1_1", "style/relu2_1")
            return Evaluation(bad, dict.fromkeys(names, bad / 3), pastiche * bad.view(-1, 1, 1, 1))

        return evaluate

    monkeypatch.setattr(planned, "make_evaluator", broken)
    outputs = [tmp_path / f"{index}.png" for index in range(3)]
    with pytest.raises(NumericsError):
        stylize_together(contents, style, TINY, networks=networks, outputs=outputs, steps=40, chroma_tv_weight=0.0)
    for path in outputs:
        record = json.loads(path.with_suffix(".json").read_text())
        assert record["status"] == "diverged"
        assert record["warnings"][0].startswith("1.png: step 5: the loss is not finite")
        assert math.isfinite(record["losses"]["total"])
