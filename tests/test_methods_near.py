"""Methods that stay near the base, average weights, or learn from a teacher."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_training import Killed, carry_out, events, recipe, weights, weights_of
from test_training import distance as apart
from torch import nn

import hfadapt
from hfadapt import tiny
from hfadapt.backbones._source import locate
from hfadapt.backbones.base import anatomy
from hfadapt.data.labels import Labels
from hfadapt.errors import RecipeError, RunError
from hfadapt.methods import _averaging as averaging
from hfadapt.methods import _teacher, _terms
from hfadapt.methods.base import Stage
from hfadapt.noise import quiet
from hfadapt.recipe import Recipe


class Small(nn.Module):
    """A weight of two numbers, a norm with statistics, and a frozen number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0]))
        self.norm = nn.BatchNorm1d(2)
        self.frozen = nn.Parameter(torch.tensor([7.0]))


STAGE = Stage("all", {"weight": 1.0, "norm.weight": 1.0, "norm.bias": 1.0})


def moved(model: Small, by: float) -> None:
    with torch.no_grad():
        model.weight += by
        model.norm.running_mean += by


# L2-SP


def test_the_pull_by_hand():
    model = Small()
    model.frozen.requires_grad_(False)
    pull = _terms.Pull(model, ["weight", "norm.weight", "frozen"], ["norm.weight"], alpha=0.5, beta=0.25)
    with torch.no_grad():
        model.weight += torch.tensor([3.0, 1.0])
        model.norm.weight.copy_(torch.tensor([2.0, 4.0]))
        model.frozen += 1
    value = pull({}, None)
    assert value.shape == ()
    assert value.item() == pytest.approx(0.25 * (9 + 1) + 0.125 * (4 + 16))
    value.backward()
    assert torch.allclose(model.weight.grad, 0.5 * torch.tensor([3.0, 1.0]))
    assert torch.allclose(model.norm.weight.grad, 0.25 * torch.tensor([2.0, 4.0]))
    assert model.frozen.grad is None
    assert model.norm.bias.grad is None, "no stage moves it"


# Features


