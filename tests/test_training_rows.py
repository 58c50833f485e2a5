"""The order of an epoch: complete, seeded, the same however a batch is divided."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfadapt.training.rows import Order, Rows, balanced


def rows(size: int, width: int = 0) -> Rows:
    labels = [[i % 2] * width for i in range(size)] if width else [i % 3 for i in range(size)]
    lengths = np.random.default_rng(0).integers(3, 40, size)
    return Rows(datasets.Dataset.from_dict({"input_ids": [[1] * n for n in lengths], "labels": labels}), lengths)


def order(of: Rows, **changes) -> Order:
    settings = {"strategy": "group_by_length", "batch": 8, "together": 8, "seed": 1, "epoch": lambda: 0} | changes
    return Order(of, **settings)


@given(
    size=st.integers(1, 60),
    batch=st.integers(1, 9),
    processes=st.integers(1, 3),
    strategy=st.sampled_from(["random", "sequential", "group_by_length"]),
)
def test_an_epoch_visits_every_row_once_and_ghosts_fill_it_up(size, batch, processes, strategy):
    together = batch * processes
    visited = list(order(rows(size), strategy=strategy, batch=together, together=together))
    real = [i for i in visited if i < size]
    assert sorted(real) == list(range(size))
    assert len(visited) % together == 0 and len(visited) - size < together
    assert visited[: len(real)] == real, "ghosts come last"


def test_the_order_depends_on_seed_and_epoch_alone():
    some = rows(50)
    assert list(order(some)) == list(order(some))
    assert list(order(some)) != list(order(some, seed=2))
    assert list(order(some)) != list(order(some, epoch=lambda: 1))


def test_grouping_saves_padding():
    some = rows(400)

    def padded(strategy: str) -> int:
        visited = order(some, strategy=strategy).visit(0)
        return sum(some.lengths[visited[i : i + 8]].max() * 8 for i in range(0, 400, 8))

    assert padded("group_by_length") < 0.75 * padded("random")


def test_a_short_batch_stays_last():
    some = rows(21)
    visited = order(some, together=1).visit(0)
    assert sorted(visited.tolist()) == list(range(21))
    batches = [set(visited[i : i + 8].tolist()) for i in range(0, 21, 8)]
    assert [len(b) for b in batches] == [8, 8, 5]


@given(each=st.integers(1, 6), processes=st.integers(2, 4), accumulated=st.integers(1, 2), size=st.integers(1, 120))
def test_processes_get_texts_of_the_same_lengths(each, processes, accumulated, size):
    """Of the rows that all read at once, dealt out as Accelerate does it."""
    some, together = rows(size), each * processes
    given = {"batch": together * accumulated, "together": together}
    alone, dealt = (order(some, processes=number, **given).visit(0) for number in (1, processes))
    for start in range(0, size, together):
        one, both = (visited[start : start + together] for visited in (alone, dealt))
        assert sorted(one) == sorted(both)
        if len(both) == together:
            lengths = some.lengths[both].reshape(processes, each)
            assert np.ptp(lengths.sum(1)) <= np.ptp(lengths), "as close as the lengths allow"


@pytest.mark.parametrize("width", [0, 2])
def test_a_ghost_is_its_row_with_an_ignored_target(width):
    some = rows(5, width)
    ghost, real = some[5 + 3], some[3]
    assert ghost["input_ids"] == real["input_ids"]
    assert ghost["labels"] == ([-100, -100] if width else -100)


def test_balanced_chances_draw_each_label_equally():
    targets = np.array([0] * 90 + [1] * 10)
    chances = balanced(targets)
    assert chances[:90].sum() == pytest.approx(chances[90:].sum())
    some = Rows(datasets.Dataset.from_dict({"labels": targets.tolist()}))
    visited = order(some, strategy="random", together=1, weights=chances).visit(0)
    assert len(visited) == 100 and 30 <= (visited >= 90).sum() <= 70
