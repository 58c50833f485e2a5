"""The last block computed at its first position alone: the same answers and gradients for less."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from hfadapt.backbones.base import anatomy
from hfadapt.noise import quiet
from hfadapt.training.leading import leading

READS = ["logits"]


def model_of(folder: Path, kind: str) -> nn.Module:
    auto = AutoModelForImageClassification if kind in PICTURES else AutoModelForSequenceClassification
    with quiet():
        model = auto.from_pretrained(folder).eval()
    return model


def batch_of(model: Any) -> dict[str, Tensor]:
    if model.main_input_name == "pixel_values":
        side = model.config.image_size
        return {"pixel_values": torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0))}
    ids = torch.randint(5, 40, (4, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def gradients(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    model(**batch).logits.square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def last(model: nn.Module) -> list[str]:
    return [tower.block_modules[-1] for tower in anatomy(model).towers]


PICTURES = ("vit", "deit", "dinov2", "beit")


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra", "vit", "deit"])
def test_gradients_are_those_of_the_whole_block_for_less(backbone: Any, kind: str) -> None:
    model = model_of(backbone(kind), kind)
    batch = batch_of(model)
    with FlopCounterMode(display=False) as whole:
        expected = gradients(model, batch)
    with leading(model, last(model), batch, READS) as cut:
        assert cut == last(model)
        with FlopCounterMode(display=False) as less:
            found = gradients(model, batch)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)
    # Two blocks, of which the last one costs little more than its keys and values.
    assert less.get_total_flops() < 0.8 * whole.get_total_flops()


@pytest.mark.parametrize("kind", ["albert", "modernbert", "dinov2", "beit", "deberta-v2"])
def test_it_stands_aside_where_more_is_read_or_attention_is_another(backbone: Any, kind: str) -> None:
    model = model_of(backbone(kind), kind)
    with leading(model, last(model), batch_of(model), READS) as cut:
        assert cut == []


def test_a_head_of_zeros_hides_nothing(backbone: Any) -> None:
    """Whatever is read, the answers are the same; that must not pass for reading the first position only."""
    for kind, expected in (("dinov2", False), ("vit", True)):
        model: Any = model_of(backbone(kind), kind)
        nn.init.zeros_(model.classifier.weight)
        with leading(model, last(model), batch_of(model), READS) as cut:
            assert bool(cut) is expected


def test_a_copy_of_the_model_computes_all_of_it(backbone: Any) -> None:
    for kind in ("bert", "vit"):
        model: Any = model_of(backbone(kind), kind)
        batch = batch_of(model)
        with leading(model, last(model), batch, READS):
            other = copy.deepcopy(model)
            with torch.no_grad():
                torch.testing.assert_close(other(**batch).logits, model(**batch).logits)


def test_it_leaves_no_trace(backbone: Any) -> None:
    model: Any = model_of(backbone("bert"), "bert")
    batch = batch_of(model)
    expected = gradients(model, batch)
    with leading(model, last(model), batch, READS):
        assert model.config._attn_implementation != "sdpa"
        assert "attn" not in str(model.config.to_json_string())
    assert model.config._attn_implementation == "sdpa"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(gradient, expected[name]) for name, gradient in gradients(model, batch).items())


def test_adapters_on_keys_and_values_see_all_positions(backbone: Any) -> None:
    from peft import LoraConfig, get_peft_model

    with quiet():
        model: Any = get_peft_model(
            model_of(backbone("bert"), "bert"), LoraConfig(r=2, target_modules=["query", "key", "value"])
        )  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    model.eval()
    batch = batch_of(model)
    names = [f"base_model.model.{name}" for name in last(model.base_model.model)]
    expected = gradients(model, batch)
    with leading(model, names, batch, READS) as cut:
        assert cut == names
        found = gradients(model, batch)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "vit"])
@pytest.mark.parametrize("trains", ["query", "key", "value", "q_proj", "k_proj", "v_proj"])
def test_kept_queries_keys_and_values_are_of_all_positions(backbone: Any, kind: str, trains: str) -> None:
    """What does not move below what does is captured and replayed as it would be without."""
    from hfadapt.training.prefix import find

    model: Any = model_of(backbone(kind), kind)
    block = model.get_submodule(last(model)[0])
    found = [its for name, its in block.named_modules() if name.endswith(trains)]
    if not found:
        pytest.skip(f"{kind} calls it otherwise")
    model.requires_grad_(False)
    found[0].requires_grad_(True)
    batch = batch_of(model)
    fewer = {name: tensor[:2, :7] if tensor.ndim == 2 else tensor[:2] for name, tensor in batch.items()}
    expected = gradients(model, batch)
    prefix: Any = find(model, [batch, fewer], READS)
    length = batch["input_ids"].shape[1] if "input_ids" in batch else 0
    with leading(model, last(model), batch, READS) as cut:
        assert cut == last(model)
        with prefix.capturing() as values:
            captured = gradients(model, batch)
        for key, leaf in prefix.kept.items():
            assert values[key].shape == leaf.of(4, length, kept=True)
        with prefix.replaying(values, 4, length):
            replayed = gradients(model, batch)
    for name, gradient in expected.items():
        torch.testing.assert_close(captured[name], gradient, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(replayed[name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "adapt", ["full", {"method": "partial", "top": 1}, "lp-ft", {"method": "lora", "r": 2}, "l2-sp"]
)
def test_a_run_learns_the_same(backbone: Any, few: Path, tmp_path: Path, monkeypatch: Any, adapt: Any) -> None:
    import shutil

    import hfadapt
    from hfadapt.recipe import Recipe
    from hfadapt.training import stages

    folder = shutil.copytree(backbone("bert"), tmp_path / "bert")
    config = (folder / "config.json").read_text(encoding="utf-8")
    # Dropout would draw for fewer positions, and so other numbers.
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        config = config.replace(f'"{name}": 0.1', f'"{name}": 0.0')
    (folder / "config.json").write_text(config, encoding="utf-8")

    def losses(name: str) -> tuple[list[float], list[str]]:
        told: list[dict[str, Any]] = []
        train = {"max_steps": 4, "logging_steps": 1, "eval_strategy": "no", "learning_rate": 1e-2, "warmup_steps": 0}
        recipe = Recipe(
            task="text-classification",
            model={"name": str(folder)},
            data={"path": str(few), "text": "text", "label": "label"},
            adapt=adapt,
            train={**train, "per_device_train_batch_size": 8},
        )
        hfadapt.adapt(hfadapt.plan(recipe), tmp_path / name, listener=lambda event: told.append(dict(event)))
        blocks = [name for event in told if event["event"] == "first token" for name in event["blocks"]]
        return [event["loss"] for event in told if "loss" in event], blocks

    found, blocks = losses("short")
    assert all(name.endswith("layer.1") for name in blocks)
    # What is added to the loss looks at all of the model.
    assert bool(blocks) == (adapt != "l2-sp")
    monkeypatch.setattr(stages, "_leading", lambda *_: stages.nullcontext(()))
    expected, _ = losses("whole")
    assert len(found) >= 4 and found == pytest.approx(expected, abs=1e-5)
