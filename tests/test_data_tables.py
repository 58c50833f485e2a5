"""Raw tables: what is in a file comes out exactly, and what is wrong with it has a line."""

from __future__ import annotations

import codecs
import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfadapt.data import encodings, local
from hfadapt.data.table import BadRow
from hfadapt.errors import DataError
from hfadapt.recipe import Data

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def table(path: Path, **options):
    return local.open_file(path, path.name, Data(path=str(path), **options))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows_of(path: Path, *columns: str, **options) -> tuple[list[tuple], list[BadRow]]:
    """(line, value, …) of each row, and the bad rows."""
    bad: list[BadRow] = []
    made = []
    for batch in table(path, **options).batches(columns, bad):
        made += zip(batch.lines, *batch.values, strict=True)
    return made, bad


def refused(path: Path, **options) -> str:
    with pytest.raises(DataError) as caught:
        opened = table(path, **options)
        list(opened.batches(list(opened.columns), []))
    return str(caught.value)


@QUICK
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8), st.sampled_from([",", "\t", ";"]))
def test_any_text_survives_csv(tmp_path, rows, separator):
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator)
    writer.writerow(["a", "b"])
    writer.writerows(rows)
    path = write(tmp_path / "t.csv", out.getvalue())
    found, bad = rows_of(path, "a", "b", separator=separator)
    assert [row[1:] for row in found] == rows and not bad


@QUICK
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8), st.booleans())
def test_any_text_survives_json_lines(tmp_path, rows, ascii_only):
    lines = [json.dumps({"a": a, "b": b}, ensure_ascii=ascii_only) for a, b in rows]
    path = write(tmp_path / "t.jsonl", "\n".join(lines))
    found, bad = rows_of(path, "a", "b")
    assert found == [(i, *row) for i, row in enumerate(rows, 1)] and not bad


def test_words_that_other_readers_take_for_missing_stay_texts(tmp_path):
    words = ["None", "NA", "null", "nan", "NaN", "N/A", "", "true", "1e5"]
    path = write(tmp_path / "t.csv", "text,label\n" + "".join(f"{word},x\n" for word in words))
    assert [row[1] for row in rows_of(path, "text")[0]] == words


def test_the_line_is_where_a_row_starts(tmp_path):
    path = write(tmp_path / "t.csv", 'text,label\r\n"one\r\ntwo",a\r\n\r\nthree,b\r\n')
    assert rows_of(path, "text", "label")[0] == [(2, "one\r\ntwo", "a"), (5, "three", "b")]


def test_columns_come_in_the_order_asked_for(tmp_path):
    path = write(tmp_path / "t.tsv", "a\tb\tc\n1\t2\t3\n")
    assert table(path).columns == {"a": True, "b": True, "c": True}
    assert rows_of(path, "c", "a")[0] == [(2, "3", "1")]


def test_uneven_rows_are_bad_rows(tmp_path):
    path = write(tmp_path / "t.csv", "text,label\na,b\na,b,c\nlonely\na,b\n")
    found, bad = rows_of(path, "text")
    assert [line for line, _ in found] == [2, 5]
    assert [row.where for row in bad] == ["t.csv:3", "t.csv:4"]
    assert "3 fields" in bad[0].says and "header has 2" in bad[0].says


def test_long_fields_are_read(tmp_path):
    path = write(tmp_path / "t.csv", f"text,label\n{'x' * 300_000},a\n")
    assert len(rows_of(path, "text")[0][0][1]) == 300_000


def test_many_rows_come_in_batches(tmp_path):
    path = write(tmp_path / "t.csv", "text,label\n" + "".join(f"{i},a\n" for i in range(25_000)))
    sizes = [len(batch.lines) for batch in table(path).batches(["text"], [])]
    assert len(sizes) == 3 and sum(sizes) == 25_000


