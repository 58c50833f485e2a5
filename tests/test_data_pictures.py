"""Pictures come by the same way as texts: from folders, metadata, tables of paths, bytes; what is found about them."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hfadapt.data import images, looking, sources
from hfadapt.data.inputs import read_inputs
from hfadapt.data.loading import Loaded, load
from hfadapt.errors import DataError
from hfadapt.recipe import Data
from hfadapt.tasks.base import Role

IMAGE = Role("image", "", ("image", "file_name", "file", "path"))
LABEL = Role("target", "", ("label", "class"))


class Classes:
    """A task on pictures."""

    roles: ClassVar = {"image": IMAGE, "label": LABEL}

    @staticmethod
    def kind(target: Sequence[Any], separator: str | None):
        return "label"


class Captions:
    """A task on pictures and texts."""

    roles: ClassVar = {
        "image": IMAGE,
        "text": Role("text", "", ("text", "caption", "captions")),
        "label": Role("target", "", ("label",), optional=True),
    }

    @staticmethod
    def kind(target: Sequence[Any], separator: str | None):
        return "pairs"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(number: int) -> Image.Image:
    """A picture unlike those of other numbers."""
    blocks = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(blocks).resize((64, 64), Image.Resampling.BICUBIC)


def content(number: int, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    picture(number).save(out, kind, **options)
    return out.getvalue()


def put(name: str, number: int | bytes) -> str:
    """A file with a picture, or with anything."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(number if isinstance(number, bytes) else content(number))
    return name


def lines(name: str, *rows: str) -> None:
    put(name, ("\n".join(rows) + "\n").encode())


def loaded(path: str | list[str], task=Classes, *, seed: int = 42, **options) -> Loaded:
    return load(Data(path=path, **options), task.roles, task.kind, seed=seed)


def refused(path: str | list[str], task=Classes, **options) -> list[str]:
    with pytest.raises(DataError) as caught:
        loaded(path, task, **options)
    return str(caught.value).splitlines()


def findings(its: Loaded) -> dict[str, int]:
    return {its.says: its.rows for its in its.findings}


def sizes(its: Loaded) -> list[int]:
    return [len(rows) for rows in its.splits.values()]


def by_path(its: Loaded) -> dict[str, tuple[str, str]]:
    """Path of a picture → its split and label."""
    return {
        row["image"]["path"]: (split, its.labels.names[row["label"]])
        for split, rows in its.splits.items()
        for row in rows
    }


def three_splits(root: str = "d", size: int = 4) -> None:
    """Class folders under train, validation and test, nothing wrong with them."""
    for s, split in enumerate(("train", "validation", "test")):
        for c, name in enumerate(("cat", "dog")):
            for i in range(size if split == "train" else 2):
                put(f"{root}/{split}/{name}/{i}.png", 100 * s + 10 * c + i)


def only_labels_are_few(its: Loaded) -> bool:
    return all("fewer than 5" in says for says in findings(its))


def test_a_folder_for_each_split_and_class():
    three_splits()
    its = loaded("d")
    assert sizes(its) == [8, 4, 4] and its.labels.names == ("cat", "dog") and only_labels_are_few(its)
    assert its.files[:2] == ("d/train/cat/0.png", "d/train/cat/1.png") and len(its.files) == 16
    row = its.splits["test"][3]
    assert row == {"image": {"bytes": None, "path": "d/test/dog/1.png"}, "label": 1, "_file": 15, "_line": 0}
    assert its.files[row["_file"]] == row["image"]["path"]
    assert its.splits["train"].features["image"] == datasets.Image(decode=False)
    assert its.made == {"train": "given", "validation": "given", "test": "given"}


@pytest.mark.parametrize("name", ["val", "valid", "DEV", "Validation"])
def test_usual_names_of_the_validation_split(name):
    three_splits()
    Path("d/validation").rename(f"d/{name}")
    assert {split for path, (split, _) in by_path(loaded("d")).items() if f"/{name}/" in path} == {"validation"}


