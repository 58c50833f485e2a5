"""A random small stand-in for any kind of backbone: its architecture, a vocabulary of its own, no knowledge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hfadapt.backbones.base import family_of
from hfadapt.errors import HfadaptError

_DECODERS = {"gpt2", "llama"}
"""Kinds whose tokenizers add no tokens around a text and know no padding."""


def checkpoint(
    folder: str | Path,
    model_type: str,
    texts: Iterable[str],
    *,
    auto_class: str = "AutoModel",
    seed: int = 0,
    **config: Any,
) -> Path:
    """Save a small random model of a kind with a tokenizer learnt from texts; returns the folder.

    auto_class: what is saved (`AutoModelForMaskedLM` leaves out a pooler, say); config: further arguments
    of its configuration.

    Raises:
        HfadaptError: no family speaks of this kind, so its test size is unknown.
    """
    import transformers

    family = family_of(model_type)
    if family is None:
        raise HfadaptError(f"No family speaks of the kind '{model_type}'.")
    processor = tokenizer(list(texts), decoder=model_type in _DECODERS)
    made = transformers.AutoConfig.for_model(
        model_type,
        **{
            "vocab_size": len(processor),
            "pad_token_id": processor.pad_token_id,
            "bos_token_id": processor.bos_token_id,
            "eos_token_id": processor.eos_token_id,
            "cls_token_id": processor.cls_token_id,
            "sep_token_id": processor.sep_token_id,
            # With the usual 0.02 all texts look alike to so narrow a body, and no head could tell them apart.
            "initializer_range": 0.2,
            **family.tiny,
            **config,
        },
    )
    transformers.set_seed(seed)
    getattr(transformers, auto_class).from_config(made).save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)


def tokenizer(texts: Sequence[str], *, decoder: bool = False, size: int = 400) -> Any:
    """A byte-pair tokenizer learnt from texts; that of an encoder puts `<s>` and `</s>` around a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    # The padding token has id 1 where RoBERTa expects it.
    special = ["<s>", "</s>"] if decoder else ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    if not decoder:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
        names |= {
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "mask_token": "<mask>",
            "cls_token": "<s>",
            "sep_token": "</s>",
        }
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=64, **names)