@pytest.mark.parametrize(
    ("content", "place", "words"),
    [
        ("", "t.csv:1", ["empty"]),
        ("\n\n", "t.csv:1", ["empty"]),
        ("text,text\na,b\n", "t.csv:1", ["'text'", "more than once"]),
        (",text\n0,a\n", "t.csv:1", ["Column 1 of 2 has no name", "index=False"]),
        ("text;label\na;b\n", "t.csv:1", ["'text;label'", "`data.separator: ';'`"]),
        ("text\tlabel\na\tb\n", "t.csv:1", ['`data.separator: "\\t"`']),
        ('text,label\na,b\n"open,b\nc,d\n', "t.csv:3", ["quote", "not closed", "end of the file"]),
        ('text,label\n"open,b\n"next",d\n', "t.csv:2", ["quote", "on line 3"]),
        ("te\0xt,label\na,b\n", "t.csv:1", ["NUL"]),
    ],
)
def test_broken_csv_has_a_place(tmp_path, content, place, words):
    says = refused(write(tmp_path / "t.csv", content))
    assert says.startswith(place) and all(word in says for word in words)


def test_a_single_column_may_hold_a_separator_if_the_recipe_names_one(tmp_path):
    path = write(tmp_path / "t.csv", "a;b\nx\n")
    assert list(table(path, separator=",").columns) == ["a;b"]


def test_a_nul_makes_a_bad_row(tmp_path):
    found, bad = rows_of(write(tmp_path / "t.csv", "text,label\na\0b,x\nc,y\n"), "text")
    assert [line for line, _ in found] == [3] and bad[0].where == "t.csv:2" and "NUL" in bad[0].says


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "cp1252", "latin-1", "utf-16-le"])
def test_the_encoding_that_the_recipe_names(tmp_path, encoding):
    path = write(tmp_path / "t.csv", "text,label\ncafé,ü\n".encode(encoding))
    assert rows_of(path, "text", "label", encoding="utf-8" if encoding == "utf-8-sig" else encoding)[0] == [
        (2, "café", "ü")
    ]
    lines = write(tmp_path / "t.jsonl", '{"text": "café"}\n'.encode(encoding))
    assert rows_of(lines, "text", encoding="utf-8" if encoding == "utf-8-sig" else encoding)[0] == [(1, "café")]


@pytest.mark.parametrize(
    ("written", "read", "advised"),
    [
        ("cp1252", "utf-8", "cp1252"),
        ("utf-16", "utf-8", "utf-16"),
        ("utf-32", "utf-8", "utf-32"),
        ("utf-8", "ascii", "utf-8"),
        ("utf-8", "utf-16", "utf-8"),
    ],
)
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.json"])
def test_a_wrong_encoding_is_told_and_never_guessed(tmp_path, written, read, advised, name):
    content = "text,label\ncafé,x\n" if name == "t.csv" else '[{"text": "café"}]\n'
    says = refused(write(tmp_path / name, content.encode(written)), encoding=read)
    assert f"isn't {read}" in says and f"`data.encoding: {advised}`" in says


def test_utf16_without_a_mark_is_told(tmp_path):
    says = refused(write(tmp_path / "t.csv", "text,label\na,b\n".encode("utf-16-le")))
    assert "NUL" in says and "`data.encoding: utf-16-le`" in says


def test_the_first_byte_that_does_not_fit_is_named(tmp_path):
    before = "text,label\n" + "ä,b\n" * 5000
    says = refused(write(tmp_path / "t.csv", before.encode() + b"caf\xe9,b\n"))
    assert says.startswith("t.csv:5002:") and f"{len(before.encode()) + 3:,}" in says


def test_a_cut_character_at_the_end_is_found(tmp_path):
    path = write(tmp_path / "t.csv", "text,label\na,é".encode()[:-1])
    assert encodings._failure(path, "utf-8") == (13, 2)
    assert "isn't utf-8" in refused(path)


def test_json_lines_keep_their_numbers_and_lose_nothing_in_silence(tmp_path):
    content = '{"a": "x"}\n\n{"a": "y"\n[1]\n{"b": 1}\n{"a": "\u2028"}\r\n' + "[" * 100_000 + "\n"
    found, bad = rows_of(write(tmp_path / "t.jsonl", codecs.BOM_UTF8 + content.encode()), "a")
    assert found == [(1, "x"), (5, None), (6, "\u2028")]
    assert [row.where for row in bad] == ["t.jsonl:3", "t.jsonl:4", "t.jsonl:7"]
    assert "not JSON" in bad[0].says and "found a list" in bad[1].says and "deep" in bad[2].says


@pytest.mark.parametrize(
    "content",
    [
        '[\n {"a": "x",\n "b": 1},\n {"a": "y"}\n]\n',
        '{"version": {"data": []},\n"data": [{"a": "x"},\n\n{"a": "y"}],\n "more": 1}',
    ],
)
def test_json_lists_know_the_lines_of_their_records(tmp_path, content):
    expected = [(2, "x"), (4, "y")]
    assert rows_of(write(tmp_path / "t.json", content), "a")[0] == expected


