"""Text and overrides to a recipe: YAML 1.2, the line of every value, and nothing but sentences on the way out."""

from __future__ import annotations

import copy
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hfadapt import recipe as schema_of
from hfadapt.errors import RecipeError
from hfadapt.reading import build, parse, read
from hfadapt.recipe import Recipe

CALM = settings(deadline=None, derandomize=True)
GALLERY = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
SHORTEST = "task: text-classification\nmodel: m\ndata: {path: d.csv}\n"


def of(text: str) -> Recipe:
    """The recipe that a text describes."""
    return build(parse(text, "r.yaml"), "r", text)


def problems(text: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        of(text)
    return str(caught.value).splitlines()


def written(values: dict[str, Any]) -> str:
    """Values as JSON, which is YAML too."""
    return json.dumps(values, ensure_ascii=False)


@pytest.fixture
def file(tmp_path):
    """A recipe file with sections of every shape."""
    path = tmp_path / "my.yaml"
    path.write_text(
        "# a comment\n"
        "task: {type: text-classification,\n"
        "  max_length: 64}\n"
        "model: m\n"
        "data:\n"
        "  path:\n"
        "    - a.csv\n"
        "    - b.csv\n"
        "  text: words\n"
        "adapt: {method: partial, top: 3}\n"
        "train: {learning_rate: 1e-4, seed: 7}\n"
    )
    return path


# What a scalar means


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2e-5", 2e-5),
        ("2E-5", 2e-5),
        ("1.", 1.0),
        (".5", 0.5),
        ("-3", -3),
        ("+3", 3),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("0", 0),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("True", True),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("1:30", "1:30"),
        ("1_000_a", "1_000_a"),
        ("2024-05-01", "2024-05-01"),
        ("1.2.3", "1.2.3"),
        ("e5", "e5"),
        ("'2e-5'", "2e-5"),
        ('"012"', "012"),
        ("'null'", "null"),
        ("=", "="),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_scalars_of_yaml_1_2(written, meant):
    found = parse(f"train: {{x: {written}}}", "r.yaml").values["train"]["x"]
    assert found == meant
    assert type(found) is type(meant)


def test_not_a_number():
    assert math.isnan(parse("a: .nan", "r.yaml").values["a"])


def test_an_old_yaml_directive_does_not_turn_yes_into_false():
    assert of("%YAML 1.1\n---\n" + SHORTEST + "train: {fp16: yes}").train["fp16"] is True


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan", "1e999"])
def test_a_number_must_be_finite(number):
    assert problems(SHORTEST + f"adapt: {{method: lp-ft, probe_speed: {number}}}")[0].endswith(
        "it should be a finite number."
    )


@pytest.mark.parametrize("version", ["2", "0", "'1'", "one", "[1]", "null"])
def test_another_format_is_refused(version):
    assert problems(SHORTEST + f"hfadapt: {version}")[0].endswith("; this hfadapt reads format 1.")


@pytest.mark.parametrize("version", ["true", "1.0"])
def test_only_the_number_one_is_the_format(version):
    problems(SHORTEST + f"hfadapt: {version}")


@pytest.mark.parametrize(
    ("train", "complaint"),
    [
        ("{seed: &a 1, run_name: x}", "train.seed: Anchors and aliases are not part of a recipe. Write the value out."),
        ("{seed: 1, run_name: *a}\nx: &a y", "This is not YAML: a value in no quotes cannot begin with '*'."),
        ("&a {seed: 1}", "train: Anchors and aliases are not part of a recipe. Write the value out."),
        ("{<<: {seed: 1}}", "train: A key must be a plain word."),
        ("{[a]: 1}", "train: A key must be a plain word."),
        ("{seed: !mine 1}", "train.seed: The tag '!mine' is not part of a recipe."),
        ("{seed: !!python/name:os.system x}", "train.seed: The tag 'tag:yaml.org,2002:python/name:os.system' is not"),
        ("{seed: " + "[" * 30 + "]" * 30 + "}", "train.seed" + ".0" * 19 + ": It is nested too deeply."),
    ],
)
def test_what_yaml_allows_and_a_recipe_does_not(train, complaint):
    assert problems(f"{SHORTEST}train: {train}")[0].startswith(f"r.yaml:4: {complaint}")


# Where a value stands


def test_origins_are_lines(file):
    recipe = read(file)
    lines = {
        "task": 2,
        "task.type": 2,
        "task.max_length": 3,
        "task.loss": 2,
        "model": 4,
        "model.name": 4,
        "data": 5,
        "data.path": 6,
        "data.path.1": 8,
        "data.text": 9,
        "data.validation": 5,
        "adapt.top": 10,
        "train.seed": 11,
    }
    assert {name: recipe.origin(name) for name in lines} == {name: f"{file}:{line}" for name, line in lines.items()}


def test_origins_of_overrides(file):
    recipe = read(file, ["train.seed=3", "adapt=lora", "adapt.r=4", "model.revision=v1"])
    assert recipe.origin("train.seed") == recipe.origin("adapt.r") == recipe.origin("adapt") == "command line"
    assert recipe.origin("model.revision") == "command line"
    assert recipe.origin("model.name") == f"{file}:4"
    assert recipe.origin("train.learning_rate") == f"{file}:11"


def test_a_problem_stands_at_the_line_of_its_value(file):
    file.write_text(file.read_text().replace("max_length: 64", "max_length: x").replace("seed: 7", "\n  sed: 7"))
    with pytest.raises(RecipeError) as caught:
        read(file, ["adapt.top=none"])
    assert [(p.where, p.field) for p in caught.value.problems] == [
        (f"{file}:3", "task.max_length"),
        (f"{file}:12", "train.sed"),
        ("command line", "adapt.top"),
    ]


def test_a_recipe_made_in_python_has_no_lines():
    recipe = Recipe(task="text-classification", model="m", data={"path": "d.csv"})
    assert recipe.origin("train.seed") == "Python"
    assert recipe.name == "recipe"


# Who wins


def test_default_then_file_then_command_line(file):
    assert read(file, ["adapt=lp-ft"]).adapt.probe == 0.3
    assert of(SHORTEST).adapt.name == "full"
    assert read(file).adapt.top == 3
    assert read(file, ["adapt.top=1"]).adapt.top == 1
    assert read(file, ["adapt.top=1", "adapt.top=2"]).adapt.top == 2


@pytest.mark.parametrize("section", ["adapt", "train", "metrics", "task: {type: text-classification, loss: }\ntrain"])
def test_an_empty_section_is_as_if_it_were_not_there(section):
    text = SHORTEST.partition("\n")[2] + f"{section}:\n"
    empty = of(text if section.startswith("task") else SHORTEST + f"{section}:\n")
    assert empty.model_dump() == of(SHORTEST).model_dump()
    assert of(empty.dump()).model_dump() == empty.model_dump()


def test_an_empty_section_of_the_command_line_is_the_default(file):
    recipe = read(file, ["train=", "adapt="])
    assert (recipe.train, recipe.adapt.name) == ({}, "full")


def test_the_first_equals_sign_splits(file):
    recipe = read(file, ["data.text=a=b", "model==m", "data.label=x=="])
    assert (recipe.data.columns, recipe.model.name) == ({"text": "a=b", "label": "x=="}, "=m")


def test_a_value_is_yaml(file):
    recipe = read(
        file, ["train.learning_rate=3e-5", "train.fp16=true", "data.path=[c.csv]", "adapt={method: lora, r: 4}"]
    )
    assert recipe.train == {"learning_rate": 3e-5, "seed": 7, "fp16": True}
    assert recipe.data.path == ["c.csv"]
    assert recipe.adapt.model_dump() == {"method": "lora", "r": 4}


def test_nothing_behind_the_equals_sign_is_null(file):
    assert read(file, ["task.max_length="]).task.max_length is None


def test_assigning_a_section_replaces_it(file):
    recipe = read(
        file, ["train={seed: 1}", "data={path: c.csv}", "task=text-classification", "adapt.top=1", "adapt=full"]
    )
    assert recipe.train == {"seed": 1}
    assert recipe.data.columns == {}
    assert recipe.task.max_length is None
    assert recipe.adapt.name == "full"


def test_a_short_form_grows_keys(file):
    assert read(file, ["adapt=lora", "adapt.r=4"]).adapt.model_dump() == {"method": "lora", "r": 4}
    assert read(file, ["model.revision=v1"]).model.model_dump(exclude_unset=True) == {"name": "m", "revision": "v1"}
    assert read(file, ["task=text-classification", "task.max_length=8"]).task.max_length == 8


def test_the_file_itself_is_not_changed_by_overrides(file):
    before = file.read_text()
    assert read(file).text == before
    changed = read(file, ["train.seed=3"])
    assert file.read_text() == before
    assert changed.text.startswith("# my, changed on the command line: train.seed\n")
    assert of(changed.text).train["seed"] == 3


# There and back

NUMBERS = re.compile(r"[-+]?0o[0-7]+|[-+]?[0-9.]+([eE][-+]?[0-9]+)?")
"""Words that would come back as numbers; see `test_a_dumped_word_that_looks_like_a_number_stays_a_word`."""
WORDS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=12).filter(
    lambda word: not NUMBERS.fullmatch(word)
)
TRICKY = st.sampled_from(
    ["no", "012", "1:30", "null", "~", "0x1F", "=", "-", "a: b", "#", "<<", "yes", "1.0", "?", "&a"]
)
TEXTS = WORDS | TRICKY
LABELS = TEXTS.filter(lambda word: word != "<<")
RATES = st.floats(1e-9, 1.0, allow_nan=False, exclude_max=True)
SHARES = st.floats(0.01, 0.4) | st.just("dev") | st.lists(WORDS, min_size=1, max_size=2)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


