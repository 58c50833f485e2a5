"""The parts of a card by themselves: escaping, discretion, licences, scores for the Hub, fingerprints, the course."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hfadapt.backbones.base import Source
from hfadapt.card import about, adapted, eval_results, history, origins, reproducing, snippets
from hfadapt.card.markdown import code, discreet, escaped, last_part, one_line, table
from hfadapt.methods.base import Stage
from hfadapt.scoring import drawing, slices
from hfadapt.scoring.tally import Score, Tally

DRAWS = True
"""Its charts are drawn."""

BUILTIN = Path(__file__).parent.parent / "hfadapt/builtin"
NAMES = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("|`\\<>&*_[]()!#~$-+=\n\r\t :@.1")), min_size=1
)


# Words of others


def shown(markdown, lines):
    """The cells of a table as a reader sees them; anything but text and code spans is refused."""
    cells, rows = [], []
    for token in markdown.parse("\n".join(lines)):
        assert token.type.startswith(("table", "thead", "tbody", "tr", "th", "td", "inline")), token.type
        if token.type == "inline":
            assert {child.type for child in token.children} <= {"text", "code_inline", "text_special"}
            cells.append("".join(child.content for child in token.children))
        elif token.type == "tr_close":
            rows.append(cells)
            cells = []
    return rows


@settings(deadline=None, derandomize=True)
@given(NAMES)
@pytest.mark.parametrize("write", [code, escaped])
def test_any_name_stands_in_a_table_as_it_is(write, name):
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table", "strikethrough"])
    rows = shown(markdown, table(["a", "b"], [[write(name), "1"], ["x", write(name)]]))
    plain = one_line(name) or ("(empty)" if write is code else "")
    assert rows == [["a", "b"], [plain, "1"], ["x", plain]]
    # The Hub reads formulas before Markdown.
    assert not {"$$", "\\\\("} & {write(name)[i : i + n] for n in (2, 3) for i in range(len(write(name)))}


@settings(deadline=None, derandomize=True)
@given(NAMES)
def test_any_name_stands_at_the_start_of_a_line(name):
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark")
    if one_line(name):
        kinds = [token.type for token in markdown.parse(escaped(name))]
        assert kinds == ["paragraph_open", "inline", "paragraph_close"]


def test_paths_and_tokens_go_and_the_rest_stays(monkeypatch, tmp_path):
    home = tmp_path / "alicia7"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USER", "alicia7")
    monkeypatch.setenv("LOGNAME", "alicia7")
    text = discreet(f"first at {home}/secret/rows.csv:12, and `{home}`; see https://hf.co{home} and a/b, 1/2")
    assert text == f"first at rows.csv:12, and `data`; see https://hf.co{home} and a/b, 1/2"
    for token in ("hf_" + "a1" * 17, "AKIA" + "ABCD1234" * 2, "ghp_" + "x" * 36, "sk-" + "y" * 40):
        assert discreet(f"x={token}.") == "x=…."
    assert discreet("hf_transfer, task-classification, skip") == "hf_transfer, task-classification, skip"
    assert [last_part(p) for p in ("a/b/c.csv", "C:\\x\\y.csv", "b/", "/", "~", str(home))] == [
        "c.csv", "y.csv", "b", "data", "data", "data",
    ]  # fmt: skip


def test_a_finding_is_told_without_its_advice():
    assert about.fact("3 rows of train are repeated. Remove the copies.") == "3 rows of train are repeated."
    says = "The label 'a. B' has no row in test. The score there tells nothing of such rows."
    assert about.fact(says) == "The label 'a. B' has no row in test."
    assert about.fact("It is empty in 2 rows, first at /data/x y/r.csv:3. N", ["/data/x y/r.csv"]).endswith("r.csv:3.")


def test_the_first_sentence_of_every_method_is_whole():
    from hfadapt import discover
    from hfadapt.methods.base import Adaptation

    told = {
        n: adapted.told(kind.model_construct()) for n, kind in discover.variants("hfadapt.methods", Adaptation).items()
    }
    assert len(told) > 40
    for name, says in told.items():
        assert len(says) > 15 and says.endswith(".") and says.count("(") == says.count(")"), (name, says)


# What it was made from


def plan_of(**its):
    """As much of a plan as the parts read."""
    data = {"path": "rows.csv", "name": None, "revision": None, "test": None, **its.pop("data", {})}
    recipe = SimpleNamespace(
        adapt=SimpleNamespace(scratch=its.pop("scratch", False)),
        model=SimpleNamespace(revision=None),
        data=SimpleNamespace(**data),
        task=SimpleNamespace(modality=its.pop("modality", "text")),
    )
    loaded = {"files": its.pop("files", ("rows.csv",)), "made": its.pop("made", {"test": "given"})}
    loaded |= {"splits": its.pop("splits", {"test": {"_file": [0, 0]}}), "labels": its.pop("labels", None)}
    return SimpleNamespace(**{"recipe": recipe, "data": SimpleNamespace(**loaded), **its})


@pytest.fixture
def base(tmp_path):
    """Makes a plan on a local backbone whose README.md has some front matter."""

    def make(front, beside="", **its):
        folder = tmp_path / "base"
        folder.mkdir(exist_ok=True)
        (folder / "README.md").write_text(f"---\n{front}\n---\n# It\n{beside}", encoding="utf-8")
        return plan_of(source=Source(its.pop("name", str(folder)), str(folder), {}), **its)

    return make


def test_the_licence_is_the_backbones(base):
    assert origins.licence(base("license: MIT")) == origins.Licence("mit")
    assert origins.licence(base("license: [apache-2.0]")) == origins.Licence("apache-2.0")
    own = base("license: other\nlicense_name: acme\nlicense_link: https://acme.example/l")
    assert origins.licence(own) == origins.Licence("other", "acme", "https://acme.example/l")
    assert origins.licence(base("license: acme-1.0\nlicense_link: LICENSE")) == origins.Licence("other", "acme-1.0")
    assert origins.licence(base("license: mit", scratch=True)) is None
    for unreadable in ("licence: mit", "license: [", "- a", "license: 3", "license: [mit, gpl]"):
        assert origins.licence(base(unreadable)) is None
    published = "sentence-transformers/all-MiniLM-L6-v2"
    its = base("license: other\nlicense_name: acme\nlicense_link: LICENSE.md", name=published)
    assert origins.licence(its).link == f"https://huggingface.co/{published}/blob/main/LICENSE.md"
    assert origins.base_model(its) == published and origins.base_model(base("a: 1")) is None
    assert origins.base_model(base("a: 1", name=published, scratch=True)) is None


def test_a_model_adapted_before_hands_its_licence_on(tmp_path):
    (tmp_path / "run/model").mkdir(parents=True)
    (tmp_path / "run/README.md").write_text("---\nlicense: mit\n---\n")
    assert origins.licence(plan_of(source=Source("x", str(tmp_path / "run/model"), {}))).identifier == "mit"


def test_built_in_models_have_the_licence_that_they_say():
    readmes = [path.parent / "README.md" for path in BUILTIN.glob("*/config.json")]
    assert len(readmes) >= 2 and all("Licence: CC0 1.0" in path.read_text() for path in readmes)
    assert origins.licence(plan_of(source=Source("builtin/vit-nano", "/x", {}))).identifier == "cc0-1.0"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A plan on a data set of the Hub, whose card is in the cache."""
    (tmp_path / "README.md").write_text("---\nlanguage: [en, 'no', 'English?']\n---\n", encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: str(tmp_path / "README.md"))

    def make(**its):
        data = {"path": "nyu-mll/glue", "name": "sst2", **its.pop("data", {})}
        files = ("nyu-mll/glue/sst2 (train)", "nyu-mll/glue/sst2 (validation)")
        settled = {"metric_for_best_model": "f1_macro"}
        return plan_of(**{"data": data, "files": files, "settled": settled, **its})

    return make


