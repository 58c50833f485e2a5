"""Which column plays which role."""

from __future__ import annotations

import pytest

from hfadapt.data.columns import Column, choose, likely_targets
from hfadapt.data.table import Table
from hfadapt.errors import DataError, Problem
from hfadapt.tasks.base import Role

ROLES = {
    "text": Role("text", "", ("text", "sentence")),
    "text_pair": Role("text", "", ("text2",), optional=True),
    "label": Role("target", "", ("label", "target")),
}


class Fake(Table):
    def __init__(self, shown: str, columns: dict[str, bool] | str, broken: bool = False):
        super().__init__(shown)
        self._columns = columns if isinstance(columns, dict) else dict.fromkeys(columns.split(), True)
        self._broken = broken

    @property
    def columns(self):
        if self._broken:
            raise DataError(Problem(where=self.shown, says="Broken."))
        return self._columns

    def batches(self, columns, bad):
        raise NotImplementedError


def names(columns: str | dict[str, bool], **named: str) -> dict[str, str]:
    return {role: its.name for role, its in choose(named, ROLES, [Fake("t.csv", columns)]).items()}


def refused(*tables: Fake, **named: str) -> str:
    with pytest.raises(DataError) as caught:
        choose(named, ROLES, tables)
    return str(caught.value)


def test_columns_named_by_the_recipe():
    found = choose({"text": "a", "text_pair": "b", "label": "c"}, ROLES, [Fake("t.csv", "c b a text label")])
    assert found == {role: Column(name, "recipe") for role, name in zip(ROLES, "abc", strict=True)}


def test_usual_names_are_guessed_most_telling_first():
    found = choose({}, ROLES, [Fake("t.csv", "sentence text other target label")])
    assert found == {"text": Column("text", "inferred"), "label": Column("label", "inferred")}
    assert names("Sentence TARGET x") == {"text": "Sentence", "label": "TARGET"}


def test_an_exact_name_wins_over_one_in_another_case():
    assert names("TEXT text label") == {"text": "text", "label": "label"}


def test_the_text_is_the_only_other_column_of_strings():
    assert names("review label") == {"text": "review", "label": "label"}
    assert names({"id": False, "review": True, "label": True}) == {"text": "review", "label": "label"}


def test_optional_roles_are_never_guessed():
    assert names("text text2 label") == {"text": "text", "label": "label"}


def test_a_named_column_is_not_guessed_for_another_role():
    assert names("sentence text label", text_pair="text") == {"text": "sentence", "text_pair": "text", "label": "label"}


@pytest.mark.parametrize(
    ("columns", "field"),
    [("a b label", "data.text"), ("Text TEXT label", "data.text"), ("text one two", "data.label")],
)
def test_an_open_choice_is_an_error_that_lists_the_columns(columns, field):
    says = refused(Fake("t.csv", columns))
    assert says.startswith(f"t.csv: {field}: ") and f"`{field}: COLUMN`" in says
    assert all(f"'{name}'" in says for name in columns.split())


def test_a_name_that_is_not_there():
    says = refused(Fake("t.csv", "text label"), label="lable")
    assert (
        says
        == "data.label: There is no column 'lable' in 't.csv'. Columns found: 'text', 'label'. Did you mean 'label'?"
    )


def test_every_table_needs_the_columns():
    says = refused(Fake("a.csv", "text label"), Fake("b.csv", "sentence category"), Fake("c.csv", "text Label"))
    lines = says.splitlines()
    assert len(lines) == 3 and sum(line.startswith("b.csv: ") for line in lines) == 2
    assert "'sentence', 'category'" in lines[0] and "Did you mean 'Label'?" in lines[2]


def test_all_tables_that_do_not_open_are_told():
    assert refused(Fake("a.csv", "", broken=True), Fake("b.csv", "", broken=True)).count("Broken.") == 2


def test_one_column_for_two_roles():
    assert refused(Fake("t.csv", "text label"), text="text", text_pair="text") == (
        "data.text_pair: Column 'text' is named for two roles."
    )


def test_columns_that_hold_targets_are_known_for_prediction():
    table = Fake("t.csv", "text label other")
    assert likely_targets({}, ROLES, table) == {"label"}
    assert likely_targets({"label": "other"}, ROLES, table) == {"label", "other"}
