"""Graphs: the parts of a model that are exported, and the exported parts as a module that is called like the model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hfadapt.exported.folder import Exported

Call = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""One graph: named inputs to named outputs."""


class Logits(nn.Module):
    """A classifier that returns its logits and nothing else."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Inputs by name to `logits`, (rows, labels)."""
        return {"logits": self.model(**inputs).logits}


class Encoder(nn.Module):
    """One tower of a model of pictures and texts, with what brings its features into the space of both."""

    def __init__(self, model: nn.Module, side: str):
        """side: `text` or `image`."""
        super().__init__()
        self.model, self.side = _without(model, "vis" if side == "text" else "text"), side

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Inputs by name to `text_embeds` or `image_embeds`, (rows, dimensions), of unit length."""
        found = getattr(self.model, f"get_{self.side}_features")(**inputs).pooler_output
        return {f"{self.side}_embeds": functional.normalize(found, dim=-1)}


def _without(model: nn.Module, begins: str) -> nn.Module:
    """The same model without the modules whose names begin so: torch.export keeps the weights of unused ones."""
    lean = copy.copy(model)
    lean._modules = {name: None if name.startswith(begins) else its for name, its in model._modules.items()}
    return lean


def parts(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, tuple[nn.Module, dict[str, Tensor]]]:
    """What is exported of a model: the name of each graph, its module, and of the inputs those that it takes."""
    if not hasattr(model, "logit_scale"):
        return {"model": (Logits(model), dict(inputs))}
    pictures = {name: tensor for name, tensor in inputs.items() if name == "pixel_values"}
    texts = {name: tensor for name, tensor in inputs.items() if name not in pictures}
    return {"text": (Encoder(model, "text"), texts), "image": (Encoder(model, "image"), pictures)}


class Running(nn.Module):
    """An exported model on the CPU, called like the model that it was made of."""

    def __init__(self, calls: Mapping[str, Call], config: Any, scale: float | None = None, bias: float | None = None):
        """config: of the model; scale, bias: on the cosines of two towers."""
        super().__init__()
        self.calls, self.config = dict(calls), config
        self.device = torch.device("cpu")
        for name, value in (("logit_scale", scale and math.log(scale)), ("logit_bias", bias)):
            if value is not None:
                self.register_buffer(name, torch.tensor(value))

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """What the task reads: `logits`, or `image_embeds` and `text_embeds`; on the device of the inputs."""
        here = {name: tensor.cpu() for name, tensor in inputs.items()}
        found: dict[str, Tensor] = {}
        for call in self.calls.values():
            found |= call(here)
        device = next(iter(inputs.values())).device
        return {name: tensor.to(device) for name, tensor in found.items()}

    def get_text_features(self, **inputs: Tensor) -> Any:
        """As transformers' models of two towers say it; of unit length."""
        return SimpleNamespace(pooler_output=self.calls["text"](inputs)["text_embeds"])

    def get_image_features(self, **inputs: Tensor) -> Any:
        """As transformers' models of two towers say it; of unit length."""
        return SimpleNamespace(pooler_output=self.calls["image"](inputs)["image_embeds"])


def run(exported: Exported) -> Running:
    """An exported model, ready to be called."""
    from transformers import AutoConfig

    about = exported.about
    open_graph = _of_torch if about["format"] == "torch-export" else _of_onnx
    calls = {name: open_graph(path) for name, path in exported.graphs.items()}
    config = AutoConfig.from_pretrained(exported.path)
    return Running(calls, config, about.get("scale"), about.get("bias"))


def _of_onnx(path: Path) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # By itself it takes every core, also where torch was told not to.
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    takes, gives = ([one.name for one in ends] for ends in (session.get_inputs(), session.get_outputs()))

    def call(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = session.run(gives, {name: inputs[name].numpy() for name in takes})
        return {name: torch.from_numpy(array) for name, array in zip(gives, found, strict=True)}

    return call


def _of_torch(path: Path) -> Call:
    program = torch.export.load(path)
    module = program.module()
    _, takes = program.call_spec.in_spec.children()
    names = takes.context

    def call(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            return dict(module(**{name: inputs[name] for name in names}))

    return call
