"""The verbs: what they print, where, and with which exit status."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hfadapt import __version__, cli, discover, gallery

ROOT = Path(__file__).parent.parent
VERBS = sorted(path.stem for path in (ROOT / "hfadapt" / "verbs").glob("[a-z]*.py"))
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))


@pytest.fixture
def hfadapt(tmp_path, monkeypatch, capsys):
    """Runs a command line in an empty folder: its exit status, what it wrote and what it complained of."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main([str(word) for word in argv])
        return (end.value.code, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, backbone, toy) -> Path:
    """A recipe of a small backbone and 64 rows."""
    path = tmp_path_factory.mktemp("cli") / "toy.yaml"
    path.write_text(
        "task: text-classification\n"
        f"model: {backbone('bert')}\n"
        f"data: {{path: {toy}, text: text, label: label}}\n"
        "adapt: lp-ft\n"
        "train:\n"
        "  learning_rate: 1e-3\n"
        "  num_train_epochs: 2\n"
    )
    return path


# Help


def test_help_names_every_verb(hfadapt):
    status, out, err = hfadapt("--help")
    assert (status, err) == (0, "")
    assert re.findall(r"^    (\w+) ", out, re.MULTILINE) == VERBS
    assert {"plan", "run", "score", "predict"} < set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_has_an_example(verb, hfadapt):
    status, out, err = hfadapt(verb, "--help")
    assert (status, err) == (0, "")
    example = " ".join(out.partition("\nexample: ")[2].split())
    assert example.startswith(f"hfadapt {verb}")


@pytest.mark.parametrize("verb", VERBS)
def test_the_example_of_a_verb_is_a_command(verb):
    example = cli.verb(verb).EXAMPLE.partition(" > ")[0]
    assert cli._parser().parse_args(example.split()[1:]).verb == verb


def test_version(hfadapt):
    assert hfadapt("--version") == (0, f"hfadapt {__version__}\n", "")


# Mistakes on the command line


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([], "hfadapt: the following arguments are required: VERB"),
        (["plann", "my.yaml"], "hfadapt: There is no verb 'plann'. Did you mean 'plan'?"),
        (["Run"], "hfadapt: There is no verb 'Run'. Did you mean 'run'?"),
        (
            ["train"],
            "hfadapt: There is no verb 'train'. There are: 'check', 'cp', 'doctor', 'export', 'list', 'plan', ",
        ),
        (["plan"], "hfadapt plan: the following arguments are required: recipe"),
        (["list", "--all"], "hfadapt: unrecognized arguments: --all"),
        (["run", "my.yaml", "--processes", "two"], "hfadapt run: argument --processes: "),
        (["run"], "Give a recipe, or --resume and the folder of an interrupted run; not both."),
        (["run", "my.yaml", "--resume", "runs/my"], "Give a recipe, or --resume and the folder of an interrupted run"),
        (["run", "--resume", "runs/my"], "There is no run in 'runs/my'."),
        (["score", "runs/my"], "There is no run in 'runs/my'."),
        (["predict", "runs/my", "rows.csv"], "There is no run in 'runs/my'."),
        (["predict", "runs/my", "rows.csv", "--out", "a.txt"], "--out must end in .csv or .jsonl, not in '.txt'."),
    ],
)
def test_usage(argv, complaint, hfadapt, tmp_path):
    status, out, err = hfadapt(*argv)
    assert (status, out) == (2, "")
    assert err.startswith(complaint)
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_verb_with_a_quote(hfadapt):
    assert hfadapt("pla'n")[2].startswith("hfadapt: There is no verb 'pla'n'. Did you mean 'plan'?")


@pytest.mark.parametrize(
    "argv", [["plan", "no.yaml", "--json", "train.seed=1"], ["run", "no.yaml", "--out", "o", "train.seed=1"]]
)
def test_changes_may_follow_an_option(argv, hfadapt):
    assert "no.yaml: There is no such file." in hfadapt(*argv)[2]