def test_class_folders_without_splits_are_divided():
    for i in range(40):
        put(f"d/{'ab'[i % 2]}/{i}.png", i)
    its = loaded("d/", validation=0.2)
    assert sizes(its) == [28, 8, 4] and its.made["validation"] == "20% of train, stratified, seed 42"
    assert all(label == path.split("/")[1] for path, (_, label) in by_path(its).items()) and len(by_path(its)) == 40


def test_a_split_may_be_a_folder_elsewhere():
    three_splits()
    three_splits("other")
    its = loaded("d", test="other/test", validation="other/validation")
    assert {path.split("/")[0] for path, (split, _) in by_path(its).items() if split == "test"} == {"other"}
    assert "no split 'train2'" in refused("d", train="train2")[0]


def test_what_counts_as_a_picture_of_a_class():
    three_splits()
    kinds = {"JPG": "JPEG", "jpeg": "JPEG", "WebP": "WEBP", "gif": "GIF", "bmp": "BMP", "tif": "TIFF", "tiff": "TIFF"}
    for i, (suffix, kind) in enumerate(kinds.items(), 300):
        put(f"d/train/cat/deep/er/{i}.{suffix}", content(i, kind))
    put("d/train/cat/ünïcode 图 name.png", 310)
    for name in (".hidden/0.png", ".DS_Store", "cat/.0.png", "cat/.hid/0.png", "cat/Thumbs.db", "cat/notes.txt"):
        put(f"d/train/{name}", b"x")
    put("d/__MACOSX/train/cat/._0.png", b"x")
    put("elsewhere/far.png", 311)
    os.symlink("../../../elsewhere", "d/train/dog/linked")
    os.symlink("../dog", "d/train/dog/loop")
    os.symlink(Path("elsewhere/far.png").resolve(), "d/test/cat/link.png")
    its = loaded("d")
    found = by_path(its)
    assert sizes(its) == [8 + 7 + 1 + 1, 4, 5] and found["d/train/dog/linked/far.png"] == ("train", "dog")
    assert found["d/train/cat/ünïcode 图 name.png"] == found["d/train/cat/deep/er/300.JPG"] == ("train", "cat")


def test_what_is_left_out_of_class_folders_is_said():
    three_splits()
    put("d/train/loose.jpg", 500)
    Path("d/train/empty_class").mkdir()
    put("d/test/cat/photo.HEIC", b"x")
    put("d/test/a.png", 501)
    put("d/test/b.png", 502)
    assert {says: rows for says, rows in findings(loaded("d")).items() if "fewer" not in says} == {
        "1 picture of train lies outside the class folders and is left out: loose.jpg.": 1,
        "The class folder 'empty_class' of train holds no pictures.": 0,
        "2 pictures of test lie outside the class folders and are left out: a.png, b.png.": 2,
        "1 file of test is in a format that is not read and is left out: cat/photo.HEIC. "
        "Save them as PNG or JPEG.": 1,
    }  # fmt: skip


def test_classes_that_differ_by_case_or_that_train_lacks():
    three_splits()
    put("d/train/Cat/0.png", 600)
    put("d/test/cow/0.png", 601)
    assert refused("d") == [
        "d/test/cow/0.png: The label 'cow' is not among those of train: 'Cat', 'cat', 'dog'.",
        "data: 1 row can't be used. Mend it, or leave it out: `data.on_bad_row: skip`.",
    ]
    its = loaded("d", on_bad_row="skip")
    assert [row.where for row in its.skipped] == ["d/test/cow/0.png"] and sizes(its) == [9, 4, 4]
    assert any("2 labels look like one: 'Cat', 'cat'" in says for says in findings(its))


def test_one_class_teaches_nothing():
    put("d/train/cat/0.png", 0)
    put("d/train/cat/1.png", 1)
    put("d/test/cat/2.png", 2)
    (says,) = refused("d", validation=0.5)
    assert says.startswith("data: Every usable row of train has the label 'cat'")


