"""A film painted frame by frame: scenes, passes, an estimate, and the film put together from the frames at the end."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean

from nst_fast import __version__
from nst_fast.errors import InputError, UsageError
from nst_fast.images import encode_image, from_uint8, to_uint8
from nst_fast.images.film import Film, check_film_output, film_files, open_film, write_film
from nst_fast.images.film.sequences import is_pattern
from nst_fast.images.sheet import Cell, contact_sheet
from nst_fast.images.sources import open_source
from nst_fast.jobs.inputs import WHOLE, Shard
from nst_fast.jobs.runner import JobObserver
from nst_fast.jobs.video_folder import Facts, VideoFolder
from nst_fast.jobs.video_frames import FrameMaker
from nst_fast.options.config import StylizeConfig
from nst_fast.options.declaration import declared
from nst_fast.options.video import VideoConfig
from nst_fast.run.problem import check_styles, files_read
from nst_fast.run.provenance import Provenance
from nst_fast.run.record import record_text
from nst_fast.run.scales import plan_scales
from nst_fast.system.files import check_all_writable, check_writable, lock, sha256_bytes, sha256_of, write_atomic
from nst_fast.system.machine import describe_machine, resolve_device
from nst_fast.system.rounding import rounded

SCHEMA = "nst-fast/film/1"
PATIENCE_SECONDS = 60.0  # with another shard that begins


@dataclass(frozen=True, kw_only=True)
class VideoRequest:
    """A film to be painted.

    Attributes:
        film: what is read, see :func:`nst_fast.images.film.open_film`.
        overwrite: replace ``output``, and frames that were made otherwise.
        keep_frames: leave the folder of frames at the end.
        shard: make these scenes alone; a call for all of them then puts the film together.
    """

    film: Path
    styles: Sequence[Path]
    output: Path
    config: VideoConfig
    overwrite: bool = False
    keep_frames: bool = False
    shard: Shard = WHOLE

    @property
    def whole(self) -> bool:
        """Whether all scenes are asked for."""
        return self.shard == WHOLE

    def beside(self, ending: str) -> Path:
        """A path beside the film, or the folder of numbered pictures, with its name without suffix and an ending."""
        output = self.output.absolute().parent if is_pattern(self.output) else self.output
        return output.with_name(output.stem + ending)

    @property
    def record(self) -> Path:
        return self.beside(".json")

    @property
    def held(self) -> Path:
        """What is locked: a film has one maker, or one for each shard."""
        shard = self.shard
        return self.record if self.whole else self.beside(f"-frames-{shard.index}-of-{shard.count}")

    @property
    def sheet(self) -> Path:
        """Of the preview."""
        return self.beside("-preview.png")

    @property
    def folder(self) -> VideoFolder:
        return VideoFolder(self.beside("-frames"))

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files that are read."""
        return files_read(self.config, [*film_files(self.film), *self.styles])


@dataclass(frozen=True)
class VideoResult:
    """What a call has done.

    Attributes:
        count: of the frames to be made, in all passes.
        done: of those that there are; ``made`` now.
    """

    count: int
    done: int
    made: int
    seconds: float
    estimate: str = ""

    @property
    def complete(self) -> bool:
        return self.done == self.count


def run_video(request: VideoRequest, observer: JobObserver) -> VideoResult:
    """Paint a film. A stopped or killed call leaves its frames: the same call goes on, on a CPU to the same film.

    Raises:
        UsageError: options that contradict each other, or a film that cannot be written.
        InputError: the film or a style cannot be read.
        OutputError: before any work, if something would be replaced; later, if writing fails.
        BusyError: another process makes this film.
    """
    started, folder = time.perf_counter(), request.folder
    with opened(request, observer) as film, lock(request.held):
        maker = FrameMaker(film, request.styles, request.config, folder, observer, request.shard)
        wanted = plan_of(request, film, maker)
        if is_finished(request, wanted):
            observer.note("finished before, kept")
            count = request.config.passes * len(film.info.times)
            return VideoResult(count, count, 0, 0.0)
        with lock(folder.plan, wait=PATIENCE_SECONDS):
            continues = folder.continues(wanted, overwrite=request.overwrite)
            outputs = [*film_files(request.output), request.record]
            check_all_writable(outputs, request.overwrite or continues, request.inputs)
            if not continues:
                folder.begin(wanted)
        done, made, count = *paint(maker, observer), Pace(maker).count
        if done == count and request.whole:
            write(request, film, maker, wanted)
    return VideoResult(count, done, made, time.perf_counter() - started)


