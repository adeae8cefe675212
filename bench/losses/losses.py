"""Every loss on the same pairs for the same time, scored by the jury: python bench/losses/losses.py --images FOLDER ...

A look is a set of options, see :data:`LOOKS`. All looks of a pair get as many steps as take the time that ``gram``
needs for ``--steps``, or ``--seconds``, at the pace of a step at the final size in processor seconds: what else the
machine does changes no picture. Pictures and paces that are there are kept, so an interrupted comparison continues.
``--only-paces`` ends with the paces: a step's share of the whole, drawing new directions included.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nst_fast import StylizeConfig, evaluate, stylize
from nst_fast.benchmark.scripts import by_turns, conditions, read_json, say, script, write_json
from nst_fast.engines import choose, make_evaluator
from nst_fast.images import from_uint8, load_image, save_image, to_uint8
from nst_fast.images.sheet import Cell, Heading, contact_sheet
from nst_fast.jury.columns import COMPARED, CONTENT, STYLE
from nst_fast.run.problem import Networks, load_problem
from nst_fast.system.files import write_atomic
from nst_fast.system.tables import markdown_table

HERE = Path(__file__).resolve().parent
SHALLOW = "relu1_1:1:moments,relu2_1:1:moments,"
LOOKS: dict[str, dict[str, object]] = {
    "gram": {},
    "moments": {"style_loss": "moments"},
    "wasserstein": {"style_loss": "wasserstein"},
    "sliced": {"style_loss": "sliced"},
    "sliced-new": {"style_loss": "sliced", "sliced_directions": "new", "optimizer": "adam"},
    "nearest": {"style_loss": "nearest"},
    "remd": {"style_loss": "remd"},
    "histogram": {"histogram_weight": 0.5},
    "self-similarity": {"content_loss": "self-similarity"},
    "edges": {"edge_weight": 0.2},
    "mixed-nearest": {"style_taps": f"{SHALLOW}relu3_1:1:nearest,relu4_1:1:nearest,relu5_1:0.1:nearest"},
    "mixed-remd": {"style_taps": f"{SHALLOW}relu3_1:1:remd,relu4_1:1:remd,relu5_1:0.1:remd"},
}
TURNS = 3  # timed evaluations of each look, after one that is not
Pair = tuple[str, str]


@dataclass(frozen=True)
class Work:
    """What is made, and where.

    Attributes:
        images, folder: of the pictures that are given, and of what is made.
        size: longest side in pixels.
        pairs: file names of content and style.
        looks: names of :data:`LOOKS`, ``gram`` first.
    """

    images: Path
    folder: Path
    size: int
    pairs: Sequence[Pair]
    looks: Sequence[str]

    def config(self, look: str, **options: object) -> StylizeConfig:
        return StylizeConfig(image_size=self.size, monitor_every=0).replace(**LOOKS[look], **options)

    def files(self, pair: Pair) -> tuple[Path, Path]:
        return self.images / pair[0], self.images / pair[1]

    def picture(self, look: str, pair: Pair) -> Path:
        return self.folder / look / f"{title(pair)}.png"


def title(pair: Pair) -> str:
    return "+".join(Path(name).stem for name in pair)


def measure_paces(work: Work) -> dict[str, float]:
    """Look -> processor seconds of a step at the final size, the looks taking turns on the first pair."""
    path = work.folder / "paces.json"
    known: dict[str, float] = read_json(path)
    if missing := [look for look in work.looks if look not in known]:
        networks = Networks()
        steps = {look: step_of(work, look, networks) for look in dict.fromkeys(["gram", *missing])}
        seconds = by_turns(steps, TURNS, time.process_time)
        taken = {look: statistics.median(times) for look, times in seconds.items()}
        base = known.get("gram", taken["gram"])  # ratios: another day may be slower
        known |= {look: base * taken[look] / taken["gram"] for look in missing}
        write_json(path, known)
    return known


def step_of(work: Work, look: str, networks: Networks) -> Callable[[], None]:
    """What a step of a look on the first pair is, but for its update."""
    config, (content, style) = work.config(look), work.files(work.pairs[0])
    problem = load_problem(config, content, [style], networks)
    objective, picture = problem.objective_at(problem.scales[-1]), problem.start_at(problem.scales[-1])
    evaluator = make_evaluator(config, choose(config, problem.encoder, problem.device), problem.encoder, objective)
    numbers = itertools.count()

    def step() -> None:
        objective.begin_step(0, next(numbers))
        evaluator(picture)

    return step


def paint(work: Work, steps: Mapping[str, int]) -> None:
    for pair in work.pairs:
        for look in work.looks:
            picture = work.picture(look, pair)
            facts = picture.with_suffix(".json")
            wanted = {"look": {name: str(value) for name, value in LOOKS[look].items()}, "steps": steps[look]}
            if picture.is_file() and read_json(facts) == wanted:
                continue
            say(f"{title(pair)}, {look}: {steps[look]} steps")
            made = stylize(*work.files(pair), config=work.config(look, steps=steps[look]))
            picture.parent.mkdir(parents=True, exist_ok=True)
            save_image(made.image, picture)
            write_json(facts, wanted)


def score(work: Work, steps: Mapping[str, int], paces: Mapping[str, float]) -> dict[str, Any]:
    """Plain data: a row per pair and look, a row of means per look, relative to those of ``gram``."""
    rows: list[dict[str, Any]] = []
    for pair in work.pairs:
        judged = evaluate(*work.files(pair), [work.picture(look, pair) for look in work.looks])
        for look, scores in zip(work.looks, judged.pictures, strict=True):
            rows.append({"pair": title(pair), "look": look, "steps": steps[look], **scores.as_dict()["scores"]})
    description = f"{len(work.pairs)} pairs at {work.size} px, equal time: gram {steps['gram']} steps"
    means = [summary(look, rows, paces) for look in work.looks]
    return {**facts(work, paces, description), "rows": rows, "summary": means}


def facts(work: Work, paces: Mapping[str, float], description: str) -> dict[str, Any]:
    """What was measured, and on what."""
    return {
        **conditions("nst-fast/losses/1"),
        "description": description,
        "looks": {look: {name: str(value) for name, value in LOOKS[look].items()} for look in work.looks},
        "processor_seconds_per_step": {look: paces[look] for look in work.looks},
    }


def summary(look: str, rows: Sequence[Mapping[str, Any]], paces: Mapping[str, float]) -> dict[str, Any]:
    """Geometric means over the pairs, and on how many of them style and content are better than with ``gram``."""
    own = {row["pair"]: row for row in rows if row["look"] == look}
    gram = {row["pair"]: row for row in rows if row["look"] == "gram"}
    found: dict[str, Any] = {
        "look": look,
        "pace": paces[look] / paces["gram"],
        "steps": next(iter(own.values()))["steps"],
    }
    for name in COMPARED:
        found[name] = statistics.geometric_mean([row[name] for row in own.values()])
    for short, name in (("style_better", STYLE), ("content_better", CONTENT)):
        found[short] = sum(row[name] < gram[pair][name] for pair, row in own.items())
    return found


def to_markdown(data: Mapping[str, Any]) -> str:
    names = ["loss", "step, x gram", "steps", *COMPARED.values(), "style better", "content better"]
    pairs, rows = len({row["pair"] for row in data["rows"]}), []
    for each in data["summary"]:
        figures = [f"{each['pace']:.2f}", str(each["steps"]), *(f"{each[name]:.4f}" for name in COMPARED)]
        wins = [f"{each[name]} of {pairs}" for name in ("style_better", "content_better")]
        rows.append([each["look"], *figures, *wins])
    table = markdown_table(names, rows, range(1, len(names)))
    return "\n".join([f"{data['description']}; geometric means over the pairs.", "", *table]) + "\n"


def save_sheet(work: Work, path: Path, cell_size: int) -> None:
    """All pictures, a row per look and a column per pair."""
    rows = [
        [Cell("", to_uint8(load_image(work.picture(look, pair)).tensor)) for pair in work.pairs] for look in work.looks
    ]
    columns = [[Heading("content", Path(a).stem), Heading("style", Path(b).stem)] for a, b in work.pairs]
    beside = [[Heading("loss", look)] for look in work.looks]
    sheet = contact_sheet(rows, cell_size=cell_size, title="losses", columns=columns, row_headings=beside)
    save_image(from_uint8(sheet), path)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--images", type=Path, required=True, help="the folder of the pictures that the pairs name")
    add("--output", type=Path, required=True, help="the folder of what is made; kept, to continue from")
    add("--pairs", type=Path, default=HERE.parent / "peers" / "pairs.toml", help="a TOML file with pairs and size")
    add("--first", type=int, default=0, help="only so many of the pairs")
    add("--losses", nargs="+", choices=list(LOOKS), default=list(LOOKS), help="only these, and gram")
    add("--size", type=int, default=0, help="longest side in pixels, by default that of the pairs' file")
    add("--steps", type=int, default=150, help="of gram; the others get as many as take the same time")
    add("--seconds", type=float, default=0.0, help="of processor time for every picture, instead of --steps")
    add("--only-paces", action="store_true", help="measure steps, paint nothing")
    add("--results", type=Path, help="write NAME.json, .md and .jpg here, a path without suffix")
    return parser.parse_args()


@script
def main() -> None:
    given = parse()
    data = tomllib.loads(given.pairs.read_text(encoding="utf-8"))
    pairs = [(content, style) for content, style in data["pairs"]][: given.first or None]
    looks = list(dict.fromkeys(["gram", *given.losses]))
    work = Work(given.images.resolve(), given.output.resolve(), given.size or data["size"], pairs, looks)
    work.folder.mkdir(parents=True, exist_ok=True)
    results = given.results or work.folder / "losses"
    paces = measure_paces(work)
    if given.only_paces:
        found = facts(work, paces, f"steps at {work.size} px, default taps, {title(pairs[0])}")
        write_json(results.with_suffix(".json"), found)
        return
    seconds = given.seconds or given.steps * paces["gram"]
    steps = {look: max(1, round(seconds / paces[look])) for look in looks}
    paint(work, steps)
    found = score(work, steps, paces)
    write_json(results.with_suffix(".json"), found)
    write_atomic(results.with_suffix(".md"), to_markdown(found).encode())
    save_sheet(work, results.with_suffix(".jpg"), 192)
    sys.stdout.write(to_markdown(found))


if __name__ == "__main__":
    sys.exit(main())
