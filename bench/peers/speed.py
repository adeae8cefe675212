"""How fast other programs and nst-fast are, and how soon nst-fast has what they end with. See README.md beside this.

python bench/peers/speed.py --sources FOLDER --images FOLDER --output FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from painting import Comparison, Pair, paint, parser, title
from programs import OURS, PROGRAMS, Program
from racing import IN_FP32, Race, has_bf16, renamed
from reaching import LOSS, OBJECTIVES, Judge, by_default, flags, reach, to_loss, to_scores, with_recipe

from nst_fast.benchmark.scripts import conditions, keep, script
from nst_fast.jury.columns import CONTENT, STYLE
from nst_fast.system.rounding import rounded
from nst_fast.system.tables import markdown_table

PARTS = ("paint", "race", "reach", "report")
PEERS = [program for program in PROGRAMS if program.name != OURS]
# What is aimed at: steps of ours in one of theirs with bf16 and in fp32; the share of their seconds to their score.
BARS = {"ratio_bf16": 3.0, "ratio_fp32": 2.0, "share": 1 / 6}
Row = dict[str, Any]


@script
def main() -> None:
    flags = parser(__doc__, "speed.toml", PEERS, PARTS)
    flags.add_argument("--portion", type=float, default=1.0, help="of a peer's default steps, for a trial (default: 1)")
    flags.add_argument("--steps", type=int, default=10, help="of a run in the race (default: 10)")
    flags.add_argument("--rounds", type=int, default=3, help="of the race (default: 3)")
    given = flags.parse_args()
    peers = [program for program in PEERS if program.name in given.programs]
    what = Comparison.read(given.pairs, given.images, given.sources, given.output, peers)
    what = replace(what, programs=[at_style_size(peer, what) for peer in peers])
    if "paint" in given.parts:
        threads = max(1, given.threads // given.jobs)
        paint(what, lambda peer, pair: steps_of(peer, given.portion), given.jobs, threads)
    race = Race(what.output / "race.json")
    if "race" in given.parts:
        race.run(what, given.rounds, given.steps, given.threads)
    if "reach" in given.parts:
        reach(what, given.threads)
    if "report" in given.parts:
        torch.set_num_threads(given.threads)
        data = report(what, race, given.portion)
        paths = keep(given.results, "peers-speed", data, md=to_markdown(data))
        sys.stdout.writelines(f"{path.name}\n" for path in paths)


def at_style_size(peer: Program, what: Comparison) -> Program:
    """The peer, which must leave the style at the size that all are given: pastiche would resize it."""
    return renamed(peer, peer.name, ["--style-size", f"{what.style_size}"]) if peer.name == "pastiche" else peer


def steps_of(peer: Program, portion: float) -> int:
    """The count of a peer's own run."""
    return max(1, round(portion * peer.default))


def report(what: Comparison, race: Race, portion: float) -> dict[str, Any]:
    """Plain data: a row per pair and peer, and every run of the race; names of files, and no folders."""
    judge = Judge(what.output / "judged.json", what)
    rows = [row_of(what, race, judge, pair, peer, portion) for pair in what.pairs for peer in what.programs]
    return {
        **conditions("nst-fast/peers-speed/1"),
        "description": what.description,
        "size": what.size,
        "portion": portion,
        "bf16": has_bf16(),
        "bars": BARS,
        "rows": rounded(rows),
        "race": race.runs,
    }