LOSSES = some(class_weights=st.just("balanced") | st.dictionaries(LABELS, RATES, max_size=3), focal=RATES)
TASKS = st.just("text-classification") | some(max_length=st.integers(4, 512), loss=LOSSES).map(
    lambda options: {"type": "text-classification", **options}
)
MODELS = TEXTS | st.builds(
    lambda name, rest: {"name": name, **rest}, TEXTS, some(revision=TEXTS, dtype=st.just("bfloat16"))
)
DATA = st.builds(
    lambda path, rest: {"path": path, **rest},
    TEXTS | st.lists(TEXTS, min_size=1, max_size=3),
    some(
        text=TEXTS,
        label=TEXTS,
        validation=SHARES,
        labels=st.lists(TEXTS | st.integers(), max_size=3),
        separator=st.just(";"),
    ),
)
METHODS = (
    st.sampled_from(["full", "linear-probe", "lora"])
    | some(r=st.integers(1, 64), lora_dropout=RATES, target_modules=st.lists(WORDS, max_size=2)).map(
        lambda options: {"method": "lora", **options}
    )
    | some(probe=RATES, probe_speed=RATES).map(lambda options: {"method": "lp-ft", **options})
    | st.just({"method": "partial", "blocks": "-2:"})
)
TRAIN = some(
    learning_rate=RATES,
    num_train_epochs=st.integers(1, 9) | RATES,
    seed=st.integers(0, 99),
    run_name=TEXTS,
    fp16=st.booleans(),
)
RECIPES = st.fixed_dictionaries(
    {"task": TASKS, "model": MODELS, "data": DATA},
    optional={"adapt": METHODS, "train": TRAIN, "metrics": st.lists(TEXTS, max_size=2)},
)


