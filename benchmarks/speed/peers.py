"""What hfadapt is compared with: Trainers, an example script, scikit-learn, and the bare matrix products."""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import stock
import torch
from sides import Meter, Order
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from transformers.utils import logging

EVAL_BATCH = 32
ABOVE = ("pooler", "layernorm")
"""What lies between blocks and head, as BERT and ViT call it; CLIP's classifier has nothing there."""


class Stamps(TrainerCallback):
    """Tells a meter of every step."""

    def __init__(self, meter: Meter):
        self.meter = meter

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Training begins."""
        self.meter.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """A step is done."""
        self.meter.step()


class _Enough(Exception):
    """The training is over; what a script does afterwards is not asked for."""


class _End(TrainerCallback):
    """Leaves a script when its training is over."""

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Leave."""
        raise _Enough


class Pictures(torch.utils.data.Dataset[dict[str, Any]]):
    """Pictures that are decoded whenever they are visited."""

    def __init__(self, rows: list[tuple[str, str]], ids: dict[str, int], processor: Any):
        self.rows, self.ids, self.processor = rows, ids, processor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        from PIL import Image

        path, label = self.rows[index]
        with Image.open(path) as picture:
            values = self.processor(images=picture.convert("RGB"), return_tensors="pt")["pixel_values"][0]
        return {"pixel_values": values, "labels": self.ids[label]}


def careful(order: Order) -> dict[str, Any]:
    """A Trainer as one sets it who knows it: texts padded to the longest of a batch of similar ones, AdamW fused."""
    logging.set_verbosity_error()
    meter = Meter()
    splits, collator, kind = _rows(order)
    meter.load()
    set_seed(order.seed)
    model = kind.from_pretrained(order.model, num_labels=2)
    if order.setup.moves == "lora":
        model = _lora(model, order)
    meter.begin()
    for moving, epochs in _stages(model, order):
        if moving is not None:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name in moving)
        trainer = _trainer(model, order, splits, collator, meter, epochs, length_column_name="length")
        trainer.train()
    meter.end()
    if order.setup.whole:  # as hfadapt does after its training
        trainer.evaluate(splits["validation"])
        trainer.evaluate(splits["test"])
        trainer.save_model(str(order.out / "model"))
    told = {"trainable": sum(p.numel() for p in model.parameters() if p.requires_grad)}
    return meter.values(order) | told | {"loss": _last_loss(trainer)}


def example(order: Order) -> dict[str, Any]:
    """A Trainer as transformers' example for texts sets it: every text padded to the most tokens, in any order."""
    logging.set_verbosity_error()
    meter = Meter()
    splits, _, kind = _rows(order, padding="max_length")
    meter.load()
    set_seed(order.seed)
    model = kind.from_pretrained(order.model, num_labels=2)
    trainer = _trainer(model, order, splits, default_data_collator, meter, order.setup.epochs, grouped=False)
    trainer.train()
    meter.end()
    told = {"trainable": sum(p.numel() for p in model.parameters()), "loss": _last_loss(trainer)}
    return meter.values(order) | told | {"peer": "a Trainer set as the script sets it"}


def script(order: Order) -> dict[str, Any]:
    """The user's copy of the example as it is, with its defaults; a callback tells the time of its steps."""
    import evaluate
    from transformers import trainer

    meter = Meter()
    evaluate.load = lambda *_, **__: None  # The script loads a metric from the Hub; nothing is evaluated here.
    trainer.DEFAULT_CALLBACKS += [Stamps(meter), _End()]
    table = order.rows / "train.csv"
    words = ["--model_name_or_path", str(order.model), "--do_train", "--report_to", "none"]
    words += ["--train_file", str(table), "--validation_file", str(order.rows / "validation.csv")]
    words += ["--max_train_samples", str(order.count), "--num_train_epochs", str(order.setup.epochs)]
    words += ["--per_device_train_batch_size", str(order.setup.batch), "--seed", str(order.seed)]
    words += ["--output_dir", str(order.out / "model"), "--save_strategy", "no"]
    words += ["--cache_dir", str(order.out / "cache"), "--learning_rate", str(order.setup.rate)]
    if "text_column_names" in Path(order.script).read_text(encoding="utf-8"):
        words += ["--text_column_names", "text", "--label_column_name", "label"]
    sys.argv = [order.script, *words]
    meter.load()
    try:
        runpy.run_path(order.script, run_name="__main__")
    except _Enough:
        pass
    meter.end()
    return meter.values(order) | {"peer": Path(order.script).name}


