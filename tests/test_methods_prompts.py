"""Learnt prompts and clip-adapter: nothing else moves, and plain transformers gives the same answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from conftest import TEXTS
from safetensors.torch import load_file
from transformers import AutoTokenizer

import hfadapt
from hfadapt import judging, tiny
from hfadapt.adapting import load_model
from hfadapt.backbones.base import Source, anatomy
from hfadapt.data.labels import Labels
from hfadapt.errors import HfadaptError, RecipeError
from hfadapt.methods import _prompts
from hfadapt.methods._rows import LearntRows
from hfadapt.methods.base import Surroundings
from hfadapt.methods.coop import Coop
from hfadapt.methods.prompt_tuning import PromptTuning
from hfadapt.noise import quiet
from hfadapt.recipe import Recipe
from hfadapt.training.freezing import only

WORDS = ["the", "soup", "was", "hot", "room", "cold", ".", "good", "bad"]
LABELS = Labels("label", ("bad", "very good"))


def task(name: str):
    return Recipe(task=name, model="m", data={"path": "d"}).task


def around(tokenizer, model_type: str, labels=LABELS) -> Surroundings:
    config = transformers.AutoConfig.for_model(model_type, vocab_size=len(tokenizer))
    return Surroundings(task("text-classification"), Source("my-model", "there"), config, tokenizer, labels)


def bpe(*special: str) -> dict:
    model = json.loads(tiny.tokenizer(TEXTS).backend_tokenizer.to_str())["model"]
    words = [*special, *(word for word in model["vocab"] if word not in ROBERTA)]
    return {"vocab": {word: i for i, word in enumerate(words)}, "merges": [tuple(m) for m in model["merges"]]}


def pieces(*special: str) -> list[tuple[str, float]]:
    return [(word, 0.0) for word in special] + [(f"▁{word}", -1.0 - i) for i, word in enumerate(WORDS)]


BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
TOKENIZERS = {
    # kind: its tokenizer, as transformers makes it
    "bert": lambda: transformers.BertTokenizer(vocab={w: i for i, w in enumerate([*BERT, *WORDS])}),
    "distilbert": lambda: transformers.DistilBertTokenizer(vocab={w: i for i, w in enumerate([*BERT, *WORDS])}),
    "roberta": lambda: transformers.RobertaTokenizer(**bpe(*ROBERTA)),
    "deberta": lambda: transformers.DebertaTokenizer(**bpe("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")),
    "deberta-v2": lambda: transformers.DebertaV2Tokenizer(vocab=pieces("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")),
    "albert": lambda: transformers.AlbertTokenizer(vocab=pieces("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")),
    "modernbert": lambda: tiny.tokenizer(TEXTS),
    "gpt2": lambda: transformers.GPT2Tokenizer(**bpe("<|endoftext|>"), pad_token="<|endoftext|>"),
    "llama": lambda: transformers.PreTrainedTokenizerFast(
        tokenizer_object=tiny.tokenizer(TEXTS).backend_tokenizer, bos_token="<s>", add_bos_token=True
    ),
}
BARE = {"gpt2"}
"""Kinds that put nothing before a text."""


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_tokenizer_inserts_the_prompt_wherever_it_is_loaded(kind, tmp_path):
    tokenizer = TOKENIZERS[kind]()
    tokenizer.model_max_length = 16
    single, pair = ("the soup was hot",), ("the soup was hot", "the room was cold " * 9)
    before = [tokenizer(*texts, truncation=True, max_length=13) for texts in (single, pair)]
    surroundings = around(tokenizer, kind)
    PromptTuning(tokens=3).prepare(surroundings)
    tokenizer.save_pretrained(tmp_path)
    surroundings.config.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    ids = loaded.convert_tokens_to_ids(["<prompt0>", "<prompt1>", "<prompt2>"])
    assert ids == list(range(len(tokenizer) - 3, len(tokenizer)))
    start = 0 if kind in BARE else 1
    for here in (tokenizer, loaded):
        assert here.model_max_length == 16 and set(here.model_input_names) == set(before[0])
        for texts, plain in zip((single, pair), before, strict=True):
            found = here(*texts, truncation=True)
            rows = plain["input_ids"]
            assert found["input_ids"] == [*rows[:start], *ids, *rows[start:]], "cut as before, by three tokens less"
            if "token_type_ids" in plain:
                kinds = plain["token_type_ids"]
                assert found["token_type_ids"] == [*kinds[:start], 0, 0, 0, *kinds[start:]]
    assert len(loaded(*pair, truncation=True)["input_ids"]) == 16
    assert loaded.decode(loaded(*single)["input_ids"], skip_special_tokens=True).split() == single[0].split()


def test_a_tokenizer_that_would_forget_is_refused(monkeypatch):
    """BERT's own class makes its processor anew when it is loaded, which is why it is left."""
    monkeypatch.setattr(_prompts, "_settle", lambda _: None)
    with pytest.raises(RecipeError, match="would forget learnt tokens"):
        PromptTuning(tokens=3).prepare(around(TOKENIZERS["bert"](), "bert"))


