"""What a method may do besides saying what moves: terms of the loss, companions, arguments, new weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from test_training import STILL, Killed, carry_out, events, recipe, weights
from test_training import distance as apart

import hfadapt
from hfadapt import tiny
from hfadapt.errors import RecipeError
from hfadapt.methods._around import Around
from hfadapt.methods.base import Adaptation, Companion, Stage
from hfadapt.noise import quiet


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    """A BERT without dropout, so that runs may be compared weight by weight."""
    from conftest import TEXTS

    with quiet():
        return tiny.checkpoint(tmp_path_factory.mktemp("dry"), "bert", TEXTS, **STILL)


PLAIN = {"optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 0.1, "warmup_steps": 0, "lr_scheduler_type": "constant"}


class Pulled(Around):
    """Adds a scalar and a value of each row to the loss."""

    name: ClassVar[str] = "pulled"
    scalar: float = 0.0
    rows: float = 0.0

    def terms(self, model, anatomy, around):
        scale = torch.nn.Parameter(torch.ones(()))  # Stands for what no batch has to do with.

        def whole(inputs: Mapping[str, Any], outputs: Any):
            assert "labels" not in inputs
            return self.scalar * (model.classifier.bias.sum() + 0 * scale)

        def each(inputs: Mapping[str, Any], outputs: Any):
            return self.rows * outputs.logits[:, 0] * inputs["attention_mask"].sum(-1)

        return [whole, each]


class Counted(Companion):
    """Remembers how it was called, and adds to the weights at the end of a stage."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.total = torch.zeros(())

    def began(self, model, stage, steps):
        self.calls.append(("began", stage.name, steps))

    def stepped(self, model, step):
        assert any(p.grad is not None and p.grad.any() for p in model.parameters())
        self.total += model.classifier.bias.detach()[0] * step
        self.calls.append(("stepped", step))

    def evaluated(self, model, stage, step, score, folder):
        self.calls.append(("evaluated", step, score))

    def state(self):
        return {"total": self.total}

    def restore(self, state):
        self.total = state["total"].clone()

    def ended(self, model):
        with torch.no_grad():
            model.classifier.bias += self.total
        self.calls.append(("ended",))

    def refine(self, model, score, folder):
        before = score()
        with torch.no_grad():
            model.classifier.bias.mul_(2)
        return [{"factor": 1.0, "score": before}, {"factor": 2.0, "score": score()}]


class Accompanied(Around):
    """Takes one companion along, which tests may look at."""

    name: ClassVar[str] = "accompanied"
    made: ClassVar[list[Counted]] = []
    divisible: ClassVar[bool] = False

    @property
    def arguments(self):
        return {"load_best_model_at_end": False}

    def companions(self, model, anatomy, around):
        self.made.append(Counted())
        return self.made[-1:]


class Anew(Adaptation):
    """New weights, which stay as they are but for the head."""

    name: ClassVar[str] = "anew"

    @property
    def scratch(self):
        return True

    def stages(self, model, anatomy):
        return [Stage("anew", dict.fromkeys(anatomy.head, 1.0))]


class Nothing(Adaptation):
    """No stage."""

    name: ClassVar[str] = "nothing"

    def stages(self, model, anatomy):
        return []


