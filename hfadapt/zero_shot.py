"""Classification by the names of the classes, with a backbone that knows pictures and texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hfadapt.backbones.base import Source
from hfadapt.data.prompts import prompt
from hfadapt.errors import HfadaptError, Problem
from hfadapt.scoring.base_to_new import BaseToNew
from hfadapt.scoring.kinds import ZERO_SHOT
from hfadapt.scoring.tally import Score, Tally
from hfadapt.tasks._pictures import stack
from hfadapt.tasks.image_text_contrastive import tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfadapt.training.rows import Rows

_AT_ONCE = 64
_TEXTS_AT_ONCE = 256
_MOST_ROWS = 5_000
"""So many training pictures are looked at to start a head."""
_RIDGE = 1e-3
"""The weight of the ridge penalty, relative to the mean square of the features."""
ALPHAS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""How much Tip-Adapter's memory may weigh beside the names, which at 0 answer alone."""
BETAS = (1.0, 3.0, 5.5, 10.0, 30.0, 100.0)
"""How quickly a remembered picture may count for less as it is less alike; 5.5 is the paper's for ImageNet."""


class ZeroShot:
    """A two-tower checkpoint asked for classes: by templates such as `a photo of a {}.` around their names.

    The embedding of a class is the mean of its sentences' (Radford et al. 2021, section 3.1.4,
    https://arxiv.org/abs/2103.00020).
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any, names: Sequence[str], templates: Sequence[str]):
        self.model = model.eval()
        self.scale = float(model.logit_scale.detach().exp())  # type: ignore[operator,union-attr]
        self.classes = self._classes(tokenizer, names, templates)
        """(classes, dimensions), of unit length."""

    @classmethod
    def of(cls, source: Source, names: Sequence[str], templates: Sequence[str], device: torch.device) -> Self:
        """The untouched checkpoint.

        Raises:
            HfadaptError: it has no tokenizer, or lacks weights of a tower, as a classifier that was made of it does.
        """
        from transformers import AutoModelForZeroShotImageClassification, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(source.path, **source.options)
        except (OSError, ValueError, KeyError) as error:
            says = f"'{source.name}' has no tokenizer that transformers can load, so it can't be asked for classes."
            raise HfadaptError(Problem(says, "model")) from error
        model, found = AutoModelForZeroShotImageClassification.from_pretrained(
            source.path, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **source.options
        )
        if found["missing_keys"]:
            says = f"'{source.name}' lacks weights that join pictures and texts, so it can't be asked for classes."
            raise HfadaptError(Problem(says, "model"))
        limit = model.config.text_config.max_position_embeddings
        tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
        return cls(model.to(device), tokenizer, names, templates)

    @torch.no_grad()
    def _classes(self, tokenizer: Any, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        texts = [prompt(template, name) for name in names for template in templates]
        found = []
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            encoded = tokens(texts[start : start + _TEXTS_AT_ONCE], tokenizer)
            batch = tokenizer.pad(encoded, padding="longest", return_tensors="pt").to(self.model.device)
            features = self.model.get_text_features(**batch).pooler_output  # type: ignore[operator]
            found.append(functional.normalize(features.float(), dim=-1))
        of_class = torch.cat(found).unflatten(0, (len(names), len(templates)))
        return functional.normalize(of_class.mean(1), dim=-1)

    @torch.no_grad()
    def embeddings(self, pictures: Tensor) -> Tensor:
        """pictures: pixel values (rows, 3, height, width) → (rows, dimensions), of unit length."""
        found = self.model.get_image_features(pixel_values=pictures.to(self.model.device)).pooler_output  # type: ignore[operator]
        return functional.normalize(found.float(), dim=-1)

    def logits(self, pictures: Tensor) -> Tensor:
        """pictures: pixel values (rows, 3, height, width) → (rows, classes)."""
        return self.of_embeddings(self.embeddings(pictures))

    def of_embeddings(self, embeddings: Tensor) -> Tensor:
        """embeddings: of pictures, of unit length, (rows, dimensions) → logits (rows, classes)."""
        return embeddings @ self.classes.T * self.scale

    def scores(self, rows: Rows, tally: Tally) -> dict[str, Score]:
        """The scores on rows with one label each."""
        for batch, targets in batches(rows, stack):
            chances = self.logits(batch["pixel_values"]).softmax(-1).cpu().numpy()
            tally.add(chances.astype(np.float64), targets)
        return tally.scores()

    def start(self, model: nn.Module, layer: nn.Linear, rows: Rows, seed: int = 0) -> None:
        """Give a classifier's last layer the answers of the classes' names to start from.

        The Auto classes' heads read another pooling of the tower than the one that the texts were trained
        with, so the class embeddings can't be copied. The layer is fitted to the zero-shot logits of the
        training pictures instead, by ridge regression. Where these logits come from names alone, no label is
        looked at.
        """
        seen: list[Tensor] = []
        hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().double().cpu()))
        was, goals = model.training, []
        model.eval()
        with torch.no_grad():
            for batch, _ in batches(rows, stack, _drawn(len(rows), seed)):
                model(pixel_values=batch["pixel_values"].to(layer.weight.device))
                goals.append(self.logits(batch["pixel_values"]).double().cpu())
        hook.remove()
        model.train(was)
        features, goal = torch.cat(seen), torch.cat(goals)
        goal = goal - goal.mean(1, keepdim=True)
        centre, middle = features.mean(0), goal.mean(0)
        spread = features - centre
        square = spread.T @ spread
        square += torch.eye(len(square), dtype=square.dtype) * _RIDGE * square.diagonal().mean()
        weight = torch.linalg.solve(square, spread.T @ (goal - middle)).T
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(middle - weight @ centre)


class TipAdapter(ZeroShot):
    """A two-tower checkpoint asked for classes by their names and by a memory of training pictures.

    Zhang et al. 2022 (https://arxiv.org/abs/2207.09519): to the logits of the names is added, for each remembered
    picture, `alpha · exp(-beta · (1 - cosine))` at its class. Their Tip-Adapter-F then trains the memory itself;
    here what trains is the head that is fitted to these logits. Such a head is linear in the mean of the tower's
    patches, so it keeps the drift of the memory over all pictures, and not what single ones are remembered for:
    on builtin/scenes it begins at an accuracy of 0.32, where the names alone have 0.33 and the memory 0.44.
    `scores` has the exact answers.
    """

    keys: Tensor
    """Embeddings of the remembered pictures, (pictures, dimensions)."""
    values: Tensor
    """Their classes, (pictures, classes) of 0 and 1."""
    alpha = beta = 0.0

    def remember(self, rows: Rows, shots: int, seed: int) -> None:
        """Take up to so many rows of each class, drawn by the seed, into an empty memory; rows have one label each."""
        targets = np.asarray(rows.table["labels"][:])
        order = np.random.default_rng([seed, 6]).permutation(len(targets))
        drawn = [order[targets[order] == label][:shots] for label in range(len(self.classes))]
        self.keys, labels = self._embedded(rows, np.sort(np.concatenate(drawn)).tolist())
        self.values = functional.one_hot(labels, len(self.classes)).to(self.keys)

    def choose(self, rows: Rows) -> None:
        """Set alpha and beta to those of a small grid that answer most rows rightly; nothing is trained.

        Among equals the likelier answers count, and then the lesser alpha. What is scored on these rows
        afterwards is a little too good.
        """
        embeddings, labels = self._embedded(rows, None)
        tried = []
        for self.alpha in ALPHAS:
            for self.beta in BETAS:
                found = self.of_embeddings(embeddings)
                right = (found.argmax(-1) == labels).float().mean().item()
                tried.append((right, -functional.cross_entropy(found, labels).item(), -self.alpha, self.beta))
        *_, negative, self.beta = max(tried)
        self.alpha = -negative

    def of_embeddings(self, embeddings: Tensor) -> Tensor:
        """embeddings: of pictures, of unit length, (rows, dimensions) → logits (rows, classes)."""
        near = torch.exp(-self.beta * (1 - embeddings @ self.keys.T))
        return super().of_embeddings(embeddings) + self.alpha * near @ self.values

    def _embedded(self, rows: Rows, places: Sequence[int] | None) -> tuple[Tensor, Tensor]:
        """The embeddings and the label ids of some rows, or of all."""
        found = [(self.embeddings(batch["pixel_values"]), targets) for batch, targets in batches(rows, stack, places)]
        embeddings = torch.cat([one for one, _ in found])
        return embeddings, torch.from_numpy(np.concatenate([its for _, its in found])).to(embeddings.device)


class WithZeroShot:
    """Scores of pairs, and beside them how well the classes of the pictures are told by their names."""

    def __init__(
        self,
        pairs: Any,
        ask: Callable[[], ZeroShot],
        class_of: Mapping[int, int],
        tally: Tally,
        sides: BaseToNew | None = None,
    ):
        """pairs: a `Retrieval`; ask: makes what is asked, with the weights that the model has at the first row;
        class_of: picture id → class id, of the pictures whose class is known; sides: counts base and new classes."""
        self.pairs, self.ask, self.class_of, self.tally, self.sides = pairs, ask, class_of, tally, sides
        self.asked: ZeroShot | None = None
        self.counted: set[int] = set()

    def add(self, predicted: Mapping[str, np.ndarray], targets: np.ndarray) -> None:
        """Count rows; a picture counts once for its class."""
        self.pairs.add(predicted, targets)
        fresh = []
        for i, picture in enumerate(targets[:, 0].tolist()):
            if picture in self.class_of and picture not in self.counted:
                self.counted.add(picture)
                fresh.append(i)
        if not fresh:
            return
        self.asked = self.asked or self.ask()
        embeddings = torch.from_numpy(predicted["image_embeds"][fresh]).to(self.asked.classes.device)
        with torch.no_grad():
            chances = self.asked.of_embeddings(embeddings).softmax(-1).double().cpu().numpy()
        classes = np.array([self.class_of[i] for i in targets[fresh, 0].tolist()])
        self.tally.add(chances, classes)
        if self.sides:
            self.sides.add(chances, classes)

    def scores(self) -> dict[str, Score]:
        """Those of the pairs, those of `kinds.ZERO_SHOT`, and of base and new classes where they are told apart."""
        found = {f"zero_shot_{name}": score for name, score in self.tally.scores().items()}
        named = {name: found[name] for name in ZERO_SHOT if name in found}
        return {**self.pairs.scores(), **named, **(self.sides.scores() if self.sides else {})}


def _drawn(rows: int, seed: int) -> list[int]:
    """Places of the rows that a head is fitted to; the first ones may all be of one class."""
    return sorted(np.random.default_rng([seed, 5]).permutation(rows)[:_MOST_ROWS].tolist())


def batches(
    rows: Rows, collate: Any, places: Sequence[int] | None = None
) -> Iterator[tuple[dict[str, Tensor], np.ndarray]]:
    """Inputs and targets of the rows, or of those at some places, a few at a time."""
    places = range(len(rows)) if places is None else places
    for start in range(0, len(places), _AT_ONCE):
        batch = collate(rows.__getitems__(places[start : start + _AT_ONCE]))
        targets = batch.pop("labels").numpy()
        yield batch, targets
