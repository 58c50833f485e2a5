"""What all tasks on texts share: the tokenizer and its limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from hfadapt.backbones.base import family_of
from hfadapt.errors import HfadaptError, Problem
from hfadapt.tasks._classification import Classification

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from hfadapt.backbones.base import Source


class TextTask(Classification):
    """The base of tasks that answer a text, or a pair of texts, with labels or a number."""

    modality: ClassVar = "text"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    pipeline: ClassVar[str] = "text-classification"

    max_length: Annotated[int, Field(ge=4)] | None = None
    """The most tokens of a text, or of both texts of a pair; longer ones are cut at the end.
    By default 256, or what the backbone takes if that is less."""

    def processor(self, source: Source, config: PreTrainedConfig) -> Any:
        """The checkpoint's tokenizer; a model that was never padded gets its end token as padding.

        Raises:
            HfadaptError: the checkpoint has no tokenizer, or none that could pad.
        """
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(source.path, **source.options)
        except (OSError, ValueError, KeyError) as error:
            says = f"'{source.name}' has no tokenizer that transformers can load."
            raise HfadaptError(Problem(says, "model", hint="Save one into its folder.")) from error
        if not tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens):
            # What transformers makes up for a folder that has none.
            says = f"'{source.name}' has no tokenizer that transformers can load."
            raise HfadaptError(Problem(says, "model", hint="Save one into its folder."))
        if tokenizer.pad_token_id is None:
            if tokenizer.eos_token is None:
                raise HfadaptError(
                    Problem(f"The tokenizer of '{source.name}' has no padding and no end token.", "model")
                )
            tokenizer.pad_token = tokenizer.eos_token
        if config.pad_token_id is None:
            config.pad_token_id = tokenizer.pad_token_id
        family = family_of(config.model_type)
        positions = getattr(config, "max_position_embeddings", None) or 1 << 30
        most = min(tokenizer.model_max_length, positions - (family.positions_offset if family else 0))
        if self.max_length and self.max_length > most:
            says = f"{self.max_length} is more than the {most} tokens that '{source.name}' takes."
            raise HfadaptError(Problem(says, "task.max_length"))
        tokenizer.model_max_length = self.max_length or min(256, most)
        return tokenizer

    def lengths(self, rows: Mapping[str, Sequence[Any]], processor: Any) -> list[int]:
        """The number of tokens of each row, special tokens included."""
        pairs = rows.get("text_pair")
        encoded = processor(
            list(rows["text"]), list(pairs) if pairs is not None else None, truncation=False, verbose=False
        )
        return [len(ids) for ids in encoded["input_ids"]]

    def limit(self, processor: Any) -> int:
        """The most tokens of a row."""
        return int(processor.model_max_length)

    def encode(self, rows: Mapping[str, Sequence[Any]], processor: Any) -> dict[str, list[Any]]:
        """Tokens of each row, cut to the processor's `model_max_length`, not padded."""
        pairs = rows.get("text_pair")
        encoded = processor(
            list(rows["text"]), list(pairs) if pairs is not None else None, truncation=True, padding=False
        )
        return dict(encoded)

    def collator(self, processor: Any) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Pads a batch to its longest row."""
        return _Pad(processor)


class _Pad:
    """A class rather than a closure, so that worker processes that are spawned can pickle it."""

    def __init__(self, processor: Any):
        self.processor = processor

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        targets = [row["labels"] for row in rows if "labels" in row]
        inputs = [{key: value for key, value in row.items() if key != "labels"} for row in rows]
        batch = dict(self.processor.pad(inputs, padding=True, return_tensors="pt"))
        if targets:
            batch["labels"] = torch.as_tensor(targets)
        return batch
