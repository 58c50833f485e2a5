"""Raw targets to labels and ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfadapt.data import rows, targets
from hfadapt.data.columns import Column
from hfadapt.data.labels import Labels, shown_names
from hfadapt.data.table import Batch, Table
from hfadapt.errors import DataError
from hfadapt.recipe import Data


class Column1(Table):
    """A table of one column."""

    def __init__(self, values: list[Any]):
        super().__init__("t")
        self._values = values

    @property
    def columns(self):
        return {"y": True}

    def batches(self, columns, bad):
        yield Batch(range(1, len(self._values) + 1), [self._values])


def raw(values: list[Any]) -> rows.Rows:
    return rows.read([Column1(values)], {"label": Column("y", "recipe")}, [], []).rows


def understand(kind, train: list[Any], test: list[Any] = (), listed=(), known=None, **options):
    splits = {"train": raw(train), **({"test": raw(test)} if test else {})}
    return targets.understand(splits, kind, Data(path="x", **options), listed=listed, known=known)


def names(train: list[Any], **options) -> tuple[str, ...]:
    return understand("label", train, **options)[0].names


def refused(kind, train: list[Any], test: list[Any] = (), **options) -> dict[int, str]:
    """Row → why it is refused, of the last split."""
    return list(understand(kind, train, test, **options)[1].values())[-1].refused


def stops(kind, train: list[Any], **options) -> str:
    with pytest.raises(DataError) as caught:
        understand(kind, train, **options)
    return str(caught.value)


def test_labels_are_as_many_as_the_head_has_outputs():
    labels = Labels("label", ("no", "yes"))
    assert len(labels) == 2 and labels.id_of == {"no": 0, "yes": 1} and labels.shown() == "'no', 'yes'"
    assert len(Labels("number")) == 1 and Labels("number").shown() == "a number"
    assert shown_names([*"abcdef"], limit=2) == "'a', 'b' and 4 more"
    assert len(shown_names(["x" * 1000])) == 62


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["b", "a", "b"], ("a", "b")),
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["10", "9", "x"], ("10", "9", "x")),
        ([10, 9, 2], ("2", "9", "10")),
        ([1.0, 0.0, 10.0], ("0", "1", "10")),
        (["1.0", "0.0"], ("0.0", "1.0")),
        ([True, False], ("false", "true")),
        (["b ", "B", " b", "b"], (" b", "B", "b", "b ")),
        (["nan", "None", "é"], ("None", "nan", "é")),
    ],
)
def test_names_and_their_order(values, expected):
    assert names(values) == expected


@given(st.lists(st.text(max_size=5) | st.integers(-50, 50).map(str), min_size=1))
def test_an_order_does_not_depend_on_that_of_the_rows(values):
    once = targets.ordered(values)
    assert once == targets.ordered(reversed(values)) and sorted(once) == sorted(set(values))


def test_the_order_of_the_recipe_the_checkpoint_and_the_source():
    assert names(["a", "b", "c"], labels=["c", "a", "b"]) == ("c", "a", "b")
    assert names([1, 0], labels=[1, 0]) == ("1", "0")
    assert names(["a", "b"], listed=("b", "a", "z")) == ("b", "a", "z")
    assert names(["a", "b"], known=["b", "a"]) == ("b", "a")
    assert names(["a", "b"], known=["b", "c"]) == ("a", "b")
    assert names(["a", "b"], known=["b", "a", "a"]) == ("a", "b")
    assert names(["a", "b"], known=["b", "a"], listed=("a", "b")) == ("b", "a")
    assert names(["a", "b"], known=["b", "a"], labels=["a", "b"]) == ("a", "b")


def test_ids():
    its = understand("label", ["b", "a", "b"], ["a", "b"])[1]
    assert its["train"].ids.tolist() == [1, 0, 1] and its["test"].ids.tolist() == [0, 1]
    assert its["train"].ids.dtype == np.int64 and not its["train"].refused


def test_rows_whose_label_is_missing_or_of_another_type():
    wrong = refused("label", ["a", "", None, float("nan"), ["a"], {"b": 1}, 1, "b", "a\ud800"])
    assert list(wrong) == [1, 2, 3, 4, 5, 6, 8]
    assert wrong[1] == wrong[2] == wrong[3] == "The label is missing."
    assert wrong[4] == "The label is a list, ['a']; expected one label."
    assert wrong[6] == "The label is a number, 1; in most rows it is a text."
    assert "surrogate" in wrong[8]


def test_the_type_of_most_rows_counts():
    assert list(refused("label", [1, 2, 2, "a"])) == [3]
    assert list(refused("label", [1, 1.0, True])) == [2]


def test_labels_that_train_lacks_are_refused():
    assert refused("label", ["a", "b"], ["b", "c"]) == {1: "The label 'c' is not among those of train: 'a', 'b'."}
    assert refused("labels", [["a"], ["b"]], [["b", "c"], []]) == {
        0: "The label 'c' is not among those of train: 'a', 'b'."
    }
    assert list(refused("label", ["a", "b", "c"], labels=["a", "b"])) == [2]
    assert "of data.labels" in refused("label", ["a", "b", "c"], labels=["a", "b"])[2]


def test_a_number_in_one_file_and_its_text_in_another_are_one_label():
    assert understand("label", [1, 0], ["0", "1"])[1]["test"].ids.tolist() == [0, 1]


@pytest.mark.parametrize("values", [[0.5, 1.0], ["0.5", "1"], [0.5, None, float("nan"), 1.0]])
def test_measurements_are_no_labels(values):
    assert "problem_type: regression" in stops("label", values) and "0.5" in stops("label", values)
    assert names([str(v) for v in (0.5, 1.25)], labels=["0.5", "1.25"]) == ("0.5", "1.25")


def test_version_numbers_beside_words_are_labels():
    assert names(["1.5", "2.0", "none"]) == ("1.5", "2.0", "none")


def test_several_labels_a_row():
    labels, its = understand("labels", [["b", "a"], [], ["b", "b"], ["c"]])
    assert labels.names == ("a", "b", "c") and its["train"].repeated.tolist() == [False, False, True, False]
    assert its["train"].ids.tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert its["train"].ids.dtype == np.int8


def test_labels_in_one_text():
    labels, its = understand("labels", ["b|a", "", "b| c |", "a"], label_separator="|")
    assert labels.names == ("a", "b", "c")
    assert its["train"].ids.tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 1], [1, 0, 0]]
    assert list(refused("labels", ["a", None, 3, ["b"]], label_separator="|")) == [1, 2]


def test_lists_of_numbers_and_flags():
    assert understand("labels", [[10, 9], [2]])[0].names == ("2", "9", "10")
    assert understand("labels", [[True], [False]])[0].names == ("false", "true")


def test_rows_of_a_list_column_that_are_no_lists():
    wrong = refused("labels", [["a"], "a", None, ["a", None], [["a"]], ["", "b"]])
    assert list(wrong) == [1, 2, 3, 4, 5]
    assert "a text, 'a'" in wrong[1] and "missing" in wrong[2] and "In the list" in wrong[3]


def test_texts_without_a_separator_are_no_lists():
    assert stops("labels", ["a|b", "c"]).startswith("data.label_separator: ")


def test_vectors_of_0_and_1_are_not_names():
    assert "lists of 0 and 1" in stops("labels", [[0, 1, 0], [1, 0, 0]])
    assert understand("labels", [[0, 1], [1], []])[0].names == ("0", "1")


def test_numbers():
    labels, its = understand("number", ["4.5", 3, "-2", 1e300, " 7 ", "1e-3"])
    assert its["train"].ids.tolist() == [4.5, 3.0, -2.0, 1e300, 7.0, 1e-3] and len(labels) == 1
    wrong = refused("number", ["1", "", None, "nan", "inf", "3,5", "high", True, ["1"], "1_0", float("nan"), 10**400])
    assert list(wrong) == list(range(1, 12))
    assert "missing" in wrong[1] and "finite" in wrong[3] and "finite" in wrong[4]
    assert "write a point" in wrong[5] and "comma" not in wrong[6] and "missing" in wrong[10]


def test_names_in_the_recipe_must_fit():
    assert "more than once: 'a'" in stops("label", ["a", "b"], labels=["a", "b", "a"])
    assert "predicts a number" in stops("number", ["1", "2"], labels=["a", "b"])


def test_a_constant_target_teaches_nothing():
    one = Labels("label", ("no", "yes"))
    assert "label 'yes'" in str(targets.constant(np.array([1, 1]), one)[0])
    assert "number 2.5" in str(targets.constant(np.array([2.5, 2.5]), Labels("number"))[0])
    assert "same labels" in str(
        targets.constant(np.array([[1, 0], [1, 0]], np.int8), one and Labels("labels", ("a", "b")))[0]
    )
    assert not targets.constant(np.array([1, 0]), one) and not targets.constant(np.array([], np.int64), one)


def test_long_values_are_cut_in_messages():
    assert len(refused("number", ["1", "x" * 5000])[1]) < 120


def test_the_first_targets_leave_out_missing_ones():
    assert targets.first(raw([None, "a", "", 0, [], "b"]), 4) == ["a", 0, [], "b"]