@settings(CALM, max_examples=100)
@given(RECIPES)
def test_a_dumped_recipe_reads_back_the_same(values):
    recipe = Recipe.model_validate(copy.deepcopy(values))
    again = of(recipe.dump())
    assert again.model_dump() == recipe.model_dump()
    assert again.dump() == recipe.dump()
    assert set(yaml.safe_load(recipe.dump())) == {"hfadapt", *values}


@pytest.mark.parametrize("text", ["2e-5", "089", "0o17", "1e3", "-08"])
def test_a_dumped_word_that_looks_like_a_number_stays_a_word(text):
    recipe = Recipe.model_validate({"task": "text-classification", "model": text, "data": {"path": "d.csv"}})
    assert of(recipe.dump()).model.name == text


@settings(CALM, max_examples=100)
@given(RECIPES)
def test_json_is_yaml(values):
    recipe = Recipe.model_validate(copy.deepcopy(values))
    assert of(written(values)).model_dump() == recipe.model_dump()


# Anything at all

PARTS = """
task model data adapt train metrics hfadapt type method path text label seed learning_rate lora full r top loss
text-classification - : , { } [ ] ? | > & * ! # % @ ` ' " \\ ~ null true 1 2e-5 .inf <<: *a &a !!str --- ...
"""
ODD = ["\n", "\n  ", ": ", ": \n    ", "{type: ", "\t", "\x07", "\x85", "\u2028", "\ufeff", "\0", "\x1b[31m", "é", "😀"]
PIECES = st.sampled_from([*PARTS.split(), *ODD])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.text(max_size=5)
ARMS = re.compile(r"str$|int$|float$|nullable$|constrained-|list\[|dict\[|literal\[|function-")
"""Keys that are taken for something else; see `mistakes/key_named_like_a_type.yaml`."""
KEYS = TEXTS.filter(lambda word: not ARMS.match(word))
ANYTHING = st.recursive(
    LEAVES, lambda inside: st.lists(inside, max_size=3) | st.dictionaries(KEYS, inside, max_size=3), max_leaves=6
)


