"""Recall of pictures and texts is what sorting all similarities gives, ties score as chance, memory is bounded."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from hfadapt.errors import HfadaptError
from hfadapt.scoring import retrieval
from hfadapt.scoring.kinds import PAIRED, best_first, names_for
from hfadapt.scoring.retrieval import Retrieval, chance
from hfadapt.scoring.tally import Score


def retrieved(images, texts, ids, random=None, **options):
    """All rows through a retrieval, in batches of random sizes."""
    found = Retrieval(**options)
    start = 0
    while start < len(ids):
        stop = start + (len(ids) if random is None else int(random.integers(1, len(ids) + 1)))
        found.add({"image_embeds": images[start:stop], "text_embeds": texts[start:stop]}, ids[start:stop])
        start = stop
    return found.scores()


def values(scores):
    return {metric: score.value for metric, score in scores.items()}


def some(random, rows, images, texts, dimensions=6, noise=0.7):
    """Rows that repeat pictures and texts: embeddings of both that somewhat agree, and ids in no order."""
    ids = np.column_stack([random.integers(0, images, rows), random.integers(0, texts, rows)])
    pictures = random.normal(size=(images, dimensions))
    words = random.normal(size=(texts, dimensions))
    for image, text in ids:
        words[text] += pictures[image] / noise
    names = random.permutation(1000)[:images], random.permutation(1000)[:texts]
    return pictures[ids[:, 0]], words[ids[:, 1]], np.column_stack([names[way][ids[:, way]] for way in (0, 1)])


def one_way(queries, gallery, asked, sought, k):
    """Recall by a full sort; asked, sought: the ids of each row's query and item."""
    kinds, first = np.unique(sought, return_index=True)
    items = gallery[first] / np.linalg.norm(gallery[first], axis=1, keepdims=True)
    hits = []
    for query in np.unique(asked):
        row = queries[np.flatnonzero(asked == query)[0]]
        nearest = kinds[np.argsort(-(items @ row))[:k]]
        hits.append(bool(set(nearest) & set(sought[asked == query])))
    return np.mean(hits)


@pytest.mark.parametrize("seed", range(8))
def test_recall_equals_a_full_sort(seed):
    random = np.random.default_rng(seed)
    rows, n_images, n_texts = [(1, 1, 1), (40, 40, 40), (60, 20, 60), (60, 60, 9), (80, 25, 30)][seed % 5]
    images, texts, ids = some(random, rows, n_images, n_texts)
    found = values(retrieved(images, texts, ids, random))
    assert tuple(found) == names_for("pairs", ()) == PAIRED
    for k in (1, 5, 10):
        there = one_way(images, texts, ids[:, 0], ids[:, 1], k)
        back = one_way(texts, images, ids[:, 1], ids[:, 0], k)
        assert found[f"image_to_text_recall@{k}"] == pytest.approx(there), k
        assert found[f"text_to_image_recall@{k}"] == pytest.approx(back), k
        assert found[f"recall@{k}"] == pytest.approx((there + back) / 2), k


def test_perfect_and_reversed():
    # every text is the nearest, or the furthest, of its own picture
    angles = np.linspace(0, np.pi / 2, 40)
    circle = np.column_stack([np.cos(angles), np.sin(angles)])
    ids = np.column_stack([np.arange(40), np.arange(40)])
    found = retrieved(circle, 7 * circle, ids, replicates=20)
    assert set(found.values()) == {Score(1.0, 1.0, 1.0, 40), Score(1.0, 1.0, 1.0, 80)}
    assert found["recall@1"].rows == 80 and found["text_to_image_recall@1"].rows == 40
    assert set(values(retrieved(circle, -circle, ids)).values()) == {0.0}


@pytest.mark.parametrize("embedding", [np.full(512, 0.37), np.zeros(512), np.eye(512)[0] * 1e-30])
def test_a_constant_model_scores_as_chance(embedding):
    random = np.random.default_rng(0)
    ids = np.column_stack([random.integers(0, 70, 150), random.integers(0, 90, 150)])
    ids[100:] = ids[:50]  # a pair that comes twice is still one pair
    same = np.tile(embedding, (150, 1))
    found, expected = values(retrieved(same, same, ids)), values(chance(ids))
    assert found == pytest.approx(expected) and 0 < found["recall@1"] < 0.05
    one_sided = values(retrieved(random.normal(size=(150, 512)), same, ids))
    assert one_sided["image_to_text_recall@5"] == pytest.approx(expected["image_to_text_recall@5"])
    # a collapse that only rounding blurs is no better
    blurred = same + 1e-8 * random.normal(size=same.shape) * np.linalg.norm(embedding)
    assert values(retrieved(blurred, blurred, ids)) == pytest.approx(expected)


def test_ties_count_as_the_mean_over_their_orders():
    random = np.random.default_rng(1)
    corners = random.integers(0, 2, (30, 3)) * 2.0 - 1
    images, texts = corners[random.integers(0, 30, 60)], corners[random.integers(0, 30, 60)]
    ids = np.column_stack([np.arange(60), np.arange(60) % 45])
    texts = texts[ids[:, 1]]
    found = values(retrieved(images, texts, ids))
    drawn = []
    for _ in range(300):
        moved = [side + random.normal(size=side.shape) * 1e-4 for side in (images, texts[:45])]
        drawn.append(list(values(retrieved(moved[0], moved[1][ids[:, 1]], ids)).values()))
    assert np.mean(drawn, axis=0) == pytest.approx(list(found.values()), abs=0.02)
    assert np.std(drawn, axis=0).max() > 0.005


