"""The installed client, pointed at the stand-in; and a finished run to publish, made without training."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

# hf_xet reads these when its one session begins.
os.environ.setdefault("HF_XET_CACHE", tempfile.mkdtemp(prefix="xet-"))
os.environ["HF_XET_CLIENT_RETRY_BASE_DELAY"] = "5ms"
os.environ["HF_XET_XORB_COMPRESSION_POLICY"] = "none"

from huggingface_hub import constants

from hub.server import TOKEN, Hub

CARD = """---
library_name: transformers
pipeline_tag: text-classification
---

# toy

```python
model = pipeline("text-classification", model="path/to/model")
```
"""


def point(monkeypatch: Any, hub: Hub, *, classic: bool = False, token: str | None = TOKEN) -> list[float]:
    """Have the client of this process speak with a stand-in, and not sleep; the seconds that it would have slept."""
    slept: list[float] = []
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", classic)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere/token")
    monkeypatch.setattr(time, "sleep", slept.append)
    for name in ("HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    return slept


def environment(hub: Hub, home: Path, **more: str) -> dict[str, str]:
    """The same for a process to start."""
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    said = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN, "HF_HOME": str(home)}
    said |= {"HF_XET_CACHE": str(home / "xet"), "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
    return kept | said | more


def finished(folder: Path, seed: int = 0) -> Path:
    """A run folder as one that has been trained leaves it, with what must stay here beside what may go."""
    import numpy as np
    from safetensors.numpy import save_file

    weights = np.random.default_rng(seed).normal(size=(60, 100)).astype("float32")
    for name in ("model", "adapter", ".eval_results", "checkpoints", "tensorboard"):
        (folder / name).mkdir(parents=True)
    save_file({"a": weights}, folder / "model" / "model.safetensors")
    save_file({"b": weights[:9]}, folder / "adapter" / "adapter_model.safetensors")
    adapter = {"base_model_name_or_path": "/data/of/somebody/bert", "peft_type": "LORA"}
    texts = {
        "recipe.yaml": "task: text-classification\nmodel: /data/of/somebody/bert  # mine\n"
        "data: {path: ../rows/reviews.csv, text: text, label: label}\npush: {repo: me/thing}\n",
        "README.md": CARD,
        "scores.json": "{}",
        "plan.yaml": "data: /data/of/somebody",
        "log.jsonl": "{}",
        "contract.json": "{}",
        "mistakes.png": "a picture of the user's",
        "augmented.png": "another",
        "confusion.png": "counts",
        "training.png": "a curve",
        ".eval_results/glue.yaml": "- {}",
        "model/config.json": '{"model_type": "bert"}',
        "model/tokenizer.json": "{}",
        "model/tokenizer_config.json": "{}",
        "model/training_args.bin": "a pickle",
        "model/optimizer.pt": "moments",
        "model/modeling_mine.py": "import os",
        "adapter/adapter_config.json": json.dumps(adapter),
        "adapter/README.md": "base_model: /data/of/somebody/bert",
        "checkpoints/optimizer.pt": "moments",
        "tensorboard/events": "a host",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


PUBLISHED = {
    *("README.md", "recipe.yaml", "confusion.png", "training.png", ".eval_results/glue.yaml"),
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *("adapter/adapter_config.json", "adapter/adapter_model.safetensors"),
}
"""What of such a run is published."""


def state(folder: Path) -> dict[str, str]:
    """The digest of every file of a run; what was published is not part of it."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "published.json"]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