def test_a_data_set_of_the_hub_is_known_by_its_id(hub):
    assert origins.dataset(hub()) == "nyu-mll/glue" and origins.languages(hub()) == ["en", "no"]
    assert origins.languages(hub(modality="image")) == []
    for path in ("builtin/reviews", "data/rows.csv"):
        assert origins.dataset(plan_of(data={"path": path}, files=(path,))) is None
    assert origins.data_name(plan_of(data={"path": ["/x/a.csv", "/y/b.csv"]})) == "a.csv, b.csv"
    assert origins.languages(plan_of(data={"path": "builtin/reviews"})) == ["en"]
    assert origins.languages(plan_of()) == []


def test_scores_for_the_hub_are_read_by_its_client(hub):
    scores = {"f1_macro": Score(0.5, 0.4, 0.62, 872), "accuracy": Score(0.6, 0.5, 0.7, 872)}
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    revision = "a" * 40
    (name, text), *more = eval_results.files(
        hub(data={"test": "validation", "revision": revision}), scores, now
    ).items()
    assert not more and name == "nyu-mll-glue-sst2.yaml"
    (entry,) = parse_eval_result_entries(yaml.safe_load(text))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("nyu-mll/glue", "sst2", 0.5)
    assert (entry.date, entry.dataset_revision) == ("2026-01-02T03:04:05Z", revision)
    assert entry.notes == "f1_macro, split validation, 872 rows; 95% interval 0.400–0.620"