def preview_video(request: VideoRequest, observer: JobObserver) -> VideoResult:
    """Three frames by themselves on a sheet, and how long the film would take. The errors of :func:`run_video`."""
    started = time.perf_counter()
    with opened(request, observer) as film:
        maker = FrameMaker(film, request.styles, request.config, request.folder, observer)
        maker.scenes = maker.found_scenes()
        check_writable(request.sheet, overwrite=True, inputs=request.inputs)
        last, pace = len(film.info.times) - 1, Pace(maker)
        rows: tuple[list[Cell], list[Cell]] = ([], [])
        indices = list(dict.fromkeys((0, last // 2, last)))
        for index in indices:
            begun = time.perf_counter()
            problem, pastiche = maker.painted(0, index, f"frame {index + 1}")
            if pastiche.record.status == "stopped":
                break
            pace.add(0, index, time.perf_counter() - begun)
            picture = maker.finished(problem, pastiche)[0].image
            at = f"{float(film.info.times[index]):.2f} s"
            for row, image in zip(rows, (maker.content(index).tensor, picture), strict=True):
                row.append(Cell(at, to_uint8(image)))
        if rows[0]:
            write_atomic(request.sheet, encode_image(from_uint8(contact_sheet(rows)), ".png"))
    return VideoResult(len(indices), len(rows[0]), len(rows[0]), time.perf_counter() - started, pace.whole)


def opened(request: VideoRequest, observer: JobObserver) -> Film:
    """The film that is read, after the checks that need no frame of it."""
    config = request.config
    if not request.styles:
        raise UsageError("no style image was given", "Name at least one")
    for path in request.styles:
        open_source(path).close()
    film = open_film(request.film, start=config.start, end=config.end, max_megapixels=config.max_megapixels)
    film.info = replace(film.info, alpha=film.info.alpha and config.transparency == "keep")
    check_film_output(request.output, film.info, request.film if film.info.audio else None)
    for moment in (0.0, float(film.info.duration)):
        check_styles(config.still(moment), request.film, request.styles)
    for note in film.info.notes:
        observer.note(note)
    return film


def plan_of(request: VideoRequest, film: Film, maker: FrameMaker) -> Provenance:
    """What decides the frames. A film that is no file, as numbered pictures, counts by its pixels."""
    config = request.config
    _, weights = maker.networks.encoder(config, config.taps, resolve_device(config.device))
    if request.film.is_file():
        content = sha256_of(request.film)
    else:
        digest = hashlib.sha256()
        for frame in film.frames():
            digest.update(frame.pixels.tobytes())
        content = digest.hexdigest()
    found = Provenance.of_run(config, None, request.styles, weights["sha256"])
    own = {name: value for name, value in config.as_dict().items() if name not in declared(StylizeConfig)}
    return replace(found, content=content, options=dict(found.options) | rounded(own))


def is_finished(request: VideoRequest, wanted: Provenance) -> bool:
    """Whether the film is there, whole, and as this call would make it."""
    try:
        record = json.loads(request.record.read_text("utf-8"))
        found = Provenance(**record["provenance"])
        return bool(record["output_sha256"] == hash_of(request.output)) and not wanted.differences(found)
    except (OSError, ValueError, KeyError, TypeError, InputError):
        return False


def hash_of(output: Path) -> str:
    """Of a film's file, or of the hashes of its numbered pictures."""
    if not is_pattern(output):
        return sha256_of(output)
    return sha256_bytes("".join(map(sha256_of, film_files(output))).encode())


def paint(maker: FrameMaker, observer: JobObserver) -> tuple[int, int]:
    """Make the frames that are not made; how many there are then, and how many were made now."""
    done, made, pace = 0, 0, Pace(maker)
    for number, index in maker.order():
        facts, now = maker.folder.facts(number, index), False
        if facts is None and not observer.stop():
            facts, now = maker.make(number, index, pace.title(number, index)), True
        if facts is None:
            break
        pace.add(number, index, facts["seconds"])
        done += 1
        if now:
            made += 1
            observer.made(pace.line(number, index, facts))
    return done, made


def write(request: VideoRequest, film: Film, maker: FrameMaker, wanted: Provenance) -> None:
    """Put the film together, with the sound of the one that was read, and write its record."""
    config, folder, info = request.config, maker.folder, film.info
    audio = request.film if info.audio else None
    frames = folder.frames(config.passes, info)
    write_film(request.output, frames, info, audio=audio, quality=config.file_quality)
    record = {
        "schema": SCHEMA,
        "nst_fast": __version__,
        "output": request.output.name,
        "output_sha256": hash_of(request.output),
        "provenance": asdict(wanted),
        "machine": describe_machine(),
        "scenes": [[scene.start, scene.stop] for scene in maker.scenes],
        "frames": [folder.facts(number, index) for number, index in maker.order()],
    }
    write_atomic(request.record, record_text(record))
    if not request.keep_frames:
        folder.remove()


class Pace:
    """How long frames take, and what is left of a film."""

    def __init__(self, maker: FrameMaker) -> None:
        self.maker = maker
        self.seconds: dict[bool, list[float]] = {False: [], True: []}  # of frames by themselves; that follow others
        self.scenes = len(maker.own_scenes)
        self.count = sum(map(len, maker.own_scenes)) * maker.config.passes

    def add(self, number: int, index: int, seconds: float) -> None:
        self.seconds[self.maker.follows(number, index)].append(seconds)

    def title(self, number: int, index: int) -> str:
        of_passes = f", pass {number} of {self.maker.config.passes}" if self.maker.config.passes > 1 else ""
        return f"frame {index + 1}/{len(self.maker.film.info.times)}{of_passes}"

    def line(self, number: int, index: int, facts: Facts) -> str:
        first = "" if self.maker.follows(number, index) else f"scene {facts['scene'] + 1} of {len(self.maker.scenes)}, "
        return f"{self.title(number, index)}: {first}{facts['steps']} steps in {facts['seconds']:.1f} s; {self.left}"

    @property
    def left(self) -> str:
        """About how long the rest takes."""
        stills, following = (len(self.seconds[follows]) for follows in (False, True))
        return f"{self._time(self.scenes - stills, self.count - self.scenes - following)} left"

    @property
    def whole(self) -> str:
        """About how long the film takes."""
        return self._time(self.scenes, self.count - self.scenes)

    def _time(self, stills: int, following: int) -> str:
        """Of frames by themselves, and that follow others; at most, as long as none of these was made."""
        still, most = mean(self.seconds[False]), not self.seconds[True]
        each = still * self._share() if most else mean(self.seconds[True])
        return f"{'at most' if most else 'about'} {duration(stills * still + following * each)}"

    def _share(self) -> float:
        """Of the work of a frame by itself: what a frame that follows takes at most."""
        height, width = self.maker.content(0).tensor.shape[2:]
        still, following = (
            sum(scale.work for scale in plan_scales(config, config.steps, height, width))
            for config in (self.maker.config.still(0), self.maker.config.following(0))
        )
        return following / still


def duration(seconds: float) -> str:
    """Seconds as people say them: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