def only_sentences(work) -> None:
    """Whatever is read, the answer is a recipe or sentences of one printable line."""
    try:
        work()
    except RecipeError as error:
        assert error.problems
        for problem in error.problems:
            assert str(problem).isprintable()
            assert problem.says
        assert len(str(error).splitlines()) == len(error.problems)


@settings(CALM, max_examples=300)
@given(st.text(max_size=60) | st.lists(PIECES, max_size=25).map("".join))
def test_any_text_is_read_or_refused(text):
    only_sentences(lambda: of(text))


@settings(CALM, max_examples=100)
@given(content=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    only_sentences(lambda: read(path))


@settings(CALM, max_examples=100)
@given(
    st.lists(
        st.text(max_size=20)
        | st.lists(PIECES, max_size=6).map("".join)
        | st.builds(
            "{}={}".format,
            st.sampled_from(
                [
                    "task",
                    "task.type",
                    "model.name",
                    "data.path",
                    "data.path.0",
                    "adapt.r",
                    "adapt.method",
                    "train.seed",
                    "train.seed.x",
                    "hfadapt",
                    "hfadapt.x",
                ]
            ),
            st.lists(PIECES, max_size=4).map("".join),
        ),
        max_size=4,
    )
)
def test_any_override_is_applied_or_refused(tmp_path_factory, overrides):
    path = tmp_path_factory.getbasetemp() / "fine.yaml"
    path.write_text(SHORTEST)
    only_sentences(lambda: read(path, overrides))


@settings(CALM, max_examples=200)
@given(values=RECIPES, draw=st.data())
def test_a_spoilt_recipe_is_read_or_refused(values, draw):
    values = copy.deepcopy(values)
    for _ in range(draw.draw(st.integers(1, 3))):
        spoil(values, draw)
    only_sentences(lambda: of(written(values)))


def spoil(values: dict[str, Any], draw: st.DataObject) -> None:
    """Replace, rename, drop or add one thing anywhere in nested values."""
    place: Any = values
    while inner := [
        v for v in (place.values() if isinstance(place, dict) else place) if isinstance(v, dict | list) and v
    ]:
        if draw.draw(st.booleans()):
            break
        place = draw.draw(st.sampled_from(inner))
    if isinstance(place, list):
        place[draw.draw(st.integers(0, len(place) - 1))] = draw.draw(ANYTHING)
        return
    if not place:
        return
    key = draw.draw(st.sampled_from(sorted(place)))
    how = draw.draw(st.sampled_from(["replace", "rename", "drop", "add"]))
    value = place[key] if how in {"replace", "add"} else place.pop(key)
    if how == "rename":
        place[key[:-1] + draw.draw(st.sampled_from("aetx"))] = value
    elif how == "replace":
        place[key] = draw.draw(ANYTHING)
    elif how == "add":
        place[draw.draw(KEYS)] = draw.draw(ANYTHING)


# The JSON Schema

SCHEMA = schema_of.schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


def test_the_schema_accepts_the_gallery():
    assert GALLERY
    for path in GALLERY:
        read(path)
        values = parse(path.read_text(encoding="utf-8"), path.name).values
        assert [error.message for error in VALIDATOR.iter_errors(values)] == [], path.name


@pytest.mark.parametrize("section", ["adapt", "train", "metrics"])
def test_the_schema_accepts_an_empty_section(section):
    assert VALIDATOR.is_valid({**GOOD, section: None})


@settings(CALM, max_examples=100)
@given(RECIPES)
def test_the_schema_accepts_whatever_reads(values):
    of(written(values))
    assert [error.message for error in VALIDATOR.iter_errors(values)] == []


GOOD: dict[str, Any] = {
    "task": {"type": "text-classification", "loss": {"focal": 1.0}},
    "model": {"name": "m"},
    "data": {"path": "d.csv"},
    "adapt": {"method": "lora"},
    "train": {"seed": 1},
}


@pytest.mark.parametrize("where", ["", "task", "task.loss", "model", "data", "adapt", "train"])
def test_the_schema_refuses_unknown_keys(where):
    assert VALIDATOR.is_valid(GOOD)
    values = copy.deepcopy(GOOD)
    section = values
    for part in filter(None, where.split(".")):
        section = section[part]
    section["learning_rat"] = 1
    assert not VALIDATOR.is_valid(values)
    problems(written(values))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hfadapt", 2),
        ("task", "text-clasification"),
        ("task", {"max_length": 8}),
        ("task", {"type": "text-classification", "max_length": "8"}),
        ("model", 3),
        ("data", "d.csv"),
        ("data", {"text": "a"}),
        ("data", {"path": "d.csv", "sampling": "balance"}),
        ("adapt", {"method": "full", "top": 2}),
        ("adapt", {"method": "lora", "r": "8"}),
        ("train", {"learning_rate": "2e-5"}),
        ("train", {"lr_scheduler_type": "cosin"}),
        ("train", {"output_dir": "out"}),
    ],
)
def test_the_schema_refuses_what_reading_refuses(field, value):
    values = {**GOOD, field: value}
    assert not VALIDATOR.is_valid(values)
    problems(written(values))


# In a hurry


@pytest.mark.parametrize(
    "text", ["task: [", "task: text-clasification\ntrain: {learning_rat: 1}\nadapt: {method: lora, rr: 2}\n"]
)
def test_a_refusal_imports_nothing_heavy(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    code = (
        "import sys\n"
        "from hfadapt import cli\n"
        "try: cli.main(['plan', sys.argv[1]])\n"
        "except SystemExit as end: status = end.code\n"
        "heavy = ('torch', 'transformers', 'numpy', 'peft', 'datasets', 'huggingface_hub', 'sklearn')\n"
        "print(status, [name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "2 []"
    assert done.stderr.startswith(f"{path}:1: ")
