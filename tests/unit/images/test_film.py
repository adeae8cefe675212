"""Films: read and written by every kind, their sound, times, orientation and colours, and what is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import clip_info, frames_of, made_clip, write_clip, write_tone
from faulty_disk import FullDisk
from numpy.typing import NDArray
from PIL import Image

from nst_fast.errors import InputError, OutputError, UsageError
from nst_fast.images.film import FilmInfo, Frame, check_film_output, film_files, open_film, write_film, writing

av = pytest.importorskip("av", reason="no PyAV: pip install av")

CLIP = made_clip(6, (48, 64))
INFO = clip_info(CLIP)
UNEVEN = [Fraction(at, 30_000) for at in (0, 1001, 3003, 4004, 9009, 10_010)]


def with_times(times: Sequence[Fraction], last: Fraction) -> FilmInfo:
    duration = times[-1] + last
    return replace(INFO, times=tuple(times), duration=duration)


def pixels_of(path: Path, **part: Any) -> NDArray[np.uint8]:
    with open_film(path, **part) as film:
        return np.stack([frame.pixels for frame in film.frames()])


def distance(given: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> float:
    return float(np.abs(given.astype(float) - wanted).mean())


def packets_of(path: Path) -> list[tuple[Fraction, bytes]]:
    """Times and bytes of the sound."""
    with av.open(path) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
        return [(packet.pts * packet.time_base, bytes(packet)) for packet in packets]


@pytest.mark.parametrize(
    ("name", "worst"),
    [
        ("f.mp4", 5.0),
        ("f.mkv", 5.0),
        ("f.webm", 5.0),
        ("f.mov", 1.5),
        ("f.gif", 8.0),
        ("f.apng", 0.0),
        ("f.png", 0.0),
        ("f.webp", 6.0),
        ("frames/%03d.png", 0.0),
    ],
)
def test_every_kind_gives_back_frames_times_and_sizes(tmp_path: Path, name: str, worst: float) -> None:
    write_film(tmp_path / name, frames_of(CLIP.frames, INFO), INFO)
    with open_film(tmp_path / name) as film:
        assert film.info.size == (48, 64)
        assert film.info.times == INFO.times
        assert film.info.duration == INFO.duration
        assert film.info.rate == 25
        assert (film.info.audio, film.info.alpha) == (False, False)
        frames = list(film.frames())
    assert [frame.index for frame in frames] == list(range(6))
    assert [frame.time for frame in frames] == list(INFO.times)
    assert distance(np.stack([frame.pixels for frame in frames]), CLIP.frames) <= worst


@pytest.mark.parametrize("name", ["f.mov", "f.webm", "f.png", "f.webp", "f.gif", "f/%d.png"])
def test_alpha_is_kept(tmp_path: Path, name: str) -> None:
    alpha = np.where(np.arange(64) < 32, 255, 0).astype(np.uint8)
    clear = np.concatenate([CLIP.frames, np.broadcast_to(alpha, CLIP.frames.shape[:3])[..., None]], -1)
    info = replace(INFO, alpha=True)
    write_film(tmp_path / name, frames_of(clear, info), info)
    given = pixels_of(tmp_path / name)
    assert given.shape == clear.shape
    assert distance(given[..., 3], clear[..., 3]) < 1
    assert distance(given[:, :, :30, :3], clear[:, :, :30, :3]) < 7


@pytest.mark.parametrize("name", ["f.mp4", "f.mkv"])
def test_alpha_is_refused_where_it_would_be_lost(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="holds no alpha"):
        check_film_output(tmp_path / name, replace(INFO, alpha=True))


@pytest.mark.parametrize(
    ("name", "size"),
    [("f.mp4", (48, 32)), ("f.mkv", (48, 32)), ("f.mov", (47, 31)), ("f.webm", (47, 31)), ("f.gif", (47, 31))],
)
def test_odd_sides_lose_no_row(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    clip = made_clip(3, (47, 31))
    info = clip_info(clip)
    write_film(tmp_path / name, frames_of(clip.frames, info), info)
    given = pixels_of(tmp_path / name)
    assert given.shape[1:3] == size
    assert distance(given[:, :47, :31], clip.frames) < 6
    assert distance(given[:, 46, :31], clip.frames[:, 46]) < 9  # the last row is among them


@pytest.mark.parametrize(("name", "tick"), [("f.mp4", 0), ("f.mov", 0), ("f.png", 0), ("f.mkv", 500), ("f.webm", 500)])
def test_a_variable_rate_is_kept(tmp_path: Path, name: str, tick: int) -> None:
    """Exactly; in Matroska and WebM, which count milliseconds, to half of one."""
    info = with_times(UNEVEN, Fraction(2, 100))
    write_film(tmp_path / name, frames_of(CLIP.frames, info), info)
    with open_film(tmp_path / name) as film:
        for given, wanted in zip(film.info.ends, info.ends, strict=True):
            assert abs(given - wanted) <= Fraction(tick, 10**6)


def test_a_gif_leaves_out_frames_that_would_be_slowed_down(tmp_path: Path) -> None:
    info = with_times([Fraction(at, 100) for at in range(6)], Fraction(1, 100))
    write_film(tmp_path / "f.gif", frames_of(CLIP.frames, info), info)
    with open_film(tmp_path / "f.gif") as film:
        assert [float(at) for at in film.info.times] == [0, 0.02, 0.04]
        assert film.info.duration == Fraction(6, 100)


def test_iteration_begins_and_ends_anywhere_and_goes_on_beside_another(tmp_path: Path) -> None:
    with open_film(write_clip(tmp_path / "f.mp4", made_clip(40, (32, 48)))) as film:
        whole = [frame.pixels for frame in film.frames()]
        other = film.frames()
        next(other)
        for first, stop in ((0, 1), (7, 9), (39, 40), (25, 100)):
            given = list(film.frames(first, stop))
            assert [frame.index for frame in given] == list(range(first, min(stop, 40)))
            assert all(np.array_equal(frame.pixels, whole[frame.index]) for frame in given)
        assert np.array_equal(next(other).pixels, whole[1])


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"x264-params": "bframes=3:keyint=12:open-gop=1:scenecut=0"}),
        ("libx265", {"x265-params": "bframes=3:keyint=12:open-gop=1:scenecut=0:log-level=none"}),
        ("libvpx-vp9", {"g": "12", "lag-in-frames": "8"}),
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_reading_begins_at_frames_that_lean_on_later_ones(
    tmp_path: Path, codec: str, options: dict[str, str], suffix: str
) -> None:
    path = written(tmp_path / f"f{suffix}", made_clip(40, (48, 64)).frames, codec, options=options)
    with open_film(path) as film:
        assert [round(float(at), 3) for at in film.info.times] == [round(at / 25, 3) for at in range(40)]
        whole = [frame.pixels for frame in film.frames()]
        for first in range(0, 40, 3):
            assert np.array_equal(next(film.frames(first)).pixels, whole[first])


def test_a_part_has_its_own_times(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "f.mp4", CLIP)
    whole = pixels_of(path)
    with open_film(path, start=0.05, end=0.16) as film:
        assert film.info.times == (0, Fraction(1, 25))
        assert film.info.duration == Fraction(2, 25)
        assert film.info.begin == Fraction(2, 25)
        assert np.array_equal(np.stack([frame.pixels for frame in film.frames()]), whole[2:4])


@pytest.mark.parametrize(("part", "error"), [({"start": 9.0}, InputError), ({"start": 0.1, "end": 0.1}, UsageError)])
def test_a_part_without_frames_is_refused(tmp_path: Path, part: dict[str, float], error: type[Exception]) -> None:
    with pytest.raises(error):
        open_film(write_clip(tmp_path / "f.mp4", CLIP), **part)


@pytest.mark.parametrize(
    ("source", "codec", "name"),
    [
        ("t.m4a", "aac", "f.mp4"),
        ("t.m4a", "aac", "f.mkv"),
        ("t.wav", "pcm_s16le", "f.mov"),
        ("t.mka", "libopus", "f.webm"),
    ],
)
def test_sound_is_copied_bit_by_bit(tmp_path: Path, source: str, codec: str, name: str) -> None:
    tone = write_tone(tmp_path / source, 0.24, codec)
    write_film(tmp_path / name, frames_of(CLIP.frames, INFO), INFO, audio=tone)
    given, wanted = packets_of(tmp_path / name), packets_of(tone)
    assert b"".join(data for _, data in given) == b"".join(data for _, data in wanted)
    assert len(given) == len(wanted) or codec.startswith("pcm")  # of which packets mean nothing
    with open_film(tmp_path / name) as film:
        assert film.info.audio
        shift = film.info.begin
    assert shift == 0 or name.endswith((".mkv", ".webm"))
    pairs = list(zip(given, wanted, strict=False))[: 1 if codec.startswith("pcm") else None]
    assert all(abs(new - shift - old) < Fraction(1, 900) for (new, _), (old, _) in pairs)


def heard(path: Path) -> tuple[float, NDArray[np.float32]]:
    """Seconds from the first frame to the first sample that is played, and the samples."""
    with av.open(path) as container:
        pictures = next(container.decode(video=0)).time
    with av.open(path) as container:
        frames = list(container.decode(audio=0))
    return frames[0].time - pictures, np.concatenate([frame.to_ndarray()[0] for frame in frames])


@pytest.mark.parametrize("name", ["part.mp4", "part.mkv"])
def test_each_sample_of_a_part_is_heard_at_its_frame(tmp_path: Path, name: str) -> None:
    path = write_clip(tmp_path / "f.mp4", made_clip(30, (16, 16)), audio=True)
    with open_film(path, start=0.31, end=0.9) as film:
        write_film(tmp_path / name, film.frames(), film.info, audio=path)
        begin = float(film.info.begin)
    begins, part = heard(tmp_path / name)
    at = round((begin + begins) * 48_000)
    assert -1024 / 48_000 <= begins <= 0.001
    _, whole = heard(path)
    assert abs(len(part) / 48_000 + begins - 0.6) < 2 * 1024 / 48_000  # no more than belongs to the frames
    behind = slice(2048, 8192)  # a decoder that begins within a piece of sound takes two packets to catch up
    off = [np.abs(whole[at + shift :][behind] - part[behind]).mean() for shift in (-48, 0, 48)]
    assert off[1] < 0.02 < min(off[0], off[2])


@pytest.mark.parametrize("begin", [Fraction(-11, 100), Fraction(11, 100)])
@pytest.mark.parametrize("name", ["f.mp4", "f.mkv"])
def test_sound_that_begins_before_or_after_the_pictures_keeps_its_distance(
    tmp_path: Path, name: str, begin: Fraction
) -> None:
    tone, path, again = write_tone(tmp_path / "t.m4a", 0.5), tmp_path / name, tmp_path / f"again-{name}"
    write_film(path, frames_of(CLIP.frames, INFO), replace(INFO, begin=begin), audio=tone)
    with open_film(path) as film:
        write_film(again, film.frames(), film.info, audio=path)
    for made in (path, again):
        packets = packets_of(made)
        assert [data for _, data in packets] == [data for _, data in packets_of(tone)]
        with open_film(made) as film:
            for (given, _), (wanted, _) in zip(packets, packets_of(tone), strict=True):
                assert given - film.info.begin == pytest.approx(float(wanted - begin), abs=0.0015)
        with av.open(made) as container:  # and all of it is heard
            heard = [frame.samples for frame in container.decode(audio=0)]
        assert 24_000 <= sum(heard) <= 24_000 + 2 * 1024  # what the codec puts before and behind


def test_sound_that_a_kind_cannot_hold_is_refused_before_the_work(tmp_path: Path) -> None:
    tone = write_tone(tmp_path / "t.m4a", 0.2)
    with pytest.raises(UsageError, match="sound"):
        check_film_output(tmp_path / "f.webm", INFO, tone)
    check_film_output(tmp_path / "f.gif", INFO, tone)  # which has none


def test_titles_are_copied(tmp_path: Path) -> None:
    info = replace(INFO, metadata=(("title", "Waves"), ("artist", "A. Painter")))
    write_film(tmp_path / "f.mp4", frames_of(CLIP.frames, info), info)
    with open_film(tmp_path / "f.mp4") as film:
        assert dict(film.info.metadata) == dict(info.metadata)


def written(
    path: Path, pictures: NDArray[np.uint8], codec: str = "libx264", layout: str = "yuv420p", **how: Any
) -> Path:
    """A film by PyAV alone; ``how`` sets attributes of the encoder, ``turn`` is the rotation in degrees."""
    matrix, turn = how.pop("matrix", how.get("colorspace", 5)), how.pop("turn", None)
    options = how.pop("options", {"crf": "5"} if codec == "libx264" else {})
    with av.open(path, "w") as out:
        stream = out.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = *pictures.shape[1:3], layout
        if turn is not None:
            stream.set_display_rotation(*turn)
        for name, value in how.items():
            setattr(stream.codec_context, name, value)
        for picture in pictures:
            full = 2 if how.get("color_range") == 2 or "yuvj" in layout else 1
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            out.mux(stream.encode(frame.reformat(format=layout, dst_colorspace=matrix, dst_color_range=full)))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_frames_are_upright(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16, :24] = 255  # above on the left
    path = written(tmp_path / "f.mp4", picture[None], turn=(degrees, mirrored))
    wanted = np.rot90(picture, degrees // 90)
    wanted = np.flip(wanted, 1) if mirrored else wanted
    with open_film(path) as film:
        assert film.info.size == wanted.shape[:2]
        assert distance(next(film.frames()).pixels, wanted) < 8


@pytest.mark.parametrize(
    "how",
    [{"colorspace": 1}, {"colorspace": 5}, {}, {"colorspace": 1, "color_range": 2}, {"layout": "yuvj420p"}],
    ids=str,
)
def test_matrices_and_ranges_are_heeded(tmp_path: Path, how: dict[str, Any]) -> None:
    colors = np.zeros((1, 32, 64, 3), np.uint8)
    colors[..., :32, :] = (220, 40, 60)
    colors[..., 32:, :] = (30, 200, 90)
    given = pixels_of(written(tmp_path / "f.mp4", colors, **how))
    assert np.abs(given[0, 16, [8, 56]].astype(int) - colors[0, 16, [8, 56]]).max() <= 4


@pytest.mark.parametrize(("rows", "matrix"), [(718, 5), (720, 1)])
def test_what_states_no_matrix_has_that_of_its_height(tmp_path: Path, rows: int, matrix: int) -> None:
    colors = np.full((1, rows, 16, 3), (220, 40, 60), np.uint8)
    given = pixels_of(written(tmp_path / "f.mp4", colors, colorspace=2, matrix=matrix))
    assert np.abs(given[0, 300, 8].astype(int) - colors[0, 300, 8]).max() <= 4


def changed(source: Path, path: Path, change: Callable[[int, bytearray], None]) -> Path:
    """A film with other bytes in its packets."""
    with av.open(source) as container, av.open(path, "w") as out:
        stream = out.add_stream_from_template(container.streams.video[0])
        for index, packet in enumerate(packet for packet in container.demux(video=0) if packet.size):
            data = bytearray(packet)
            change(index, data)
            other = av.Packet(bytes(data))
            other.pts, other.dts, other.time_base = packet.pts, packet.dts, packet.time_base
            other.duration, other.is_keyframe, other.stream = packet.duration, packet.is_keyframe, stream
            out.mux(other)
    return path


@pytest.mark.parametrize(
    ("limit", "sentence"), [(0.02, "size of its frames changes"), (0.01, "no film that can be read")]
)
def test_frames_that_grow_are_refused_and_beyond_the_limit_not_even_decoded(
    tmp_path: Path, limit: float, sentence: str
) -> None:
    with av.open(written(tmp_path / "large.webm", made_clip(1, (96, 128)).frames, "libvpx")) as container:
        large = bytes(next(container.demux(video=0)))

    def grow(index: int, data: bytearray) -> None:
        if index == 5:
            data[:] = large

    source = written(tmp_path / "small.webm", CLIP.frames, "libvpx")
    path = changed(source, tmp_path / "f.webm", grow)
    with pytest.raises(InputError, match=sentence), open_film(path, max_megapixels=limit) as film:
        list(film.frames())
    with pytest.raises(InputError, match=r"64x48 pixels; the limit is 0\.003 megapixels"):
        open_film(path, max_megapixels=0.003)


def test_frames_that_the_file_leaves_out_are_left_out(tmp_path: Path) -> None:
    """A film that a phone has trimmed keeps the frames before its beginning, and has an edit list."""
    path = tmp_path / "f.mp4"
    with av.open(write_clip(tmp_path / "whole.mp4", CLIP)) as source, av.open(path, "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                shift = round(Fraction(2, 25) / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                out.mux(packet)
    with open_film(path) as film:
        assert film.info.times == tuple(Fraction(at, 25) for at in range(4))
        assert film.info.begin == 0
    assert np.array_equal(pixels_of(path), pixels_of(tmp_path / "whole.mp4")[2:])


def test_packets_without_a_frame_count_for_none(tmp_path: Path) -> None:
    """VP8 has some that only later ones are made from."""

    def hide(index: int, data: bytearray) -> None:
        if index == 3:
            data[0] &= 0xEF  # the bit show_frame, RFC 6386, 9.1

    path = changed(written(tmp_path / "shown.webm", CLIP.frames, "libvpx"), tmp_path / "f.webm", hide)
    with open_film(path) as film:
        assert [round(float(at), 3) for at in film.info.times] == [0, 0.04, 0.08, 0.16, 0.2]
        assert len(list(film.frames())) == 5


def test_pixels_that_are_not_square_stay_so(tmp_path: Path) -> None:
    path = written(tmp_path / "f.mp4", CLIP.frames, sample_aspect_ratio=Fraction(4, 3))
    with open_film(path) as film:
        assert film.info.pixel_aspect == Fraction(4, 3)
        write_film(tmp_path / "g.mp4", film.frames(), film.info)
    with open_film(tmp_path / "g.mp4") as film:
        assert film.info.pixel_aspect == Fraction(4, 3)


@pytest.mark.parametrize(("curve", "primaries", "word"), [(16, 9, "PQ"), (18, 9, "HLG"), (1, 9, "BT.2020")])
def test_hdr_is_refused_with_a_way_out(tmp_path: Path, curve: int, primaries: int, word: str) -> None:
    path = written(tmp_path / "f.mp4", CLIP.frames, color_trc=curve, color_primaries=primaries)
    with pytest.raises(InputError, match=word) as caught:
        open_film(path)
    assert "tonemap" in caught.value.remedy


@pytest.mark.parametrize(
    ("codec", "name"), [("mpeg4", "f.avi"), ("mpeg2video", "f.ts"), ("libvpx", "f.webm"), ("mjpeg", "f.mov")]
)
def test_other_containers_and_codecs_are_read(tmp_path: Path, codec: str, name: str) -> None:
    path = written(tmp_path / name, CLIP.frames, codec, "yuvj420p" if codec == "mjpeg" else "yuv420p")
    with open_film(path) as film:
        assert [round(float(at), 3) for at in film.info.times] == [float(at) for at in INFO.times]
        assert len(list(film.frames())) == 6
        assert np.array_equal(next(film.frames(3, 4)).pixels, list(film.frames())[3].pixels)


def test_delays_that_browsers_do_not_believe_are_a_tenth_of_a_second(tmp_path: Path) -> None:
    pictures = [Image.fromarray(picture) for picture in CLIP.frames[:3]]
    pictures[0].save(tmp_path / "f.gif", save_all=True, append_images=pictures[1:], duration=[0, 10, 50])
    with open_film(tmp_path / "f.gif") as film:
        assert [float(end) for end in film.info.ends] == [0.1, 0.2, 0.25]


def test_the_picture_for_those_who_cannot_show_an_apng_is_no_frame(tmp_path: Path) -> None:
    pictures = [Image.fromarray(picture) for picture in CLIP.frames[:3]]
    pictures[0].save(tmp_path / "f.png", save_all=True, append_images=pictures[1:], duration=40, default_image=True)
    assert np.array_equal(pixels_of(tmp_path / "f.png"), CLIP.frames[1:3])


def test_numbered_pictures_are_25_a_second(tmp_path: Path) -> None:
    write_film(tmp_path / "%02d.png", frames_of(CLIP.frames, INFO), INFO)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{number:02d}.png" for number in range(1, 7)]
    with open_film(tmp_path / "%d.png", start=0.08) as film:  # zeros in front do not matter
        assert film.info.times == tuple(Fraction(at, 25) for at in range(4))
        assert np.array_equal(next(film.frames()).pixels, CLIP.frames[2])
    (tmp_path / "04.png").unlink()
    with pytest.raises(InputError, match="number 4 is missing"):
        open_film(tmp_path / "%02d.png")
    Image.fromarray(CLIP.frames[0, :40]).save(tmp_path / "04.png")
    with (
        open_film(tmp_path / "%02d.png") as film,
        pytest.raises(InputError, match=r"04\.png has 64x40 pixels, the first"),
    ):
        list(film.frames())


def test_numbered_pictures_replace_those_of_a_longer_film(tmp_path: Path) -> None:
    write_film(tmp_path / "%02d.png", frames_of(CLIP.frames, INFO), INFO)
    (tmp_path / "007.png").touch()  # of another name
    short = with_times(INFO.times[:2], Fraction(1, 25))
    assert len(film_files(tmp_path / "%02d.png")) == 7
    write_film(tmp_path / "%02d.png", frames_of(CLIP.frames[:2], short), short)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["007.png", "01.png", "02.png"]


@pytest.mark.parametrize("offset", [8, 20])
def test_a_frame_that_is_damaged_is_named(tmp_path: Path, offset: int) -> None:
    """Whether the decoder gives up or makes something up."""
    path = write_clip(tmp_path / "f.mp4", made_clip(20, (96, 128)))
    with av.open(path) as container:
        at = [packet for packet in container.demux(video=0) if packet.size][10].pos
    data = bytearray(path.read_bytes())
    data[at + offset : at + offset + 6] = bytes(6)
    path.write_bytes(data)
    with open_film(path) as film, pytest.raises(InputError, match=r"invalid data|the frame at 0\.400 s is damaged"):
        list(film.frames())


def test_without_pyav_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "f.mp4", CLIP)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install av"):
        open_film(path)
    with pytest.raises(UsageError, match="pip install av"):
        check_film_output(tmp_path / "g.mp4", INFO)


@pytest.mark.parametrize("name", ["f.txt", "f", "f.wmv", "%03d.mp4"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot write a film as"):
        check_film_output(tmp_path / name, INFO)


def frames_that_fail(count: int, error: Exception) -> Iterator[Frame]:
    yield from frames_of(CLIP.frames, INFO)[:count]
    raise error


@pytest.mark.parametrize("name", ["f.mp4", "f.mov", "f.webm", "f.gif", "f.png", "f.webp"])
@pytest.mark.parametrize("allowed", [0, 1000])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, name: str, allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")
    write = writing._write
    monkeypatch.setattr(writing, "_write", lambda file, *more: write(FullDisk(file, allowed), *more))
    with pytest.raises(OutputError, match="no space left"):
        write_film(path, frames_of(CLIP.frames, INFO), INFO)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["f.mp4", "f.mov", "f.webm", "f.gif", "f.png", "f.webp"])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_what_ends_the_frames_ends_the_film_and_leaves_the_old_file(tmp_path: Path, name: str, count: int) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")
    with pytest.raises(InputError, match="damaged"):
        write_film(path, frames_that_fail(count, InputError("damaged")), INFO)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_a_film_has_as_many_frames_as_times(tmp_path: Path) -> None:
    frames = frames_of(CLIP.frames, INFO)
    with pytest.raises(ValueError, match="longer"):
        write_film(tmp_path / "f.mp4", frames[:4], INFO)
    write_film(tmp_path / "f.mp4", frames[:4], INFO, may_end_early=True)
    with open_film(tmp_path / "f.mp4") as film:
        assert film.info.times == INFO.times[:4]


def still(path: Path) -> None:
    Image.fromarray(CLIP.frames[0]).save(path, "PNG")


def cut_short(path: Path) -> None:
    data = write_clip(path.with_name(f"whole{path.suffix}"), made_clip(60, (48, 64))).read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])


def cut_short_behind_index(path: Path) -> None:
    whole = path.with_name("whole.mp4")
    plain = write_clip(path.with_name("plain.mp4"), CLIP)
    with av.open(plain) as source, av.open(str(whole), "w", options={"movflags": "faststart"}) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    data = whole.read_bytes()
    path.write_bytes(data[:-400])


def only_sound(path: Path) -> None:
    write_tone(path, 0.1)


def playlist(path: Path) -> None:
    film = write_clip(path.with_name("f.mp4"), CLIP)
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{film}\n#EXT-X-ENDLIST\n")


def no_frames(path: Path) -> None:
    with av.open(path, "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        out.start_encoding()


def tiny(path: Path) -> None:
    """1x1 pixels."""
    info = clip_info(made_clip(2, (1, 1)))
    write_film(path, frames_of(np.zeros((2, 1, 1, 3), np.uint8), info), info)


def huge(path: Path) -> None:
    """A GIF whose header claims more than the limit of pictures."""
    small = path.with_name("small.gif")
    write_film(small, frames_of(CLIP.frames, INFO), INFO)
    data = small.read_bytes()
    path.write_bytes(data[:6] + struct.pack("<HH", 20_000, 20_000) + data[10:])


BROKEN = {
    "empty.mp4": (lambda path: path.write_bytes(b""), "is empty"),
    "text.mp4": (lambda path: path.write_text("no film " * 99), "no film that can be read"),
    "list.mp4": (lambda path: path.write_text("#EXTM3U\n#EXTINF:5,\nf.mp4\n"), "no film that can be read"),
    "list.m3u8": (playlist, "no film"),
    "picture.mp4": (still, "still picture"),
    "short.mp4": (cut_short, "cut short"),
    "short.mkv": (cut_short, "cut short"),
    "short.gif": (cut_short, "cut short"),
    "behind.mp4": (cut_short_behind_index, "cut short"),
    "sound.mp4": (only_sound, "only sound"),
    "none.mp4": (no_frames, "no pictures"),
    "none.mkv": (no_frames, "end of file"),
    "tiny.mp4": (tiny, "only 2x2 pixels"),
    "tiny.png": (tiny, "only 1x1 pixels"),
    "huge.gif": (huge, "more than 179 megapixels"),
    "missing.mp4": (lambda path: None, "no such file"),
    "missing/%04d.png": (lambda path: None, "no such picture"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_whole_film_is_refused_with_a_sentence(tmp_path: Path, name: str) -> None:
    make, sentence = BROKEN[name]
    make(tmp_path / name)
    with pytest.raises(InputError, match=sentence) as caught:
        open_film(tmp_path / name)
    assert caught.value.exit_code == 3
