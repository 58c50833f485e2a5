"""How well pictures find their texts and texts their pictures, from the embeddings of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfadapt.scoring.kinds import RECALLED_AT, WAYS
from hfadapt.scoring.sums import Sums
from hfadapt.scoring.tally import BLOCK_ROWS, Score, refuse_predictions, score_of

Floats = NDArray[np.float64]
Embeddings = NDArray[np.float32]
Ids = NDArray[np.int64]

BLOCK_VALUES = 2**22
"""So many similarities are held at a time, 16 MB, or those of `FEWEST_ROWS` pictures."""
FEWEST_ROWS = 64
TIED = 2e-6
"""Similarities this close are tied: in float32 the same two embeddings differ by less from place to place."""


class Retrieval:
    """Counts which pictures find their texts and back; takes rows in batches of any size, as a tally does.

    `image_to_text_recall@K` is the share of distinct pictures that have one of their texts among the
    K most similar of all distinct texts, by the cosine; `text_to_image_recall@K` is the same the other
    way round, and `recall@K` is the mean of the two. Among equal similarities every order is as
    likely, and the expected recall is counted: a model that gives everything one embedding scores
    as chance does.

    Intervals are percentiles over bootstrap replicates of the queries: a picture or a text counts
    as often as the row that it first came with was drawn. What is searched stays as it is, since a
    smaller or larger gallery would be another problem. Pictures that share a text are still drawn
    one by one, so with few distinct texts the intervals say nothing about other texts.

    Memory grows with the distinct pictures and texts (4 bytes a dimension of each), not with their
    product; time does with the product, about 10 s for 20,000 of each in 512 dimensions.
    """

    def __init__(self, *, replicates: int = 0, seed: int = 0):
        """Start empty; replicates: for the intervals, 0 for none; seed: what they depend on."""
        self._replicates, self._seed = replicates, seed
        self._images, self._texts = _Gallery(), _Gallery()
        self._pairs: list[Ids] = []
        self._scores: dict[str, Score] | None = None
        self._first: Floats = np.empty(0)

    def add(self, predicted: Mapping[str, NDArray[Any]], targets: NDArray[Any]) -> None:
        """Add rows; of a picture or text that comes again, the first embedding stands.

        Args:
            predicted: `image_embeds` and `text_embeds`, each (rows, dimensions), of any length.
            targets: (rows, 2) ids of the row's picture and of its text.

        Raises:
            HfadaptError: an embedding is not finite.
            ValueError: wrong shapes.
        """
        if self._scores is not None:
            raise RuntimeError("Retrieval.add was called after Retrieval.scores, which ends the stream")
        images, texts = (np.asarray(predicted[name], np.float32) for name in ("image_embeds", "text_embeds"))
        targets = np.asarray(targets)
        if images.ndim != 2 or images.shape != texts.shape or targets.shape != (len(images), 2):
            shapes = f"{images.shape}, {texts.shape} and {targets.shape}"
            raise ValueError(f"expected shapes (rows, d), (rows, d) and (rows, 2), got {shapes}")
        refuse_predictions(np.hstack([images, texts]))
        ids = targets.astype(np.int64)
        self._pairs.append(np.column_stack([self._images.add(ids[:, 0], images), self._texts.add(ids[:, 1], texts)]))

    def scores(self) -> dict[str, Score]:
        """The scores of all rows; no more can be added."""
        if self._scores is None:
            pairs = np.concatenate(self._pairs) if self._pairs else np.empty((0, 2), np.int64)
            self._scores = self._computed(pairs) if len(pairs) else {}
        return dict(self._scores)

    @property
    def first(self) -> Floats:
        """How likely the text of each row finds one of its pictures before any other: (rows,). No more can be added."""
        self.scores()
        return self._first

    def _computed(self, pairs: Ids) -> dict[str, Score]:
        found = _found(self._images.embeddings(), self._texts.embeddings(), pairs)
        self._first = found[1][pairs[:, 1], 0]
        sums = Sums(self._replicates, self._seed)
        columns = [np.ones((len(pairs), 1))]
        for queries, hits in zip(pairs.T, found, strict=True):
            new = np.zeros((len(pairs), 1))
            new[np.unique(queries, return_index=True)[1]] = 1
            columns += [new, new * hits[queries]]
        rows = np.hstack(columns)
        for start in range(0, len(rows), BLOCK_ROWS):
            sums.add(rows[start : start + BLOCK_ROWS])
        samples = sums.samples()
        asked = np.split(samples[:, 1:], 2, axis=1)
        with np.errstate(invalid="ignore"):  # replicates that drew no query of one way become NaN, and do not count
            recalls = [way[:, 1:] / way[:, :1] for way in asked]
        return _named(recalls, [len(hits) for hits in found])


def chance(pairs: Ids) -> dict[str, Score]:
    """The expected recall of a random order, without intervals; pairs: (rows, 2) ids of picture and text.

    A picture with p of N texts finds none of its own among K with probability C(N - p, K) / C(N, K).
    """
    if not len(pairs):
        return {}
    places = np.column_stack([np.unique(column, return_inverse=True)[1] for column in np.asarray(pairs).T])
    distinct = np.unique(places, axis=0)
    own = [np.bincount(column) for column in distinct.T]
    recalls = [
        _hits(np.zeros_like(mine), np.full_like(mine, len(others)), mine).mean(axis=0, keepdims=True)
        for mine, others in zip(own, reversed(own), strict=True)
    ]
    return _named(recalls, [len(mine) for mine in own])


class _Gallery:
    """Distinct pictures or texts, in the order in which they came."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._parts: list[Embeddings] = []

    def add(self, ids: Ids, embeddings: Embeddings) -> Ids:
        """The place of each row's item: (rows,)."""
        before = len(self._places)
        at = np.array([self._places.setdefault(i, len(self._places)) for i in ids.tolist()], np.int64)
        places, rows = np.unique(at, return_index=True)
        fresh = embeddings[rows[places >= before]].astype(np.float64)
        lengths = np.linalg.norm(fresh, axis=1, keepdims=True)
        self._parts.append((fresh / np.where(lengths > 0, lengths, 1)).astype(np.float32))
        return at

    def embeddings(self) -> Embeddings:
        """Of length 1, or 0 where the embedding was: (items, dimensions)."""
        return np.concatenate(self._parts)


