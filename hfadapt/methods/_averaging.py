"""Companions that average weights: along the training, over its checkpoints, with its start."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hfadapt.methods.base import Companion, Stage

Weights = dict[str, Tensor]


def moving_names(model: nn.Module, stage: Stage) -> list[str]:
    """What changes in a stage: its parameters, and the buffers of numbers that are saved (statistics of norms)."""
    saved = model.state_dict().keys()
    buffers = [n for n, buffer in model.named_buffers() if buffer.is_floating_point() and n in saved]
    return [*stage.speeds, *buffers]


def read(model: nn.Module, names: Iterable[str]) -> Weights:
    """Weights in float32; those that are so already are no copies."""
    found = _tensors(model)
    return {name: found[name].detach().float() for name in names}


@torch.no_grad()
def write(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put weights into a model, in its precision and where it is."""
    found = _tensors(model)
    for name, value in weights.items():
        found[name].copy_(value)


def _tensors(model: nn.Module) -> Weights:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _shared(weights: Weights) -> Weights:
    """Copies of the first process's, everywhere: the statistics of batch norms differ between processes."""
    return broadcast({name: tensor.clone() for name, tensor in weights.items()})  # type: ignore[no-any-return]


class MovingAverage(Companion):
    """An exponential moving average of what a stage moves; the model takes it when the stage ends."""

    def __init__(self, decay: float):
        self.decay = decay
        self.average: Weights = {}

    def began(self, model: nn.Module, stage: Stage, steps: int) -> None:
        """The average begins with the stage's first weights."""
        self.average = {name: tensor.clone() for name, tensor in read(model, moving_names(model, stage)).items()}

    def stepped(self, model: nn.Module, step: int) -> None:
        """Early averages forget faster; see `Ema`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        now = read(model, self.average)
        for name, value in now.items():
            self.average[name] = self.average[name].to(value.device).lerp_(value, 1 - decay)

    def state(self) -> Weights:
        """The average."""
        return self.average

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The average of the checkpoint."""
        self.average = {name: tensor.clone() for name, tensor in state.items()}

    def ended(self, model: nn.Module) -> None:
        """The model takes the average."""
        write(model, _shared(self.average))


class GreedySoup(Companion):
    """Keeps the weights of each evaluation of the last stage, and averages those that go well together."""

    def __init__(self, most: int):
        """most: how many are kept."""
        self.most = most
        self.stages = 0
        self.names: list[str] = []

    def began(self, model: nn.Module, stage: Stage, steps: int) -> None:
        """Files are told apart by the number of the stage."""
        self.stages += 1
        self.names = moving_names(model, stage)

    def evaluated(self, model: nn.Module, stage: Stage, step: int, score: float, folder: Path) -> None:
        """The first process writes a file, whole or not at all; a resumed run writes the same ones again."""
        if not PartialState().is_main_process:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"soup-{self.stages}-{step}.safetensors"
        draft = path.with_suffix(".draft")
        weights = {name: tensor.cpu().contiguous() for name, tensor in read(model, self.names).items()}
        save_file(weights, draft, metadata={"score": repr(score)})
        os.replace(draft, path)
        kept = self._best(folder)[: self.most]
        for other in set(folder.glob("soup-*.safetensors")) - set(kept):
            other.unlink()

    def _best(self, folder: Path) -> list[Path]:
        """The files of the last stage, the best and among equals the earliest first."""
        files = folder.glob(f"soup-{self.stages}-*.safetensors")
        return sorted(files, key=lambda path: (-_score(path), int(path.stem.rpartition("-")[2])))

    def refine(self, model: nn.Module, score: Callable[[], float], folder: Path) -> list[dict[str, float]]:
        """From the best down, each that does not lower the score of the average joins it."""
        PartialState().wait_for_everyone()
        files = self._best(folder)
        if not files:
            return []
        given = _shared(read(model, self.names))
        tried = [{"checkpoints": 0.0, "score": score()}]
        total: Weights = {name: torch.zeros_like(tensor, device="cpu") for name, tensor in given.items()}
        chosen, best = 0, float("-inf")
        for file in files:
            trial = _plus(total, file)
            write(model, {name: tensor / (chosen + 1) for name, tensor in trial.items()})
            tried.append({"checkpoints": chosen + 1.0, "score": score()})
            if not chosen or tried[-1]["score"] >= best:
                total, chosen, best = trial, chosen + 1, tried[-1]["score"]
        soup = {name: tensor / chosen for name, tensor in total.items()}
        write(model, soup if best >= tried[0]["score"] else given)
        return tried


def _score(path: Path) -> float:
    with safe_open(path, "pt") as file:
        return float(file.metadata()["score"])


def _plus(total: Weights, path: Path) -> Weights:
    with safe_open(path, "pt") as file:
        return {name: tensor + file.get_tensor(name) for name, tensor in total.items()}


class Interpolation(Companion):
    """Mixes the weights that the last stage began with into those that it ended with."""

    def __init__(self, mix: Sequence[float], new: Collection[str]):
        """mix: shares of the tuned weights to try; new: parameters that began at random."""
        self.mix, self.new = sorted(mix), set(new)
        self.start: Weights = {}

    def began(self, model: nn.Module, stage: Stage, steps: int) -> None:
        """What an earlier stage has moved is not new any more."""
        names = [name for name in moving_names(model, stage) if name not in self.new]
        self.start = {name: tensor.to("cpu", copy=True) for name, tensor in read(model, names).items()}
        self.new -= stage.speeds.keys()

    def refine(self, model: nn.Module, score: Callable[[], float], folder: Path) -> list[dict[str, float]]:
        """Keeps the best mixture, of equals the one with the greatest share of the tuned weights."""
        if not self.start:
            return []
        tuned = {name: tensor.cpu() for name, tensor in _shared(read(model, self.start)).items()}
        tried = []
        for share in self.mix:
            self._put(model, tuned, share)
            tried.append({"mix": share, "score": score()})
        self._put(model, tuned, max(tried, key=lambda row: (row["score"], row["mix"]))["mix"])
        return tried

    def _put(self, model: nn.Module, tuned: Weights, share: float) -> None:
        write(model, {name: torch.lerp(self.start[name], tensor, share) for name, tensor in tuned.items()})