def test_a_tokenizer_written_in_python_is_refused():
    with pytest.raises(RecipeError, match="The tokenizer of 'my-model' is written in Python"):
        PromptTuning().prepare(around(transformers.ByT5Tokenizer(), "bert"))


def test_prompts_that_leave_no_room_are_refused():
    tokenizer = tiny.tokenizer(TEXTS)
    with pytest.raises(RecipeError, match="With 70 learnt tokens no text fits into 64 tokens"):
        PromptTuning(tokens=70).prepare(around(tokenizer, "bert"))


def test_a_second_prompt_is_refused():
    surroundings = around(tiny.tokenizer(TEXTS), "bert")
    PromptTuning(tokens=3).prepare(surroundings)
    with pytest.raises(RecipeError, match="has the token '<prompt0>' already"):
        PromptTuning(tokens=1).prepare(surroundings)


def test_prompts_start_as_the_labels_then_as_frequent_words():
    tokenizer = TOKENIZERS["bert"]()
    surroundings = around(tokenizer, "bert", Labels("label", ("bad", "good_soup")))
    PromptTuning(tokens=4).prepare(surroundings)
    starts = surroundings.config.prompt_tokens["starts"]
    assert [tokenizer.convert_ids_to_tokens(ids) for ids in starts] == [["bad"], ["good", "soup"], ["the"], ["room"]]
    embedding = torch.nn.Embedding(len(WORDS) + 5, 8)
    rows = LearntRows(embedding, 14, starts)
    assert torch.equal(rows.learnt[1], (embedding.weight[12] + embedding.weight[6]) / 2)
    assert torch.equal(rows.learnt[3], embedding.weight[9])
    numbers = around(TOKENIZERS["bert"](), "bert", Labels("number", ()))
    PromptTuning(tokens=2).prepare(numbers)
    assert numbers.config.prompt_tokens == {"first": 14, "starts": [[5], [9]]}


def test_learnt_rows_are_looked_up_in_their_places():
    embedding = torch.nn.Embedding(10, 4, padding_idx=1)
    rows = LearntRows(embedding, 8, [[2], [3, 4]])
    torch.nn.init.normal_(rows.learnt)
    ids = torch.tensor([[0, 8, 9, 1], [7, 9, 2, 8]])
    found = rows(ids)
    found.sum().backward()
    assert torch.equal(rows.learnt.grad, torch.full((2, 4), 2.0)), "each token stands twice"
    merged = rows.merged()
    assert torch.equal(found, merged(ids)) and merged.padding_idx == 1
    assert torch.equal(merged.weight[:8], embedding.weight[:8])


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "gpt2"])
def test_a_run_moves_the_prompt_and_the_head_alone(kind, backbone, few, tmp_path):
    recipe = Recipe(
        task="text-classification",
        model=str(backbone(kind)),
        data={"path": str(few), "text": "text", "label": "label", "text_pair": "other"},
        adapt={"method": "prompt-tuning", "tokens": 3},
        train={"max_steps": 3, "learning_rate": 0.01, "weight_decay": 0.1},
    )
    plan = hfadapt.plan(recipe)
    assert plan.lengths.sample and plan.config.vocab_size == 400
    moving = {name: plan.anatomy.part_of(name) for name in plan.stages[0].speeds}
    assert sorted(set(moving.values())) == ["embeddings", "head"]
    run = hfadapt.adapt(plan, tmp_path / "run")
    before, after = load_file(backbone(kind) / "model.safetensors"), load_file(run.model / "model.safetensors")
    prompt = next(name for name, part in moving.items() if part == "embeddings").removesuffix("learnt") + "weight"
    body = {
        next(n for n in before if name.endswith(n)): name for name in after if any(name.endswith(n) for n in before)
    }
    assert len(body) >= len(before) - 2, "what the head replaces is not in the body"
    for old, new in body.items():
        if new != prompt and new not in moving:
            assert same(before[old], after[new]), new
    old = next(o for o, new in body.items() if new == prompt)
    assert after[prompt].shape[0] == 403 and same(before[old], after[prompt][:400])
    assert_plain_answers(run, few, pair=True)