def test_folders_that_hold_no_classes():
    Path("empty").mkdir()
    put("flat/a.png", 1)
    assert refused("empty")[0].startswith("empty: The folder holds no pictures (.jpg, ")
    (says,) = refused("flat")
    assert says.startswith("flat: The folder holds 1 picture, but no folder for each class.") and "metadata.csv" in says
    put("named/test/cat/0.png", 1)
    assert refused("named")[0].startswith("data.train: 'named' has no split 'train'.")


def test_unreadable_pictures_are_bad_rows():
    three_splits()
    put("d/train/cat/cut.jpg", content(700, "JPEG")[:400])
    put("d/train/dog/text.png", b"hello")
    put("d/train/dog/void.png", b"")
    place, says = refused("d")[0].split(": ", 1)
    assert place == "d/train/cat/cut.jpg" and says == images.look({"bytes": None, "path": place}).problem
    assert [line.split(": ")[0] for line in refused("d")[1:]] == [
        "d/train/dog/text.png",
        "d/train/dog/void.png",
        "data",
    ]
    its = loaded("d", on_bad_row="skip")
    assert len(its.skipped) == 3 and sizes(its) == [8, 4, 4] and {row.line for row in its.skipped} == {0}
    lines("d.csv", "file,label", "d/train/cat/0.png,x", *["d/train/dog/text.png,y"])
    assert refused("d.csv")[0] == "d.csv:3: d/train/dog/text.png: This is text, not a picture."


def test_a_row_that_is_bad_twice_is_one_bad_row():
    lines(
        "d.csv", "file,label", f"{put('a.png', b'hello')},", *(f"{put(f'{i}.png', i)},{'xy'[i % 2]}" for i in range(9))
    )
    assert refused("d.csv")[0] == "d.csv:2: The label is missing." and "1 row" in refused("d.csv")[1]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_metadata_beside_the_pictures(suffix):
    for s, split in enumerate(("train", "test")):
        rows = [{"file_name": f"{i}.png", "label": "xy"[i % 2], "n": i} for i in range(20)]
        for i in range(20):
            put(f"d/{split}/{i}.png", 100 * s + i)
        if suffix == "csv":
            lines(f"d/{split}/metadata.csv", "file_name,label", *(f"{r['file_name']},{r['label']}" for r in rows))
        elif suffix == "jsonl":
            lines(f"d/{split}/metadata.jsonl", *map(json.dumps, rows))
        else:
            pq.write_table(pa.Table.from_pylist(rows), f"d/{split}/metadata.parquet")
    its = loaded("d", validation=0.1)
    assert sizes(its) == [18, 2, 20] and its.columns["image"].name == "file_name" and not findings(its)
    assert its.files == (f"d/train/metadata.{suffix}", f"d/test/metadata.{suffix}")
    assert by_path(its)["d/test/3.png"] == ("test", "y")


def test_one_metadata_for_all_splits():
    three_splits()
    rows = [f"{path.relative_to('d').as_posix()},{path.parent.name}" for path in sorted(Path("d").rglob("*.png"))]
    lines("d/metadata.csv", "file_name,label", *rows[1:], "other/0.png,cat")
    its = loaded("d")
    assert sizes(its) == [8, 4, 4 - 1] and set(its.files) == {"d/metadata.csv"}
    assert its.splits["train"][0]["image"]["path"] == "d/train/cat/0.png"
    found = findings(its)
    assert found["1 picture of test is not in d/metadata.csv and is left out: test/cat/0.png."] == 1
    assert any(says.startswith("1 row of d/metadata.csv is left out") for says in found)