def row_of(what: Comparison, race: Race, judge: Judge, pair: Pair, peer: Program, portion: float) -> Row:
    """All figures of one pair and peer; bench/peers/README.md says what they are."""
    seconds = race.default_seconds(pair, peer, steps_of(peer, portion))
    row: Row = {
        "pair": title(pair),
        "peer": peer.name,
        "step_seconds": race.seconds(pair, peer.name),
        "peak_mib": race.peak_mib(pair, peer.name),
        "our_step_seconds": race.seconds(pair, OURS),
        "our_peak_mib": race.peak_mib(pair, OURS),
        "ours": " ".join(race.of(pair, OURS)[-1].get(name, "") for name in ("engine", "precision")),
        "ratio": race.ratio(pair, peer.name, OURS),
        "our_step_seconds_fp32": race.seconds(pair, IN_FP32),
        "our_peak_mib_fp32": race.peak_mib(pair, IN_FP32),
        "ratio_fp32": race.ratio(pair, peer.name, IN_FP32),
        "steps": steps_of(peer, portion),
        "seconds": seconds,
    }
    runs = {"": by_default()}
    if recipe := what.recipes.get(peer.name):
        runs[" ".join(map(str, flags(recipe)))] = with_recipe(what, peer.name)
    reached = {name: to_scores(what, judge, pair, peer, ours) for name, ours in runs.items()}
    row["scores"] = [{"recipe": name} | found | shares(found, seconds) for name, found in reached.items()]
    if peer.name in OBJECTIVES:
        found = to_loss(what, judge, pair, peer)
        row |= found | shares(found, seconds)
    return row


def shares(found: Mapping[str, float | None], seconds: float) -> dict[str, float | None]:
    """Seconds to something as a share of a peer's."""
    times = {name: at for name, at in found.items() if name.endswith("_seconds")}
    return {name.replace("_seconds", "_share"): at and at / seconds for name, at in times.items()}


def to_markdown(data: Mapping[str, Any]) -> str:
    """Three tables: steps, seconds to the peer's scores, seconds to its loss; and where they come from."""
    machine, rows = data["machine"], data["rows"]
    lines = [
        f"{data['description']}. {machine['cpu']}, {machine['cores_physical']} cores, "
        f"{', '.join(machine['cpu_flags'])}; PyTorch {machine['packages']['torch']}; commit {machine['commit']}; "
        f"{data['created'][:10]}. Aims: {BARS['ratio_bf16']:g} steps of ours in one of theirs where bf16 is used, "
        f"{BARS['ratio_fp32']:g} in fp32; a share of at most {BARS['share']:.3f}."
    ]
    lines += _table(
        ["s/step", "ours", "computed by", "ratio", "ours in fp32", "ratio in fp32", "MiB", "ours"], rows, _steps
    )
    scored = [row | scores for row in rows for scores in row["scores"]]
    headings = (
        "our recipe, steps, seconds, SWD, ours, content, ours, to its SWD, to its Gram, to SWD and content, share"
    )
    lines += _table(headings.split(", "), scored, _scores)
    with_loss = [row for row in rows if LOSS in row]
    lines += _table(["seconds", "its own loss", "ours at the end", "to its loss", "share"], with_loss, _losses)
    return "\n".join(lines) + "\n"


def _steps(row: Row) -> list[str]:
    ours = [_figure(row["our_step_seconds"]), row["ours"], f"{row['ratio']:.2f}"]
    fp32 = [_figure(row["our_step_seconds_fp32"]), f"{row['ratio_fp32']:.2f}"]
    return [_figure(row["step_seconds"]), *ours, *fp32, f"{row['peak_mib']:.0f}", f"{row['our_peak_mib']:.0f}"]


def _scores(row: Row) -> list[str]:
    pairs = [f"{row[name]:.4f}" for one in (STYLE, CONTENT) for name in (one, f"our_{one}")]
    times = [_figure(row[f"{name}_seconds"]) for name in ("swd", "gram", "score")]
    recipe = row["recipe"] or "default"
    return [recipe, f"{row['steps']}", f"{row['seconds']:.0f}", *pairs, *times, _figure(row["score_share"])]


def _losses(row: Row) -> list[str]:
    return [_figure(row[name]) for name in ("seconds", LOSS, "our_loss", "loss_seconds", "loss_share")]


def _figure(value: float | None) -> str:
    return "not reached" if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _table(headings: Sequence[str], rows: Sequence[Row], cells: Callable[[Row], list[str]]) -> list[str]:
    filled = [[row["pair"], row["peer"], *cells(row)] for row in rows]
    return ["", *markdown_table(["pair", "peer", *headings], filled, range(2, 2 + len(headings)))]


if __name__ == "__main__":
    sys.exit(main())