def assert_plain_answers(run, few: Path, *, pair: bool) -> None:
    config = json.loads((run.model / "config.json").read_text())
    assert config["vocab_size"] == 403 and "prompt_tokens" not in config
    lines = [line.split(",") for line in (few / "test.csv").read_text().splitlines()[1:]]
    inputs = [{"text": line[0], "text_pair": line[-1]} if pair else line[0] for line in lines]
    plain = transformers.pipeline("text-classification", model=str(run.model))(inputs, top_k=1, truncation=True)
    ours = list(hfadapt.predict(run, few / "test.csv"))
    assert len(ours) == 8
    for one, (other,) in zip(ours, plain, strict=True):
        assert one["label"] == other["label"]
        assert one["probability"] == pytest.approx(other["score"], abs=1e-5)


CLIP_NANO = Path(hfadapt.__file__).parent / "builtin" / "clip-nano"


def clip(pictures, model, adapt, **train) -> Recipe:
    tables = {split: str(pictures / split / "captions.csv") for split in ("train", "validation", "test")}
    tables |= {"path": tables.pop("train"), "image": "file", "text": "text", "label": "label"}
    task = {"type": "image-text-contrastive", "templates": ["{}."]}
    return Recipe(task=task, model=str(model), data=tables, adapt=adapt, train={"max_steps": 2, **train})


def openai_clip(folder: Path) -> Path:
    """A small CLIP whose end token has the highest id, and whose configuration calls it 2, as OpenAI's do."""
    tokenizer = transformers.CLIPTokenizer(**openai_vocabulary(), model_max_length=64)
    tiny.image_processor("clip").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sizes = dict(tiny.family_of("clip").tiny)
    sizes["text_config"] = sizes["text_config"] | {"vocab_size": len(tokenizer), "eos_token_id": 2}
    transformers.set_seed(0)
    model = transformers.CLIPModel(transformers.CLIPConfig(**sizes, initializer_range=0.2))
    model.save_pretrained(folder)
    return folder


def openai_vocabulary() -> dict:
    words = [word for word in bpe()["vocab"] if len(word) == 1]
    words = [*words, *(f"{word}</w>" for word in words), "<|startoftext|>", "<|endoftext|>"]
    return {"vocab": {word: i for i, word in enumerate(words)}, "merges": []}


@pytest.fixture(scope="module")
def openai(tmp_path_factory) -> Path:
    with quiet():
        return openai_clip(tmp_path_factory.mktemp("openai"))


