"""What is read from upstream's source equals what importing it shows."""

from __future__ import annotations

import dataclasses
import re

import pytest

from hfadapt import settings, upstream


@pytest.fixture(scope="module")
def training() -> dict[str, upstream.Field]:
    return upstream.fields("transformers.training_args:TrainingArguments", "transformers.trainer_utils")


def test_names_and_defaults_are_those_of_the_class(training):
    from transformers import TrainingArguments

    real = {f.name: f for f in dataclasses.fields(TrainingArguments)}
    assert training.keys() == real.keys()
    assert len(real) > 100
    for name, field in training.items():
        if field.default is not None:
            assert field.default == real[name].default, name


def test_words_are_those_of_the_enums(training):
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    assert set(training["optim"].words) == {o.value for o in OptimizerNames}
    assert set(training["lr_scheduler_type"].words) == {s.value for s in SchedulerType}


@pytest.mark.parametrize("method", ["lora", "adalora", "loha", "oft", "road"])
def test_peft_fields_are_those_of_the_class(method):
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CONFIGS

    kind = CONFIGS[method.upper()]
    found = upstream.fields(f"{kind.__module__}:{kind.__name__}")
    assert found.keys() == {f.name for f in dataclasses.fields(kind)} - {
        f.name for f in dataclasses.fields(peft.PeftConfig)
    }


def test_wrong_names_types_and_words(training):
    values = {"learning_rat": 1, "learning_rate": "x", "bf16": 1, "seed": 3, "optim": "adam_torch", "warmup_steps": 5}
    said = dict(upstream.wrong(values, training, "TrainingArguments"))
    assert said == {
        "learning_rat": "TrainingArguments has no 'learning_rat'. Did you mean 'learning_rate'?",
        "learning_rate": "'x' does not fit: it should be a number.",
        "bf16": "1 does not fit: it should be true or false.",
        "optim": "'adam_torch' is not accepted. Did you mean 'adamw_torch'?",
    }


def test_what_we_set_ourselves_exists_upstream(training):
    assert settings.OURS_TO_SET.keys() <= training.keys()
    assert settings.DEFAULTS.keys() <= settings.training_fields().keys()


def test_what_is_gone_is_gone_and_what_is_named_instead_is_there(training):
    assert len(settings.GONE) > 25
    assert not settings.GONE.keys() & training.keys()
    named = {word for says in settings.GONE.values() for word in re.findall(r"`(\w+)", says)}
    assert named - {"hf"} <= settings.training_fields().keys()


@pytest.mark.parametrize(
    ("value", "kinds", "says"),
    [
        ("2e-5", {"float", "int"}, "'2e-5' does not fit: it should be a number."),
        (True, {"int", "None"}, "true does not fit: it should be a whole number."),
        (None, {"str"}, "It is empty; it should be a text."),
        ([1], {"str", "bool"}, "[1] does not fit: it should be true or false or a text."),
        ("x", {"list", "dict"}, "'x' does not fit: it should be a list or a mapping."),
        (3, {"float"}, None),
    ],
)
def test_types_in_words(value, kinds, says):
    known = {"key": upstream.Field("key", frozenset(kinds))}
    assert dict(upstream.wrong({"key": value}, known, "It")) == ({"key": says} if says else {})


def test_early_stopping_names_are_the_callbacks():
    import inspect

    from transformers import EarlyStoppingCallback

    assert settings.EARLY_STOPPING.keys() == inspect.signature(EarlyStoppingCallback).parameters.keys()


def test_a_class_that_is_not_there():
    with pytest.raises(LookupError, match="no class Nothing"):
        upstream.fields("transformers.training_args:Nothing")
    with pytest.raises(LookupError, match="not installed"):
        upstream.fields("no_such_package.x:Y")
