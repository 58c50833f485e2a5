"""Classes asked for by their names: the embeddings, the scores, and a head that starts from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

import hfadapt
from hfadapt import judging
from hfadapt.adapting import load_model
from hfadapt.data.labels import Labels
from hfadapt.errors import HfadaptError
from hfadapt.planning import last_layers
from hfadapt.recipe import Recipe
from hfadapt.scoring.tally import Tally
from hfadapt.zero_shot import ALPHAS, BETAS, TipAdapter, WithZeroShot, ZeroShot

NAMES = ("angular", "round")
TEMPLATES = ("a photo of a {}.", "the {} thing", "{}")


def recipe(model, pictures, *, pairs: bool = False, data=None, **task) -> Recipe:
    tables = {split: str(pictures / split / "captions.csv") for split in ("train", "validation", "test")}
    tables |= {"path": tables.pop("train"), "image": "file", "text": "text", "label": "label"}
    return Recipe(
        task={"type": "image-text-contrastive" if pairs else "image-classification", **task},
        model=str(model),
        data=data or (tables if pairs else {"path": str(pictures)}),
    )


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP whose classes are told apart by more than the last decimals: its scale is not yet trained."""
    from conftest import TEXTS

    from hfadapt import tiny
    from hfadapt.noise import quiet

    with quiet():
        return tiny.checkpoint(tmp_path_factory.mktemp("clip"), "clip", [*TEXTS, *NAMES], logit_scale_init_value=3.0)


@pytest.fixture(scope="module")
def planned(clip, pictures):
    return hfadapt.plan(recipe(clip, pictures, head="zero-shot", templates=list(TEMPLATES)))


@pytest.fixture(scope="module")
def asked(planned) -> ZeroShot:
    return ZeroShot.of(planned.source, NAMES, TEMPLATES, torch.device("cpu"))


def test_a_class_is_the_mean_of_its_sentences(clip, asked):
    from transformers import AutoTokenizer, CLIPModel

    model, tokenizer = CLIPModel.from_pretrained(clip).eval(), AutoTokenizer.from_pretrained(clip)
    for name, found in zip(NAMES, asked.classes, strict=True):
        each = []
        for template in TEMPLATES:
            tokens = tokenizer(template.format(name), return_tensors="pt")
            with torch.no_grad():
                each.append(functional.normalize(model.get_text_features(**tokens).pooler_output[0], dim=-1))
        mean = torch.stack(each).mean(0)
        assert torch.allclose(found, mean / mean.norm(), atol=1e-5)
        assert mean.norm() < 0.999, "sentences that are all alike would hide how they are averaged"


def test_an_underscore_in_a_name_is_a_space(planned, asked):
    spaced = ZeroShot.of(planned.source, ("a_round thing",), ("{}",), torch.device("cpu"))
    words = ZeroShot.of(planned.source, ("a round thing",), ("{}",), torch.device("cpu"))
    assert torch.equal(spaced.classes, words.classes) and not torch.allclose(spaced.classes, asked.classes[:1])


def test_scores_are_those_of_transformers_pipeline(planned, clip, asked, pictures):
    from transformers import pipeline

    one = ZeroShot.of(planned.source, NAMES, TEMPLATES[:1], torch.device("cpu"))
    ask = pipeline("zero-shot-image-classification", str(clip), use_fast=False)
    rows = planned.data.splits["test"]
    correct = 0
    chances = one.logits(torch.from_numpy(np.stack([row["pixel_values"] for row in judging.encode(planned, "test")])))
    for row, ours in zip(rows, chances.softmax(-1), strict=True):
        answers = ask(row["image"]["path"], candidate_labels=list(NAMES), hypothesis_template=TEMPLATES[0])
        theirs = {answer["label"]: answer["score"] for answer in answers}
        assert ours.tolist() == pytest.approx([theirs[name] for name in NAMES], abs=1e-4)
        correct += answers[0]["label"] == planned.data.labels.names[row["label"]]
    assert chances.softmax(-1)[:, 0].std() > 1e-3, "pictures that all look alike would prove nothing"
    scores = one.scores(judging.encode(planned, "test"), Tally("label", NAMES))
    assert scores["accuracy"].value == pytest.approx(correct / len(rows))