@pytest.fixture(scope="module")
def bert(backbone):
    """A small BERT for two labels, its anatomy, and two texts as a batch."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(backbone("bert"))
    read = AutoTokenizer.from_pretrained(backbone("bert"))
    inputs = dict(read(["Cold soup.", "The staff smiled, the soup was hot."], padding=True, return_tensors="pt"))
    return model, anatomy(model), inputs


def padded(inputs: dict[str, torch.Tensor], more: int, pad: int) -> dict[str, torch.Tensor]:
    """The batch with more padding behind, of which the mask says so."""
    fill = {"input_ids": pad}
    return {name: nn.functional.pad(its, (0, more), value=fill.get(name, 0)) for name, its in inputs.items()}


@pytest.mark.parametrize("adapter", [False, True])
def test_the_anchor_holds_the_features_and_padding_has_no_effect(adapter, bert):
    model, parts, inputs = copy.deepcopy(bert)
    if adapter:
        import peft

        with quiet():
            model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query"]))
    anchored = _terms.Anchored(model, parts, weight=2.0)
    model.eval()
    assert anchored(inputs, model(**inputs)).tolist() == [0, 0]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer.1" in name:
                parameter += 0.05
    value = anchored(inputs, model(**inputs))
    assert value.shape == (2,)
    assert value.min() > 1e-3
    value.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "layer.0" in n)
    more = padded(inputs, 5, bert[0].config.pad_token_id)
    assert torch.allclose(anchored(more, model(**more)), value, rtol=1e-4)
    alone = {name: tensor[:1, : int(inputs["attention_mask"][0].sum())] for name, tensor in inputs.items()}
    assert torch.allclose(anchored(alone, model(**alone)), value[:1], rtol=1e-4)


def test_the_distance_of_the_anchor_by_hand(bert):
    """Half as much again is a relative squared distance of a quarter, whatever the size of the features."""
    model, parts, inputs = copy.deepcopy(bert)
    model.eval()
    anchored = _terms.Anchored(model, parts, weight=1.0)
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(model.bert.encoder.layer[-1].output.LayerNorm, name).mul_(1.5)
    assert torch.allclose(anchored(inputs, model(**inputs)), torch.full((2,), 0.25), rtol=1e-4)


def test_features_are_pooled_over_tokens_or_places():
    features = torch.arange(12.0).reshape(1, 3, 4)
    mask = torch.tensor([[1, 1, 0]])
    assert _terms.pooled(features, mask).tolist() == [[2, 3, 4, 5]]
    assert _terms.pooled(features, None).tolist() == [[4, 5, 6, 7]]
    assert _terms.pooled(features.reshape(1, 3, 2, 2), None).tolist() == [[1.5, 5.5, 9.5]]


def test_the_mask_is_of_the_texts_and_of_every_token():
    inputs = {"attention_mask": torch.ones(2, 3)}
    towers = [SimpleNamespace(name=name) for name in ("", "text", "vision")]
    known: Any = [_terms.mask_of(tower, inputs, torch.ones(2, 3, 4)) for tower in towers]
    assert [mask is None for mask in known] == [False, False, True]
    assert _terms.mask_of(towers[0], inputs, torch.ones(2, 5, 4)) is None


@pytest.mark.parametrize("kind", ["vit", "convnext", "resnet"])
def test_pictures_are_anchored_too(kind, backbone):
    from transformers import AutoModelForImageClassification

    with quiet():
        model = AutoModelForImageClassification.from_pretrained(backbone(kind)).eval()
    anchored = _terms.Anchored(model, anatomy(model), weight=1.0)
    inputs = {"pixel_values": torch.rand(2, 3, 32, 32)}
    assert anchored(inputs, model(**inputs)).tolist() == [0, 0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.1
    assert anchored(inputs, model(**inputs)).min() > 0


def test_both_towers_are_anchored(backbone):
    """The mask of the texts is none of the pictures."""
    from transformers import AutoModelForZeroShotImageClassification as Clip
    from transformers import AutoTokenizer

    with quiet():
        model = Clip.from_pretrained(backbone("clip")).eval()
    read = AutoTokenizer.from_pretrained(backbone("clip"))
    inputs = dict(read(["Cold soup.", "The staff smiled."], padding=True, return_tensors="pt"))
    inputs["pixel_values"] = torch.rand(2, 3, 32, 32)
    found = {}
    for tower in ("vision_model", "text_model", ""):
        changed = copy.deepcopy(model)
        anchored = _terms.Anchored(changed, anatomy(changed), weight=1.0)
        with torch.no_grad():
            for name, parameter in changed.named_parameters():
                if name.startswith(tower) and "layers.1" in name:
                    parameter += 0.1
        found[tower] = anchored(inputs, changed(**inputs))
    assert torch.allclose(found["vision_model"] + found["text_model"], found[""], rtol=1e-4)
    assert min(value.min() for value in found.values()) > 0


def test_features_without_a_gradient_are_told(bert):
    model, parts, inputs = copy.deepcopy(bert)
    anchored = _terms.Anchored(model, parts, weight=1.0)
    with torch.no_grad():
        model(**inputs)
    with pytest.raises(RunError, match="use_reentrant"):
        anchored(inputs, None)


def test_a_copy_of_a_model_is_listened_to_by_nobody(bert):
    model, _, inputs = copy.deepcopy(bert)
    caught = _terms.Caught(model.bert.encoder.layer[1])
    model(**inputs)
    copy.deepcopy(model)(**inputs)
    first = caught.take()
    model(**inputs)
    assert first.shape == caught.take().shape
    copy.deepcopy(model)(**inputs)
    assert caught.answer is None


# Averages


def test_the_moving_average_by_hand():
    model, average = Small(), averaging.MovingAverage(0.3)
    average.began(model, STAGE, 3)
    expected, mean = model.weight.detach().clone(), model.norm.running_mean.clone()
    for step in range(1, 4):
        moved(model, 1.0)
        average.stepped(model, step)
        keeps = min(0.3, (1 + step) / (10 + step))
        assert keeps == (0.3 if step == 3 else pytest.approx((1 + step) / (10 + step)))
        expected = keeps * expected + (1 - keeps) * model.weight.detach()
        mean = keeps * mean + (1 - keeps) * model.norm.running_mean
    average.ended(model)
    assert torch.allclose(model.weight, expected)
    assert torch.allclose(model.norm.running_mean, mean)
    assert model.frozen.item() == 7
    assert set(average.state()) == {"weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"}


def test_the_moving_average_goes_on_from_its_state():
    model, average, again = Small(), averaging.MovingAverage(0.9), averaging.MovingAverage(0.9)
    average.began(model, STAGE, 2)
    again.began(model, STAGE, 2)
    moved(model, 1.0)
    average.stepped(model, 1)
    again.restore({name: tensor.clone() for name, tensor in average.state().items()})
    moved(model, 1.0)
    for one in (average, again):
        one.stepped(model, 2)
    assert all(torch.equal(tensor, again.state()[name]) for name, tensor in average.state().items())


def near(target: float):
    """A score that is best where the mean of the weight is at the target."""

    def score(model: Small) -> float:
        return -abs(float(model.weight.detach().mean()) - target)

    return score


def stirred(folder, positions: list[float], target: float, most: int = 10) -> tuple[Small, list[dict[str, float]]]:
    """A soup of a weight that was at the positions; the model is left at the best of them."""
    model, soup, score = Small(), averaging.GreedySoup(most), near(target)
    soup.began(model, STAGE, len(positions))
    for step, position in enumerate(positions, 1):
        with torch.no_grad():
            model.weight.fill_(position)
        soup.evaluated(model, STAGE, step, score(model), folder)
    with torch.no_grad():
        model.weight.fill_(min(positions, key=lambda position: abs(position - target)))
    return model, soup.refine(model, lambda: score(model), folder)


def test_a_soup_takes_what_does_not_lower_the_score(tmp_path):
    """Around 0: of 1, -1.5 and 4 the first alone scores -1, with the second -0.25, with the third -1.17."""
    model, tried = stirred(tmp_path, [4.0, 1.0, -1.5], 0.0)
    assert torch.allclose(model.weight, torch.full((2,), -0.25))
    assert [row["checkpoints"] for row in tried] == [0, 1, 2, 3]
    assert [row["score"] for row in tried] == pytest.approx([-1, -1, -0.25, -3.5 / 3])


@pytest.mark.parametrize("seed", range(4))
def test_a_soup_is_never_worse_than_its_best_checkpoint(seed, tmp_path):
    positions = torch.randn(6, generator=torch.Generator().manual_seed(seed)).tolist()
    model, tried = stirred(tmp_path, positions, 0.1, most=4)
    best = max(-abs(torch.tensor(position).item() - 0.1) for position in positions)
    assert near(0.1)(model) >= best - 1e-6
    assert len(tried) == 5
    assert len(list(tmp_path.iterdir())) == 4


def test_a_soup_is_of_the_last_stage_and_leaves_a_better_model_alone(tmp_path):
    model, soup = Small(), averaging.GreedySoup(10)
    soup.began(model, STAGE, 1)
    soup.evaluated(model, STAGE, 1, 5.0, tmp_path)
    soup.began(model, STAGE, 1)
    assert soup.refine(model, lambda: 0.0, tmp_path) == []
    moved(model, 1.0)
    soup.evaluated(model, STAGE, 1, 2.0, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["soup-2-1.safetensors"]
    moved(model, 5.0)
    assert soup.refine(model, lambda: float(model.weight[0].detach()), tmp_path)[-1] == {"checkpoints": 1, "score": 2}
    assert model.weight[0].item() == 7


def mixture(mix: list[float], new: set[str], score, before: Stage | None = None) -> tuple[Small, list]:
    model, its = Small(), averaging.Interpolation(mix, new)
    for stage in [before] if before else []:
        its.began(model, stage, 1)
    its.began(model, STAGE, 1)
    moved(model, 1.0)
    with torch.no_grad():
        model.norm.bias += 1
    return model, its.refine(model, lambda: score(model), None)


@pytest.mark.parametrize(("mix", "weight"), [([0.0], [1.0, -2.0]), ([1.0], [2.0, -1.0]), ([0.25], [1.25, -1.75])])
def test_a_mixture_ends_where_it_is_told(mix, weight):
    model, tried = mixture(mix, set(), lambda model: 3.0)
    assert model.weight.tolist() == weight
    assert model.norm.running_mean.tolist() == [mix[0]] * 2
    assert model.frozen.item() == 7
    assert tried == [{"mix": mix[0], "score": 3}]


def test_of_mixtures_the_best_wins_and_of_equals_the_most_tuned():
    shares = [1.0, 0.0, 0.5]
    model, tried = mixture(shares, set(), near(0.0))
    assert [(row["mix"], row["score"]) for row in tried] == [(0, -0.5), (0.5, 0), (1, -0.5)]
    assert model.weight.tolist() == [1.5, -1.5]
    model, _ = mixture(shares, set(), lambda model: 1.0)
    assert model.weight.tolist() == [2.0, -1.0]


def test_what_began_at_random_stays_as_tuned_unless_an_earlier_stage_trained_it():
    model, _ = mixture([0.0], {"norm.bias"}, lambda model: 1.0)
    assert (model.norm.bias.tolist(), model.weight.tolist()) == ([1, 1], [1, -2])
    model, _ = mixture([0.0], {"norm.bias"}, lambda model: 1.0, before=Stage("probe", {"norm.bias": 1.0}))
    assert (model.norm.bias.tolist(), model.weight.tolist()) == ([0, 0], [1, -2])


# A teacher


def test_the_divergence_by_hand():
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3), 0.0]])
    known = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert _teacher.divergence(student, teacher, "label", 2.0).tolist() == pytest.approx([4 * known])
    one = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert _teacher.divergence(student, teacher, "labels", 2.0).tolist() == pytest.approx([4 * one / 2])
    assert _teacher.divergence(torch.tensor([[1.0]]), torch.tensor([[3.0]]), "number", 2.0).tolist() == [4]


def test_blocks_are_matched_from_the_last_down():
    assert _teacher.matched("ab", "0123") == [("a", "1"), ("b", "3")]
    assert _teacher.matched("abc", "0123") == [("a", "0"), ("b", "2"), ("c", "3")]
    assert _teacher.matched("abcd", "01") == [("a", "0"), ("b", "0"), ("c", "1"), ("d", "1")]


def test_states_are_normalised_and_padding_does_not_count():
    student = torch.tensor([[[3.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    teacher = torch.tensor([[[1.0, 0.0], [0.0, -5.0], [-9.0, 1.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert _teacher.between(student, teacher, mask).tolist() == [2]
    maps = [tensor[:, :2].transpose(1, 2)[..., None] for tensor in (student, teacher)]
    assert _teacher.between(*maps, None).tolist() == [2]
    with pytest.raises(RunError, match="answers 3 x 2 numbers, its teacher's 2 x 2"):
        _teacher.between(student, teacher[:, :2], None)


class Known(nn.Module):
    """A teacher that answers the same of every row."""

    def __init__(self, names: list[str], logits: list[float]):
        super().__init__()
        self.config = SimpleNamespace(id2label=dict(enumerate(names)))
        self.logits = nn.Parameter(torch.tensor([logits]))

    def forward(self, input_ids: Any) -> dict[str, torch.Tensor]:
        return {"logits": self.logits.expand(len(input_ids), -1)}


def test_the_order_of_the_teachers_labels_does_not_matter_and_the_student_moves_to_it(bert):
    model, parts, inputs = copy.deepcopy(bert)
    around: Any = SimpleNamespace(labels=Labels("label", ("bad", "good")))
    options = {"temperature": 1.0, "weight": 1.0, "hidden": 0.0}
    lesson = _teacher.Lesson(model, parts, around, Known(["bad", "good"], [0.0, 3.0]), **options)
    turned = _teacher.Lesson(model, parts, around, Known(["good", "bad"], [3.0, 0.0]), **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    found = []
    for _ in range(12):
        outputs = model.eval()(**inputs)
        value = lesson(inputs, outputs)
        assert torch.allclose(value, turned(inputs, outputs))
        found.append(value.mean().item())
        optimizer.zero_grad()
        value.mean().backward()
        optimizer.step()
    assert found[-1] < 0.2 * found[0]


def refused(it: Any, teacher: Any) -> str:
    """The sentence with which a recipe is refused, the teacher called T."""
    with pytest.raises(RecipeError) as error:
        hfadapt.plan(it)
    (problem,) = error.value.problems
    assert problem.field == "adapt.teacher"
    return problem.says.replace(str(teacher), "T")


def learner(model: Any, data: Any, teacher: Any, **options: Any) -> Any:
    """A recipe to learn from a teacher."""
    return recipe(model, data, adapt={"method": "distill", "teacher": str(teacher), **options})


OTHER_TEACHERS = {
    "fair": ({"id2label": {0: "bad", 1: "fair"}}, "does not know the label 'good'"),
    "three": ({"id2label": {0: "bad", 1: "good", 2: "so"}}, "knows a label that the data do not have: 'so'"),
    "spoken": ({"texts": ["zzz qqq xxx " * 9]}, "reads other tokens: its vocabulary is not the student's"),
    "short": (
        {"max_position_embeddings": 40},
        "reads 40 tokens at most, and the student 64: set task.max_length",
    ),
    "wide": (
        {"hidden_size": 48},
        "has blocks of width 48 and the student of 32, so 'hidden' cannot compare them",
    ),
    "several": (
        {"problem_type": "multi_label_classification"},
        "was trained for multi label classification, and this is single label classification",
    ),
    "headless": ({"auto_class": "AutoModel"}, "has no such head: it is a BertModel, not a …ForSequenceClassification"),
}


@pytest.mark.parametrize("name", OTHER_TEACHERS)
def test_a_teacher_that_does_not_fit_is_refused(name, backbone, toy, tmp_path):
    from conftest import TEXTS

    changes, says = OTHER_TEACHERS[name]
    made = {"id2label": {0: "bad", 1: "good"}, "auto_class": "AutoModelForSequenceClassification", **changes}
    with quiet():
        teacher = tiny.checkpoint(tmp_path / name, "bert", made.pop("texts", TEXTS), **made)
    hidden = float(name == "wide")
    assert refused(learner(backbone("bert"), toy, teacher, hidden=hidden), teacher) == f"The teacher 'T' {says}."


def test_a_teacher_that_is_not_there(backbone, toy, tmp_path):
    assert refused(learner(backbone("bert"), toy, tmp_path / "no"), tmp_path / "no") == "There is no folder 'T'."


def test_a_teacher_of_pictures_must_see_them_alike(backbone, pictures, tmp_path):
    """The same size and other means."""
    import shutil

    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

    config = AutoConfig.from_pretrained(backbone("vit"), id2label={0: "angular", 1: "round"})
    AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path / "teacher")
    values = {"task": "image-classification", "model": str(backbone("vit")), "data": {"path": str(pictures)}}
    it = Recipe(**values, adapt={"method": "distill", "teacher": str(tmp_path / "teacher")})
    for changes, says in (
        ({}, None),
        ({"image_mean": [0.1, 0.2, 0.3]}, "reads the same picture as other pixel values"),
        ({"size": {"height": 24, "width": 24}}, "sees pictures of 24 x 24 pixels, and the student of 32 x 32"),
    ):
        shutil.copy(backbone("vit") / "preprocessor_config.json", tmp_path / "teacher")
        AutoImageProcessor.from_pretrained(tmp_path / "teacher", **changes).save_pretrained(tmp_path / "teacher")
        if says:
            assert refused(it, tmp_path / "teacher") == f"The teacher 'T' {says}."
        else:
            assert hfadapt.plan(it).recipe.adapt.teacher


def test_a_task_without_logits_has_no_teacher(backbone, pictures):
    tables = {"path": str(pictures / "train" / "captions.csv"), "image": "file", "text": "text"}
    adapt = {"method": "distill", "teacher": "any"}
    it = Recipe(task="image-text-contrastive", model=str(backbone("clip")), data=tables, adapt=adapt)
    with pytest.raises(RecipeError, match="A teacher is asked for logits, and this task has none"):
        hfadapt.plan(it)


# Whole runs


@pytest.fixture(scope="module")
def teacher(backbone, few, tmp_path_factory):
    """A run that ended well."""
    it = recipe(backbone("bert"), few, train={"num_train_epochs": 8, "learning_rate": 5e-3})
    return carry_out(it, tmp_path_factory.mktemp("teacher") / "run")


OFTEN = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 4}
SHORT = {"max_steps": 4, "load_best_model_at_end": False}
PROBED = {"method": "lp-ft", "probe": 0.5}


@pytest.fixture(scope="module")
def plain(backbone, few, tmp_path_factory):
    """A run without any of it."""
    it = recipe(backbone("bert"), few, train=SHORT)
    return carry_out(it, tmp_path_factory.mktemp("plain") / "run")


@pytest.mark.parametrize("method", ["l2-sp", "anchor", "distill"])
def test_a_term_changes_what_is_learnt_and_the_result_loads_anywhere(method, teacher, plain, backbone, few, tmp_path):
    options = {
        "l2-sp": {"alpha": 10.0},
        "anchor": {"weight": 0.5},
        "distill": {"teacher": str(teacher.path), "hidden": 0.5},
    }
    it = recipe(backbone("bert"), few, adapt={"method": method, **options[method]}, train=SHORT)
    run = carry_out(it, tmp_path / "run")
    loads(run)
    assert apart(weights(run), weights(plain)) > 1e-4


def loads(run: Any) -> None:
    """Check that plain transformers finds every weight and no other."""
    from transformers import AutoModelForSequenceClassification

    with quiet():
        _, found = AutoModelForSequenceClassification.from_pretrained(run.model, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]


CHOOSING = {
    "ema": {"method": "ema", "decay": 0.6, "inner": PROBED},
    "soup": {"method": "wise-ft", "mix": [0, 1], "inner": {"method": "soup", "inner": PROBED}},
    "wise-ft": {
        "method": "wise-ft",
        "mix": [0, 0.5, 1],
        "inner": {"method": "ema", "inner": {"method": "lora", "r": 2}},
    },
}


@pytest.mark.parametrize("method", CHOOSING)
def test_a_run_that_was_killed_goes_on_bit_for_bit_and_loads_anywhere(method, backbone, few, tmp_path):
    """With dropout on; killed in the last stage."""
    it = recipe(backbone("bert"), few, adapt=CHOOSING[method], train=OFTEN)
    whole = carry_out(it, tmp_path / "whole")

    def kill(event):
        if event["event"] == "step" and event["step"] == 4:
            raise Killed

    with pytest.raises(Killed):
        carry_out(it, tmp_path / "cut", listener=kill)
    resumed = carry_out(it, None, resume=tmp_path / "cut")
    assert apart(weights(whole), weights(resumed)) == 0.0
    assert whole.scores["scores"] == resumed.scores["scores"]
    assert whole.scores.get("tried") == resumed.scores.get("tried")
    loads(whole)
    tried = [row["score"] for row in whole.scores.get("tried", ())]
    assert len(tried) == {"ema": 0, "soup": 5, "wise-ft": 3}[method]
    if tried:
        assert whole.scores["scores"]["validation"]["f1_macro"]["value"] == max(tried)
    if method == "soup":
        tuned = [event for event in events(whole, "evaluated") if event["stage"] == "tune"]
        assert tried[0] == tried[1] == max(event["scores"]["f1_macro"] for event in tuned)


def test_the_start_of_a_mixture_is_the_backbone_under_a_probed_head(backbone, few, tmp_path):
    adapt = {"method": "wise-ft", "mix": [0], "inner": PROBED}
    start = weights(carry_out(recipe(backbone("bert"), few, adapt=adapt, train=SHORT), tmp_path / "start"))
    tuned = weights(carry_out(recipe(backbone("bert"), few, adapt=PROBED, train=SHORT), tmp_path / "tuned"))
    came = weights_of(backbone("bert"))
    assert all(torch.equal(tensor, came[name]) for name, tensor in start.items() if name in came)
    assert not torch.equal(start["classifier.weight"], tuned["classifier.weight"])


@pytest.mark.parametrize(
    ("trained", "names", "head", "new"),
    [
        (False, ("bad", "good"), "new", True),
        (True, ("bad", "good"), "new", False),
        (True, ("bad", "fair"), "new", True),
        (True, (), "new", True),
        (False, ("bad", "good"), "zero-shot", False),
    ],
)
def test_which_heads_began_at_random(trained, names, head, new, teacher, bert, backbone):
    model, parts, _ = bert
    source = locate(str(teacher.model if trained else backbone("bert")))
    task = SimpleNamespace(auto_class="AutoModelForSequenceClassification", head=head)
    around: Any = SimpleNamespace(task=task, source=source, labels=Labels("label" if names else "number", names))
    found = _terms.started_at_random(model, parts, around)
    assert found == ({"classifier.weight", "classifier.bias"} if new else set())


def test_a_student_comes_nearer_to_its_teacher(teacher, backbone, few, tmp_path):
    """By its answers to rows that neither was trained on."""
    from transformers import pipeline

    rows = [line.split(",")[0] for line in (few / "test.csv").read_text(encoding="utf-8").splitlines()[1:]]

    def logits(run: Any) -> torch.Tensor:
        with quiet():
            ask = pipeline("text-classification", str(run.model), function_to_apply="none", top_k=None, device="cpu")
            found = [sorted((one["label"], one["score"]) for one in row) for row in ask(rows)]
        return torch.tensor([[score for _, score in row] for row in found])

    found = {}
    for name, weight in (("alone", 0.0), ("taught", 10.0)):
        train = {"num_train_epochs": 6, "learning_rate": 2e-3, "load_best_model_at_end": False}
        adapt = {"method": "distill", "teacher": str(teacher.path), "weight": weight}
        run = carry_out(recipe(backbone("bert"), few, adapt=adapt, train=train), tmp_path / name)
        found[name] = _teacher.divergence(logits(run), logits(teacher), "label", 2.0).mean().item()
    assert found["taught"] < 0.5 * found["alone"]


@pytest.mark.parametrize("method", ["l2-sp", "anchor", "wise-ft"])
def test_what_begins_at_random_has_nothing_to_stay_near(method, backbone, few):
    it = recipe(backbone("bert"), few, adapt={"method": method, "inner": "from-scratch"})
    with pytest.raises(RecipeError, match="'from-scratch' leaves the checkpoint's weights aside"):
        hfadapt.plan(it)