@pytest.mark.parametrize("verb", ["run", "plan"])
@pytest.mark.parametrize("number", ["0", "-1"])
def test_there_is_at_least_one_process(verb, number, hfadapt, monkeypatch):
    def stop(*_: object) -> None:
        raise AssertionError("the recipe is looked at")

    monkeypatch.setattr("hfadapt.reading.read", stop)
    assert hfadapt(verb, "no.yaml", "--processes", number)[0] == 2


def test_a_wrong_number_is_told_in_words(hfadapt):
    assert "_" not in hfadapt("run", "my.yaml", "--processes", "two")[2]


def test_a_verb_that_fails_otherwise_is_not_hidden(monkeypatch):
    monkeypatch.setattr("hfadapt.gallery.listing", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["list"])


def test_interrupted(hfadapt, monkeypatch):
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hfadapt.gallery.listing", interrupt)
    assert hfadapt("list") == (130, "", "\ninterrupted\n")


def test_an_interrupted_run_says_how_to_go_on(hfadapt, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hfadapt.reading.read", interrupt)
    says = "\ninterrupted; a run goes on with: hfadapt run --resume DIR\n"
    assert hfadapt("run", "my.yaml") == (130, "", says)
    assert hfadapt("plan", "my.yaml") == (130, "", "\ninterrupted\n")


def test_debugging_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("HFADAPT_DEBUG", "1")
    with pytest.raises(cli.HfadaptError):
        cli.main(["cp", "no-such-recipe"])


def test_only_the_first_of_several_processes_complains(hfadapt, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert hfadapt("plan", "no.yaml", "--json") == (2, "", "")


# Errors as JSON


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (
            ["plan", "no.yaml"],
            {
                "where": "no.yaml",
                "field": "",
                "says": "There is no such file.",
                "hint": "`hfadapt list` names recipes.",
            },
        ),
        (["cp", "sentiment-bert"], {"where": "", "field": "", "hint": ""}),
        (["score", "runs/my"], {"where": "", "field": "", "says": "There is no run in 'runs/my'.", "hint": ""}),
        (["plann"], {"where": "hfadapt", "field": "", "hint": "See `hfadapt --help`."}),
        (["plan"], {"where": "hfadapt plan", "says": "the following arguments are required: recipe."}),
        (["list", "--all"], {"where": "hfadapt", "says": "unrecognized arguments: --all."}),
    ],
)
def test_errors_as_json(argv, error, hfadapt):
    status, out, err = hfadapt(*argv, "--json")
    assert status == 2
    [found] = json.loads(out)["errors"]
    assert found == {**found, **error}
    assert set(found) == {"where", "field", "says", "hint"}
    assert found["says"] in err


def test_all_errors_of_a_recipe_as_json(hfadapt, recipe):
    status, out, err = hfadapt("plan", recipe, "train.sead=1", "adapt.prob=1", "--json")
    assert status == 2
    assert [e["field"] for e in json.loads(out)["errors"]] == ["adapt.prob", "train.sead"]
    assert err.count("\n") == 2


# list


def test_list_names_all_there_is(hfadapt):
    status, out, err = hfadapt("list")
    assert (status, err) == (0, "")
    listed: dict[str, dict[str, str]] = {}
    kind = ""
    for line in out.splitlines():
        name, _, says = line.strip().partition("  ")
        if line.startswith("  "):
            assert says.strip(), name
            listed[kind][name] = says.strip()
        else:
            kind = line
            listed[kind] = {}
    assert list(listed) == ["recipes", "tasks", "methods", "families", "models", "data"]
    assert list(listed["recipes"]) == RECIPES
    for kind, package in (("tasks", "tasks"), ("methods", "methods"), ("families", "backbones")):
        assert list(listed[kind]) == list(discover.modules(f"hfadapt.{package}"))
    assert json.loads(hfadapt("list", "--json")[1]) == listed


