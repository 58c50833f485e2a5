"""Modules to graphs, through `transformers.exporters` (https://huggingface.co/docs/transformers/main/exporters)."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hfadapt.errors import HfadaptError, Problem, one_line

_MOST = 160
"""Characters of a library's own message that are passed on."""


def traced(parts: Mapping[str, tuple[nn.Module, dict[str, Tensor]]], to: str, called: str, longest: int | None) -> Any:
    """Graphs of modules, as transformers' ExportedModel; any number of rows, and of tokens up to the longest.

    parts: graph → its module and two rows of inputs; to: `onnx` or `torch-export`; called: what an error calls
    the model; longest: the most tokens of a text, None where all texts have one length.

    Raises:
        HfadaptError: torch or transformers can't export the model.
    """
    from transformers.exporters import DynamoConfig, DynamoExporter, OnnxConfig, OnnxExporter
    from transformers.exporters.base import ExportedModel

    kind, config = (OnnxExporter, OnnxConfig) if to == "onnx" else (DynamoExporter, DynamoConfig)
    made: dict[str, Any] = {}
    try:
        with muted():
            for name, (module, inputs) in parts.items():
                shapes = _axes(inputs, longest)
                exported = kind().export(module, dict(inputs), config(dynamic=True, dynamic_shapes=shapes))
                made[name] = exported.components["model"]
                _forget_places(made[name].program)
                if to == "onnx":
                    _name_axes(made[name].program, shapes)
            return ExportedModel(made, kind.export_format)
    # Whatever the tracing of a model meets: torch raises its own kinds, sympy's, and plain ones.
    except Exception as error:
        reason = one_line(str(error).strip() or type(error).__name__)
        reason = reason if len(reason) <= _MOST else f"{reason[:_MOST]}…"
        says = (
            f"{called} can't be exported to {to} with these versions of torch and transformers: {reason.rstrip('.')}."
        )
        raise HfadaptError(Problem(says)) from error


def quantised(exported: Any) -> Any:
    """The same ONNX graphs with int8 weights, a scale for each channel; activations are quantised as they come.

    Raises:
        HfadaptError: ONNX Runtime can't quantise them.
    """
    import onnxruntime
    from transformers.exporters import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer
    from transformers.exporters.base import ExportedComponent, ExportedModel

    onnxruntime.set_default_logger_severity(3)  # Errors: it warns of what it leaves behind itself.
    quantizer = OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(per_channel=True))
    try:
        with muted():
            made = {
                name: ExportedComponent(quantizer.quantize(one.program, {}, exported.export_format), one.metadata)
                for name, one in exported.components.items()
            }
    except Exception as error:  # onnxruntime raises plain exceptions, onnx those of its own.
        says = f"ONNX Runtime can't quantise the model: {one_line(str(error))[:_MOST].rstrip('.')}."
        raise HfadaptError(Problem(says)) from error
    return ExportedModel(made, exported.export_format)


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """torch.onnx prints its steps, logs what it skips, and warns of its own future."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


def _forget_places(program: Any) -> None:
    """Take out the stack traces that both kinds of graph hold for each node: they name files of this machine."""
    if isinstance(program, torch.export.ExportedProgram):
        for module in program.graph_module.modules():
            for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
                node.meta.pop("stack_trace", None)
        return
    for node in program.graph.all_nodes():
        node.metadata_props.clear()


def _axes(inputs: Mapping[str, Tensor], longest: int | None) -> dict[str, dict[int, Any]]:
    """The axes of each input that are not fixed."""
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", max=longest)
    return {
        name: {0: batch, 1: sequence} if tensor.ndim == 2 and longest else {0: batch} for name, tensor in inputs.items()
    }


def _name_axes(model: Any, shapes: Mapping[str, Mapping[int, Any]]) -> None:
    """Let the axes of an ONNX graph bear names, where the exporter numbers them."""
    import onnx_ir

    names: dict[str, str] = {}
    for value in model.graph.inputs:
        for axis, dim in shapes[value.name].items():
            names[str(value.shape[axis])] = dim.__name__
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")

    def named(dim: Any) -> Any:
        if isinstance(dim, int) or dim.value is None:
            return dim
        return onnx_ir.SymbolicDim(pattern.sub(lambda match: names[match[0]], dim.value))

    values = {*model.graph.inputs, *model.graph.outputs, *(out for node in model.graph for out in node.outputs)}
    for value in values:
        if value.shape is not None:
            value.shape = onnx_ir.Shape([named(dim) for dim in value.shape])
