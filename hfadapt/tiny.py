"""A random small stand-in for any kind of backbone: its architecture, a vocabulary of its own, no knowledge."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hfadapt.backbones.base import Family, family_of
from hfadapt.errors import HfadaptError

_DECODERS = {"gpt2", "llama"}
"""Kinds whose tokenizers add no tokens around a text and know no padding."""
_SIDE = 32
"""Width and height of a picture, in pixels."""


def checkpoint(
    folder: str | Path,
    model_type: str,
    texts: Iterable[str] = (),
    *,
    auto_class: str = "AutoModel",
    seed: int = 0,
    **config: Any,
) -> Path:
    """Save a small random model of a kind with its processors; returns the folder.

    texts: what the tokenizer of a kind that reads texts is learnt from; auto_class: what is saved
    (`AutoModelForMaskedLM` leaves out a pooler, say); config: further arguments of its configuration.

    Raises:
        HfadaptError: no family speaks of this kind, so its test size is unknown.
    """
    import transformers

    family = family_of(model_type)
    if family is None:
        raise HfadaptError(f"No family speaks of the kind '{model_type}'.")
    # With the usual 0.02 all inputs look alike to so narrow a body, and no head could tell them apart.
    arguments: dict[str, Any] = {"initializer_range": 0.2, **family.tiny}
    if family.modality != "text":
        image_processor(family.model_types[0]).save_pretrained(folder)
    if family.modality != "image":
        reader = _tokenizer_of(model_type, family, list(texts))
        reader.save_pretrained(folder)
        ids = {f"{name}_token_id": getattr(reader, f"{name}_token_id") for name in ("pad", "bos", "eos", "cls", "sep")}
        words = {"vocab_size": len(reader), **ids}
        nested = family.tiny.get("text_config")
        arguments = arguments | {"text_config": words | nested} if nested else words | arguments
    made = transformers.AutoConfig.for_model(model_type, **arguments | config)
    transformers.set_seed(seed)
    # Where a kind has several classes for one task, transformers looks for their names here.
    made.architectures = made.architectures or []
    model = getattr(transformers, auto_class).from_config(made)
    settle(model)
    model.save_pretrained(folder)
    return Path(folder)


def image_processor(model_type: str, side: int = _SIDE) -> Any:
    """The image processor of a kind, for square pictures of a side in pixels; needs no torchvision.

    Raises:
        KeyError: transformers names none for this kind.
    """
    import transformers
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    made = getattr(transformers, IMAGE_PROCESSOR_MAPPING_NAMES[model_type]["pil"])
    sizes = {name: getattr(made, name, None) for name in ("size", "crop_size")}
    return made(**{name: dict.fromkeys(size, side) for name, size in sizes.items() if size})


def settle(model: Any, side: int = _SIDE) -> None:
    """Give a model what only pretraining gives it, and without which it could hardly learn.

    The temperature and the bias of a SigLIP start where its paper starts them (section 3.2,
    https://arxiv.org/abs/2303.15343). Batch norms get the statistics of random blots, as a pretrained model's
    are those of its pictures; side: of the blots, in pixels.
    """
    import torch
    from torch import nn

    if hasattr(model, "logit_bias"):
        nn.init.constant_(model.logit_scale, math.log(10))
        nn.init.constant_(model.logit_bias, -10)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the mean over all that it sees
    blots = nn.functional.interpolate(torch.randn(64, 3, 4, 4), size=(side, side), mode="bilinear")
    with torch.no_grad():
        model.train()(pixel_values=blots)
    for norm, before in zip(norms, momentum, strict=True):
        norm.momentum = before


def _tokenizer_of(model_type: str, family: Family, texts: Sequence[str]) -> Any:
    if family.modality == "text":
        return tokenizer(texts, decoder=model_type in _DECODERS)
    # Where the end of a text has the id 2, CLIP takes the highest id in the text for its end.
    special = ("<s>", "<pad>", "<unk>", "</s>", "<mask>")
    # A text tower that reads the last position sees the padding, so it is given no mask.
    inputs = ["input_ids"] if family.fixed_length else ["input_ids", "attention_mask"]
    return tokenizer(texts, special=special, model_input_names=inputs)


def tokenizer(
    texts: Sequence[str],
    *,
    decoder: bool = False,
    size: int = 400,
    # The padding token has id 1 where RoBERTa expects it.
    special: Sequence[str] = ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    **options: Any,
) -> Any:
    """A byte-pair tokenizer learnt from texts; that of an encoder puts `<s>` and `</s>` around a text.

    special: the first tokens of an encoder's vocabulary; options: further arguments of the tokenizer.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>"] if decoder else list(special)
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
            single="<s> $A </s>",
            pair="<s> $A </s> </s> $B </s>",
            special_tokens=[(t, special.index(t)) for t in ("<s>", "</s>")],
        )
        names |= {
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "mask_token": "<mask>",
            "cls_token": "<s>",
            "sep_token": "</s>",
        }
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=64, **names, **options)