def test_list_names_all_built_in_data(hfadapt):
    builtin = ROOT / "hfadapt" / "builtin"
    names = {path.parent.name for path in builtin.glob("*/train.*")}
    names |= {path.stem.replace("_", "-") for path in builtin.glob("[!_]*.py")}
    assert names
    assert set(json.loads(hfadapt("list", "--json")[1])["data"]) == {f"builtin/{name}" for name in names}


# cp


def test_cp_copies_what_list_names(hfadapt, tmp_path):
    assert RECIPES
    for name in RECIPES:
        assert hfadapt("cp", name) == (0, f"{name}.yaml\n", "")
        assert (tmp_path / f"{name}.yaml").read_bytes() == (ROOT / "recipes" / f"{name}.yaml").read_bytes()


def test_cp_to_a_name_or_into_a_folder(hfadapt, tmp_path):
    (tmp_path / "sub").mkdir()
    assert hfadapt("cp", "sentiment_bert.yaml", "mine.yaml", "--json")[:2] == (0, '{"file": "mine.yaml"}\n')
    assert hfadapt("cp", "sentiment_bert", "sub")[:2] == (0, "sub/sentiment_bert.yaml\n")
    assert (tmp_path / "mine.yaml").read_bytes() == (tmp_path / "sub/sentiment_bert.yaml").read_bytes()


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["sentiment_bird"], "There is no recipe 'sentiment_bird'. Did you mean 'sentiment_bert'?"),
        (
            ["../recipes/sentiment_bert"],
            "There is no recipe '../recipes/sentiment_bert'. Did you mean 'sentiment_bert'?",
        ),
        (["sentiment_bert", "taken.yaml"], "'taken.yaml' exists already; choose another name."),
        (["sentiment_bert", "."], "'sentiment_bert.yaml' exists already; choose another name."),
        (["sentiment_bert", "no/such.yaml"], "There is no folder 'no'."),
    ],
)
def test_cp_refuses(argv, complaint, hfadapt, tmp_path):
    for name in ("taken.yaml", "sentiment_bert.yaml"):
        (tmp_path / name).write_text("mine")
    assert hfadapt("cp", *argv) == (2, "", f"{complaint}\n")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ["taken.yaml", "sentiment_bert.yaml"], "mine"
    )


def test_what_cp_copies_from_an_installed_package(monkeypatch, tmp_path):
    package = tmp_path / "hfadapt"
    (package / "recipes").mkdir(parents=True)
    (package / "recipes" / "only.yaml").write_text("# One.\n")
    monkeypatch.setattr(gallery, "__file__", str(package / "gallery.py"))
    assert list(gallery.recipes()) == ["only"]


# schema


def test_schema(hfadapt):
    status, out, err = hfadapt("schema")
    assert (status, err) == (0, "")
    made = json.loads(out)
    assert set(made["required"]) == {"task", "model", "data"}
    assert set(made["properties"]) == {"hfadapt", "task", "model", "data", "adapt", "train", "cache", "metrics", "push"}
    assert made["properties"]["train"]["properties"]["learning_rate"]["type"] == ["number"]
    assert all(section.get("description") for section in made["properties"].values())


# plan


@pytest.fixture(scope="module")
def planned(recipe) -> tuple[str, dict[str, Any]]:
    """A plan as it is printed, and as JSON."""
    out = io.StringIO()
    for flags in ([], ["--json"]):
        with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as end:
            cli.main(["plan", str(recipe), "train.seed=7", *flags])
        assert end.value.code == 0
    printed, brace, made = out.getvalue().partition("\n{\n")
    return printed, json.loads(brace + made)


def test_plan_describes_the_data(planned):
    lines = planned[0].splitlines()
    assert lines[0] == "task    text-classification, one label a row out of 2"
    assert lines[1].startswith("data    ") and lines[1].endswith("toy.csv: text = text, label = label")
    table = [re.split(r"  +", line.strip()) for line in lines[2:5]]
    assert [(split, rows, set(labels.split(", "))) for split, rows, labels, *_ in table] == [
        ("train", "52 rows", {"good 26", "bad 26"}),
        ("validation", "6 rows", {"good 3", "bad 3"}),
        ("test", "6 rows", {"good 3", "bad 3"}),
    ]
    assert table[1][3] == "[10% of train, stratified, seed 7]"
    assert re.fullmatch(r"        lengths: \d+ tokens in the median, \d+ at most, cut to 64", lines[5])
    assert re.fullmatch(r"model   .*bert.* \(bert, [\d.]+k parameters\)", lines[6])
    assert re.fullmatch(r"adapt   lp-ft: probe \(\d+ move\), then tune \([\d.]+k move\); 8 steps", lines[7])