def test_the_end_of_a_text_is_still_found(openai):
    """Where the text tower takes the highest id for the end, a context would be taken for it."""
    tokenizer = AutoTokenizer.from_pretrained(openai)
    texts = ["a round thing", "it is angular, and far away"]
    plain = tokenizer(texts, padding=True, return_tensors="pt")
    old = transformers.CLIPModel.from_pretrained(openai).eval()
    assert old.config.text_config.eos_token_id == 2
    surroundings = Surroundings(
        task("image-text-contrastive"),
        Source("openai", str(openai)),
        transformers.AutoConfig.from_pretrained(openai),
        transformers.AutoProcessor.from_pretrained(openai),
        Labels("pairs"),
    )
    Coop(context=2).prepare(surroundings)
    assert surroundings.config.text_config.eos_token_id == tokenizer.eos_token_id == len(tokenizer) - 1
    new = transformers.CLIPModel.from_pretrained(openai, config=surroundings.config).eval()
    Coop().wrap(new, anatomy(new))
    with torch.no_grad():
        assert same(old.get_text_features(**plain).pooler_output, new.get_text_features(**plain).pooler_output)
        inserted = surroundings.processor.tokenizer(texts, padding=True, return_tensors="pt")
        read = new.text_model(**inserted)
        ends = (inserted["input_ids"] == tokenizer.eos_token_id).int().argmax(-1)
        assert ends.tolist() != inserted["input_ids"].argmax(-1).tolist(), "the context has the highest ids"
        assert same(read.pooler_output, read.last_hidden_state[torch.arange(2), ends])


def test_an_end_that_cannot_be_told_is_refused(openai):
    processor = transformers.AutoProcessor.from_pretrained(openai)
    processor.tokenizer.add_tokens(["<later>"])
    config = transformers.AutoConfig.from_pretrained(openai)
    source = Source("openai", str(openai))
    with pytest.raises(RecipeError, match="takes the token with the highest id for the end"):
        Coop().prepare(Surroundings(task("image-text-contrastive"), source, config, processor, Labels("pairs")))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_coop_moves_the_context_alone_and_the_plain_pipeline_reads_it(kind, backbone, pictures, tmp_path):
    adapt = {"method": "coop", "context": 3, "start": "a photo"}
    plan = hfadapt.plan(clip(pictures, backbone(kind), adapt, learning_rate=0.05))
    assert dict(plan.stages[0].speeds) == {"text_model.embeddings.token_embedding.learnt": 1.0}
    assert plan.anatomy.part_of("text_model.embeddings.token_embedding.learnt") == "text.embeddings"
    run = hfadapt.adapt(plan, tmp_path / "run")
    before, after = load_file(backbone(kind) / "model.safetensors"), load_file(run.model / "model.safetensors")
    name = "text_model.embeddings.token_embedding.weight"
    assert before.keys() == after.keys()
    assert {key for key in before if not same(before[key], after[key])} == {name}
    vocabulary = len(before[name])
    assert len(after[name]) == vocabulary + 3 and same(after[name][:vocabulary], before[name])
    tokenizer = AutoTokenizer.from_pretrained(backbone(kind))
    starts = before[name][[i for (i,) in _prompts.words(tokenizer, "a photo", 3)]]
    assert not torch.isclose(starts, after[name][vocabulary:]).all(-1).any()

    pipeline = transformers.pipeline("zero-shot-image-classification", model=str(run.model))
    asked = transformers.AutoTokenizer.from_pretrained(run.model)(["round."])["input_ids"][0]
    assert [i - vocabulary for i in asked if i >= vocabulary] == [0, 1, 2]
    files = sorted((pictures / "test").glob("*/*.png"))
    right = 0
    for file in files:
        told = pipeline(str(file), candidate_labels=["round", "angular"], hypothesis_template="{}.")
        right += told[0]["label"] == file.parent.name
    assert run.scores["scores"]["test"]["zero_shot_accuracy"]["value"] == pytest.approx(right / len(files))


def test_the_untouched_backbone_is_judged_with_its_own_tokenizer(backbone, pictures):
    plans = [hfadapt.plan(clip(pictures, backbone("clip"), adapt)) for adapt in ("full", {"method": "coop"})]
    full, coop = (judging.compare(plan)["zero-shot"]["test"] for plan in plans)
    assert {name: score.value for name, score in full.items()} == {name: score.value for name, score in coop.items()}


