"""Learnt prompts as new tokens, which the tokenizer itself puts before every text."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from hfadapt.errors import Problem, RecipeError
from hfadapt.methods.base import Adaptation

if TYPE_CHECKING:
    from torch import nn

    from hfadapt.backbones.base import Anatomy
    from hfadapt.methods.base import Surroundings

_FREQUENT = 5_000
"""Vocabularies begin with what is frequent; Lester et al. sample from so many tokens."""
_PROBES = (("The soup was hot.",), ("The soup was hot.", "The room was cold."))


class Prompts(Adaptation):
    """New tokens before every text, of which nothing but the embeddings is learnt.

    What comes out is a plain model whose vocabulary has grown, with a plain tokenizer that inserts them.
    """

    def wrap(self, model: nn.Module, anatomy: Anatomy) -> nn.Module:
        """Make parameters of the new tokens' embeddings, beside the vocabulary.

        Raises:
            RecipeError: the model looks its tokens up in a way of its own.
        """
        from torch import nn

        from hfadapt.methods._rows import LearntRows

        # Where `prepare` refused there are none, and planning goes on to find what else is wrong.
        tokens = getattr(model.config, "prompt_tokens", None)
        if tokens is None:
            return model
        reader = _reader(model)
        embedding = reader.get_input_embeddings()
        if type(embedding) is not nn.Embedding:
            says = f"The embedding of this backbone is a {type(embedding).__name__}, of which no rows can be learnt."
            raise RecipeError(Problem(says, "adapt"))
        reader.set_input_embeddings(LearntRows(embedding, **tokens))
        return model

    def finish(self, model: nn.Module) -> nn.Module:
        """Let the vocabulary grow by the learnt embeddings."""
        its: Any = model
        reader = _reader(model)
        embedding = reader.get_input_embeddings().merged()
        reader.set_input_embeddings(embedding)
        its.config.get_text_config().vocab_size = embedding.num_embeddings
        del its.config.prompt_tokens
        return model


def learnt(model: nn.Module) -> list[str]:
    """The names of the parameters that are the new tokens' embeddings."""
    from hfadapt.methods._rows import LearntRows

    return [f"{name}.learnt" for name, module in model.named_modules() if isinstance(module, LearntRows)]


def _reader(model: nn.Module) -> Any:
    """The part of a model that reads tokens: of two towers that of texts."""
    from transformers import PreTrainedModel

    towers = (child for child in model.children() if isinstance(child, PreTrainedModel))
    return next((tower for tower in towers if tower.main_input_name == "input_ids"), model)


def add(tokenizer: Any, names: Sequence[str], starts: Sequence[Sequence[int]], around: Surroundings) -> None:
    """Let a tokenizer put new tokens before every text, wherever it is loaded, and tell `wrap` of them.

    starts: for each new token the ids whose embeddings' mean its own starts from.

    Raises:
        RecipeError: the tokenizer can't, or has such tokens already, or no text would fit beside them.
    """
    if not getattr(tokenizer, "is_fast", False):
        says = (
            f"The tokenizer of '{around.source.name}' is written in Python, and can't insert learnt tokens by itself."
        )
        raise RecipeError(Problem(says, "adapt", hint="Use a backbone with a tokenizer.json."))
    if taken := sorted(tokenizer.get_vocab().keys() & set(names)):
        says = f"The tokenizer of '{around.source.name}' has the token '{taken[0]}' already."
        raise RecipeError(Problem(says, "adapt", hint="Adapt the backbone that it was made of."))
    before = [tokenizer(*texts)["input_ids"] for texts in _PROBES]
    tokenizer.add_tokens(list(names), special_tokens=True)
    ids = tokenizer.convert_tokens_to_ids(list(names))
    _insert(tokenizer, names, ids)
    _settle(tokenizer)
    if tokenizer.num_special_tokens_to_add(pair=True) >= tokenizer.model_max_length:
        says = f"With {len(names)} learnt tokens no text fits into {tokenizer.model_max_length} tokens."
        raise RecipeError(Problem(says, "adapt", hint="Learn fewer."))
    if not _kept(tokenizer, around, before, ids):
        says = f"The tokenizer of '{around.source.name}' would forget learnt tokens when it is loaded again."
        raise RecipeError(Problem(says, "adapt", hint="Use another method."))
    around.config.prompt_tokens = {"first": ids[0], "starts": [list(s) for s in starts]}


def words(tokenizer: Any, text: str, number: int) -> list[list[int]]:
    """So many tokens of a text, one after the other and again from its start, to start from."""
    return [[i] for i in islice(cycle(tokenizer(text, add_special_tokens=False)["input_ids"]), number)]


def frequent(tokenizer: Any, number: int) -> list[list[int]]:
    """So many of the vocabulary's frequent words, evenly spread, to start from."""
    tokens = tokenizer.convert_ids_to_tokens(range(min(_FREQUENT, tokenizer.vocab_size)))
    special = set(tokenizer.all_special_ids)
    plain = [i for i in range(len(tokens)) if i not in special]
    # `Ġ` and `▁` stand for the blank before a word.
    found = [i for i in plain if len(word := tokens[i].lstrip("Ġ▁")) > 2 and word.removesuffix("</w>").isalpha()]
    found = found or plain
    return [[found[k * len(found) // number]] for k in range(number)]


def _insert(tokenizer: Any, names: Sequence[str], ids: Sequence[int]) -> None:
    """Replace what puts special tokens around a text, or a pair, by what does the same and inserts ours before it.

    How the tokenizer does it now is read off what it makes of texts: BERT, RoBERTa and CLIP each have a
    processor of their own.
    """
    from tokenizers import processors

    known = dict(zip(names, ids, strict=True))
    templates = []
    for texts in _PROBES:
        encoding = tokenizer.backend_tokenizer.encode(*texts)
        pieces: list[str] = []
        for token, i, place, kind in zip(
            encoding.tokens, encoding.ids, encoding.sequence_ids, encoding.type_ids, strict=True
        ):
            if place is None:
                known[token] = i
                pieces.append(f"{token}:{kind}")
            elif (piece := f"${'AB'[place]}:{kind}") not in pieces:
                pieces += [f"{name}:{kind}" for name in names if place == 0] + [piece]
        templates.append(pieces)
    single, pair = templates
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=list(known.items())
    )


def _settle(tokenizer: Any) -> None:
    """Make of a tokenizer one that is loaded as it was saved.

    BERT's, RoBERTa's and CLIP's own classes make their processor anew whenever they are loaded. What the class
    says of inputs and sides must then be said by the tokenizer.
    """
    from transformers import PreTrainedTokenizerFast

    for name in ("model_input_names", "padding_side", "truncation_side"):
        tokenizer.init_kwargs[name] = getattr(tokenizer, name)
    tokenizer.__class__ = PreTrainedTokenizerFast


def _kept(tokenizer: Any, around: Surroundings, before: Sequence[Sequence[int]], new: Sequence[int]) -> bool:
    """Whether the tokenizer, loaded from where it was saved, does what it did before and inserts the new tokens."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        around.config.save_pretrained(folder)
        loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=around.trust_remote_code)
    here, there = [[each(*texts) for texts in _PROBES] for each in (tokenizer, loaded)]
    rest = [[i for i in found["input_ids"] if i not in new] for found in here]
    return [dict(found) for found in here] == [dict(found) for found in there] and rest == [list(b) for b in before]
