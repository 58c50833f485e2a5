"""Classification by the names of the classes, with a backbone that knows pictures and texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hfadapt.backbones.base import Source
from hfadapt.errors import HfadaptError, Problem
from hfadapt.scoring.tally import Score, Tally
from hfadapt.tasks._pictures import stack
from hfadapt.tasks.image_text_contrastive import tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hfadapt.training.rows import Rows

_AT_ONCE = 64
_MOST_ROWS = 5_000
"""So many training pictures are looked at to start a head."""
_RIDGE = 1e-3
"""The weight of the ridge penalty, relative to the mean square of the features."""


class ZeroShot:
    """A two-tower checkpoint asked for classes: by templates such as `a photo of a {}.` around their names.

    The embedding of a class is the mean of its sentences' (Radford et al. 2021, section 3.1.4,
    https://arxiv.org/abs/2103.00020).
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any, names: Sequence[str], templates: Sequence[str]):
        self.model = model.eval()
        self.scale = float(model.logit_scale.detach().exp())  # type: ignore[operator,union-attr]
        with torch.no_grad():
            self.classes = torch.stack([self._class(tokenizer, name, templates) for name in names])
        """(classes, dimensions), of unit length."""

    @classmethod
    def of(cls, source: Source, names: Sequence[str], templates: Sequence[str], device: torch.device) -> ZeroShot:
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

    def _class(self, tokenizer: Any, name: str, templates: Sequence[str]) -> Tensor:
        encoded = tokens([template.format(name.replace("_", " ")) for template in templates], tokenizer)
        batch = tokenizer.pad(encoded, padding="longest", return_tensors="pt").to(self.model.device)
        found = functional.normalize(self.model.get_text_features(**batch).pooler_output, dim=-1)  # type: ignore[operator]
        return functional.normalize(found.mean(0), dim=-1)

    @torch.no_grad()
    def logits(self, pictures: Tensor) -> Tensor:
        """pictures: pixel values (rows, 3, height, width) → (rows, classes)."""
        found = self.model.get_image_features(pixel_values=pictures.to(self.model.device)).pooler_output  # type: ignore[operator]
        return self.of_embeddings(functional.normalize(found.float(), dim=-1))

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
        training pictures instead, by ridge regression; no label is looked at.
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


class WithZeroShot:
    """Scores of pairs, and beside them how well the classes of the pictures are told by their names."""

    def __init__(self, pairs: Any, asked: ZeroShot, class_of: Mapping[int, int], tally: Tally):
        """pairs: a `Retrieval`; class_of: picture id → class id, of the pictures whose class is known."""
        self.pairs, self.asked, self.class_of, self.tally = pairs, asked, class_of, tally
        self.counted: set[int] = set()

    def add(self, predicted: Mapping[str, np.ndarray], targets: np.ndarray) -> None:
        """Count rows; a picture counts once for its class."""
        self.pairs.add(predicted, targets)
        fresh = []
        for i, picture in enumerate(targets[:, 0].tolist()):
            if picture in self.class_of and picture not in self.counted:
                self.counted.add(picture)
                fresh.append(i)
        if fresh:
            embeddings = torch.from_numpy(predicted["image_embeds"][fresh]).to(self.asked.classes.device)
            with torch.no_grad():
                chances = self.asked.of_embeddings(embeddings).softmax(-1).double().cpu().numpy()
            self.tally.add(chances, np.array([self.class_of[i] for i in targets[fresh, 0].tolist()]))

    def scores(self) -> dict[str, Score]:
        """Those of the pairs, `zero_shot_accuracy` and `zero_shot_f1_macro`."""
        found = self.tally.scores()
        named = {f"zero_shot_{name}": found[name] for name in ("accuracy", "f1_macro") if name in found}
        return {**self.pairs.scores(), **named}


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
