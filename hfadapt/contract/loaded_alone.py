"""What plain transformers makes of run folders: a script for a process that never hears of hfadapt.

`python -P loaded_alone.py` reads a request on standard input, JSON; it says `out`, a folder, and by number `runs`, each
with `folder`, `options` of loading and, where an adapter is to be looked at, `base` with `path` and `options`. Of each
run it writes what it found, `0.json` and `0.safetensors`, say. `writing` takes checksums and settings by the same
functions.
"""

from __future__ import annotations

import io
import json
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PART = 1024
"""How many elements of a tensor tell one base from another."""
WRONG = ("missing_keys", "unexpected_keys", "mismatched_keys")
"""What transformers says of a loading."""
_UNTOLD = ("image_processor_type", "processor_class", "feature_extractor_type")

Tensors = dict[str, Any]
Found = tuple[dict[str, Any], Tensors]
"""What can be written as JSON, and tensors by name."""


def digests(model: Any, most: int | None = None) -> dict[str, str]:
    """A checksum of each tensor that a model saves; most: of so many first elements only."""
    import torch

    return {n: digest(its, most) for n, its in model.state_dict().items() if isinstance(its, torch.Tensor)}


def digest(tensor: Any, most: int | None = None) -> str:
    """A checksum of a tensor's bits, or of those of its first elements."""
    import torch

    flat = tensor.detach().reshape(-1)[:most].cpu().contiguous()
    return f"{zlib.crc32(flat.view(torch.uint8).numpy()):08x}"


def settings(processor: Any) -> dict[str, dict[str, Any]]:
    """What a processor is set to, as values for JSON: `texts` of its tokenizer, `pictures` of its image processor."""
    found = {}
    tokenizer = getattr(processor, "tokenizer", processor if hasattr(processor, "get_vocab") else None)
    if tokenizer is not None:
        names = ("padding_side", "truncation_side", "model_max_length", "pad_token")
        words = json.dumps(sorted(tokenizer.get_vocab().items())).encode()
        vocabulary = {"size": len(tokenizer), "digest": f"{zlib.crc32(words):08x}"}
        found["texts"] = {**{name: getattr(tokenizer, name) for name in names}, "vocabulary": vocabulary}
    images = getattr(processor, "image_processor", None if tokenizer is processor else processor)
    if images is not None:
        its = {k: v for k, v in images.to_dict().items() if k not in _UNTOLD and not k.startswith("_")}
        found["pictures"] = json.loads(json.dumps(its, default=str))
    return found


def ask(model: Any, inputs: Mapping[str, Any], outputs: Sequence[str]) -> Tensors:
    """A model's outputs of one batch, by name, float32 on the CPU."""
    import torch

    device = next(model.parameters()).device
    with torch.no_grad():
        given = model.eval()(**{name: tensor.to(device) for name, tensor in inputs.items()})
    return {name: given[name].float().cpu().contiguous() for name in outputs}


def inputs_of(tensors: Mapping[str, Any], batch: int) -> Tensors:
    """The inputs of a batch among the tensors of a contract."""
    begin = f"{batch}.inputs."
    return {name.removeprefix(begin): its for name, its in tensors.items() if name.startswith(begin)}


