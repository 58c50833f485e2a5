"""Warnings about the rows: found where planted, silent where nothing is wrong."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfadapt.data.keys import keys
from hfadapt.data.loading import load
from hfadapt.data.text import is_blank, normalised
from hfadapt.recipe import Data
from hfadapt.tasks.text_classification import TextClassification

TASK = TextClassification()
WORDS = [
    f"{a} {b}"
    for a in ("red", "blue", "green", "old", "new", "big")
    for b in ("table", "lamp", "sun", "tree", "bird", "sea", "cup")
]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def put(name: str, rows: list[tuple[str, str]]) -> None:
    lines = ["text,label", *(f'"{text}",{label}' for text, label in rows)]
    Path(name).write_text("\n".join(lines), encoding="utf-8")


def warnings(train: list[tuple[str, str]], test: list[tuple[str, str]] = (), task=TASK, **options) -> dict[str, int]:
    """Sentence → rows, for data whose validation split is sound."""
    put("a.csv", list(train))
    put("v.csv", [("one thing", "x"), ("another thing", "y")] if task is TASK else [("one thing", "1")])
    put("t.csv", list(test) or [("third thing", "x"), ("fourth thing", "y")])
    data = Data(path="a.csv", validation="v.csv", test="t.csv", **options)
    return {its.says: its.rows for its in load(data, task.roles, task.kind, seed=42).findings}


def sound(size: int = 20) -> list[tuple[str, str]]:
    return [(WORDS[i], "xy"[i % 2]) for i in range(size)]


def test_sound_rows_give_no_warning():
    assert warnings(sound()) == {}


def test_blank_texts_are_counted_and_the_first_is_placed():
    rows = sound()
    rows[3], rows[8] = (" \u200b", "y"), ("", "x")
    assert warnings(rows) == {
        "The text is empty or blank in 2 rows, first at a.csv:5. Nothing can be learnt from it.": 2
    }


def test_copies_inside_train():
    (says,) = warnings([*sound(), sound()[0], sound()[0], sound()[1]]).items()
    assert says[1] == 3 and "repeated in 3 rows of train" in says[0]


def test_copies_across_splits():
    test = [(WORDS[0], "x"), (WORDS[1].upper(), "y"), ("  " + WORDS[2].replace(" ", " \u00a0"), "x"), ("new", "y")]
    (says,) = warnings(sound(), test).items()
    assert says[1] == 3 and "Of 4 rows of test, 3" in says[0] and "(1 exactly, 2 but for case and spacing)" in says[0]
    assert "in train or validation" in says[0]
    assert list(warnings(sound(), [("one thing", "x"), ("b", "y")]).values()) == [1]


def test_a_text_with_two_labels():
    (says,) = warnings([*sound(), (WORDS[0].upper(), "y"), (WORDS[2] + " ", "x"), (WORDS[4] + " ", "y")]).items()
    assert says[1] == 4 and "2 texts" in says[0] and "(4 rows)" in says[0]


def test_numbers_do_not_conflict():
    task = TextClassification(problem_type="regression")
    rows = [(text, str(i)) for i, (text, _) in enumerate(sound())]
    assert warnings([*rows, (WORDS[0] + " ", "9")], [("third", "2")], task=task) == {}


def test_labels_that_look_alike():
    rows = [(text, label + " " * (i % 4 < 2)) for i, (text, label) in enumerate(sound())]
    found = warnings(rows)
    assert found["2 labels look like one: 'x', 'x '. They differ in case or spaces only; unless that is meant, "
                 "make them one in the files."] == 10  # fmt: skip


def test_one_label_in_nearly_all_rows():
    rows = [(text, "x") for text in WORDS[:38]] + [(text, "y") for text in WORDS[38:42]]
    (says, count), *_ = warnings(rows).items()
    assert says.startswith("90.5% of train has the label 'x'") and "f1_macro" in says and count == 38
    assert not any("%" in says for says in warnings([*rows[4:], ("a fifth", "y")]))


def test_rare_labels_and_labels_missing_from_a_split():
    found = warnings([*sound(), ("a", "rare"), ("b", "rare")])
    assert [says.split(".")[0] for says in found] == [
        "The label 'rare' has fewer than 5 rows in train",
        "The label 'rare' has no row in validation",
        "The label 'rare' has no row in test",
    ]
    assert set(found.values()) == {2}
    found = warnings([*sound(), *((f"{word}!", "enough") for word in "abcde")])
    assert not any("fewer than" in says for says in found)


def test_a_listed_label_without_rows():
    (says,) = warnings(sound(), labels=["x", "y", "z"])
    assert says == "The label 'z' has no row in train. A model can't learn what it never sees."


def test_a_label_named_twice_in_a_row():
    rows = [(text, f"{label}|{label}" if i == 0 else label) for i, (text, label) in enumerate(sound())]
    assert warnings(rows, label_separator="|") == {"A label is named more than once in 1 row; it counts once.": 1}


@given(st.text(), st.text(alphabet=" \t\n\u00a0", max_size=3))
def test_case_and_spacing_do_not_matter(text, space):
    assert normalised(space + text.replace(" ", " " + space) + space) == normalised(text)
    assert normalised(normalised(text)) == normalised(text)


def test_the_normalised_form():
    assert normalised(" Straße\n\u2003X ") == "strasse x" and normalised("e\u0301") == normalised("é")
    assert normalised("ab") != normalised("a b")


def test_blank_is_what_shows_nothing():
    assert all(is_blank(text) for text in ("", " ", "\t\n", "\u200b\u200d\u2060", "\x01\x07", "\ufeff"))
    assert not any(is_blank(text) for text in ("nan", "NULL", ".", " \u200bx", "👩\u200d👩", "ﷲ"))


def test_keys_tell_rows_apart_whatever_the_chunks():
    draw = random.Random(0)
    words = ["".join(draw.choices("abAB ", k=4)) for _ in range(300)]
    whole = keys({"text": pa.chunked_array([words[:150]]), "text_pair": pa.chunked_array([words[150:]])})
    parts = keys(
        {
            "text": pa.chunked_array([words[:7], words[7:150]]),
            "text_pair": pa.chunked_array([words[150:299], words[299:]]),
        }
    )
    assert (whole.exact == parts.exact).all() and (whole.normal == parts.normal).all()
    pairs = list(zip(words[:150], words[150:], strict=True))
    assert len(set(whole.exact.tolist())) == len(set(pairs))
    assert len(set(whole.normal.tolist())) == len({(normalised(a), normalised(b)) for a, b in pairs})
    swapped = keys({"text": pa.chunked_array([["a", "b"]]), "text_pair": pa.chunked_array([["b", "a"]])})
    assert len(set(swapped.exact.tolist())) == 2
