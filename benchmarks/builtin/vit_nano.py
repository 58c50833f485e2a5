"""Remake builtin/vit-nano: a small vision transformer pretrained on pictures drawn by formula.

    export OMP_NUM_THREADS=1
    python benchmarks/builtin/vit_nano.py first
    python benchmarks/builtin/vit_nano.py hfadapt/builtin/vit-nano --begin first

It learns three things at once: which shape of fractals.py a picture shows; from each patch, which of its pixels the
shape covers; and how the shape looks by itself, upright and in the middle. The last two come free where pictures are
drawn, and make a short training learn more. The second lesson has other shapes. One thread, some twenty minutes of
processor time. The same machine and versions give the same weights, whatever else runs; another machine may round
differently.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import fractals
import numpy as np
import torch
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil, ViTModel

PATCH = 8
"""Width and height of a patch, in pixels."""


@dataclass(frozen=True)
class Settings:
    """What the pretraining depends on."""

    fractals: int = 64
    contours: int = 128
    curves: int = 128
    steps: int = 2400
    batch: int = 64
    rate: float = 1.2e-3
    warmup: int = 100
    decay: float = 0.05
    easy: float = 0.5
    """The share of steps at the beginning in which the pictures become harder."""
    keep: float = 0.5
    """The share of patches that is looked at in training (PatchDropout, Liu et al. 2022,
    https://arxiv.org/abs/2208.07220): twice the pictures in the same time."""
    whole: float = 0.1
    """The share of steps at the end that look at all patches."""
    smoothing: float = 0.1
    seed: int = 0


def config(labels: int) -> ViTConfig:
    """1.2 million parameters: 6 layers of width 128, patches of 8 x 8 of 48 x 48 pixels."""
    return ViTConfig(
        hidden_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=512,
        image_size=fractals.SIZE,
        patch_size=PATCH,
        num_labels=labels,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.09,  # 1 / sqrt(width); with 0.02, attention stays uniform for long
    )


FIRST = Settings()
SECOND = Settings(fractals=48, contours=192, curves=320, steps=1800, rate=1e-3, easy=0.0, whole=0.35, seed=1)
"""What the first lesson has made learns at once from hard pictures."""


def pretrain(settings: Settings, begin: Path | None) -> ViTForImageClassification:
    """Train random weights, or those in a folder; prints a line every hundred steps."""
    torch.manual_seed(settings.seed)
    random = np.random.default_rng(settings.seed)
    classes = fractals.shapes(random, settings.fractals, settings.contours, settings.curves)
    model = ViTForImageClassification(config(len(classes))).train()
    _begin(model)
    if begin:
        body = ViTModel.from_pretrained(begin, add_pooling_layer=False, dtype=torch.float32)
        model.vit.load_state_dict(body.state_dict())
    pixels = torch.nn.Linear(model.config.hidden_size, PATCH**2)
    look = torch.nn.Linear(model.config.hidden_size, fractals.UPRIGHT**2)
    weights = [*model.parameters(), *pixels.parameters(), *look.parameters()]
    decayed = {"params": [w for w in weights if w.ndim >= 2], "weight_decay": settings.decay}
    others = {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([decayed, others], settings.rate, betas=(0.9, 0.98), fused=True)
    start, log = time.monotonic(), []
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * _speed(step, settings)
        ids = random.integers(0, len(classes), settings.batch)
        drawn = fractals.pictures(classes, ids, random, _hardness(step, settings))
        keep = settings.keep if step < settings.steps * (1 - settings.whole) else 1.0
        summary, patches, masks = _seen(model, drawn, keep)
        logits, labels = model.classifier(summary), torch.from_numpy(ids)
        told_apart = F.cross_entropy(logits, labels, label_smoothing=settings.smoothing)
        found = F.binary_cross_entropy_with_logits(pixels(patches), masks)
        upright = torch.from_numpy(drawn.upright).flatten(1) / 255
        turned = F.binary_cross_entropy_with_logits(look(summary), upright)
        (told_apart + found + 2 * turned).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        log.append((told_apart.item(), (logits.argmax(1) == labels).float().mean().item(), found.item(), turned.item()))
        if (step + 1) % 100 == 0:
            loss, accuracy, pixel_loss, upright_loss = np.mean(log[-100:], axis=0)
            print(
                f"step {step + 1}/{settings.steps}  loss {loss:.3f}  accuracy {accuracy:.3f}  "
                f"pixels {pixel_loss:.3f}  upright {upright_loss:.3f}  {time.monotonic() - start:.0f} s",
                flush=True,
            )
    return model.eval()


def _seen(
    model: ViTForImageClassification, drawn: fractals.Drawn, keep: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the body makes of a random share of the patches.

    Args:
        model: whose body looks.
        drawn: the pictures.
        keep: the share of patches.

    Returns:
        The state of the class token (batch, width), of the patches seen (batch, patches, width), and how much of each
        of their pixels is covered, (batch, patches, 64), 0 to 1.
    """
    pixels = torch.from_numpy(drawn.pictures).permute(0, 3, 1, 2) / 127.5 - 1
    states = model.vit.embeddings(pixels)
    masks = F.unfold(torch.from_numpy(drawn.covered)[:, None] / 255, PATCH, stride=PATCH).transpose(1, 2)
    if keep < 1:
        count = masks.shape[1]
        chosen = torch.rand(len(masks), count).argsort(1)[:, : int(count * keep), None]
        states = torch.cat([states[:, :1], states.gather(1, 1 + chosen.expand(-1, -1, states.shape[2]))], 1)
        masks = masks.gather(1, chosen.expand(-1, -1, masks.shape[2]))
    for layer in model.vit.layers:
        states = layer(states)
    states = model.vit.layernorm(states)
    return states[:, 0], states[:, 1:], masks


def _hardness(step: int, settings: Settings) -> float:
    """From a tenth to 0.85: a few plain pictures remain."""
    ramp = settings.easy * settings.steps
    return 0.1 + 0.75 * (min(1.0, step / ramp) if ramp else 1.0)


def _begin(model: ViTForImageClassification) -> None:
    """Begin with positions that are told apart, and layers that add little.

    Positions are sines and cosines of the row and the column (MAE, He et al. 2022, https://arxiv.org/abs/2111.06377),
    as strong as what is seen. With positions of 0.2 and weights of 0.05 instead, and all layers at full strength,
    attention stayed uniform: after 900 steps not 2% of the pictures were told right.
    """
    side, width = fractals.SIZE // PATCH, model.config.hidden_size // 4
    angles = torch.arange(side)[:, None] / 100 ** (torch.arange(width) / width)
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    grid = torch.cat([waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)], 2)
    model.vit.embeddings.position_embeddings.data[0, 1:] = 0.7 * grid.flatten(0, 1)
    for layer in model.vit.layers:
        layer.attention.o_proj.weight.data *= 0.4
        layer.mlp.fc2.weight.data *= 0.2


def _speed(step: int, settings: Settings) -> float:
    """Up in a line, down in half a cosine."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    done = (step - settings.warmup) / (settings.steps - settings.warmup)
    return 0.5 * (1 + np.cos(np.pi * done))


def save(model: ViTForImageClassification, folder: Path) -> None:
    """The body without its head, in half precision, and the processor."""
    body = ViTModel(config(2), add_pooling_layer=False)  # two labels: transformers' default, which is not written
    body.load_state_dict(model.vit.state_dict())
    body.half().save_pretrained(folder)
    ViTImageProcessorPil(
        size={"height": fractals.SIZE, "width": fractals.SIZE},
        resample=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(folder)


def main() -> None:
    """Pretrain and save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--begin", type=Path, help="what the first lesson made; without it, this is the first lesson")
    parser.add_argument("--steps", type=int, help="fewer, to try it out")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    settings = SECOND if chosen.begin else FIRST
    settings = replace(settings, steps=chosen.steps or settings.steps)
    print(settings, flush=True)
    save(pretrain(settings, chosen.begin), chosen.folder)


if __name__ == "__main__":
    main()