class Run:
    """A run folder, and what its contract keeps."""

    def __init__(self, folder: str, options: Mapping[str, Any], base: Mapping[str, Any] | None):
        from safetensors.torch import load_file

        self.model, self.adapter = (str(Path(folder) / name) for name in ("model", "adapter"))
        self.options, self.base = options, base
        self.contract = json.loads((Path(folder) / "contract.json").read_text(encoding="utf-8"))
        self.kept = load_file(Path(folder) / "contract.safetensors")

    def look(self) -> Found:
        """What each part is like, or the `error` that it raises."""
        found: dict[str, Any] = {}
        tensors: Tensors = {}
        parts = {"processor": self.read, "model": self.load, "pipeline": self.answer}
        for part, looks in (parts | ({"adapter": self.adapt, "joined": self.join} if self.base else {})).items():
            try:
                found[part], its = looks()
                tensors |= its
            except Exception as error:  # Whatever keeps a user from loading it is what is to be told.
                found[part] = {"error": _sentence(error)}
        return found, tensors

    def read(self) -> Found:
        """The saved processor, and what it makes of the rows."""
        import transformers

        kinds = {"text": "AutoTokenizer", "image": "AutoImageProcessor", "image-text": "AutoProcessor"}
        kind = getattr(transformers, kinds[self.contract["modality"]])
        processor = kind.from_pretrained(self.model, **self.options)
        tensors: Tensors = {}
        for number, places in enumerate(self.contract["batches"]):
            made = self._encoded(processor, [self.contract["rows"][place] for place in places])
            tensors |= {f"{number}.inputs.{name}": its.contiguous() for name, its in made.items()}
        return settings(processor), tensors

    def load(self) -> Found:
        """The model through its Auto class, and what it answers where it gets the inputs that training saw."""
        model, wrong = self._loaded(self.model)
        config = model.config
        names = [str(config.id2label[i]) for i in sorted(config.id2label)]
        told: dict[str, Any] = {
            "dtype": str(model.dtype).removeprefix("torch."),
            "labels": names,
            "digests": digests(model),
        }
        told |= {"problem_type": getattr(config, "problem_type", None), **wrong}
        return told | {"device": next(model.parameters()).device.type}, self._asked(model, "model")

    def answer(self) -> Found:
        """The pipeline's score for each label, of each row."""
        import transformers

        rows, task = self.contract["rows"], self.contract["pipeline"]
        if not self.contract["answers"]:
            return {"answers": None}, {}
        pipe: Any = transformers.pipeline(task, self.model, **self.options)
        if self.contract["modality"] == "text":
            given = [row if "text_pair" in row else row["text"] for row in rows]
            answers = pipe(given, top_k=None, truncation=True)
        elif self.contract["modality"] == "image":
            answers = pipe([self._picture(row) for row in rows], top_k=len(self.contract["answers"]))
        else:
            asked = {"candidate_labels": self.contract["answers"], "hypothesis_template": "{}"}
            answers = pipe([self._picture(row) for row in rows], **asked)
        return {"answers": [{one["label"]: one["score"] for one in each} for each in answers]}, {}

    def adapt(self) -> Found:
        """The adapter's tensors, and the name of its base."""
        from safetensors.torch import load_file

        its = load_file(Path(self.adapter) / "adapter_model.safetensors")
        config = json.loads((Path(self.adapter) / "adapter_config.json").read_text(encoding="utf-8"))
        told = {
            "base": config["base_model_name_or_path"],
            "digests": {name: digest(each) for name, each in its.items()},
        }
        return told, {}

    def join(self) -> Found:
        """The base, and what it answers with the adapter upon it."""
        import peft
        import torch
        import transformers

        assert self.base is not None
        config = transformers.AutoConfig.from_pretrained(self.model, **self.options)
        dtype = getattr(torch, self.contract["dtype"])
        base, _ = self._loaded(self.base["path"], config=config, dtype=dtype, **self.base["options"])
        told = {"digests": digests(base, PART)}
        return told, self._asked(peft.PeftModel.from_pretrained(base, self.adapter), "adapter")

    def _loaded(self, path: str, **more: Any) -> tuple[Any, dict[str, list[str]]]:
        """A model where it computed when the contract was written, if there is such a device; what loading found."""
        import torch
        import transformers

        torch.set_num_threads(self.contract["threads"])
        options = {**self.options, **more, "ignore_mismatched_sizes": True, "output_loading_info": True}
        model, found = getattr(transformers, self.contract["auto_class"]).from_pretrained(path, **options)
        wrong = {kind: sorted(str(k[0] if isinstance(k, tuple) else k) for k in found[kind]) for kind in WRONG}
        for tensor in (*model.parameters(), *model.buffers()):
            # In a file they lie at odd places, where BLAS adds up in another order than it did in training.
            tensor.data = tensor.data.clone()
        here = torch.accelerator.current_accelerator(check_available=True)
        return model.to(here if here and here.type == self.contract["device"] else "cpu"), wrong

    def _asked(self, model: Any, who: str) -> Tensors:
        found: Tensors = {}
        for number in range(len(self.contract["batches"])):
            outputs = ask(model, inputs_of(self.kept, number), self.contract["outputs"])
            found |= {f"{number}.{who}.{name}": its for name, its in outputs.items()}
        return found

    def _encoded(self, processor: Any, rows: Sequence[Mapping[str, str]]) -> Tensors:
        made: Tensors = {}
        if "image" in rows[0]:
            images = getattr(processor, "image_processor", processor)
            made |= images([self._picture(row) for row in rows], return_tensors="pt")
        if "text" in rows[0]:
            tokenizer = getattr(processor, "tokenizer", processor)
            # SigLIP must see its padding; its tokenizer gives no mask.
            one_length = self.contract["modality"] == "image-text" and (
                "attention_mask" not in tokenizer.model_input_names
            )
            pairs = [row["text_pair"] for row in rows] if "text_pair" in rows[0] else None
            options = {"truncation": True, "padding": "max_length" if one_length else True, "return_tensors": "pt"}
            made |= tokenizer([row["text"] for row in rows], pairs, **options)
        return made

    def _picture(self, row: Mapping[str, str]) -> Any:
        """As transformers' own pipelines open it."""
        from PIL import Image
        from transformers.image_utils import load_image

        return load_image(Image.open(io.BytesIO(self.kept[row["image"]].numpy().tobytes())))


def _sentence(error: Exception) -> str:
    """The first sentence of an error."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    text = text.partition(". ")[0].rstrip(".:")
    return text if text and isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {text}".rstrip(": ")


def main() -> None:
    """Look at every run of a request."""
    import transformers
    from safetensors.torch import save_file
    from transformers import PreTrainedModel, pipeline  # noqa: F401  # Seconds, while nobody waits for an answer.

    sys.modules["hfadapt"] = None  # type: ignore[assignment]  # Whoever asks for it fails.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    asked = json.loads(sys.stdin.read())
    for number, its in asked["runs"].items():
        found, tensors = Run(its["folder"], its["options"], its.get("base")).look()
        save_file(tensors, Path(asked["out"]) / f"{number}.safetensors")
        (Path(asked["out"]) / f"{number}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