def test_scores_that_are_comparable_with_nothing_are_not_for_the_hub(hub):
    scores = {"f1_macro": Score(0.5, None, None, 9)}
    assert len(eval_results.files(hub(), scores)) == 1
    assert eval_results.files(hub(made={"test": "10% of train, stratified, seed 42"}), scores) == {}
    own = hub(files=("nyu-mll/glue/sst2 (train)", "mine.csv"), splits={"test": {"_file": [1]}})
    assert eval_results.files(own, scores) == {}
    assert eval_results.files(plan_of(settled={"metric_for_best_model": "f1_macro"}), scores) == {}
    assert eval_results.files(hub(), {}) == {}


# Doing it again


def rows_of(**columns):
    from datasets import Dataset

    return Dataset.from_dict(columns)


def test_a_fingerprint_is_that_of_the_rows_and_not_of_where_they_lie(tmp_path):
    first = reproducing.fingerprint(rows_of(text=["ab", "c"], label=[0, 1], _file=[0, 0]))
    assert len(first) == 16 and first == reproducing.fingerprint(rows_of(text=["ab", "c"], label=[0, 1], _file=[3, 4]))
    others = [{"text": ["a", "bc"], "label": [0, 1]}, {"text": ["c", "ab"], "label": [1, 0]}]
    others += [{"text": ["ab", "c"], "label": [1, 1]}, {"text": ["ab"], "label": [0]}]
    others += [{"text": ["ab"], "text_pair": ["c"]}, {"text": ["a"], "text_pair": ["bc"]}]
    assert len({first, *(reproducing.fingerprint(rows_of(**other)) for other in others)}) == 7
    (tmp_path / "a.png").write_bytes(b"one")
    there = rows_of(image=[{"bytes": None, "path": str(tmp_path / "a.png")}])
    assert reproducing.fingerprint(there) == reproducing.fingerprint(rows_of(image=[{"bytes": b"one", "path": None}]))