def test_json_lines_in_a_json_file(tmp_path):
    path = write(tmp_path / "t.json", '{"a": "x"}\n{"a": "y"}\n')
    assert rows_of(path, "a")[0] == [(1, "x"), (2, "y")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('[{"a": 1},\n{"a": }]', "t.json:2: The file is not JSON"),
        ('[{"a": 1}\n{"a": 2}]', "t.json:2: The file is not JSON: Expecting ','"),
        ('[{"a": 1}', "t.json:1: The file is not JSON"),
        ('[{"a": 1}]\n[{"a": 2}]', "t.json:2: The file is not JSON: Extra data"),
        ('{"data" [1]}', "t.json:1: The file is not JSON"),
        ('{"rows":\n [{"a": 1}]}', "t.json: Expected a list of objects"),
        ("", "t.json: Expected a list of objects"),
        ("[]", "t.json: The file holds no records"),
        ("[1, 2]", 't.json:1: Expected an object like {"text": …}, found a number.'),
    ],
)
def test_broken_json_has_a_place(tmp_path, content, says):
    assert refused(write(tmp_path / "t.json", content)).startswith(says)


def test_json_columns_and_which_hold_texts(tmp_path):
    lines = ['{"a": "x", "n": 1}', '{"a": null, "l": ["q"]}', '{"a": "y", "n": "two", "m": true}', '{"n": 3}']
    columns = table(write(tmp_path / "t.jsonl", "\n".join(lines))).columns
    assert columns == {"a": True, "n": False, "l": False, "m": False}


def test_parquet(tmp_path):
    path = tmp_path / "t.parquet"
    content = {"text": ["a", None, "c"], "n": [1, 2, 3], "l": [["x"], [], None], "m": [[("k", 1)]] * 3}
    kinds = {"text": pa.string(), "n": pa.int64(), "l": pa.list_(pa.string()), "m": pa.map_(pa.string(), pa.int64())}
    pq.write_table(pa.table({k: pa.array(v, kinds[k]) for k, v in content.items()}), path)
    assert table(path).columns == {"text": True, "n": False, "l": False, "m": False}
    assert rows_of(path, "l", "text")[0] == [(1, ["x"], "a"), (2, [], None), (3, None, "c")]


def test_rows_of_parquet_are_numbered_through(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"n": range(25_000)}), path, row_group_size=7_000)
    rows, _ = rows_of(path, "n")
    assert len(rows) == 25_000 and all(line == n + 1 for line, n in rows)


def test_label_ids_in_parquet_read_as_names(tmp_path):
    import datasets

    one = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"label": one, "labels": datasets.List(one)})
    rows = datasets.Dataset.from_dict({"label": [1, -1, 0], "labels": [[1, 0], [], [1]]}, features=features)
    path = tmp_path / "t.parquet"
    rows.to_parquet(path)
    assert table(path).label_names("label") == table(path).label_names("labels") == ("no", "yes")
    expected = [(1, "yes", ["yes", "no"]), (2, None, []), (3, "no", ["yes"])]
    assert rows_of(path, "label", "labels")[0] == expected


def test_corrupt_parquet_is_one_sentence(tmp_path):
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.table({"text": [str(i) for i in range(5000)]}), whole)
    content = bytearray(whole.read_bytes())
    says = refused(write(tmp_path / "t.parquet", bytes(content[: len(content) // 2])))
    assert says.startswith("t.parquet: The parquet file can't be read") and "\n" not in says
    content[200:2000] = bytes(1800)
    says = refused(write(tmp_path / "t.parquet", bytes(content)))
    assert says.startswith("t.parquet: The parquet file can't be read") and "\n" not in says


def test_a_suffix_that_is_not_read_names_those_that_are(tmp_path):
    assert "'.xlsx' are not read" in refused(write(tmp_path / "t.xlsx", "")) and ".csv" in refused(tmp_path / "t.xlsx")


def test_a_file_without_permission_is_one_sentence(tmp_path, monkeypatch):
    path = write(tmp_path / "t.csv", "a,b\n")

    def closed(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", closed)
    assert refused(path) == "t.csv: The file can't be read: Permission denied."