def test_siglips_answers_are_those_of_its_own_logits(backbone, pictures):
    """Its texts are padded to their full length; its bias is the same for all classes and changes no answer."""
    from transformers import AutoTokenizer, SiglipModel

    folder = backbone("siglip")
    made = hfadapt.plan(recipe(folder, pictures))
    one = ZeroShot.of(made.source, NAMES, TEMPLATES[:1], torch.device("cpu"))
    model, tokenizer = SiglipModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    texts = [TEMPLATES[0].format(name) for name in NAMES]
    tokens = tokenizer(texts, padding="max_length", max_length=64, return_tensors="pt")
    pixels = torch.from_numpy(np.stack([row["pixel_values"] for row in judging.encode(made, "test")]))
    with torch.no_grad():
        theirs = model(**tokens, pixel_values=pixels).logits_per_image
    assert torch.allclose(one.logits(pixels).softmax(-1), theirs.softmax(-1), atol=1e-5)


# A head that starts from the names


def head_of(planned) -> tuple[torch.nn.Module, torch.nn.Linear]:
    model, _ = load_model(planned)
    (_, layer), *_ = last_layers(model)
    return model.eval(), layer


def test_a_head_that_starts_from_the_names_answers_as_they_do(planned, asked):
    model, _ = head_of(planned)
    pixels = torch.from_numpy(np.stack([row["pixel_values"] for row in judging.encode(planned, "train")]))
    with torch.no_grad():
        found = model(pixel_values=pixels).logits
    wanted = asked.logits(pixels)
    margins = [(logits[:, 0] - logits[:, 1]).numpy() for logits in (found, wanted)]
    assert np.corrcoef(*margins)[0, 1] > 0.9
    agree = (found.argmax(-1) == wanted.argmax(-1)).float().mean()
    assert agree > 0.9
    assert found.mean(1).abs().max() < 1e-3, "the logits of a row add up to nothing"
    centred = wanted - wanted.mean(1, keepdim=True)
    assert torch.allclose(found.mean(0), centred.mean(0), atol=1e-3), "on the whole, each class is as likely"


def test_no_label_is_looked_at(clip, pictures, tmp_path):
    """With the labels of the training rows drawn anew, the head starts where it did."""
    import csv

    rows = list(csv.DictReader((pictures / "train/captions.csv").open(encoding="utf-8")))
    weights = []
    for name, shift in (("as_they_are", 0), ("shuffled", 7)):
        path = tmp_path / f"{name}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "label"])
            for i, row in enumerate(rows):
                label = rows[(i + shift) % len(rows)]["label"]
                writer.writerow([pictures / "train" / row["file"], label])
        data = {"path": str(path), "validation": str(path), "test": str(path), "image": "file", "label": "label"}
        made = hfadapt.plan(recipe(clip, pictures, data=data, head="zero-shot", templates=list(TEMPLATES)))
        weights.append(head_of(made)[1])
    (one, other) = weights
    assert torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)
    assert one.weight.abs().max() > 0


def test_a_new_head_does_not_start_there(planned, clip, pictures):
    _, plain = head_of(hfadapt.plan(recipe(clip, pictures)))
    _, started = head_of(planned)
    assert not torch.allclose(plain.weight, started.weight, atol=1e-3)


def test_the_random_changes_of_training_are_no_part_of_it(planned, clip, pictures):
    varied = recipe(clip, pictures, head="zero-shot", templates=list(TEMPLATES), augment={"flip": "both", "mixup": 1.0})
    _, layer = head_of(hfadapt.plan(varied))
    assert torch.equal(layer.weight, head_of(planned)[1].weight)


# A head that starts from Tip-Adapter


@pytest.fixture(scope="module")
def tipped(clip, pictures):
    return hfadapt.plan(recipe(clip, pictures, head="tip-adapter", shots=5, templates=list(TEMPLATES)))