def test_a_recipe_loses_its_paths_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own/base").mkdir()
    told = {
        "data": {"path": ["/x/y/a.csv", "parts/*.csv"], "validation": "../b.csv", "test": 0.2, "text": "in/out"},
        "model": "own/base",
        "task": {"templates": ["is it a {}/thing?", "/"]},
        "metrics": ["./mine.py", "accuracy"],
    }
    cut: list[str] = []
    for name, its in told.items():
        told[name] = reproducing._without_paths(its, {"me/data"}, cut, globs=name == "data")
    assert told["data"] == {"path": ["a.csv", "*.csv"], "validation": "b.csv", "test": 0.2, "text": "in/out"}
    assert told["model"] == "base" and told["metrics"] == ["mine.py", "accuracy"] and len(cut) == 6
    assert told["task"]["templates"][0] == "is it a {}/thing?"


def test_examples_leave_out_what_may_be_somebodys():
    texts = [
        "Write to me@home.example today",
        "see https://x.example for it",
        "short",
        "x" * 200,
        "A fine table it is.",
    ]
    rows = rows_of(text=texts, label=[0, 0, 0, 0, 1])
    labels = SimpleNamespace(names=("a", "b"))
    assert snippets.examples(plan_of(splits={"validation": rows}, labels=labels)) == ["A fine table it is."]
    assert eval(snippets._quoted('a "b" ``` \n c\\')) == 'a "b" ``` c\\'


# How training went


def logged(path, events):
    path.write_text("".join(json.dumps(event) + "\n" for event in events) + '{"event": "tr', encoding="utf-8")
    return path


def test_the_course_is_what_the_log_says(tmp_path):
    def trained(step, loss, stage="tune"):
        return {"event": "trained", "stage": stage, "step": step, "loss": loss}

    def evaluated(step, score, stage="tune"):
        return {"event": "evaluated", "stage": stage, "step": step, "scores": {"f1_macro": score, "loss": 1 - score}}

    events = [
        *(trained(7, 9.0, "pretrain"), trained(5, 2.0, "probe"), evaluated(5, 0.3, "probe")),
        *(trained(10, 1.5), evaluated(10, 0.5), trained(15, 1.0), evaluated(15, 0.9)),
        *(trained(15, 1.1), evaluated(15, 0.4), {"event": "end"}),  # made again after an interruption
    ]
    settled = {"metric_for_best_model": "f1_macro", "load_best_model_at_end": True, "greater_is_better": True}
    stages = (Stage("probe", {"a": 1.0}, 0.25), Stage("tune", {"a": 1.0}, 0.75))
    plan = plan_of(stages=stages, steps=20, settled=settled)
    its = history.course(plan, logged(tmp_path / "log.jsonl", events))
    assert its.losses == [(5, 2.0), (10, 1.5), (15, 1.1)] and its.scores == [(5, 0.3), (10, 0.5), (15, 0.4)]
    assert [loss for _, loss in its.judged_losses] == pytest.approx([0.7, 0.5, 0.6])
    assert its.stages == [("probe", 5), ("tune", 20)] and its.kept == [(5, 0.3), (10, 0.5)]
    less = plan_of(stages=stages, steps=20, settled={**settled, "greater_is_better": False})
    assert history.course(less, tmp_path / "log.jsonl").kept == [(5, 0.3), (15, 0.4)]
    assert drawing.course(tmp_path / "it.png", its)
    with Image.open(tmp_path / "it.png") as picture:
        assert picture.format == "PNG" and picture.width > 700 and picture.height > 500
    assert not drawing.course(tmp_path / "none.png", history.course(plan, tmp_path / "no.jsonl"))
    assert not (tmp_path / "none.png").exists()