@pytest.mark.parametrize("pull", [{"scalar": 0.5}, {"rows": 0.05}])
def test_a_term_is_added_once_a_step_however_a_batch_is_divided(pull, dry, toy, tmp_path):
    """The last batch of the epoch is not full."""
    train = {**PLAIN, "num_train_epochs": 1, "per_device_train_batch_size": 8}
    whole = carry_out(recipe(dry, toy, adapt=Pulled(**pull), train=train), tmp_path / "whole")
    divided = train | {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    parts = carry_out(recipe(dry, toy, adapt=Pulled(**pull), train=divided), tmp_path / "parts")
    without = carry_out(recipe(dry, toy, train=train), tmp_path / "without")
    assert apart(weights(whole), weights(parts)) < 1e-5
    assert apart(weights(whole), weights(without)) > 1e-2


def test_a_scalar_term_has_its_own_gradient(dry, toy, tmp_path):
    """A pull of 0.5 on the sum of the biases moves each by 0.05 a step, besides what the loss does."""
    train = {**PLAIN, "max_steps": 1}
    pulled = carry_out(recipe(dry, toy, adapt=Pulled(scalar=0.5), train=train), tmp_path / "pulled")
    plain = carry_out(recipe(dry, toy, train=train), tmp_path / "plain")
    moved = weights(plain)["classifier.bias"] - weights(pulled)["classifier.bias"]
    assert torch.allclose(moved, torch.full_like(moved, 0.05), atol=1e-6)


def test_a_companion_is_told_what_happens_and_has_the_last_word(dry, toy, tmp_path):
    inner = {"method": "lp-ft", "probe": 0.5}
    run = carry_out(recipe(dry, toy, adapt=Accompanied(inner=inner), train={"max_steps": 4}), tmp_path / "run")
    (its,) = Accompanied.made[-1:]
    kinds = [call for call in its.calls if call[0] in ("began", "stepped", "ended")]
    stage = [("stepped", 1), ("stepped", 2), ("ended",)]
    assert kinds == [("began", "probe", 2), *stage, ("began", "tune", 2), *stage]
    seen = [call[2] for call in its.calls if call[0] == "evaluated"]
    assert seen == [event["scores"]["f1_macro"] for event in events(run, "evaluated")]
    assert len(seen) >= 2
    tried = run.scores["tried"]
    assert [row["factor"] for row in tried] == [1, 2]
    assert tried[-1]["score"] == run.scores["scores"]["validation"]["f1_macro"]["value"]
    assert "| factor | score |" in (run.path / "README.md").read_text()


@pytest.mark.parametrize("step", [1, 3, 5, 7])
def test_a_companion_goes_on_bit_for_bit(step, backbone, toy, tmp_path):
    often = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "max_steps": 8}
    it = recipe(backbone("bert"), toy, adapt=Accompanied(inner="lp-ft"), train=often)
    whole = carry_out(it, tmp_path / "whole")
    told = Accompanied.made[-1].calls

    def kill(event):
        if event["event"] == "step" and event["step"] == step:
            raise Killed

    with pytest.raises(Killed):
        carry_out(it, tmp_path / "cut", listener=kill)
    resumed = carry_out(it, None, resume=tmp_path / "cut")
    assert apart(weights(whole), weights(resumed)) == 0.0
    assert [c for c in told if c[0] == "began"] == [c for c in Accompanied.made[-1].calls if c[0] == "began"]


def test_arguments_of_the_method_are_settled_and_not_to_be_set_otherwise(dry, toy):
    made = hfadapt.plan(recipe(dry, toy, adapt=Accompanied()))
    assert made.settled["load_best_model_at_end"] is False
    hfadapt.plan(recipe(dry, toy, adapt=Accompanied(), train={"load_best_model_at_end": False}))
    with pytest.raises(RecipeError, match="follows from the method 'accompanied', which sets it to False"):
        hfadapt.plan(recipe(dry, toy, adapt=Accompanied(), train={"load_best_model_at_end": True}))


def test_a_method_that_needs_the_whole_model_refuses_to_have_it_divided(dry, toy):
    outer = Pulled(inner=Accompanied())
    with pytest.raises(RecipeError, match="The method 'pulled' needs the whole model on each process"):
        hfadapt.plan(recipe(dry, toy, adapt=outer, train={"fsdp": True}), processes=2)


def test_new_weights_are_of_the_same_architecture(dry, toy, tmp_path):
    import transformers

    run = carry_out(recipe(dry, toy, adapt=Anew(), train={"max_steps": 1}), tmp_path / "run")
    again = carry_out(recipe(dry, toy, adapt=Anew(), train={"max_steps": 1}), tmp_path / "again")
    with quiet():
        came = transformers.AutoModel.from_pretrained(dry).state_dict()
    body = {name.removeprefix("bert."): tensor for name, tensor in weights(run).items() if name.startswith("bert.")}
    assert body.keys() <= came.keys()
    assert not any(torch.equal(body[name], came[name]) for name in body if name.endswith("dense.weight"))
    assert apart(weights(run), weights(again)) == 0.0


def test_nothing_may_train(dry, toy, tmp_path):
    import transformers

    run = carry_out(recipe(dry, toy, adapt=Nothing()), tmp_path / "run")
    with quiet():
        came = transformers.AutoModel.from_pretrained(dry).state_dict()
    saved = weights(run)
    assert all(torch.equal(saved[f"bert.{name}"], tensor) for name, tensor in came.items() if f"bert.{name}" in saved)
    assert run.scores["scores"]["test"]
