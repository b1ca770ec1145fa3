"""Decoding, damaged files, and the cache of decoded images."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tuneyard.trainers.data import image_files
from tuneyard.trainers.data.decoded_cache import DecodedCache
from tuneyard.trainers.data.image_files import decode_files, resize
from tuneyard.trainers.errors import DataError


def picture(colour: bool = True, size: int = 32) -> np.ndarray:
    """A smooth picture: red grows to the right, green downwards."""
    ramp = np.linspace(0, 255, size).astype(np.uint8)
    red, green = np.broadcast_to(ramp, (size, size)), np.broadcast_to(ramp[:, None], (size, size))
    return np.stack([red, green, np.zeros_like(red)], axis=-1) if colour else red.copy()


def write(path: Path, image: np.ndarray) -> Path:
    Image.fromarray(image).save(path)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif"])
def test_every_format_comes_out_as_rgb(tmp_path: Path, suffix: str) -> None:
    decoded = decode_files(
        [write(tmp_path / f"a.{suffix}", picture())], 32, "auto", DecodedCache(tmp_path / "cache"), "fail"
    )
    assert decoded.images.shape == (1, 32, 32, 3)
    assert np.abs(decoded.images[0].astype(int) - picture()).mean() < 4


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.995])
def test_an_image_that_is_cut_off_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = write(tmp_path / f"a.{suffix}", picture())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match=rf"a\.{suffix}: the image is"):
        decode_files([path], 32, 3, DecodedCache(tmp_path / "cache"), "fail")


def test_a_cut_off_jpeg_is_seen_without_the_decoders_help() -> None:
    whole = bytes(cv2.imencode(".jpg", picture())[1])
    assert image_files._is_whole(whole)
    assert image_files._is_whole(whole + bytes(100))  # cameras pad
    assert not image_files._is_whole(whole[:-2])
    # A thumbnail's end marker, in a segment of the header, is not the image's.
    thumbnail = b"\xff\xe1" + (2 + len(whole)).to_bytes(2, "big") + whole
    assert image_files._is_whole(whole[:2] + thumbnail + whole[2:])
    assert not image_files._is_whole(whole[:2] + thumbnail + whole[2:-2])


def test_auto_is_grey_only_if_every_image_is(tmp_path: Path) -> None:
    grey, colour = write(tmp_path / "a.png", picture(colour=False)), write(tmp_path / "b.png", picture())
    assert decode_files([grey], 8, "auto", DecodedCache(tmp_path / "cache"), "fail").images.shape == (1, 8, 8, 1)
    both = decode_files([grey, colour], 32, "auto", DecodedCache(tmp_path / "cache"), "fail").images
    np.testing.assert_array_equal(both[0], np.repeat(picture(colour=False)[..., None], 3, axis=2))
    np.testing.assert_array_equal(both[1], picture())


def test_colour_becomes_grey_where_one_channel_is_asked_for(tmp_path: Path) -> None:
    decoded = decode_files([write(tmp_path / "a.png", picture())], 32, 1, DecodedCache(tmp_path / "cache"), "fail")
    expected = picture() @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decoded.images[0, ..., 0] - expected).max() <= 1


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees, clockwise
    Image.fromarray(picture(colour=False)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    decoded = decode_files([tmp_path / "a.jpg"], 32, 1, DecodedCache(tmp_path / "cache"), "fail").images[0, ..., 0]
    assert np.abs(decoded.astype(int) - np.rot90(picture(colour=False), -1)).mean() < 4


def test_shrinking_takes_the_mean_of_areas() -> None:
    image = np.zeros((4, 4), dtype=np.uint8)
    image[:2, :2] = [[0, 100], [100, 200]]
    assert resize(image, 2).tolist() == [[100, 0], [0, 0]]


def damaged_set(folder: Path) -> list[Path]:
    good, other = write(folder / "good.png", picture()), write(folder / "other.png", 255 - picture())
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not an image")
    return [folder / "empty.png", good, folder / "missing.png", other, folder / "text.png"]


def test_all_damaged_files_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 of 5 images") as caught:
        decode_files(damaged_set(tmp_path), 32, 3, DecodedCache(tmp_path / "cache"), "fail")
    for line in (
        "empty.png: the file is empty",
        "missing.png: the file does not exist",
        "text.png: the image is damaged",
    ):
        assert line in str(caught.value)


def test_skip_leaves_out_the_damaged_files_and_says_which(tmp_path: Path) -> None:
    paths = damaged_set(tmp_path)
    for _ in range(2):  # decoded, then from the cache
        decoded = decode_files(paths, 32, 3, DecodedCache(tmp_path / "cache"), "skip")
        assert decoded.kept.tolist() == [1, 3]
        np.testing.assert_array_equal(decoded.images, [picture(), 255 - picture()])
        assert [path.name for path, _ in decoded.failures] == ["empty.png", "missing.png", "text.png"]


def test_a_cache_made_with_skip_does_not_satisfy_fail(tmp_path: Path) -> None:
    paths = damaged_set(tmp_path)
    decode_files(paths, 32, 3, DecodedCache(tmp_path / "cache"), "skip")
    with pytest.raises(DataError, match="3 of 5 images"):
        decode_files(paths, 32, 3, DecodedCache(tmp_path / "cache"), "fail")


def test_nothing_left_after_skipping_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 1 images"):
        decode_files([tmp_path / "missing.png"], 32, 3, DecodedCache(tmp_path / "cache"), "skip")


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.png", picture())

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    # Not by chmod: root may read everything.
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"a\.png: the file cannot be read: Permission denied"):
        decode_files([path], 32, 3, DecodedCache(tmp_path / "cache"), "fail")


def test_the_second_time_nothing_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.png", picture())
    first = decode_files([path], 32, 3, DecodedCache(tmp_path / "cache"), "fail")
    monkeypatch.setattr(image_files, "_decode_all", None)
    second = decode_files([path], 32, 3, DecodedCache(tmp_path / "cache"), "fail")
    assert isinstance(second.images, np.memmap)
    np.testing.assert_array_equal(first.images, second.images)
    assert first.digest == second.digest


def test_a_file_that_changed_is_decoded_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", picture())
    first = decode_files([path], 32, 3, DecodedCache(tmp_path / "cache"), "fail")
    write(path, 255 - picture())
    os.utime(path, ns=(1, 1))
    second = decode_files([path], 32, 3, DecodedCache(tmp_path / "cache"), "fail")
    np.testing.assert_array_equal(second.images[0], 255 - picture())
    assert first.digest != second.digest


def test_a_crash_leaves_no_half_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = write(tmp_path / "a.png", picture()), tmp_path / "cache"

    def crash(*arguments: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(image_files, "_decode", crash)
        # As if the process had been killed: nothing is tidied up.
        patch.setattr(shutil, "rmtree", lambda *arguments, **options: None)
        with pytest.raises(MemoryError):
            decode_files([path], 32, 3, DecodedCache(cache), "fail")
    assert [each.suffix for each in cache.iterdir() if each.is_dir()] == [".part"]
    np.testing.assert_array_equal(decode_files([path], 32, 3, DecodedCache(cache), "fail").images[0], picture())
    assert [each.suffix for each in cache.iterdir() if each.is_dir()] == [""]


def test_several_at_once_decode_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.png", picture())
    real, calls = image_files._decode_all, []

    def counted(*arguments: object) -> object:
        calls.append(1)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(image_files, "_decode_all", counted)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: decode_files([path], 32, 3, DecodedCache(tmp_path / "cache"), "fail"), range(4)))
    assert len(calls) == 1


def test_the_digest_is_of_content_and_not_of_place_or_time(tmp_path: Path) -> None:
    first = write(tmp_path / "a.png", picture())
    second = Path(shutil.copy(first, tmp_path / "b.png"))
    os.utime(second, ns=(5, 5))
    one = decode_files([first], 32, 3, DecodedCache(tmp_path / "cache"), "fail").digest
    assert one == decode_files([second], 32, 3, DecodedCache(tmp_path / "cache"), "fail").digest


def test_a_cache_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"Set data\.cache_dir"):
        decode_files([write(tmp_path / "a.png", picture())], 32, 3, DecodedCache(tmp_path / "file" / "cache"), "fail")