def test_a_course_shows_borders_names_and_what_was_kept(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(drawing, "_save", lambda figure, path: figures.append(figure))
    scores = [(5, 0.3), (10, 0.5)]
    its = drawing.Course([(1, 2.0), (10, 1.0)], [(5, 1.5)], scores, "f1", [("probe $x$", 5), ("tune", 10)], [(10, 0.5)])
    drawing.course(tmp_path / "a.png", its)
    drawing.course(tmp_path / "b.png", drawing.Course([], [], [(3, 1.0)], "rmse", [("full", 3)]))
    above, below = figures[0].axes
    assert [text.get_text() for text in above.texts] == ["probe $x$", "tune"] and above.get_ylabel() == "loss"
    assert [text.get_text() for text in above.get_legend().get_texts()] == ["train", "validation"]
    assert below.get_ylabel() == "validation f1" and [text.get_text() for text in below.texts] == ["0.500"]
    borders = [line for line in below.lines if list(line.get_xdata()) == [5, 5]]
    assert len(borders) == 1 and below.get_xlabel() == "step"
    assert len(figures[1].axes) == 1 and not figures[1].axes[0].texts


# Slices


def test_quarters_are_scored_like_the_whole():
    random = np.random.default_rng(0)
    true = random.integers(0, 3, 400)
    lengths = random.integers(1, 60, 400).tolist()
    chances = random.random((400, 3)) + 1.5 * (np.asarray(lengths)[:, None] < 15) * np.eye(3)[true]
    remembered = slices.Remembered(Tally("label", ["a", "b", "c"], replicates=50), "label")
    for start in range(0, 400, 64):
        remembered.add(chances[start : start + 64], true[start : start + 64])
    right = chances.argmax(1) == true
    assert remembered.scores()["accuracy"].value == pytest.approx(right.mean())
    assert remembered.confusion.sum() == 400 and set(remembered.by_label) >= {"f1[a]", "recall[c]"}
    found = slices.by_length(remembered.marks, lengths, "label", seed=0, replicates=200)
    assert len(found) == 4 and sum(its.score.rows for its in found) == 400
    for its in found:
        inside = (np.asarray(lengths) >= its.low) & (np.asarray(lengths) <= its.high)
        assert its.score.value == pytest.approx(right[inside].mean()) and its.score.rows == inside.sum()
        assert its.score.low < its.score.value < its.score.high
    assert found[0].score.value == max(its.score.value for its in found)


def test_rows_of_several_labels_and_numbers_are_remembered_too():
    from sklearn.metrics import f1_score

    random = np.random.default_rng(1)
    true, told = random.integers(0, 2, (100, 4)), random.random((100, 4))
    several = slices.Remembered(Tally("labels", list("abcd")), "labels")
    several.add(told, true)
    lengths = [1] * 50 + [2] * 50
    first, second = slices.by_length(several.marks, lengths, "labels", seed=0)
    assert first.score.value == pytest.approx(f1_score(true[:50], told[:50] >= 0.5, average="micro"))
    assert (first.low, first.high, second.low) == (1, 1, 2) and several.confusion is None
    numbers = slices.Remembered(Tally("number", []), "number")
    numbers.add(told[:, 0], told[:, 1])
    first, _ = slices.by_length(numbers.marks, lengths, "number", seed=0)
    assert first.score.value == pytest.approx(np.abs(told[:50, 0] - told[:50, 1]).mean())
    assert numbers.by_label == {}


def test_few_rows_or_one_length_are_not_told():
    marks = np.ones((79, 1), np.float32)
    assert slices.by_length(marks, range(79), "label", seed=0) == []
    assert len(slices.by_length(np.ones((80, 1), np.float32), range(80), "label", seed=0)) == 4
    assert slices.by_length(marks, [7] * 79, "label", seed=0) == []


def test_texts_that_find_their_pictures_are_remembered():
    from hfadapt.scoring.retrieval import Retrieval

    images = np.eye(4, dtype=np.float32)
    texts = images[[0, 1, 3, 2]]
    ids = np.stack([np.arange(4), np.arange(4) + 10], 1)
    pairs = slices.Remembered(Retrieval(), "pairs")
    pairs.add({"image_embeds": images, "text_embeds": texts}, ids)
    assert pairs.marks.ravel().tolist() == [1, 1, 0, 0] and pairs.by_label == {} and pairs.confusion is None
    assert pairs.scores()["text_to_image_recall@1"].value == 0.5
