"""Pictures open as transformers opens them or say why not, and those that look the same are found."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFile, ImageOps

from hfadapt.data.images import LARGE, PictureError, look, look_all, open_picture, open_small
from hfadapt.data.near import BITS, BYTES, near_groups, near_hash

RANDOM = np.random.default_rng(0)


def cell(picture: Image.Image, kind: str = "PNG", **options) -> dict:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return {"bytes": file.getvalue(), "path": None}


def scene(width: int = 120, height: int = 80, seed: int = 0) -> Image.Image:
    """A smooth picture with some structure, another for each seed."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def apart(one: Image.Image, other: Image.Image) -> int:
    hashes = [np.frombuffer(near_hash(its), np.uint8) for its in (one, other)]
    return int(np.bitwise_count(hashes[0] ^ hashes[1]).sum())


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "1", "YCbCr"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_ordinary_pictures_are_those_of_transformers(mode, orientation):
    kinds = {"P": "PNG", "1": "PNG"}
    exif = Image.Exif()
    exif[0x0112] = orientation
    given = cell(scene().convert(mode), kinds.get(mode, "JPEG"), exif=exif)
    theirs = ImageOps.exif_transpose(Image.open(io.BytesIO(given["bytes"]))).convert("RGB")
    ours = open_picture(given)
    assert ours.mode == "RGB" and ours.size == theirs.size
    assert ours.tobytes() == theirs.tobytes()
    assert look(given).size == theirs.size


def test_transformers_still_loads_so(tmp_path):
    from transformers.image_utils import load_image

    exif = Image.Exif()
    exif[0x0112] = 6
    scene().save(tmp_path / "turned.jpg", exif=exif)
    theirs = load_image(str(tmp_path / "turned.jpg"))
    ours = open_picture({"bytes": None, "path": str(tmp_path / "turned.jpg")})
    assert ours.size == (80, 120)
    assert ours.tobytes() == theirs.tobytes()