def test_what_is_wrong_with_metadata():
    for i in range(20):
        put(f"d/{i}.png", i)
    put("secret.png", 30)
    rows = [f"{i}.png,{'xy'[i % 2]}" for i in range(18)]
    odd = ["none.png,x", "../secret.png,x", "../d/18.png,x", f"{Path('secret.png').resolve()},x", ",x", "sub,y"]
    Path("d/sub").mkdir()
    lines("d/metadata.csv", "file_name,label", *rows, *odd, "http://x.org/a.png,x")
    assert refused("d")[:-1] == [
        "d/metadata.csv:20: There is no picture 'd/none.png'.",
        "d/metadata.csv:21: '../secret.png' leads out of the folder 'd'.",
        f"d/metadata.csv:23: '{Path('secret.png').resolve()}' leads out of the folder 'd'.",
        "d/metadata.csv:24: The image is missing.",
        "d/metadata.csv:25: 'd/sub' is a folder.",
        "d/metadata.csv:26: 'http://x.org/a.png' is an address; pictures are not downloaded.",
    ]
    found = findings(loaded("d", on_bad_row="skip"))
    assert found["1 picture of train is not in d/metadata.csv and is left out: 19.png."] == 1


def test_two_metadata_may_be_the_same_rows():
    put("d/a.png", 1)
    lines("d/metadata.csv", "file_name,label", "a.png,x")
    lines("d/metadata.jsonl", '{"file_name": "a.png", "label": "x"}')
    assert "'.csv', '.jsonl'" in refused("d")[0]


def test_a_table_of_paths():
    for i in range(20):
        put(f"d/pictures/{i}.png", i)
    absolute = str(Path("d/pictures/19.png").resolve())
    lines("d/t.csv", "file,label", *(f"pictures/{i}.png,{'xy'[i % 2]}" for i in range(19)), f"{absolute},y")
    its = loaded("d/t.csv")
    assert sum(sizes(its)) == 20 and by_path(its)["d/pictures/4.png"][1] == "x" and absolute in by_path(its)
    assert loaded("d").fingerprint == its.fingerprint
    lines("d/t.jsonl", *(json.dumps({"my": {"path": f"pictures/{i}.png"}, "label": "xy"[i % 2]}) for i in range(20)))
    assert loaded("d/t.jsonl", image="my").fingerprint == its.fingerprint
    (says,) = refused("d/t.jsonl")
    assert says.startswith("d/t.jsonl: data.image: No column is clearly the image.")


def test_files_beside_class_folders_are_no_tables():
    three_splits()
    lines("d/train/classes.csv", "id,name", "0,cat", "1,dog")
    lines("d/info.json", "{}")
    assert sizes(loaded("d")) == [8, 4, 4]
    for i in range(20):
        put(f"c/{'ab'[i % 2]}/{i}.png", i)
    lines("c/classes.csv", "id,name", "0,a")
    assert sum(sizes(loaded("c"))) == 20


def test_tables_of_bytes(here):
    cells = [{"bytes": content(i), "path": f"{i}.png"} for i in range(20)]
    labels = ["xy"[i % 2] for i in range(20)]
    rows = datasets.Dataset.from_dict(
        {"image": cells, "label": labels},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")}),
    )
    rows.to_parquet(here / "marked.parquet")
    pq.write_table(pa.table({"struct": cells, "label": labels, "image": range(20)}), "plain.parquet")
    pq.write_table(pa.table({"raw": [cell["bytes"] for cell in cells], "label": labels}), "raw.parquet")
    for i in range(20):
        put(f"pictures/{i}.png", i)
    paths = [{"bytes": None, "path": f"pictures/{i}.png"} for i in range(20)]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    pq.write_table(pa.table({"image": pa.array(paths, kind), "label": labels}), "paths.parquet")
    its = loaded("marked.parquet")
    assert its.files == ("marked.parquet",) and its.splits["test"][0]["_line"] > 0
    for row in its.splits["train"]:
        assert row["image"] == cells[row["_line"] - 1] and its.labels.names[row["label"]] == labels[row["_line"] - 1]
    for name, column in (("plain", "struct"), ("raw", "raw"), ("paths", "image")):
        other = loaded(f"{name}.parquet")
        assert other.columns["image"].name == column and other.fingerprint == its.fingerprint, name