def products(order: Order) -> dict[str, Any]:
    """The limit: the matrix products of the model's linear layers alone, forward and backward, of real tokens only.

    Products of the attention are a percent of all; they are counted, and added as if they ran as fast.
    """
    model = AutoModelForSequenceClassification.from_pretrained(order.model, num_labels=2)
    texts = [text for text, _ in stock.read(order.rows, "train")[: order.count]]
    tokenizer = AutoTokenizer.from_pretrained(order.model)
    lengths = np.asarray(
        [len(ids) for ids in tokenizer(texts, truncation=True, max_length=order.setup.longest)["input_ids"]]
    )
    order_of_rows = np.random.default_rng(order.seed).permutation(len(lengths))
    batches = [lengths[order_of_rows[i : i + order.setup.batch]] for i in range(0, len(lengths), order.setup.batch)]
    layers = _linear(model, tokenizer(texts[:2], padding=True, return_tensors="pt"))
    most = max(int(batch.sum()) for batch in batches)
    inputs = {weight.shape[1]: torch.randn(most, weight.shape[1]) for weight, _ in layers}
    grads = {weight.shape[0]: torch.randn(most, weight.shape[0]) for weight, _ in layers}

    def run(batch: np.ndarray) -> int:
        done = 0
        for weight, each in layers:
            count = int(batch.sum()) if each else len(batch)
            given, wanted = inputs[weight.shape[1]][:count], grads[weight.shape[0]][:count]
            torch.mm(given, weight.T)
            torch.mm(wanted, weight)
            torch.mm(wanted.T, given)
            done += 6 * count * weight.numel()
        return done

    with torch.no_grad():
        for batch in batches[:5]:
            run(batch)
        began = time.perf_counter()
        flops = sum(run(batch) for batch in batches)
        seconds = time.perf_counter() - began
    attention = 12 * int((lengths.astype(np.int64) ** 2).sum()) * model.config.hidden_size
    attention *= model.config.num_hidden_layers
    seconds *= 1 + attention / flops
    found = {"rate": round(len(lengths) / seconds, 3), "seconds": round(seconds, 3), "rows": len(lengths)}
    return found | {"gflops": round((flops + attention) / seconds / 1e9, 1), "tokens": int(lengths.sum())}


