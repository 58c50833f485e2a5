"""What of a run leaves this machine: an allow-list, texts without local paths, and a last look for secrets."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfadapt.card import PLACE
from hfadapt.errors import HfadaptError, Problem
from hfadapt.folder import Run

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

_MODEL = (
    *("config.json", "generation_config.json"),
    *("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "processor_config.json", "preprocessor_config.json"),
    # The vocabularies of the tokenizers that transformers has; a test compares.
    *("vocab.txt", "*vocab.json", "merges.txt", "bpe.codes", "dict.txt", "*.model", "*.spm", "prophetnet.tokenizer"),
    *("byte_maps.json", "emoji.json", "normalizer.json", "word_pronunciation.json", "word_shape.json"),
)
"""What goes from `model/` to the root. Never code, never a pickle."""
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_RUN = ("README.md", "recipe.yaml", "confusion.png", "training.png")
_RESULTS = ".eval_results"
_MISLEADING = _ADAPTER
"""Files at the root of a repository that make loading take up something else than the model."""


@dataclass(frozen=True)
class Upload:
    """A file to be."""

    path: str
    """Its place in the repository."""
    source: Path | bytes

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    def digest(self, large: bool) -> str:
        """Its identity on the Hub: of a large file the SHA-256, of another that of git."""
        digest = hashlib.sha256() if large else hashlib.sha1(b"blob %d\0" % self.size)
        if isinstance(self.source, bytes):
            digest.update(self.source)
        else:
            with self.source.open("rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
        return digest.hexdigest()

    def text(self) -> str:
        """What can be read in it: of weights the header, of a picture nothing."""
        if self.path.endswith(".png"):
            return ""
        if isinstance(self.source, bytes):
            return self.source.decode("utf-8", "replace")
        with self.source.open("rb") as file:
            if self.path.endswith(".safetensors"):
                return file.read(int.from_bytes(file.read(8), "little")).decode("utf-8", "replace")
            return file.read().decode("utf-8", "replace")


def gather(run: Run, repo: str) -> tuple[list[Upload], list[str]]:
    """The files of a run that are published as `repo`, and those beside them that are not.

    Raises:
        HfadaptError: there is no model.
    """
    found, left = list[Upload](), list[str]()
    for folder, prefix, allowed in (
        (run.model, "", _MODEL),
        (run.path / "adapter", "adapter/", _ADAPTER),
        (run.path / _RESULTS, f"{_RESULTS}/", ("*.yaml",)),
    ):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            # A link could lead anywhere.
            if path.is_file() and not path.is_symlink() and _matches(path.name, allowed):
                found.append(Upload(prefix + path.name, path))
            else:
                left.append(str(path.relative_to(run.path)))
    if not any(upload.path == "config.json" for upload in found):
        raise HfadaptError(f"There is no model in '{run.model}' to publish.")
    found += [Upload(name, run.path / name) for name in _RUN if (run.path / name).is_file()]
    rewritten = {"README.md": _card, "recipe.yaml": _recipe, "adapter/adapter_config.json": _adapter}
    return [Upload(u.path, rewritten[u.path](run, repo)) if u.path in rewritten else u for u in found], left


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _card(run: Run, repo: str) -> bytes:
    return (run.path / "README.md").read_bytes().replace(PLACE.encode(), repo.encode())


def _recipe(run: Run, repo: str) -> bytes:
    """The recipe without comments, without local paths but for their last part, and without where it went."""
    from hfadapt.recipe import Recipe

    del repo
    recipe = run.recipe
    values = {key: _reduced(value) for key, value in recipe.model_dump(exclude_unset=True).items() if key != "push"}
    return Recipe.model_validate(values).dump().encode()


def _adapter(run: Run, repo: str) -> bytes:
    """An adapter's configuration without the folder that its base lay in."""
    del repo
    values = json.loads((run.path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    return (json.dumps(_reduced(values), indent=2, sort_keys=True) + "\n").encode()


def _reduced(value: Any) -> Any:
    """Values with each local path in them cut to its last part."""
    if isinstance(value, Mapping):
        return {key: _reduced(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_reduced(inner) for inner in value]
    return _last_part(value) if isinstance(value, str) and _is_local(value) else value


_FILE = r"/[^/\s]*[*?]|\.(csv|tsv|txt|jsonl?|parquet|arrow|ya?ml|png|jpe?g|zip|gz)$"
"""Telling of files rather than of an id of the Hub, which has one slash too."""


def _is_local(text: str) -> bool:
    """Whether a text is a path here, rather than an id of the Hub or other words."""
    if text.startswith("builtin/") or "/" not in text.replace("\\", "/") or len(text) > 1_000:
        return False
    rooted = text.startswith(("/", "~", "./", "../")) or re.match(r"[A-Za-z]:[\\/]", text) is not None
    deep = text.count("/") > 1 and not re.search(r"\s|://", text)
    return rooted or deep or os.path.exists(text) or re.search(_FILE, text) is not None


def _last_part(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] or "."


def differing(uploads: Sequence[Upload], there: ModelInfo) -> list[Upload]:
    """The uploads that a state of a repository lacks, or holds otherwise."""
    found = {file.rfilename: file for file in there.siblings or ()}

    def same(upload: Upload) -> bool:
        file = found.get(upload.path)
        if file is None or file.size not in (None, upload.size):
            return False
        return upload.digest(True) == file.lfs.sha256 if file.lfs else upload.digest(False) == file.blob_id

    return [upload for upload in uploads if not same(upload)]


def stale(uploads: Sequence[Upload], there: ModelInfo) -> list[str]:
    """The files of a repository that an earlier model left, and that loading would mix with this one."""
    mine = {upload.path for upload in uploads}
    ours = (*_MODEL, *_RUN, *_MISLEADING)
    below = [f"adapter/{name}" for name in _ADAPTER]
    names = [file.rfilename for file in there.siblings or ()]
    return [n for n in names if n not in mine and _matches(n, below if "/" in n else ours)]


_SECRETS = {
    "an access token of the Hub": r"\bhf_[A-Za-z0-9]{20,}|\bapi_org_[A-Za-z0-9]{20,}",
    "a cloud key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[0-9A-Za-z_-]{35}",
    "an access token": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|sk-[A-Za-z0-9_-]{20,}|xox[abp]-[\w-]{20,})",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
_SECRETIVE = re.compile(r"TOKEN(?!IZ|S)|SECRET|PASSW|CREDENTIAL|(?:^|_)(?:API|ACCESS)?_?KEY(?:_|$)")
_LEARNT = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt")


def refuse_secrets(uploads: Sequence[Upload]) -> None:
    """Stop where a file to be published holds a secret, or a path of this machine.

    Raises:
        HfadaptError: all such files, without what they hold.
    """
    values = [v for name, v in os.environ.items() if _SECRETIVE.search(name.upper()) and len(v) >= 8]
    problems = [
        Problem(f"The file '{upload.path}' holds {what}; nothing was sent.", hint="Remove it there.")
        for upload in uploads
        for what in _secrets(upload.path, upload.text(), values)
    ]
    if problems:
        raise HfadaptError(*problems)


def _secrets(path: str, text: str, values: Sequence[str]) -> Iterator[str]:
    yield from (what for what, pattern in _SECRETS.items() if re.search(pattern, text))
    if any(value in text for value in values):
        yield "the value of an environment variable that is a secret by its name"
    homes = {str(Path.home()), str(Path.cwd())} - {"/"}
    # A vocabulary may have any word.
    if path not in _LEARNT and any(f"{home}/" in text for home in homes):
        yield "a path of this machine"