def test_chance_is_the_mean_over_random_orders():
    random = np.random.default_rng(2)
    ids = np.column_stack([random.integers(0, 12, 40), random.integers(0, 25, 40)])
    orders = [
        values(retrieved(random.normal(size=(25, 8))[ids[:, 0]], random.normal(size=(25, 8))[ids[:, 1]], ids))
        for _ in range(400)
    ]
    for metric, score in chance(ids).items():
        assert score.value == pytest.approx(np.mean([order[metric] for order in orders]), abs=0.02), metric
        assert (score.low, score.high) == (None, None)


def test_chance_by_hand():
    assert chance(np.empty((0, 2), np.int64)) == {}
    ids = np.array([[7, 1], [7, 2], [7, 2], [8, 3], [9, 4]])
    found = chance(ids)
    assert found["image_to_text_recall@1"].value == pytest.approx((2 / 4 + 1 / 4 + 1 / 4) / 3)
    assert found["text_to_image_recall@1"].value == pytest.approx(1 / 3)
    assert found["image_to_text_recall@5"].value == 1.0
    assert [found[f"{way}recall@1"].rows for way in ("image_to_text_", "text_to_image_", "")] == [3, 4, 7]
    many = chance(np.array([[i // 5, i] for i in range(500)]))
    expected = 1 - math.comb(495, 10) / math.comb(500, 10)
    assert many["image_to_text_recall@10"].value == pytest.approx(expected)


def test_the_first_embedding_of_an_item_stands():
    ids = np.array([[0, 0], [1, 1], [0, 2], [2, 1]])
    images = np.array([[1.0, 0], [0, 1], [0, -1], [-1, 0]])
    texts = np.array([[1.0, 0.1], [0, 1], [0.9, 0], [1, 0]])
    assert set(values(retrieved(images, texts, ids)).values()) == {1.0}
    assert values(retrieved(images[::-1], texts[::-1], ids[::-1]))["image_to_text_recall@1"] < 1


def test_cuts_and_blocks_do_not_change_scores(monkeypatch):
    random = np.random.default_rng(5)
    images, texts, ids = some(random, 1500, 700, 900)
    whole = retrieved(images, texts, ids, replicates=50, seed=1)
    assert retrieved(images, texts, ids, random, replicates=50, seed=1) == whole
    monkeypatch.setattr(retrieval, "BLOCK_VALUES", 1)
    monkeypatch.setattr(retrieval, "FEWEST_ROWS", 37)
    assert retrieved(images, texts, ids, replicates=50, seed=1) == whole
    other = retrieved(images, texts, ids, replicates=50, seed=2)
    assert values(other) == values(whole) and other != whole
    for score in whole.values():
        assert score.low < score.value < score.high and score.high - score.low < 0.15


def test_intervals_cover_the_spread_over_queries():
    """Half of the pairs are found and half are not: the recalls are means of coins, and both ways agree."""
    rows = 200
    random = np.random.default_rng(0)
    images = random.normal(size=(rows, 300))
    texts = images.copy()
    texts[: rows // 2] *= -1
    found = retrieved(images, texts, np.column_stack([np.arange(rows)] * 2), replicates=2000)
    spread = 1.96 * (0.25 / rows) ** 0.5
    for metric in ("image_to_text_recall@1", "text_to_image_recall@1", "recall@1"):
        assert found[metric].value == pytest.approx(0.5)
        # a pair that neither way finds counts as one draw, so the mean of both ways is no surer
        assert found[metric].high - 0.5 == pytest.approx(spread, rel=0.15)
        assert 0.5 - found[metric].low == pytest.approx(spread, rel=0.15)


def test_the_similarities_are_not_held_at_once():
    random = np.random.default_rng(0)
    images, texts = (random.normal(size=(6000, 8)).astype(np.float32) for _ in range(2))
    ids = np.column_stack([np.arange(6000)] * 2)
    tracemalloc.start()
    retrieved(images, texts, ids)
    top = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert top < 6000 * 6000 * 4 / 3


def test_half_precision_and_empty_batches():
    random = np.random.default_rng(3)
    images, texts, ids = some(random, 50, 50, 50, noise=0.3)
    found = Retrieval()
    found.add({"image_embeds": images[:0], "text_embeds": texts[:0]}, ids[:0])
    found.add({"image_embeds": images.astype(np.float16), "text_embeds": texts.astype(np.float16)}, ids)
    assert values(found.scores())["recall@5"] == pytest.approx(
        values(retrieved(images, texts, ids))["recall@5"], abs=0.05
    )
    assert Retrieval(replicates=9).scores() == {}


def test_bad_rows_are_refused():
    images = np.ones((3, 4))
    ids = np.column_stack([np.arange(3)] * 2)
    broken = images.copy()
    broken[1, 2] = np.nan
    with pytest.raises(HfadaptError, match=r"^1 of 3 predictions are not finite numbers; training has diverged"):
        Retrieval().add({"image_embeds": images, "text_embeds": broken}, ids)
    for predicted, targets in (((images, images[:, :3]), ids), ((images, images), ids[:, 0]), ((images[0],) * 2, ids)):
        with pytest.raises(ValueError, match=r"expected shapes \(rows, d\), \(rows, d\) and \(rows, 2\), got"):
            Retrieval().add(dict(zip(("image_embeds", "text_embeds"), predicted, strict=True)), targets)
    found = Retrieval()
    found.add({"image_embeds": images, "text_embeds": images}, ids)
    assert found.scores() == found.scores() != {}
    with pytest.raises(RuntimeError, match="ends the stream"):
        found.add({"image_embeds": images, "text_embeds": images}, ids)


def test_metrics_are_known():
    assert all(best_first(metric) for metric in PAIRED) and len(PAIRED) == 9
    with pytest.raises(HfadaptError, match="Did you mean 'image_to_text_recall@1'"):
        best_first("image_to_text_recal@1")