def _linear(model: nn.Module, inputs: Any) -> list[tuple[torch.Tensor, bool]]:
    """The weights of linear layers, and whether each is applied to every token rather than to every row."""
    seen: list[tuple[torch.Tensor, bool]] = []

    def look(module: nn.Module, args: tuple[torch.Tensor, ...], _: Any) -> None:
        seen.append((module.weight, args[0].dim() == 3))

    hooks = [m.register_forward_hook(look) for m in model.modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    return seen


def embeddings(order: Order) -> dict[str, Any]:
    """scikit-learn's logistic regression on mean embeddings; and the time of the forward pass that makes them."""
    from sklearn.linear_model import LogisticRegression

    splits = {split: stock.read(order.rows, split) for split in stock.SPLITS}
    ids = stock.labels_of(splits["train"])
    tokenizer, model = AutoTokenizer.from_pretrained(order.model), AutoModel.from_pretrained(order.model).eval()
    seconds, made = 0.0, {}
    for split, rows in splits.items():
        encoded = tokenizer([text for text, _ in rows], truncation=True, max_length=order.setup.longest)
        began = time.perf_counter()
        made[split] = _embedded(model, tokenizer, encoded["input_ids"])
        # The cache of the others holds the rows to train on and to validate by.
        seconds += time.perf_counter() - began if split != "test" else 0.0
    targets = {split: [ids[label] for _, label in rows] for split, rows in splits.items()}
    began = time.perf_counter()
    fitted = LogisticRegression(max_iter=1000).fit(made["train"], targets["train"])
    fitting = time.perf_counter() - began
    accuracy = float(fitted.score(made["test"], targets["test"]))
    return {
        "seconds": round(seconds + fitting, 3),
        "forward_seconds": round(seconds, 3),
        "accuracy": round(accuracy, 4),
        "rows": len(made["train"]),
    }


@torch.no_grad()
def _embedded(model: nn.Module, tokenizer: Any, ids: list[list[int]]) -> np.ndarray:
    """Mean embeddings, (rows, width), computed in the order of lengths."""
    found = np.empty((len(ids), model.config.hidden_size), dtype=np.float32)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for begin in range(0, len(order), EVAL_BATCH):
        chosen = order[begin : begin + EVAL_BATCH]
        batch = tokenizer.pad({"input_ids": [ids[i] for i in chosen]}, return_tensors="pt")
        hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
        found[chosen] = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    return found


def _rows(order: Order, padding: str | bool = False) -> tuple[dict[str, Any], Any, Any]:
    """The splits as a Trainer takes them, what makes a batch of them, and the class of the model."""
    from datasets import Dataset

    rows = {split: stock.read(order.rows, split) for split in stock.SPLITS}
    ids = stock.labels_of(rows["train"])
    rows["train"] = rows["train"][: order.count]
    if not (order.rows / "train.csv").exists():
        processor = AutoImageProcessor.from_pretrained(order.model)
        pictures = {split: Pictures(its, ids, processor) for split, its in rows.items()}
        return pictures, default_data_collator, AutoModelForImageClassification
    tokenizer = AutoTokenizer.from_pretrained(order.model)
    splits = {}
    for split, its in rows.items():
        encoded = tokenizer([text for text, _ in its], truncation=True, max_length=order.setup.longest, padding=padding)
        columns = dict(encoded) | {"labels": [ids[label] for _, label in its]}
        splits[split] = Dataset.from_dict(columns | {"length": [len(row) for row in encoded["input_ids"]]})
    return splits, DataCollatorWithPadding(tokenizer), AutoModelForSequenceClassification


def _trainer(
    model: nn.Module,
    order: Order,
    splits: dict[str, Any],
    collator: Any,
    meter: Meter,
    epochs: int,
    grouped: bool = True,
    **more: Any,
) -> Trainer:
    setup, texts = order.setup, not isinstance(splits["train"], Pictures)
    each = "epoch" if setup.whole else "no"
    arguments = TrainingArguments(
        output_dir=str(order.out / "checkpoints"),
        per_device_train_batch_size=setup.batch,
        per_device_eval_batch_size=EVAL_BATCH,
        num_train_epochs=epochs,
        learning_rate=setup.rate,
        seed=order.seed,
        train_sampling_strategy="group_by_length" if grouped and texts else "random",
        eval_strategy=each,
        save_strategy=each,
        save_total_limit=2,
        load_best_model_at_end=setup.whole,
        metric_for_best_model="loss",
        logging_steps=10,
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.accelerator.is_available(),
        dataloader_pin_memory=torch.accelerator.is_available(),
        remove_unused_columns=texts,
        **more,
    )
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        data_collator=collator,
        callbacks=[Stamps(meter)],
    )


def _last_loss(trainer: Trainer) -> float | None:
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses[-1] if losses else None


def _lora(model: nn.Module, order: Order) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    options = {name: value for name, value in order.setup.adapt.items() if name != "method"}
    return get_peft_model(model, LoraConfig(modules_to_save=["classifier"], **options))


def _stages(model: nn.Module, order: Order) -> list[tuple[set[str] | None, int]]:
    """What moves in each stage, None for what moves already, and its epochs."""
    moves, epochs = order.setup.moves, order.setup.epochs
    if moves in ("all", "lora"):
        return [(None, epochs)]
    if moves != "gradual":
        return [(_top(model, int(moves.split()[1]) if " " in moves else 0), epochs)]
    count = len(_blocks(model)[1])
    groups = [_top(model, i) for i in range(count + 1)] + [{name for name, _ in model.named_parameters()}]
    return [(group, epochs // len(groups)) for group in groups]


def _top(model: nn.Module, count: int) -> set[str]:
    """The parameters of the head, the top blocks, and what lies between; of the head alone where the count is 0."""
    moving = [name for name, _ in model.named_modules() if name == "classifier"]
    if count:
        name, blocks = _blocks(model)
        moving += [f"{name}.{i}" for i in range(len(blocks) - count, len(blocks))]
        moving += [its for its, _ in model.named_modules() if its.rpartition(".")[2] in ABOVE]
    return {name for name, _ in model.named_parameters() if name.startswith(tuple(f"{its}." for its in moving))}


def _blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=lambda its: len(its[1]))