@pytest.fixture(scope="module")
def tip(tipped) -> TipAdapter:
    made = judging.asked(tipped)
    assert isinstance(made, TipAdapter)
    return made


def pixels_of(planned, split: str) -> torch.Tensor:
    return torch.from_numpy(np.stack([row["pixel_values"] for row in judging.encode(planned, split)]))


def test_a_memory_is_added_to_what_the_names_say(tipped, tip, asked):
    """As Zhang et al. write it, in numpy, row by row."""
    pixels = pixels_of(tipped, "test")
    keys, values, of_names = tip.keys.numpy(), tip.values.numpy(), asked.logits(pixels).numpy()
    tip.alpha, tip.beta = 2.0, 3.0
    wanted = []
    for row, names in zip(tip.embeddings(pixels).numpy(), of_names, strict=True):
        said = np.zeros(2)
        for key, value in zip(keys, values, strict=True):
            said += np.exp(-3.0 * (1 - key @ row)) * value
        wanted.append(names + 2.0 * said)
    found = tip.logits(pixels).numpy()
    assert np.allclose(found, wanted, atol=1e-4)
    assert not np.allclose(found.argmax(1), of_names.argmax(1)) or np.abs(found - of_names).max() > 0.5
    tip.alpha = 0.0
    assert torch.allclose(tip.logits(pixels), asked.logits(pixels), atol=1e-5)


def test_some_pictures_of_each_class_are_remembered(tipped, tip):
    rows, labels = judging.as_they_are(tipped, "train"), np.array(tipped.data.splits["train"]["label"])
    assert tip.values.sum(0).tolist() == [5, 5] and tip.values.sum(1).tolist() == [1] * 10
    everyone = tip.embeddings(pixels_of(tipped, "train"))
    near = (tip.keys @ everyone.T).argmax(1).numpy()
    assert len(set(near)) == 10 and (labels[near] == tip.values.argmax(1).numpy()).all()
    again, other = judging.asked(tipped), judging.asked(tipped)
    other.remember(rows, 5, seed=1)
    assert torch.equal(again.keys, tip.keys) and not torch.equal(other.keys, tip.keys)
    other.remember(rows, 1000, seed=1)
    assert other.values.sum(0).tolist() == np.bincount(labels).tolist()


def test_the_best_of_the_grid_on_validation_is_chosen(tipped):
    tip = judging.asked(tipped)
    chosen = tip.alpha, tip.beta
    embeddings = tip.embeddings(pixels_of(tipped, "validation"))
    labels = torch.tensor(tipped.data.splits["validation"]["label"])
    found = {}
    for tip.alpha in ALPHAS:
        for tip.beta in BETAS:
            logits = tip.of_embeddings(embeddings)
            right = (logits.argmax(1) == labels).float().mean().item()
            found[tip.alpha, tip.beta] = right, -functional.cross_entropy(logits, labels).item()
    assert found[chosen] == max(found.values()) and len(set(found.values())) > 10


def test_a_head_that_starts_from_tip_adapter_answers_much_as_it_does(tipped, planned):
    model, _ = head_of(tipped)
    tip, pixels = judging.asked(tipped), pixels_of(tipped, "train")
    with torch.no_grad():
        found, wanted = model(pixel_values=pixels).logits, tip.logits(pixels)
        margins = [(logits[:, 0] - logits[:, 1]).numpy() for logits in (found, wanted)]
    assert tip.alpha > 0 and np.corrcoef(*margins)[0, 1] > 0.8
    assert not torch.allclose(head_of(planned)[1].weight, head_of(tipped)[1].weight, atol=1e-3)


def test_the_exact_answers_of_tip_adapter_are_a_baseline(tipped):
    simple, tip = judging.compare(tipped), judging.asked(tipped)
    for split in judging.JUDGED:
        right = tip.logits(pixels_of(tipped, split)).argmax(1) == torch.tensor(tipped.data.splits[split]["label"])
        assert simple["tip-adapter"][split]["accuracy"].value == pytest.approx(right.float().mean().item())
        assert set(simple["zero-shot"][split]) == set(simple["tip-adapter"][split])