def _found(images: Embeddings, texts: Embeddings, pairs: Ids) -> tuple[Floats, Floats]:
    """The expected hits of each picture and of each text: (pictures, K) and (texts, K)."""
    pairs = np.unique(pairs, axis=0)
    similar = _of_pairs(images, texts, pairs)
    best = [np.full(len(items), -np.inf, np.float32) for items in (images, texts)]
    for way in (0, 1):
        np.maximum.at(best[way], pairs[:, way], similar)
    own = [
        np.bincount(pairs[similar >= best[way][pairs[:, way]] - TIED, way], minlength=len(best[way])) for way in (0, 1)
    ]
    better, close = _counted(images, texts, best)
    # `close` counts what was multiplied in another order than `similar`, so may miss one at the very edge
    return tuple(  # type: ignore[return-value]
        _hits(better[way], np.maximum(close[way] - better[way], own[way]), own[way]) for way in (0, 1)
    )


def _of_pairs(images: Embeddings, texts: Embeddings, pairs: Ids) -> Embeddings:
    """The similarity within each pair: (pairs,)."""
    step = max(1, BLOCK_VALUES // images.shape[1])
    blocks = (pairs[start : start + step] for start in range(0, len(pairs), step))
    return np.concatenate([np.einsum("rd,rd->r", images[block[:, 0]], texts[block[:, 1]]) for block in blocks])


def _counted(images: Embeddings, texts: Embeddings, best: list[Embeddings]) -> tuple[list[Ids], list[Ids]]:
    """How many items are better than a query's best own one, and how many are at least tied with it.

    Both come as counts for (pictures,) and for (texts,), from one pass over the similarities.
    """
    better, close = ([np.zeros(len(items), np.int64) for items in (images, texts)] for _ in range(2))
    step = max(FEWEST_ROWS, BLOCK_VALUES // len(texts))
    for start in range(0, len(images), step):
        rows = slice(start, start + step)
        similar = images[rows] @ texts.T
        for counts, above in ((better, TIED), (close, -TIED)):
            counts[0][rows] = np.count_nonzero(similar > (best[0][rows] + np.float32(above))[:, None], axis=1)
            counts[1] += np.count_nonzero(similar > best[1] + np.float32(above), axis=0)
    return better, close


def _hits(better: Ids, tied: Ids, own: Ids) -> Floats:
    """The chance that one of a query's own items is among the first K: (queries, K of RECALLED_AT).

    Args:
        better: how many of the others are before all of its own, (queries,).
        tied: how many, its own among them, share the next places in random order, (queries,).
        own: how many of those are its own, (queries,).
    """
    missed = np.ones(len(better))
    found = []
    for place in range(max(RECALLED_AT)):
        drawn = place - better  # of the tied ones, before this place
        still = np.clip(tied - own - drawn, 0, None) / np.maximum(tied - drawn, 1)
        missed *= np.where(drawn >= 0, still, 1)
        if place + 1 in RECALLED_AT:
            found.append(1 - missed)
    return np.column_stack(found)


def _named(recalls: list[Floats], queries: list[int]) -> dict[str, Score]:
    """Scores of both ways' (samples, K) and of their mean, in the order of `kinds.PAIRED`."""
    ways = [("", (recalls[0] + recalls[1]) / 2, sum(queries))]
    ways += [(f"{way}_", samples, asked) for way, samples, asked in zip(WAYS, recalls, queries, strict=True)]
    found = {
        f"{way}recall@{k}": score_of(samples[:, i], asked)
        for way, samples, asked in ways
        for i, k in enumerate(RECALLED_AT)
    }
    return {metric: score for metric, score in found.items() if score is not None}