def test_a_context_is_learnt(pictures):
    """On a batch that it sees again and again, with weights that know something."""
    recipe = clip(pictures, CLIP_NANO, {"method": "coop", "train_temperature": True})
    plan = hfadapt.plan(recipe)
    assert set(plan.stages[0].speeds) == {"text_model.embeddings.token_embedding.learnt", "logit_scale"}
    model, stage = built(plan)
    rows = judging.encode(plan, "train")
    batch = plan.recipe.task.collator(plan.processor)(rows.__getitems__(range(12)))
    targets = batch.pop("labels")
    losses = []
    with only(model, stage.speeds):
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
        for _ in range(12):
            outputs = model(**batch)
            found = {name: outputs[name] for name in plan.recipe.task.reads} | {"logit_scale": model.logit_scale}
            loss = plan.recipe.task.losses(found, targets, "pairs").mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0], losses


def built(plan):
    """The wrapped model, and its only stage."""
    model, parts = load_model(plan)
    wrapped = plan.recipe.adapt.wrap(model, parts)
    (stage,) = plan.recipe.adapt.stages(wrapped, parts)
    return wrapped, stage


def batch_of(plan, rows: int = 4) -> dict:
    batch = plan.recipe.task.collator(plan.processor)(judging.encode(plan, "train").__getitems__(range(rows)))
    return {name: tensor for name, tensor in batch.items() if name != "labels"}


@pytest.mark.parametrize("towers", [["vision"], ["vision", "text"]])
def test_an_adapter_starts_as_nothing_and_merges(towers, backbone, pictures, tmp_path):
    adapt = {"method": "clip-adapter", "ratio": 0.4, "towers": towers}
    plan = hfadapt.plan(clip(pictures, backbone("clip"), adapt))
    model, stage = built(plan)
    projections = [{"vision": "visual_projection", "text": "text_projection"}[tower] for tower in towers]
    assert set(stage.speeds) == {f"{name}.{part}.weight" for name in projections for part in ("down", "up")}
    assert {plan.anatomy.part_of(name) for name in stage.speeds} == {"head"}
    plain = transformers.CLIPModel.from_pretrained(backbone("clip")).eval()
    batch, model = batch_of(plan), model.eval()
    with torch.no_grad():
        for name in ("image_embeds", "text_embeds"):
            assert torch.allclose(model(**batch)[name], plain(**batch)[name], atol=1e-6)
        for name in stage.speeds:
            torch.nn.init.normal_(model.get_parameter(name))
        wrapped = model(**batch)
        finished = plan.recipe.adapt.finish(model)
        finished.save_pretrained(tmp_path)
        reloaded = transformers.AutoModelForZeroShotImageClassification.from_pretrained(tmp_path).eval()(**batch)
    assert torch.allclose(wrapped.logits_per_image, reloaded.logits_per_image, atol=1e-4)
    assert not torch.allclose(wrapped.image_embeds, plain(**batch).image_embeds, atol=0.05)
    before, after = load_file(backbone("clip") / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()
    assert {key for key in before if not same(before[key], after[key])} == {f"{name}.weight" for name in projections}


def test_an_adapter_blends_as_its_paper_says():
    from hfadapt.methods._projection import Blended

    kept = torch.nn.Linear(6, 8)
    blended = Blended(kept, 0.2, 4)
    torch.nn.init.normal_(blended.up.weight)
    pooled = torch.randn(3, 6)
    assert blended.down.weight.shape == (2, 8)
    with torch.no_grad():
        f = kept(pooled)
        expected = 0.8 * f + 0.2 * f @ blended.down.weight.T @ blended.up.weight.T
        assert torch.allclose(blended(pooled), expected, atol=1e-6)
        assert torch.allclose(blended.merged()(pooled), expected, atol=1e-6), "the bias is mapped too"


def test_an_adapter_in_a_run(backbone, pictures, tmp_path):
    recipe = clip(pictures, backbone("clip"), "clip-adapter", learning_rate=0.01)
    run = hfadapt.adapt(hfadapt.plan(recipe), tmp_path / "run")
    before, after = load_file(backbone("clip") / "model.safetensors"), load_file(run.model / "model.safetensors")
    assert {key for key in before if not same(before[key], after[key])} == {"visual_projection.weight"}


def test_an_adapter_needs_a_projection(backbone, pictures):
    with pytest.raises(HfadaptError, match="vision tower of this backbone ends in no linear projection"):
        hfadapt.plan(clip(pictures, backbone("siglip"), "clip-adapter"))