# What is refused


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_backbone_that_knows_no_texts_is_refused(kind, backbone, pictures):
    for pairs, field, head in (
        (False, "task.head", "zero-shot"),
        (False, "task.head", "tip-adapter"),
        (True, "model", ""),
    ):
        task = {} if pairs else {"head": head}
        with pytest.raises(HfadaptError) as caught:
            hfadapt.plan(recipe(backbone(kind), pictures, pairs=pairs, **task))
        (problem,) = caught.value.problems
        assert problem.field == field and f"its kind is '{kind}'" in problem.says and "CLIP" in problem.hint


def test_a_head_of_several_labels_is_refused(clip, pictures, tmp_path):
    path = tmp_path / "tags.csv"
    lines = [f"{pictures}/train/round/{i}.png,{'a|b' if i % 4 else 'a'}" for i in range(0, 27, 2)]
    path.write_text("\n".join(["image,tags", *lines, *lines]) + "\n")
    data = {"path": str(path), "image": "image", "label": "tags", "label_separator": "|"}
    with pytest.raises(HfadaptError) as caught:
        hfadapt.plan(recipe(clip, pictures, data=data, head="zero-shot"))
    (problem,) = caught.value.problems
    assert problem.field == "task.head" and "one label a row" in problem.says


# Beside the scores of pairs


class Pairs:
    def __init__(self):
        self.rows = 0

    def add(self, predicted, targets):
        self.rows += len(targets)

    def scores(self):
        return {"recall@1": self.rows}


def test_a_picture_counts_once_for_its_class(asked):
    """Though it comes with several texts, in one batch and in later ones; pictures of unknown class do not count."""
    pictures = torch.nn.functional.normalize(torch.randn(4, asked.classes.shape[1]), dim=-1)
    answered = asked.of_embeddings(pictures).argmax(-1).tolist()
    class_of = {10: answered[0], 11: 1 - answered[1], 12: answered[2]}
    for batches in (([0, 0, 1], [1, 2, 3]), ([0, 1, 2, 3, 0, 1],)):
        both = WithZeroShot(Pairs(), lambda: asked, class_of, Tally("label", NAMES))
        for rows in batches:
            found = {"image_embeds": pictures[rows].numpy(), "text_embeds": pictures[rows].numpy()}
            both.add(found, np.array([[10 + row, 100 + i] for i, row in enumerate(rows)]))
        scores = both.scores()
        assert set(scores) == {"recall@1", "zero_shot_accuracy", "zero_shot_f1_macro"} and scores["recall@1"] == 6
        assert scores["zero_shot_accuracy"].rows == 3
        assert scores["zero_shot_accuracy"].value == pytest.approx(2 / 3)


def test_pairs_without_classes_have_no_such_scores(asked):
    both = WithZeroShot(Pairs(), lambda: asked, {}, Tally("label", NAMES))
    both.add({"image_embeds": np.eye(16, dtype=np.float32)[:2]}, np.array([[1, 2], [3, 4]]))
    assert both.scores() == {"recall@1": 2}


def test_the_baselines_of_pictures_and_pairs(planned, asked, clip, pictures):
    """What planning's rows are scored at, by the names of the classes, is what the checkpoint answers."""
    simple = judging.compare(planned)
    scores = asked.scores(judging.encode(planned, "test"), Tally("label", NAMES))
    assert simple["zero-shot"]["test"]["accuracy"].value == scores["accuracy"].value
    pairs = judging.compare(hfadapt.plan(recipe(clip, pictures, pairs=True, templates=list(TEMPLATES))))
    assert set(pairs) == {"chance", "zero-shot"} and "tip-adapter" not in simple
    assert pairs["zero-shot"]["test"]["zero_shot_accuracy"].value == pytest.approx(scores["accuracy"].value)
    assert isinstance(planned.data.labels, Labels) and planned.data.labels.names == NAMES