def test_messy_pictures_open_or_say_why_not(shared: Path):
    folder = shared / "messy" / "images"
    with (folder.parent / "images_index.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 25
    says = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for row in rows:
            seen = look({"bytes": None, "path": str(folder / row["file"])})
            assert (seen.problem is None) == (row["readable"] == "yes"), (row, seen)
            says[row["file"]] = seen.problem
    assert "cut off" in says["truncated.jpg"] and "cut off" in says["header_only.jpg"]
    assert "checksum" in says["bad_crc.png"]
    assert "3,600 million" in says["bomb_header.png"] and "150 million" in says["bomb_header.png"]
    assert "empty" in says["zero_byte.jpg"] and "text" in says["text_named.jpg"] and "SVG" in says["vector.svg"]
    for problem in filter(None, says.values()):
        assert problem.endswith(".") and "BytesIO" not in problem


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory as Linux gives it")
def test_large_pictures_take_little_memory(shared: Path):
    code = (
        "import sys; from hfadapt.data.images import open_picture;"
        "small = open_picture({'bytes': None, 'path': sys.argv[1]}, within=64); whole = open_picture("
        "{'bytes': None, 'path': sys.argv[1]}); status = open('/proc/self/status').read();"
        # Not ru_maxrss, which begins with what the process had that started this one.
        "print(small.size[0], whole.size[0], int(status.split('VmHWM:')[1].split()[0]) // 1024)"
    )
    path = shared / "messy" / "images" / "bomb_warning_12000.png"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    small, whole, megabytes = map(int, done.stdout.split())
    assert 64 <= small < 128 and whole**2 <= LARGE
    assert megabytes < 500


def test_sixteen_bits_and_floats_are_scaled():
    ramp = np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(48, 64)
    wanted = np.round(ramp * 255)
    for values, kind in (
        ((ramp * 65535).astype(np.uint16), "PNG"),
        (ramp, "TIFF"),
        (ramp * 255, "TIFF"),
        (ramp * 3000 - 1000, "TIFF"),
        ((ramp * 65535).astype(np.int32), "TIFF"),
    ):
        seen = np.asarray(open_picture(cell(Image.fromarray(values), kind)), np.float32)
        assert seen.shape == (48, 64, 3)
        assert np.abs(seen - wanted[..., None]).max() <= 1, values.dtype
    holes = ramp.copy()
    holes[0, 0] = np.nan
    assert np.asarray(open_picture(cell(Image.fromarray(holes), "TIFF")))[0, 0].tolist() == [0, 0, 0]
    with pytest.raises(PictureError, match="no finite number"):
        open_picture(cell(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"))


def test_what_is_transparent_is_white():
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    clear.putpixel((0, 0), (255, 0, 0, 255))
    palette = clear.quantize(4)
    grey = Image.new("LA", (8, 8), (0, 0))
    keyed = cell(Image.new("RGB", (8, 8), (1, 2, 3)), transparency=(1, 2, 3))
    for given in (cell(clear), cell(palette), cell(grey), cell(clear, "WEBP", lossless=True), keyed):
        assert open_picture(given).getpixel((4, 4)) == (255, 255, 255)
    assert open_picture(cell(clear)).getpixel((0, 0)) == (255, 0, 0)


def test_the_first_frame_counts():
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        given = cell(frames[0], kind, save_all=True, append_images=frames[1:])
        red, green, _ = open_picture(given).getpixel((3, 3))
        assert red > 200 and green < 50, kind


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_no_picture_comes_of_half_a_file(kind, share):
    content = cell(scene(), kind)["bytes"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert look({"bytes": content[: int(len(content) * share)], "path": None}).problem
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_nonsense_is_told_and_nothing_else_raised():
    sound = [cell(scene(), kind)["bytes"] for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for content in sound:
            for _ in range(40):
                broken = bytearray(content)
                for place in RANDOM.integers(0, min(300, len(broken)), 4):
                    broken[place] = RANDOM.integers(256)
                seen = look({"bytes": bytes(broken), "path": None})
                assert seen.problem is None or "\n" not in seen.problem


def test_what_is_no_file_is_told(tmp_path):
    says = {
        str(tmp_path / "none.png"): "no such file",
        str(tmp_path): "folder",
        "nul\0byte.png": "cannot be read",
    }
    for path, text in says.items():
        with pytest.raises(PictureError, match=text):
            open_picture({"bytes": None, "path": path})
    with pytest.raises(PictureError, match="no picture in this row"):
        open_picture({"bytes": None, "path": None})
    # Bytes win: a path may be but the name that they had.
    assert open_picture(cell(scene()) | {"path": "gone.png"}).size == (120, 80)


def test_a_picture_is_shrunk_no_further_than_asked():
    for kind in ("JPEG", "PNG"):
        given = cell(scene(1000, 600), kind)
        assert open_picture(given).size == (1000, 600)
        for within in (64, 150, 599, 600, 5000):
            width, height = open_picture(given, within=within).size
            assert min(width, height) >= min(within, 600)
        assert max(open_picture(given, within=64).size) < 400
        assert look(given).size == (1000, 600)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(("turn", "size"), [(1, (267, 200)), (6, (200, 267))])
def test_small_pictures_have_the_side_that_was_asked_for_and_look_the_same(kind, turn, size):
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8))
    picture = coarse.resize((1200, 900), Image.Resampling.BICUBIC)
    exif = picture.getexif()
    exif[0x0112] = turn
    stream = io.BytesIO()
    picture.save(stream, kind, exif=exif)
    given = {"bytes": stream.getvalue(), "path": None}
    small = open_small(given, 200)
    assert small.size == size
    whole = open_picture(given).resize(size, Image.Resampling.BILINEAR)
    assert np.abs(np.asarray(small, float) - np.asarray(whole)).mean() < 1.5
    assert open_small(given, 900).size == open_small(given, 5000).size == open_picture(given).size


def test_large_pictures_are_shrunk_in_stripes_to_the_same_picture(monkeypatch):
    from hfadapt.data import images

    picture = scene(900, 500)
    monkeypatch.setattr(images, "LARGE", 900 * 500 // 4)
    monkeypatch.setattr(images, "_STRIPE", 10_000)
    assert open_picture(cell(picture)).tobytes() == picture.reduce(2).tobytes()


def test_warnings_of_others_come_through_while_pictures_open():
    from hfadapt.data import images

    before = list(warnings.filters)
    with images._silent():
        assert warnings.filters != before
    assert warnings.filters == before
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with images._silent(), images._silent():
            warnings.warn_explicit("pillow's", UserWarning, "PIL/Image.py", 1, "PIL.Image")
            warnings.warn("ours", stacklevel=1)
    assert [str(its.message) for its in told] == ["ours"]


def test_looking_in_threads_keeps_the_order_and_few_in_hand():
    cells = [cell(scene(seed=seed), "JPEG") for seed in range(30)]
    taken = []
    many = look_all((taken.append(i) or its for i, its in enumerate(cells)), threads=2)
    first = next(many)
    assert len(taken) <= 8
    assert [first, *many] == [look(its) for its in cells]
    assert not [its for its in threading.enumerate() if its.name.startswith("look")]


def test_exact_is_of_the_bytes():
    png, jpeg = look(cell(scene())), look(cell(scene(), "JPEG"))
    assert png.exact == look(cell(scene())).exact != jpeg.exact
    assert 0 < png.exact < 1 << 64 and len(png.near) == BYTES


@pytest.mark.parametrize("seed", range(8))
def test_what_was_encoded_anew_looks_the_same(seed):
    picture = scene(200, 150, seed)
    for other in (
        open_picture(cell(picture, "JPEG", quality=60)),
        open_picture(cell(picture, "WEBP", quality=60)),
        picture.resize((100, 75)),
        picture.resize((260, 195)),
        ImageEnhance.Brightness(picture).enhance(0.95),
    ):
        assert apart(picture, other) <= BITS
    for other in (scene(200, 150, seed + 1), ImageOps.mirror(picture), ImageOps.invert(picture)):
        assert apart(picture, other) > 5 * BITS


def test_blank_pictures_differ_by_their_colour_alone():
    blanks = {name: Image.new("RGB", (60, 60), name) for name in ("white", "black", "red", "blue", "lime")}
    for name, picture in blanks.items():
        noise = RANDOM.integers(-1, 2, (60, 60, 3)) + np.asarray(picture, int)
        assert apart(picture, Image.fromarray(noise.clip(0, 255).astype(np.uint8))) <= BITS
        assert all(apart(picture, other) > BITS for its, other in blanks.items() if its != name)
    flags = [Image.new("RGB", (60, 40), "white") for _ in range(2)]
    for flag, (left, right) in zip(flags, (("#002395", "#ED2939"), ("#009246", "#CE2B37")), strict=True):
        flag.paste(left, (0, 0, 20, 40))
        flag.paste(right, (40, 0, 60, 40))
    assert apart(*flags) > BITS


def test_digits_of_different_classes_are_not_joined(shared: Path):
    files = sorted((shared / "mnist_folder").glob("*/*/*.png"))
    assert len(files) == 700
    groups = near_groups([its.near for its in look_all({"bytes": None, "path": str(file)} for file in files)])
    assert len(set(groups.tolist())) > 680
    digits = {(int(group), file.parent.name) for group, file in zip(groups, files, strict=True)}
    assert len(digits) == len(set(groups.tolist()))
    small = [open_picture({"bytes": None, "path": str(file)}) for file in files[::10]]
    assert np.mean([apart(its, its.resize((36, 36), Image.Resampling.LANCZOS)) <= BITS for its in small]) > 0.95


def clouds(centres: int, rows: int, flipped: float, seed: int = 0) -> list[bytes]:
    random = np.random.default_rng(seed)
    bits = np.repeat(random.integers(0, 2, (centres, BYTES * 8), dtype=np.uint8), rows // centres, 0)
    return [row.tobytes() for row in np.packbits(bits ^ (random.random(bits.shape) < flipped), axis=1)]


@pytest.mark.parametrize(
    ("centres", "flipped", "crowd"),
    [(300, 0.006, 256), (2, 0.006, 256), (2, 0.008, 16)],
    ids=["small buckets", "crowds", "loose crowds"],
)
def test_groups_are_those_of_comparing_all_with_all(centres, flipped, crowd, monkeypatch):
    from scipy.sparse.csgraph import connected_components

    monkeypatch.setattr("hfadapt.data.near.CROWD", crowd)
    hashes = clouds(centres, 1800, flipped)
    words = np.frombuffer(b"".join(hashes), np.uint64).reshape(len(hashes), -1)
    near = np.stack([np.bitwise_count(words ^ row).sum(1, dtype=int) <= BITS for row in words])
    number, wanted = connected_components(near)
    groups = near_groups(hashes)
    assert number > centres
    assert len(set(zip(groups.tolist(), wanted.tolist(), strict=True))) == number == groups.max() + 1


def test_groups_of_few_and_of_equal_rows():
    assert near_groups([]).shape == (0,)
    assert near_groups([b"\0" * BYTES]).tolist() == [0]
    many = near_groups([bytes([i % 3] * BYTES) for i in range(60_000)], bits=3)
    assert many.dtype == np.int64 and len(set(many.tolist())) == 3
