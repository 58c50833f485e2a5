"""Which adapters of peft work with which backbones: python benchmarks/methods/peft_table.py [METHOD ...]

Wraps a small random backbone of every kind with every adapter, trains two steps, and asks for what hfadapt
promises; no recipe, no data. Writes `peft_table.json` beside itself; of methods that are named, the rows alone.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from torch.nn import functional

from hfadapt import discover, tiny
from hfadapt.backbones.base import Family, anatomy, family_of
from hfadapt.errors import HfadaptError
from hfadapt.methods._peft import PeftAdaptation
from hfadapt.methods.base import Adaptation
from hfadapt.noise import quiet
from hfadapt.training.freezing import only

TABLE = Path(__file__).with_name("peft_table.json")
TEXTS = ["Arrived early, works perfectly, looks better than in the photo.", "Cold soup, cold room, cold shoulder."]
LEFT_OUT = {
    "adamss": "the shapes of its parameters follow from a clustering of the weights, which planning does not read",
    "adaption-prompt": "made for the attention of Llama and GPT-2 alone, and cannot be merged",
    "cartridge": "a cache of keys and values, for causal language models",
    "cpt": "prompts for causal language models",
    "frod": "begins with a joint decomposition of all weights, which planning does not read",
    "lily": "cannot be merged: layers pass their input to experts by a router",
    "multitask-prompt-tuning": "needs the ids of tasks with every batch, and cannot be merged",
    "p-tuning": "prompts cannot be merged; the method prompt-tuning learns tokens instead",
    "poly": "needs the ids of tasks with every batch",
    "prefix-tuning": "keys and values before every layer cannot be merged",
    "prompt-tuning": "prompts cannot be merged; the method prompt-tuning learns tokens instead",
    "shadow": "a network beside a decoder, cannot be merged",
    "trainable-tokens": "trains named rows of the embeddings; lora has this as trainable_token_indices",
    "xlora": "mixes adapters that were trained before",
}
"""Types of peft that are no methods, each with the reason."""


def adapters() -> dict[str, type[PeftAdaptation]]:
    """The methods that are adapters of peft, by name."""
    methods = discover.variants("hfadapt.methods", Adaptation)
    return {name: kind for name, kind in methods.items() if issubclass(kind, PeftAdaptation)}


def kinds() -> list[str]:
    """The kinds of backbones that a family speaks of."""
    return sorted(kind for f in discover.facts("hfadapt.backbones", Family).values() for kind in f.model_types)


def loaded(folder: Path, **options: Any) -> tuple[Any, Any]:
    """A classifier of three labels and its anatomy; the new head is the same each time."""
    model, parts = _read(folder, **options)
    transformers.set_seed(0)
    return copy.deepcopy(model), parts


@cache
def _read(folder: Path, **options: Any) -> tuple[Any, Any]:
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    family = family_of(kind)
    auto = "Image" if family and family.modality != "text" else "Sequence"
    transformers.set_seed(0)
    with quiet():
        model, found = getattr(transformers, f"AutoModelFor{auto}Classification").from_pretrained(
            folder, num_labels=3, output_loading_info=True, **options
        )
    if getattr(model.config, "pad_token_id", 0) is None:
        model.config.pad_token_id = 0
    return model, anatomy(model, found["missing_keys"])


def batch(model: Any) -> dict[str, torch.Tensor]:
    """Five random pictures or texts."""
    draw = torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(5, 3, 32, 32, generator=draw)}
    return {"input_ids": torch.randint(5, 200, (5, 12), generator=draw)}


def answers(model: Any) -> torch.Tensor:
    """The logits of the batch, (5, 3)."""
    with torch.no_grad():
        return model.eval()(**batch(model)).logits


def states(model: Any) -> dict[str, torch.Tensor]:
    """Copies of all parameters."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def steps(model: Any, speeds: Mapping[str, float], number: int = 2) -> set[str]:
    """Train some steps of Adam; the parameters that got no gradient in the last one."""
    without: set[str] = set()
    with only(model, speeds):
        moving = {name: model.get_parameter(name) for name in speeds}
        optimizer = torch.optim.Adam(moving.values(), lr=0.01)
        for _ in range(number):
            logits = model.train()(**batch(model)).logits
            functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1])).backward()
            without = {name for name, p in moving.items() if p.grad is None}
            optimizer.step()
            optimizer.zero_grad()
    return without


def complaints(method: PeftAdaptation, folder: Path) -> Iterator[str]:
    """What is not as promised of a method on the backbone in a folder."""
    import peft

    plain, parts = loaded(folder)
    names, untouched = list(plain.state_dict()), answers(plain)
    model = method.wrap(plain, parts)
    (stage,) = method.stages(model, parts)
    started = states(model)
    if without := steps(model, stage.speeds):
        yield f"{min(without)} gets no gradient"
    ended = states(model)
    if moved := [n for n in started if n not in stage.speeds and not torch.equal(started[n], ended[n])]:
        yield f"{moved[0]} is frozen, and moved"
    head = [name for name in parts.head if "." in name]
    if len([name for name in stage.speeds if parts.part_of(name) == "head"]) != len(head):
        yield "a part of the head does not train"
    if len(stage.speeds) == len(head):
        yield "nothing but the head trains"
    adapted = answers(model)
    if torch.allclose(adapted, untouched, atol=1e-3):
        yield "training changes nothing"
    with tempfile.TemporaryDirectory() as place, quiet():
        method.keep(model, Path(place))
        again = peft.PeftModel.from_pretrained(loaded(folder)[0], Path(place) / "adapter")
        try:
            yield from _apart("the reloaded adapter", answers(again), adapted)
        except AttributeError as error:
            yield f"works merged; beside the base it needs hfadapt, for {error}"
    merged = method.finish(model)
    yield from _apart("the merged model", answers(merged), adapted)
    if list(merged.state_dict()) != names:
        yield "the merged model has other tensors"
    skeleton, parts = loaded(folder, device_map="meta")
    if method.stages(method.wrap(skeleton, parts), parts) != [stage]:
        yield "planning sees other parameters"


def _apart(what: str, one: torch.Tensor, other: torch.Tensor) -> Iterator[str]:
    difference = float((one - other).abs().max())
    if not difference <= 1e-4 * max(1.0, float(other.abs().max())):
        yield f"{what} answers otherwise, by {difference:.1g}"


def verdict(method: PeftAdaptation, folder: Path) -> str:
    """`works`, or why not, in one line."""
    try:
        return next(complaints(method, folder), "works")
    except HfadaptError as error:
        return error.problems[0].says


def main() -> None:
    """Fill the table."""
    import peft

    asked = sys.argv[1:] or list(adapters())
    known = json.loads(TABLE.read_text(encoding="utf-8"))["methods"] if TABLE.exists() else {}
    cells: dict[str, dict[str, str]] = {name: cell for name, cell in known.items() if name in adapters()}
    with tempfile.TemporaryDirectory() as place:
        folders = {}
        for kind in kinds():
            with quiet():
                folders[kind] = tiny.checkpoint(Path(place) / kind, kind, TEXTS)
        for name in asked:
            method = adapters()[name]
            with quiet():
                found = {kind: verdict(method(), folder) for kind, folder in folders.items()}
            cells[name] = found
            print(f"{name:12s} {sum(cell == 'works' for cell in found.values())} of {len(found)}", file=sys.stderr)
    cells = dict(sorted(cells.items()))
    table = {"peft": peft.__version__, "transformers": transformers.__version__, "methods": cells, "left out": LEFT_OUT}
    TABLE.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