def test_a_dataset_of_the_hub_is_not_decoded_while_reading(monkeypatch):
    cells = [{"bytes": content(i), "path": None} for i in range(20)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = datasets.Dataset.from_dict({"image": cells, "label": [i % 2 for i in range(20)]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: datasets.DatasetDict({"train": rows}))

    def decoded(*args, **kwargs):
        raise AssertionError("decoded")

    monkeypatch.setattr(datasets.Image, "decode_example", decoded)
    its = loaded("owner/pictures")
    assert its.labels.names == ("no", "yes") and sum(sizes(its)) == 20 and its.files == ("owner/pictures (train)",)
    row = its.splits["validation"][0]
    assert row["image"] == cells[row["_line"] - 1]


def test_built_in_pictures_and_models(monkeypatch, here):
    put("builtin/two_tones.py", b"")
    put("builtin/vit/config.json", b"{}")
    put("builtin/reviews/train.csv", b"text,label\na,b\n")
    module = ModuleType("hfadapt.builtin.two_tones")
    cells = [{"bytes": content(i), "path": None} for i in range(20)]
    vars(module)["make"] = lambda: {"train": {"art": cells, "label": ["xy"[i % 2] for i in range(20)]}}
    monkeypatch.setitem(sys.modules, "hfadapt.builtin.two_tones", module)
    monkeypatch.setattr(sources, "BUILTIN", here / "builtin")
    assert sum(sizes(loaded("builtin/two-tones"))) == 20
    assert refused("builtin/vit")[0] == (
        "data.path: There is no built-in dataset 'vit'. There are: 'reviews', 'two-tones'."
    )


def test_cells_that_are_no_pictures():
    odd = [None, 3, [], {"path": None}, {"bytes": 3}, "\ud800.png", ""]
    lines("t.jsonl", *(json.dumps({"image": put(f"{i}.png", i), "label": "xy"[i % 2]}) for i in range(20)))
    lines("t.jsonl", Path("t.jsonl").read_text(), *(json.dumps({"image": one, "label": "x"}) for one in odd))
    assert [line.split(": ", 1)[1] for line in refused("t.jsonl")[:-1]] == [
        "The image is missing.",
        "The image is a number; expected the path of a picture, or its bytes.",
        "The image is a list; expected the path of a picture, or its bytes.",
        "The image is missing.",
        "The image is an object; expected the path of a picture, or its bytes.",
        "The name of the picture is not UTF-8: rename it.",
        "The image is missing.",
    ]


def test_pictures_in_two_splits_twice_and_with_two_labels():
    three_splits(size=8)
    put("d/test/cat/copy.png", content(0))
    put("d/test/cat/again.jpg", content(1, "JPEG", quality=80))
    put("d/train/cat/copy.png", content(2))
    put("d/train/dog/torn.png", content(3))
    put("d/train/dog/like.jpg", content(5, "JPEG", quality=80))
    found = findings(loaded("d"))
    assert found == {
        "The picture of another row is repeated in 2 rows of train. "
        "Remove the copies, unless such pictures should weigh more.": 2,
        "Of 6 rows of test, 2 can be found in train or validation too (1 exactly, 1 near duplicate). "
        "Remove them, or the score on test is too good.": 2,
        "In train 1 picture can be found with different labels (2 rows). No model gets all of them right.": 2,
    }  # fmt: skip


def test_near_duplicates_are_set_aside_together():
    for i in range(30):
        put(f"d/{'ab'[i % 2]}/{i}.png", i)
        put(f"d/{'ab'[i % 2]}/{i}.jpg", content(i, "JPEG", quality=80))
    for seed in range(3):
        its = loaded("d", validation=0.2, test=0.2, seed=seed)
        split_of = {path: split for path, (split, _) in by_path(its).items()}
        assert all(split_of[path] == split_of[path[:-3] + "jpg"] for path in split_of if path.endswith("png"))
        assert sizes(its) == [36, 12, 12] and not findings(its)


def test_the_order_of_files_is_no_matter_for_the_shares():
    for i in range(20):
        put(f"c/{'ab'[i % 2]}/{i}.png", i)
        put(f"d/{'ab'[i % 2]}/{99 - i}.png", i)
    once, again = (
        {Path(path).read_bytes(): split for path, (split, _) in by_path(loaded(folder)).items()} for folder in "cd"
    )
    assert once == again and set(once.values()) == {"train", "validation", "test"}


def test_too_few_pictures_are_called_so():
    put("d/a/0.png", 0)
    put("d/b/1.png", 1)
    assert "2 rows to train on (2 different pictures, 2 labels)" in refused("d")[0]


def test_the_fingerprint_tells_the_pictures():
    for i in range(20):
        put(f"d/{'ab'[i % 2]}/{i}.png", i)
    first = loaded("d").fingerprint
    Path("d").rename("e")
    assert loaded("e").fingerprint == first
    put("e/a/0.png", content(0, "PNG", compress_level=1))
    assert loaded("e").fingerprint != first


def test_above_a_number_of_pictures_some_are_only_opened(monkeypatch):
    monkeypatch.setattr(looking, "DECODED", 6)
    whole, opened = images.look_all, []

    def look_all(cells):
        for cell in cells:
            opened.append(cell["path"])
            yield from whole([cell])

    monkeypatch.setattr(images, "look_all", look_all)
    for i in range(40):
        put(f"d/{'ab'[i % 2]}/{i}.png", i)
    cut = [put(f"d/a/cut{i}.jpg", content(100 + i, "JPEG", quality=95)[:-400]) for i in range(10)]
    its = loaded("d", on_bad_row="skip")
    assert len(opened) == 6 and len(its.skipped) == sum(path in opened for path in cut) < 10
    put("d/b/copy.png", 1)
    put("d/b/text.png", b"hello")
    assert refused("d")[-2] == "d/b/text.png: This is text, not a picture."
    found = findings(loaded("d", on_bad_row="skip"))
    assert any("repeated in 1 row of train" in says for says in found)


def test_a_picture_that_many_rows_share_is_looked_at_once(monkeypatch):
    seen = []
    monkeypatch.setattr(images, "look", lambda cell, look=images.look: seen.append(cell["path"]) or look(cell))
    rows = [f"{put(f'{i % 5}.png', i % 5)},caption {i}" for i in range(40)]
    lines("t.csv", "file,caption", *rows)
    assert sum(sizes(loaded("t.csv", Captions, validation=0.2, test=0.2))) == 40 and sorted(seen) == sorted(set(seen))


def captions(name: str, size: int, **more) -> list[dict[str, Any]]:
    """Rows of several captions a picture."""
    rows = [{"image": put(f"{i}.png", i), "captions": [f"{i} {word}" for word in ("a", "b", "c")]} for i in range(size)]
    lines(name, *(json.dumps(row) for row in rows))
    return rows


def test_several_captions_of_a_picture():
    captions("t.jsonl", 20)
    its = loaded("t.jsonl", Captions)
    assert its.labels.kind == "pairs" and its.labels.names == () and its.made["test"] == "10% of train, seed 42"
    assert sizes(its) == [48, 6, 6] and not its.findings
    assert its.splits["train"].column_names == ["image", "text", "_file", "_line", "_image", "_text"]
    assert its.splits["train"].features["_image"].dtype == its.splits["train"].features["_text"].dtype == "int64"
    rows = [(split, row) for split, part in its.splits.items() for row in part]
    ids = {(row["image"]["path"], row["_image"]) for _, row in rows}
    assert len(ids) == 20 == len({number for _, number in ids})
    assert len({row["_text"] for _, row in rows}) == 60
    assert len({(split, row["_image"]) for split, row in rows}) == 20
    assert all(row["image"]["path"] == f"{row['text'].split()[0]}.png" for _, row in rows)


def test_captions_given_for_each_split():
    for split, start in (("train", 0), ("validation", 10), ("test", 20)):
        rows = [f"{put(f'd/{i}.png', i)[2:]},caption {i % 15}" for i in range(start, start + 10)]
        lines(f"d/{split}.csv", "file,caption", *rows)
    its = loaded("d", Captions)
    first, last = its.splits["train"][7], its.splits["test"][2]
    assert first["text"] == last["text"] and first["_text"] == last["_text"] and first["_image"] != last["_image"]
    assert its.columns["text"].name == "caption" and not its.findings


def test_what_is_found_about_captions():
    rows = [f"{put(f'{i}.png', i)},caption {i}" for i in range(20)]
    put("again.jpg", content(3, "JPEG", quality=80))
    lines("train.csv", "file,caption", *rows, "1.png,caption 2", "0.png,caption 0", "5.png,", "6.png,caption 7")
    lines("test.csv", "file,caption", f"{put('x.png', 50)},new", "0.png,other words", "again.jpg,also new")
    its = loaded(["train.csv", "test.csv"], Captions, validation=0.1)
    assert findings(its) == {
        "The text is empty or blank in 1 row, first at train.csv:24. Nothing can be learnt from it.": 1,
        "The pair of another row is repeated in 1 row of train. Remove the copies, unless such pairs should weigh more.": 1,  # noqa: E501
        "Of 3 rows of test, the picture of 2 can be found in train too (1 exactly, 1 near duplicate). "
        "Remove them, or the score on test is too good.": 2,
        "2 captions of train stand under more than one picture; the loss does not count them as negatives.": 4,
    }  # fmt: skip


def test_captions_that_can_not_be_used():
    captions("t.jsonl", 20)
    odd = [{"image": "0.png", "captions": []}, {"image": "0.png", "captions": ["fine", 3]}, {"image": "0.png"}]
    gone = {"image": "gone.png", "captions": ["a", "b", "c"]}
    lines("t.jsonl", Path("t.jsonl").read_text().rstrip(), *map(json.dumps, [*odd, gone]))
    assert refused("t.jsonl", Captions)[:-1] == [
        "t.jsonl:21: The list under text is empty.",
        "t.jsonl:22: The text is a number.",
        "t.jsonl:23: The text is missing.",
        "t.jsonl:24: There is no picture 'gone.png'.",
    ]
    assert sum(sizes(loaded("t.jsonl", Captions, on_bad_row="skip"))) == 61
    lines("u.jsonl", *(json.dumps({"image": f"{i}.png", "label": ["a"]}) for i in range(20)))
    assert "The label is a list" in refused("u.jsonl")[0]


def test_pairs_with_labels():
    rows = [{"image": put(f"{i}.png", i), "text": f"t {i}", "label": None if i % 5 else "xy"[i % 2]} for i in range(40)]
    lines("t.jsonl", *map(json.dumps, rows))
    its = loaded("t.jsonl", Captions, label="label")
    assert its.labels.kind == "pairs" and its.labels.names == ("x", "y")
    assert its.made["test"] == "10% of train, stratified, seed 42"
    for part in its.splits.values():
        for row in part:
            wanted = rows[row["_line"] - 1]["label"]
            assert row["label"] == (-1 if wanted is None else "xy".index(wanted))
    assert "label" not in loaded("t.jsonl", Captions).splits["train"].column_names
    lines("t.jsonl", *map(json.dumps, [*rows, {"image": "0.png", "text": "t", "label": 3}]))
    assert refused("t.jsonl", Captions, label="label")[0].startswith("t.jsonl:41: The label is a number, 3;")


def test_metadata_with_captions_of_a_parquet_with_lists(here):
    cells = [{"bytes": content(i), "path": None} for i in range(20)]
    texts = [[f"{i} a", f"{i} b"] for i in range(20)]
    pq.write_table(pa.table({"image": cells, "caption": texts}), "t.parquet")
    its = loaded("t.parquet", Captions)
    assert sizes(its) == [32, 4, 4] and its.splits["test"][0]["image"]["bytes"] in [cell["bytes"] for cell in cells]


def inputs(path: str | list[str], task=Classes, **options) -> tuple[dict[str, list], tuple[str, ...]]:
    """All rows, and the files."""
    found = read_inputs(path, task.roles, Data(path="unused", **options))
    pieces = list(found.pieces(100))
    assert sum(len(piece["_line"]) for piece in pieces) == found.rows
    return {name: [one for piece in pieces for one in piece[name]] for name in pieces[0]}, found.files


def test_pictures_to_predict_from(here):
    for name, number in (("d/b.png", 1), ("d/a.JPG", 2), ("d/deep/c.png", 3), ("d/.x.png", 4)):
        put(name, number)
    put("d/notes.txt", b"x")
    rows, files = inputs("d", image="my column")
    assert files == ("d/a.JPG", "d/b.png", "d/deep/c.png") and rows["_file"] == [0, 1, 2]
    assert rows["image"] == [{"bytes": None, "path": path} for path in files] and rows["_line"] == [0, 0, 0]
    rows, files = inputs("d/b.png")
    assert files == ("d/b.png",) and rows["image"] == [{"bytes": None, "path": "d/b.png"}]
    assert inputs(["d/b.png", "d/a.JPG"])[1] == ("d/b.png", "d/a.JPG") and inputs("d/*.png")[1] == ("d/b.png",)
    lines("t.csv", "label,file,caption", "x,d/b.png,words", "?,d/a.JPG,more")
    for task in (Classes, Captions):
        rows, files = inputs("t.csv", task)
        assert files == ("t.csv",) and rows["_line"] == [2, 3]
        assert [cell["path"] for cell in rows["image"]] == ["d/b.png", "d/a.JPG"]
        assert list(rows) == ["image", *(["text"] if task is Captions else []), "_file", "_line"]
    assert rows["text"] == ["words", "more"]
    pq.write_table(pa.table({"image": [content(1), content(2)]}), "t.parquet")
    assert inputs("t.parquet")[0]["image"][1] == {"bytes": content(2), "path": None}


def test_a_task_that_reads_texts_too_needs_a_table_of_both():
    put("d/b.png", 1)
    for path in ("d", "d/b.png", "d/*.png"):
        with pytest.raises(DataError) as caught:
            inputs(path, Captions, text="legend")
        (problem,) = caught.value.problems
        assert "needs a text beside each picture" in problem.says and problem.where
        assert problem.hint == "Give a table with the columns 'image' and 'legend'."
    its = [{"file": "d/b.png", "legend": "a", "caption": "b"}, {"file": "d/b.png", "legend": None, "caption": "b"}]
    lines("t.jsonl", *map(json.dumps, its))
    with pytest.raises(DataError) as caught:
        inputs("t.jsonl", Captions, text="legend")
    assert str(caught.value).startswith("t.jsonl:2: The text is missing.")
    assert inputs("t.jsonl", Captions, text="caption")[0]["text"] == ["b", "b"]
    lines("t.csv", "file,label", "d/b.png,1")
    with pytest.raises(DataError, match="No column is clearly the text"):
        inputs("t.csv", Captions)
    Path("u.jsonl").write_text(json.dumps({"image": "d/b.png", "text": ["a", "b"]}) + "\n")
    with pytest.raises(DataError, match=r"u\.jsonl:1: The text is a list"):
        inputs("u.jsonl", Captions)


def test_pictures_that_can_not_be_predicted_from():
    put("d/a.png", 1)
    put("d/b.png", b"hello")
    Path("empty").mkdir()
    lines("t.csv", "file", "d/a.png", "d/none.png", "d/b.png")
    for path, words in (
        ("d", ["d/b.png: This is text, not a picture.", "data: 1 row can't be used. Mend it, or take it out of the f"]),
        ("d/b.png", ["d/b.png: This is text, not a picture."]),
        ("empty", ["empty: The folder holds no pictures"]),
        ("d/c.png", ["There is no file or folder 'd/c.png'. Did you mean"]),
        ("t.csv", ["t.csv:3: There is no picture 'd/none.png'.", "t.csv:4: d/b.png: This is text"]),
        (["d/a.png", "t.csv"], ["'d/a.png' is one picture, but 't.csv' is a table."]),
    ):
        with pytest.raises(DataError) as caught:
            inputs(path)
        assert all(word in str(caught.value) for word in words), str(caught.value)
