"""Rows that are encoded before training."""

from __future__ import annotations

import os
import threading

import datasets
import pytest

from hfadapt.training import encoding
from hfadapt.training.encoding import encode_all, threads

ROWS = datasets.Dataset.from_dict({"text": [f"text {'x' * (i % 7)}" for i in range(2500)]})
IDS = [[len(text)] * (len(text) % 3) for text in ROWS["text"][:]]


def encode(batch):
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
    return {"input_ids": [[len(text)] * (len(text) % 3) for text in batch["text"]]}


@pytest.mark.parametrize("before", ["false", "true", None])
def test_a_tokenizer_has_threads_for_a_while(before, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    for name, value in (("TOKENIZERS_PARALLELISM", before), ("RAYON_NUM_THREADS", None)):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    with pytest.raises(ZeroDivisionError), threads():
        assert (os.environ["TOKENIZERS_PARALLELISM"], os.environ["RAYON_NUM_THREADS"]) == ("true", "3")
        raise ZeroDivisionError
    # Unset, a forked process would warn of threads that it has not.
    assert os.environ["TOKENIZERS_PARALLELISM"] == (before or "false")
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    with threads():
        assert os.environ["RAYON_NUM_THREADS"] == "1"


def test_one_process_encodes_in_memory():
    made = encode_all(ROWS, encode)
    assert made.column_names == ["input_ids"] and made["input_ids"][:] == IDS and not made.cache_files


def test_processes_that_do_not_ask_together_encode_for_themselves(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    made = encode_all(ROWS, lambda batch: {"input_ids": [[os.environ["TOKENIZERS_PARALLELISM"]]] * len(batch["text"])})
    assert made["input_ids"][0] == ["false"]


def test_the_first_process_of_a_machine_encodes_for_all(monkeypatch, tmp_path):
    meeting, this, encoders = threading.Barrier(2, timeout=30), threading.local(), []

    class State:
        """Of a process; here of a thread."""

        is_local_main_process = property(lambda self: this.first)

        def wait_for_everyone(self):
            meeting.wait()

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("accelerate.PartialState", State)
    monkeypatch.setattr(encoding, "agreed", lambda value: "same")
    monkeypatch.setattr(encoding.tempfile, "gettempdir", lambda: str(tmp_path))
    found = {}

    def process(first: bool) -> None:
        this.first = first

        def told(batch):
            encoders.append(this.first)
            return encode(batch)

        found[first] = encode_all(ROWS, told, together=True)

    both = [threading.Thread(target=process, args=(first,)) for first in (True, False)]
    for one in both:
        one.start()
    for one in both:
        one.join(60)
    assert set(encoders) == {True}
    assert found[True]["input_ids"][:] == found[False]["input_ids"][:] == IDS
    assert not any(tmp_path.iterdir())