def test_plan_for_several_processes(hfadapt, recipe, planned):
    status, out, _ = hfadapt("plan", recipe, "--processes", 2, "--json")
    assert status == 0 and (json.loads(out)["steps"], planned[1]["steps"]) == (4, 8)


def test_plan_shows_the_tree_of_every_stage(planned):
    probe, _, tune = planned[0].partition("\nstage 'probe', 30% of the steps: ")[2].partition("\nstage 'tune', 70% ")
    trees = [
        dict(re.findall(r"^  (embeddings|blocks|after|head)\b.*?   +(.*)$", part, re.MULTILINE))
        for part in (probe, tune.partition("\n\n")[0])
    ]
    assert [list(tree) for tree in trees] == [["embeddings", "blocks", "after", "head"]] * 2
    assert [name for name, fate in trees[0].items() if fate.endswith("frozen")] == ["embeddings", "blocks", "after"]
    assert trees[0]["head"].endswith(" at 2e-2")
    assert all(fate.endswith(" at 1e-3") for fate in trees[1].values())


def test_plan_shows_where_settings_come_from(planned, recipe):
    listed = re.findall(r"^  (\w+) = (\S+)   \((.*)\)$", planned[0].partition("\nsettings ")[2], re.MULTILINE)
    shown = {name: (value, origin) for name, value, origin in listed}
    assert shown["learning_rate"] == ("1e-3", f"{recipe}:6")
    assert shown["num_train_epochs"] == ("2", f"{recipe}:7")
    assert shown["seed"] == ("7", "command line")
    assert shown["warmup_steps"][1].startswith("hfadapt default: ")
    assert shown["metric_for_best_model"] == ("f1_macro", "follows from the recipe")
    assert "max_grad_norm" not in shown


def test_plan_as_json_says_the_same(planned, recipe):
    plan = planned[1]
    train = plan["data"]["splits"]["train"]
    assert (train["rows"], train["labels"]) == (52, {"good": 26, "bad": 26})
    assert [stage["name"] for stage in plan["stages"]] == ["probe", "tune"]
    assert plan["settings"]["learning_rate"] == {"value": 1e-3, "origin": f"{recipe}:6"}
    assert plan["settings"]["seed"] == {"value": 7, "origin": "command line"}
    assert plan["steps"] == 8
    assert plan["stages"][1]["trainable"] == plan["model"]["parameters"] > plan["stages"][0]["trainable"]


def test_plan_says_what_it_costs(planned):
    assert re.search(r"^cost    about \d+ s and \d\.\d GiB at the peak", planned[0], re.MULTILINE)
    assert set(planned[1]["estimate"]) >= {"seconds", "memory_bytes", "basis"}


def test_plan_guesses_columns_and_says_so(hfadapt, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("hfadapt.estimating.estimate", lambda *_: None)
    unnamed = tmp_path / "unnamed.yaml"
    unnamed.write_text(recipe.read_text().replace(", text: text, label: label", ""))
    assert ": text = text (guessed), label = label (guessed)\n" in hfadapt("plan", unnamed)[1]
    assert ": text = other, label = label (guessed)\n" in hfadapt("plan", unnamed, "data.text=other")[1]
    assert [path.name for path in tmp_path.iterdir()] == ["unnamed.yaml"]


# From outside


@pytest.mark.parametrize("verb", ["schema", "list"])
def test_a_closed_pipe_is_no_traceback(verb):
    command = f"{sys.executable} -m hfadapt {verb} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
