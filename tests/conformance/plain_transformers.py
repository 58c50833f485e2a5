"""Answers of plain transformers, in a process that never hears of hfadapt: a question a line, an answer a line."""

from __future__ import annotations

import json
import sys
import traceback

import torch
import transformers
from PIL import Image

sys.modules["hfadapt"] = None  # type: ignore[assignment]  # Whoever asks for it fails.
WRONG = ("missing_keys", "unexpected_keys", "mismatched_keys")


def loaded(auto: str, folder: str):
    """The model, and what loading it found wrong."""
    model, found = getattr(transformers, auto).from_pretrained(folder, output_loading_info=True)
    return model.eval(), sorted(str(key) for kind in WRONG for key in found[kind])


def pixels(folder: str, pictures: list[str]) -> torch.Tensor:
    """Pictures opened as most people do; (pictures, 3, height, width)."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    return processor([Image.open(path).convert("RGB") for path in pictures], return_tensors="pt")["pixel_values"]


def text_classification(folder: str, texts: list[str]) -> dict:
    model, wrong = loaded("AutoModelForSequenceClassification", folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**tokenizer(texts, truncation=True, padding=True, return_tensors="pt")).logits
    answers = transformers.pipeline("text-classification", folder)(texts, truncation=True)
    return {"wrong": wrong, "logits": logits.tolist(), "answers": answers}


def image_classification(folder: str, pictures: list[str]) -> dict:
    model, wrong = loaded("AutoModelForImageClassification", folder)
    inputs = pixels(folder, pictures)
    with torch.no_grad():
        logits = model(pixel_values=inputs).logits
    answers = [ranked[0] for ranked in transformers.pipeline("image-classification", folder)(pictures)]
    return {"wrong": wrong, "logits": logits.tolist(), "answers": answers, "pixel_values": inputs.tolist()}


def image_text_contrastive(folder: str, pictures: list[str], texts: list[str], asked: list[str], template: str) -> dict:
    """asked: class names to tell the pictures apart by."""
    model, wrong = loaded("AutoModelForZeroShotImageClassification", folder)
    # As the page of SigLIP says, and the pipeline does.
    padding = "max_length" if model.config.model_type == "siglip" else True
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = dict(tokenizer(texts, padding=padding, truncation=True, return_tensors="pt"))
    inputs["pixel_values"] = pixels(folder, pictures)
    with torch.no_grad():
        outputs = model(**inputs)
    pipe = transformers.pipeline("zero-shot-image-classification", folder)
    answers = [ranked[0] for ranked in pipe(pictures, candidate_labels=asked, hypothesis_template=template)]
    similarity = (outputs.image_embeds * outputs.text_embeds).sum(-1).tolist()
    found = {"wrong": wrong, "logits": outputs.logits_per_image.tolist(), "answers": answers, "similarity": similarity}
    return found | {name: inputs[name].tolist() for name in ("pixel_values", "input_ids")}


def main() -> None:
    """Until there are no more questions."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    answering, sys.stdout = sys.stdout, sys.stderr  # What else is printed is no answer.
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = globals()[question.pop("task").replace("-", "_")](**question)
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answering, flush=True)


if __name__ == "__main__":
    main()
