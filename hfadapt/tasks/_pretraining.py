"""Masked modelling as tasks that the engine trains: what stands in the masked places is told from the rest."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hfadapt.kind import IGNORED, Kind
from hfadapt.tasks.base import Columns, Encoded, Task

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from hfadapt.backbones.base import Source
    from hfadapt.data.labels import Labels


class Masked(Task):
    """What both kinds share: each visit to a row masks other parts of it, and nothing is answered or judged."""

    lazy: ClassVar[bool] = True
    pipeline: ClassVar[str] = ""
    roles: ClassVar = {}
    examples: ClassVar = ()

    task: Any
    """The recipe's; it encodes the rows."""
    share: float
    """How much is masked."""

    @abstractmethod
    def fits(self, row: Encoded, processor: Any) -> bool:
        """Whether anything of a row can be masked."""

    @property
    def varies(self) -> bool:
        """Always."""
        return True

    def kind(self, target: Sequence[Any], separator: str | None) -> Kind:
        """As if it were a number."""
        return "number"

    def score(self, kind: Kind) -> str:
        """The loss, which is all there is."""
        return "loss"

    def configure(self, config: PreTrainedConfig, labels: Labels) -> None:
        """Nothing is written: there are no labels."""

    def encode(self, rows: Columns, processor: Any) -> dict[str, list[Any]]:
        """`vary` did it, for what is masked depends on what is drawn."""
        return {name: list(values) for name, values in rows.items()}

    def weights(self, targets: np.ndarray, labels: Labels) -> None:
        """None: all parts count alike."""

    def predictions(self, found: Mapping[str, np.ndarray], kind: Kind) -> Any:
        """Never asked for."""
        raise TypeError("pretraining is not judged")

    def answers(self, found: Mapping[str, np.ndarray], labels: Labels) -> list[dict[str, Any]]:
        """Never asked for."""
        raise TypeError("pretraining is not judged")

    def processor(self, source: Source, config: PreTrainedConfig) -> Any:
        """That of the recipe's task."""
        return self.task.processor(source, config)


