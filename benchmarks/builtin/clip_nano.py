"""Remake builtin/clip-nano: a small CLIP, pretrained on captioned scenes that are drawn as it goes.

Its vision tower begins as builtin/vit-nano, which knows outlines: from nothing, colours are learnt in minutes and
shapes in hours.

    OMP_NUM_THREADS=1 python benchmarks/builtin/clip_nano.py

About 15 minutes of one thread. The same seed, machine and versions give the same weights.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from clip_gains import zero_shot_held_out
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
    ViTModel,
)

from hfadapt.builtin import scenes

PACKAGE = Path(scenes.__file__).parent
PAD, END, START = "<|pad|>", "<|endoftext|>", "<|startoftext|>"
VOCABULARY, LONGEST, WIDTH = 2000, 32, 128
MEAN, STD = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]


def main() -> None:
    """Train, save and judge."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--to", type=Path, default=PACKAGE / "clip-nano")
    arguments.add_argument("--steps", type=int, default=1000)
    arguments.add_argument("--batch", type=int, default=96)
    arguments.add_argument("--learning-rate", type=float, default=6e-4)
    arguments.add_argument("--seed", type=int, default=0)
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(chosen.seed)
    words = tokenizer(chosen.seed)
    model = CLIPModel(config(words))
    begin(model, chosen.seed)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(words)} tokens", flush=True)
    train(model, words, chosen.steps, chosen.batch, chosen.learning_rate, chosen.seed)
    minutes = time.process_time() / 60
    images = CLIPImageProcessor(
        size={"shortest_edge": scenes.SIDE},
        crop_size={"height": scenes.SIDE, "width": scenes.SIDE},
        image_mean=MEAN,
        image_std=STD,
    )
    # The configuration goes on to say float32: what loads these weights trains in it unless told otherwise.
    model.save_pretrained(chosen.to, state_dict={name: weight.half() for name, weight in model.state_dict().items()})
    processor = CLIPProcessor(images, words)
    processor.save_pretrained(chosen.to)
    model = CLIPModel.from_pretrained(chosen.to).eval()
    accuracy = np.mean([zero_shot_held_out(model, processor, seed).mean() for seed in range(3)])
    print(f"zero-shot accuracy on held-out labels {accuracy:.3f}; {minutes:.0f} min", flush=True)
    (chosen.to / "README.md").write_text(readme(model, chosen, float(accuracy), minutes), encoding="utf-8")


def tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE learnt from captions and from the built-in reviews; no text has anything unknown."""
    draw = random.Random(f"words {seed}")
    stream = scenes.pretraining(draw)
    texts = [scenes.caption(draw, next(stream), scenes.PLAIN) for _ in range(5000)]
    texts += [word for plain, others in scenes.SYNONYMS.items() for word in (plain, *others)] * 5
    with (PACKAGE / "reviews" / "train.csv").open(encoding="utf-8", newline="") as file:
        texts += [row["text"] for row in csv.DictReader(file)]
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase(), normalizers.Strip()])
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    # CLIPTextModel pools at the largest id where eos_token_id is 2, and at the first eos elsewhere; so END is 1.
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=[PAD, END, START], initial_alphabet=alphabet, show_progress=False
        ),
    )
    made.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(name, made.token_to_id(name)) for name in (START, END)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token=PAD,
        eos_token=END,
        bos_token=START,
        model_max_length=LONGEST,
        model_input_names=["input_ids", "attention_mask"],
    )


def config(words: PreTrainedTokenizerFast) -> CLIPConfig:
    """Both towers: 36 patches of 8 × 8 pixels, 6 layers, as vit-nano; up to 32 tokens, 3 layers."""
    text = {
        "vocab_size": len(words),
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": LONGEST,
        "projection_dim": WIDTH,
        "pad_token_id": words.pad_token_id,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "hidden_act": "gelu",
        "image_size": scenes.SIDE,
        "patch_size": 8,
        "projection_dim": WIDTH,
    }
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)


@torch.no_grad()
def begin(model: CLIPModel, seed: int) -> None:
    """Give the vision tower the weights of vit-nano.

    CLIP has no bias at the patches, which goes into the positions, and one norm more before the layers, which is
    set to leave the embeddings of scenes nearly as they are.
    """
    nano = ViTModel.from_pretrained(PACKAGE / "vit-nano", dtype=torch.float32, add_pooling_layer=False).eval()
    tower, patches = model.vision_model, nano.embeddings.patch_embeddings.projection
    tower.embeddings.class_embedding.copy_(nano.embeddings.cls_token[0, 0])
    tower.embeddings.patch_embedding.weight.copy_(patches.weight)
    tower.embeddings.position_embedding.weight.copy_(nano.embeddings.position_embeddings[0])
    tower.embeddings.position_embedding.weight[1:] += patches.bias
    draw = random.Random(f"begin {seed}")
    stream = scenes.pretraining(draw)
    shown = np.stack([np.asarray(scenes.picture(draw, next(stream), scenes.PLAIN)) for _ in range(32)])
    embedded = nano.embeddings(pixel_values(shown))
    tower.pre_layrnorm.weight.fill_(float(embedded.std(-1).median()))
    tower.pre_layrnorm.bias.copy_(embedded.mean((0, 1)))
    tower.post_layernorm.load_state_dict(nano.layernorm.state_dict())
    for ours, theirs in zip(tower.encoder.layers, nano.layers, strict=True):
        for name in ("q", "k", "v"):
            projection = getattr(theirs.attention, f"{name}_proj")
            getattr(ours.self_attn, f"{name}_proj").load_state_dict(projection.state_dict())
        ours.self_attn.out_proj.load_state_dict(theirs.attention.o_proj.state_dict())
        ours.mlp.load_state_dict(theirs.mlp.state_dict())
        ours.layer_norm1.load_state_dict(theirs.layernorm_before.state_dict())
        ours.layer_norm2.load_state_dict(theirs.layernorm_after.state_dict())


def pixel_values(pictures: np.ndarray) -> torch.Tensor:
    """What the model sees, (batch, 3, height, width), of pictures (batch, height, width, 3) of 0 to 255."""
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255 - MEAN[0]) / STD[0]


def train(
    model: CLIPModel, words: PreTrainedTokenizerFast, steps: int, batch: int, learning_rate: float, seed: int
) -> None:
    """Symmetric InfoNCE (Radford et al. 2021, https://arxiv.org/abs/2103.00020) on a stream of new scenes."""
    draw = random.Random(f"pretraining {seed}")
    stream = scenes.pretraining(draw)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))
    warm = max(1, steps // 15)
    losses, hits = [], []
    model.train()
    for step in range(steps):
        share = (step + 1) / warm if step < warm else (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * share
        shown = [next(stream) for _ in range(batch)]
        captions = [scenes.caption(draw, scene, scenes.PLAIN) for scene in shown]
        pictures = np.stack([np.asarray(scenes.picture(draw, scene, scenes.PLAIN)) for scene in shown])
        logits = similarities(model, words, pictures, captions)
        loss, hit = contrast(logits, captions)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        losses.append(loss.item())
        hits.append(hit)
        if (step + 1) % 50 == 0:
            line = {
                "step": step + 1,
                "loss": round(float(np.mean(losses[-50:])), 3),
                "accuracy": round(float(np.mean(hits[-50:])), 3),
                "scale": round(model.logit_scale.exp().item(), 1),
                "minutes": round(time.process_time() / 60, 1),
            }
            print(json.dumps(line), flush=True)


def similarities(
    model: CLIPModel, words: PreTrainedTokenizerFast, pictures: np.ndarray, captions: Sequence[str]
) -> torch.Tensor:
    """Logits (pictures, captions); pictures are (batch, height, width, 3) of 0 to 255."""
    encoded = words(list(captions), padding=True, truncation=True, return_tensors="pt")
    return model(**encoded, pixel_values=pixel_values(pictures)).logits_per_image


def contrast(logits: torch.Tensor, captions: Sequence[str]) -> tuple[torch.Tensor, float]:
    """The loss, and the share of pictures whose caption comes first; an equal caption of another is no negative."""
    ids = {caption: i for i, caption in enumerate(captions)}
    key = torch.tensor([ids[caption] for caption in captions])
    same = (key[:, None] == key[None]) & ~torch.eye(len(key), dtype=torch.bool)
    logits = logits.masked_fill(same, -torch.inf)
    right = torch.arange(len(key))
    loss = (torch.nn.functional.cross_entropy(logits, right) + torch.nn.functional.cross_entropy(logits.T, right)) / 2
    return loss, (logits.argmax(1) == right).float().mean().item()


def readme(model: CLIPModel, chosen: argparse.Namespace, accuracy: float, minutes: float) -> str:
    """What is said beside the weights."""
    size = sum(p.numel() for p in model.parameters()) / 1e6
    return f"""# builtin/clip-nano

A CLIP of {size:.1f}M parameters for 48 × 48 pictures, pretrained on generated scenes; plain transformers loads it.

- Made by `OMP_NUM_THREADS=1 python benchmarks/builtin/clip_nano.py`, seed {chosen.seed}: {chosen.steps:,} steps of
  {chosen.batch} new scenes (coloured shapes and simple things; their size, number, place and relation), {minutes:.0f}
  minutes of one thread. Weights are stored in half precision, and load in single.
- Zero-shot accuracy on pictures of 12 pairs of colour and shape that it never saw together: {accuracy:.2f}
  (chance 0.08). `benchmarks/builtin/clip_gains.json` has the intervals.
- Its vision tower began as builtin/vit-nano, which was pretrained on fractals and contours.
- It knows drawings and a few hundred words. Photographs and other texts are encoded, but mean little to it before it
  is adapted.
- Licence: CC0 1.0 (https://creativecommons.org/publicdomain/zero/1.0/). No picture or text of anyone else went into it.
"""


if __name__ == "__main__":
    main()
