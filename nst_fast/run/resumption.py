"""Whether an interrupted run can be resumed: its checkpoint, options, pictures, network and device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nst_fast.errors import InputError, OutputError, ResumeError, UsageError
from nst_fast.images import LoadedImage, read_text
from nst_fast.images.given import KINDS, GivenPicture, Source
from nst_fast.images.plots import RUN_KEY
from nst_fast.images.sources import STANDARD_INPUT
from nst_fast.options.config import StylizeConfig
from nst_fast.options.regions import KINDS as MASK_KINDS
from nst_fast.run.checkpoint import STARTS_ANEW, Checkpoint, read_checkpoint, run_of
from nst_fast.run.outputs import OutputFiles
from nst_fast.run.problem import Problem
from nst_fast.run.provenance import deciding_names, deciding_options, option_differences
from nst_fast.run.record import current_options, read_record
from nst_fast.run.scales import Scale
from nst_fast.system.files import sha256_of, shown
from nst_fast.system.machine import describe_machine

ENDED = ("complete", "converged", "out of time")  # the states of a run that leave nothing to be done


def places_of(problem: Problem, files: OutputFiles | None) -> dict[str, Any]:
    """Where the files of a run are, for :class:`Checkpoint`."""
    config = problem.config
    return {
        "content": place_of(problem.content) if problem.content is not None else None,
        "styles": [place_of(style) for style in problem.own_styles],
        **{option: absolute(path) for option, path in config.files.items()},
        **{option: value.renamed(map(absolute, value.files)).text for option, value in config.mask_files.items()},
        "output": absolute(files.picture) if files is not None else None,
    }


def absolute(path: Path) -> str:
    return str(path) if str(path) == STANDARD_INPUT else str(path.absolute())


def place_of(picture: LoadedImage) -> str:
    """Where a picture is read from: a file, standard input, or the kind of a picture in memory."""
    return picture.format if picture.format in KINDS else absolute(picture.path)


def newest(files: OutputFiles, note: Callable[[str], None]) -> Checkpoint:
    """The newest checkpoint that is whole.

    Raises:
        ResumeError: there is none, or all are damaged; the message is about the newest.
    """
    problem: ResumeError | None = None
    for path in files.checkpoints():
        try:
            checkpoint = read_checkpoint(path)
        except ResumeError as error:
            problem = problem or error
            continue
        if problem is not None:
            note(f"{problem.message}; continuing from {shown(path.name)}")
        return checkpoint
    raise problem or ResumeError(
        f"{shown(files.picture)}: there is no checkpoint beside it",
        "A run that ended keeps none, nor does one with `checkpoint_every` 0",
    )


def ended(files: OutputFiles) -> Mapping[str, Any] | None:
    """The record of the picture if its run came to its end and no checkpoint is left; else None."""
    if files.checkpoints() or not files.picture.is_file():
        return None
    for path in (files.picture, files.record):  # not every format carries a record
        with suppress(InputError):
            record = read_record(path)
            whole = record["output_sha256"] in ("", sha256_of(files.picture))
            return record if whole and record["status"] in ENDED else None
    return None


def deciding_changes(given: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """How options that are given differ from those of a record, where that would change the picture."""
    wanted = StylizeConfig().replace(**given).as_dict()
    deciding = {
        name: wanted[name]
        for name in given
        if name in deciding_names() and name not in ("weights", "init", *MASK_KINDS)
    }
    return option_differences(current_options(record["options"]), deciding)


def continued_config(checkpoint: Checkpoint, changes: Mapping[str, Any]) -> StylizeConfig:
    """The options to resume with: those of the checkpoint, with harmless changes.

    Harmless are cosmetic options, another place of the same weights, and another number of steps where nothing that
    was done so far depends on it.

    Raises:
        ResumeError: other options are changed, or the options are those of another version.
        UsageError: a change makes no sense in itself.
    """
    try:
        begun = StylizeConfig().replace(**current_options(checkpoint.record["options"]))
    except UsageError as error:
        raise ResumeError(f"the checkpoint has options of another version ({error.message})", STARTS_ANEW) from None
    named = [*begun.files, *begun.mask_files]
    places = {option: checkpoint.places[option] for option in named if option in checkpoint.places}
    changed = begun.replace(**{**places, **changes})
    free = {"weights"} | ({"init"} if begun.init_file is not None and changed.init_file is not None else set())
    # Where masks are now is checked by their hashes; what each is for must be the same.
    free |= {
        name for name, value in begun.mask_files.items() if changed.mask_files.get(name, value).shape == value.shape
    }
    free |= set() if begun.schedule == "cosine" or begun.scales > 1 else {"steps"}
    wanted = {name: value for name, value in deciding_options(changed.as_dict()).items() if name not in free}
    differences = option_differences(begun.as_dict(), wanted)
    if changed.steps < checkpoint.step:
        differences.append(f"`steps`: {checkpoint.step} are done, given {changed.steps}")
    if differences:
        raise ResumeError("these options would change the picture: " + "; ".join(differences), "Leave them out")
    return changed


def found_pictures(
    checkpoint: Checkpoint, content: Source | None, styles: Sequence[Source]
) -> tuple[Source, list[Source]]:
    """The paths of content and styles: those given now, else their old ones.

    Raises:
        ResumeError: a picture is missing or is not the same, bit by bit.
    """
    places, inputs = checkpoint.places, checkpoint.record["inputs"]
    if styles and len(styles) != len(inputs["styles"]):
        message = f"{len(styles)} style images were given, and the run has {len(inputs['styles'])}"
        raise ResumeError(message, "Give all of them, in their order, or none")
    content = content or Path(places["content"])
    styles = styles or [Path(place) for place in places["styles"]]
    check_picture(content, inputs["content"], "content")
    for path, described in zip(styles, inputs["styles"], strict=True):
        check_picture(path, described, "style")
    return content, list(styles)


def check_picture(picture: Source, described: Mapping[str, Any], option: str) -> None:
    remedy = f"Say where {shown(described['name'])} is now with `{option}`"
    name = picture.name if isinstance(picture, GivenPicture) else str(picture)
    if name == STANDARD_INPUT:
        raise ResumeError("the picture came from standard input", f"Give the same one as a file, with `{option}`")
    if name in KINDS and name == described["name"]:
        raise ResumeError(
            f"the run began with {'' if name.endswith('s') else 'an '}{name} in memory",
            f"Give the same one again with `{option}`",
        )
    try:
        found = picture.sha256 if isinstance(picture, GivenPicture) else sha256_of(picture)
    except InputError as error:
        raise ResumeError(error.message, remedy) from None
    if found != described["sha256"]:
        raise ResumeError(f"{shown(name)} is not the picture that the run began with", remedy)


def check_same(checkpoint: Checkpoint, problem: Problem, note: Callable[[str], None]) -> None:
    """Raise :class:`ResumeError` if network or device are not those of the run; note what else may matter."""
    record = checkpoint.record
    if problem.weights["sha256"] != record["weights"]["sha256"]:
        raise ResumeError(
            f"the weights {shown(problem.weights['source'])} are not those that the run began with",
            "Say where those are with `weights`",
        )
    init = problem.config.init_file
    if init is not None and absolute(init) != checkpoint.places.get("init", record["options"]["init"]):
        check_picture(init, record["inputs"]["init"], "init")
    for option, value in problem.config.mask_files.items():
        for path, described in zip(value.files, record["inputs"]["masks"][option], strict=True):
            check_picture(path, described, option)
    if str(problem.device) != record["device"]:
        raise ResumeError(f"the run began on {record['device']}, and this is {problem.device}", STARTS_ANEW)
    then, now = (machine_facts(machine) for machine in (record["machine"], describe_machine()))
    if changed := [name for name in now if then.get(name) != now[name]]:
        names = ", ".join(f"{name} {then.get(name)} then and {now[name]} now" for name in changed)
        note(f"not as when the run began: {names}; the picture may differ in its last bits")


def machine_facts(machine: Mapping[str, Any]) -> dict[str, Any]:
    """The facts about a machine that decide the last bits of a sum."""
    facts = {"CPU": machine["cpu"], "threads": machine["torch_threads"], "nst-fast": machine["nst_fast"]}
    gpus = {"GPUs": [gpu["name"] for gpu in machine["gpus"]]}
    return {**facts, **gpus, **{name: machine["packages"].get(name) for name in ("torch", "onnxruntime-gpu")}}


def check_output(checkpoint: Checkpoint, files: OutputFiles, *, overwrite: bool) -> None:
    """Raise if the picture is not what this very run left there when it stopped, or the run had another name for it."""
    meant = Path(checkpoint.places["output"]).name
    if meant != files.picture.name:
        raise ResumeError(f"the checkpoint belongs to {shown(meant)}, not to {shown(files.picture.name)}", "Name that")
    if overwrite:
        return
    run = checkpoint.record["created"]
    own = {files.picture: _is_its_own(checkpoint, files), files.record: _record_of_the_run(checkpoint, files.record)}
    own |= {files.loss_curve: _drawn_for(files.loss_curve) == run}
    own |= {path: run_of(path) == run for path in files.checkpoints()}
    for path, ours in own.items():
        if not ours and path.exists():
            raise OutputError(
                f"{shown(path)} is not what the interrupted run left there",
                "Use `overwrite` to replace it, or move it elsewhere",
            )


def picture_of(path: Path, files: OutputFiles) -> Path:
    """The picture of the run that left a checkpoint: by default, or if it is damaged, that of ``files``."""
    with suppress(ResumeError, KeyError, TypeError, ValueError):
        return files.picture.with_name(Path(read_checkpoint(path).places["output"]).name)
    return files.picture


def _drawn_for(curve: Path) -> str:
    """When the run of a loss curve began; empty for another picture."""
    with suppress(InputError, UsageError):
        return read_text(curve).get(RUN_KEY, "")
    return ""


def _is_its_own(checkpoint: Checkpoint, files: OutputFiles) -> bool:
    """Whether the record beside the picture says so; or the one inside, if it is newer: a run that is killed after it
    wrote the picture has not written the record beside it. An edited picture has an old record inside, or none.
    """
    beside, inside = (_record_of_the_run(checkpoint, path) for path in (files.record, files.picture))
    if beside and beside["output_sha256"] == sha256_of(files.picture):
        return True
    return inside is not None and (beside is None or inside["seconds"] > beside["seconds"])


def _record_of_the_run(checkpoint: Checkpoint, path: Path) -> Mapping[str, Any] | None:
    """The record in a file, if it is one of the checkpoint's run."""
    with suppress(InputError):
        record = read_record(path)
        return record if record["created"] == checkpoint.record["created"] else None
    return None


def check_size(checkpoint: Checkpoint, scales: Sequence[Scale]) -> None:
    """Raise :class:`ResumeError` unless the checkpoint's picture is one of this run's."""
    index = checkpoint.scale
    if not 0 <= index < len(scales) or checkpoint.pastiche.shape[2:] != (scales[index].height, scales[index].width):
        raise ResumeError("the checkpoint does not fit the run that it names", STARTS_ANEW)


@contextmanager
def refusing_what_does_not_fit() -> Iterator[None]:
    """Raise :class:`ResumeError` when copying a state into a run fails: it is not the state of such a run."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        message = f"the checkpoint does not fit the run that it names ({error})"
        raise ResumeError(message, STARTS_ANEW) from None