class MaskedText(Masked):
    """Masked language modelling, https://arxiv.org/abs/1810.04805, section 3.1.

    A share of the tokens is chosen; of these 80% become the mask token, 10% a random one, and 10% stay.
    """

    modality: ClassVar = "text"
    auto_class: ClassVar[str] = "AutoModelForMaskedLM"

    words: int
    """How many tokens the model knows."""

    def fits(self, row: Encoded, processor: Any) -> bool:
        """Whether a token of it is not special."""
        return not np.isin(row["input_ids"], processor.all_special_ids).all()

    def vary(self, rows: Columns, processor: Any, draws: Sequence[np.random.Generator]) -> Columns:
        """Tokens, some of them masked, and `labels`: the tokens that were there, and -100 elsewhere.

        rows: as the recipe's task encodes them, with `input_ids`.
        """
        words = _plain_words(processor, self.words)
        pairs = zip(rows["input_ids"], draws, strict=True)
        made = [self._masked(np.asarray(ids), processor, words, draw) for ids, draw in pairs]
        return {**rows, "input_ids": [ids for ids, _ in made], "labels": [targets for _, targets in made]}

    def _masked(
        self, ids: np.ndarray, processor: Any, words: np.ndarray, draw: np.random.Generator
    ) -> tuple[list[int], list[int]]:
        """The tokens of a text after masking, and the targets; words: the tokens that may be put in place."""
        places = np.flatnonzero(~np.isin(ids, processor.all_special_ids))
        chosen = draw.permutation(places)[: max(1, round(self.share * len(places)))]
        fate = draw.random(len(chosen))
        masked, targets = ids.copy(), np.full(len(ids), IGNORED)
        targets[chosen] = ids[chosen]
        masked[chosen[fate < 0.8]] = processor.mask_token_id
        other = chosen[(fate >= 0.8) & (fate < 0.9)]
        masked[other] = draw.choice(words, len(other))
        return masked.tolist(), targets.tolist()

    def collator(self, processor: Any) -> _PadBoth:
        """Pads tokens and targets of a batch to its longest row."""
        return _PadBoth(processor)

    def losses(
        self,
        found: Mapping[str, Tensor],
        targets: Tensor,
        kind: Kind,
        weights: Tensor | None = None,
        smoothing: float = 0.0,
        *,
        whole: tuple[Mapping[str, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Cross-entropy of each chosen token, (rows, tokens); `logits`: (rows, tokens, words)."""
        chosen = targets != IGNORED
        losses = torch.zeros(targets.shape, device=targets.device)
        # Elsewhere the logits, by far the largest tensor, need not be looked at.
        losses[chosen] = functional.cross_entropy(found["logits"][chosen].float(), targets[chosen], reduction="none")
        return losses


class MaskedPictures(Masked):
    """Masked image modelling as in SimMIM, https://arxiv.org/abs/2111.09886: square blocks are drawn to be masked."""

    modality: ClassVar = "image"
    auto_class: ClassVar[str] = "AutoModelForMaskedImageModeling"
    reads: ClassVar[tuple[str, ...]] = ("reconstruction",)

    patches: int
    """Patches that the model makes of a picture's side."""
    patch: int
    """Pixels of a patch's side."""

    def fits(self, row: Encoded, processor: Any) -> bool:
        """Any picture can be masked."""
        return True

    def working_side(self, processor: Any) -> int | None:
        """That of the recipe's task."""
        return self.task.working_side(processor)  # type: ignore[no-any-return]

    def vary(self, rows: Columns, processor: Any, draws: Sequence[np.random.Generator]) -> Columns:
        """Pixels, varied as the recipe says, with `bool_masked_pos`, (patches,), and `labels`: masked pixels alone.

        rows: `image`; `labels` are (3, height, width), -100 where nothing is masked.
        """
        varied = self.task.vary(rows, processor, draws) if self.task.varies else rows
        pixels = self.task.encode(varied, processor)["pixel_values"]
        masks = [self.mask(draw) for draw in draws]
        scale = np.ones((self.patch, self.patch), bool)
        targets = [
            np.where(np.kron(mask, scale), its, np.float32(IGNORED)) for mask, its in zip(masks, pixels, strict=True)
        ]
        return {"pixel_values": pixels, "bool_masked_pos": [mask.reshape(-1) for mask in masks], "labels": targets}

    def mask(self, draw: np.random.Generator) -> np.ndarray:
        """Which patches are masked, (patches, patches).

        The blocks are of several patches where that leaves at least six a side: 32 pixels for pictures of 192 or
        224, as in the paper.
        """
        blocks = min(n for n in range(1, self.patches + 1) if self.patches % n == 0 and n >= min(6, self.patches))
        chosen = draw.permutation(blocks**2) < np.ceil(self.share * blocks**2)
        return np.kron(chosen.reshape(blocks, blocks), np.ones((self.patches // blocks,) * 2, bool))

    def collator(self, processor: Any) -> Any:
        """Stacks the rows of a batch."""
        return _stacked

    def losses(
        self,
        found: Mapping[str, Tensor],
        targets: Tensor,
        kind: Kind,
        weights: Tensor | None = None,
        smoothing: float = 0.0,
        *,
        whole: tuple[Mapping[str, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The distance of each masked value from what was there; `reconstruction`: (rows, 3, height, width)."""
        distances = (found["reconstruction"].float() - targets).abs()
        return torch.where(targets == IGNORED, 0.0, distances)


class _PadBoth:
    """A class rather than a closure, so that worker processes that are spawned can pickle it."""

    def __init__(self, processor: Any):
        self.processor = processor

    def __call__(self, rows: list[Encoded]) -> dict[str, Any]:
        inputs = [{key: value for key, value in row.items() if key != "labels"} for row in rows]
        batch = dict(self.processor.pad(inputs, padding=True, return_tensors="pt"))
        targets = torch.full(batch["input_ids"].shape, IGNORED)
        for its, row in zip(targets, rows, strict=True):
            length = len(row["labels"])
            its[slice(-length, None) if self.processor.padding_side == "left" else slice(length)] = torch.tensor(
                row["labels"]
            )
        return {**batch, "labels": targets}


def _stacked(rows: list[Encoded]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}


@lru_cache(maxsize=1)
def _plain_words(processor: Any, words: int) -> np.ndarray:
    """The tokens that are not special, of those that both tokenizer and model know."""
    return np.setdiff1d(np.arange(min(len(processor), words)), processor.all_special_ids)


def masked(
    task: Any, modality: Literal["text", "image"], config: PreTrainedConfig, share: float
) -> MaskedText | MaskedPictures:
    """The masked modelling of what a task reads."""
    if modality == "text":
        return MaskedText(task=task, share=share, words=int(config.vocab_size))
    return MaskedPictures(
        task=task, share=share, patches=config.image_size // config.patch_size, patch=config.patch_size
    )
