"""A file of answers goes on after a kill, and is whole when it appears."""

from __future__ import annotations

import csv
import json

import pytest

from hfadapt.drafting import Draft, check, flat
from hfadapt.errors import HfadaptError

OF = {"model": "a", "rows": 4}
ANSWERS = [{"label": f"{i}\n{i}", "labels": ["a", "b"], "probabilities": {"a": i / 8, "b": 0.5}} for i in range(4)]


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file)) if path.suffix == ".csv" else [json.loads(line) for line in file]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_what_was_safe_stays_and_what_was_torn_goes(ending, tmp_path):
    out = tmp_path / f"answers.{ending}"
    first = Draft(out, OF)
    first.add(ANSWERS[:2])
    first.add(ANSWERS[2:3])
    first.file.write("torn, half a li")
    first.file.close()
    assert not out.exists()
    again = Draft(out, OF)
    assert again.rows == 3
    again.add(ANSWERS[3:])
    again.finish()
    wanted = [{key: str(value) for key, value in flat(a).items()} for a in ANSWERS] if ending == "csv" else ANSWERS
    assert read(out) == wanted and [path.name for path in tmp_path.iterdir()] == [out.name]


def test_a_draft_of_something_else_is_begun_anew(tmp_path):
    out = tmp_path / "a.jsonl"
    for of, damage in (({**OF, "rows": 5}, None), (OF, b""), (OF, b"{"), (OF, b'{"of": 1}')):
        draft = Draft(out, OF)
        draft.add(ANSWERS)
        draft.file.close()
        if damage is not None:
            draft.note.write_bytes(damage)
        fresh = Draft(out, of)
        assert fresh.rows == 0 and fresh.path.stat().st_size == 0, (of, damage)
        fresh.file.close()
    draft = Draft(out, OF)
    draft.add(ANSWERS)
    draft.file.close()
    draft.path.write_bytes(b"short")
    assert Draft(out, OF).rows == 0, "the note says more than the draft holds"


def test_two_processes_do_not_write_one_file(tmp_path):
    out = tmp_path / "a.jsonl"
    first = Draft(out, OF)
    first.add(ANSWERS[:1])
    with pytest.raises(HfadaptError, match=r"Another process is writing .*a\.jsonl'\. Wait for it"):
        Draft(out, OF)
    first.file.close()
    assert Draft(out, OF).rows == 1


def test_what_can_not_be_written_is_told(tmp_path):
    with pytest.raises(HfadaptError, match=r"--out must end in \.csv or \.jsonl, not in '\.txt'"):
        check(tmp_path / "a.txt")
    with pytest.raises(HfadaptError, match="can't be written: No such file or directory"):
        Draft(tmp_path / "none" / "a.csv", OF)


def test_a_full_disk_is_told_and_costs_nothing(tmp_path, monkeypatch):
    draft = Draft(tmp_path / "a.jsonl", OF)
    draft.add(ANSWERS[:2])

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(HfadaptError, match=r"No space left on device\. The answers before are safe"):
        draft.add(ANSWERS[2:])
    draft.file.close()
    assert Draft(tmp_path / "a.jsonl", OF).rows == 2


def test_nothing_answered_makes_an_empty_file(tmp_path):
    draft = Draft(tmp_path / "a.csv", OF)
    draft.finish()
    assert (tmp_path / "a.csv").read_bytes() == b""
