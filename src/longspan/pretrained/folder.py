"""Where a pretrained model lies, and what is in its folder: config and safetensors, nothing else."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig

from longspan.errors import UserError
from longspan.hub import unreachable

FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "tf_model.h5")


def pretrained_folder(name: str, field: str = "model.pretrained") -> Path:
    """The folder of a pretrained model.

    Args:
        name: a folder, `package:<module>` for one that an installed Python package carries, or a
            hub id.
        field: that names it, for messages.

    Raises:
        UserError: nothing there, or the hub cannot be reached.
    """
    if name.startswith("package:"):
        return _package_folder(name, field)
    folder = Path(name)
    if os.path.isdir(name):  # of a name that is too long, Path.is_dir raises
        return _with_config(folder, name)
    if folder.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise UserError(f"model.pretrained={name} does not exist; give a folder or a hub id")
    down = unreachable()
    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        reason = down or str(error).strip().splitlines()[0]
        raise UserError(
            f"model.pretrained={name} is no folder here, and the hub did not give it ({reason}); "
            "check the name and the network"
        ) from error


def read_config(folder: Path) -> Any:
    """The model's Hugging Face config, whatever release wrote it; its code is never run."""
    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        reason = " ".join(str(error).split()).partition(". Errors:")[0]
        raise UserError(
            f"model.pretrained: {folder}/config.json cannot be read ({reason})"
        ) from error


def read_model_type(folder: Path) -> str | None:
    """What config.json calls its family; None where it does not say, as early ones.

    Raises:
        UserError: no JSON object there.
    """
    file = folder / "config.json"
    try:
        return json.loads(file.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"model.pretrained: {file} cannot be read ({error}); fetch it anew"
        ) from error


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the folder's safetensors files.

    Raises:
        UserError: pickled weights only, none at all, or damaged ones.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = [file for file in PICKLES if (folder / file).exists()]
        if pickled:
            raise UserError(
                f"model.pretrained: {folder} has pickled weights only ({pickled[0]}), which can "
                "run code when they are read; where you trust them, convert them: python -c "
                f"\"from transformers import AutoModel; AutoModel.from_pretrained('{folder}')"
                ".save_pretrained('converted')\""
            )
        raise UserError(f"model.pretrained: {folder} has no *.safetensors file; add the weights")
    weights: dict[str, Tensor] = {}
    for file in files:
        try:
            weights |= load_file(file)
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"model.pretrained: {file} is damaged ({error}); fetch it anew"
            ) from error
    return weights


def _package_folder(name: str, field: str) -> Path:
    module = name.removeprefix("package:")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    places = spec.submodule_search_locations if spec is not None else None
    if not places:
        raise UserError(f"{field}={name}: the Python package {module} is not installed")
    configs = sorted(Path(places[0]).glob("**/config.json"), key=lambda file: len(file.parts))
    if not configs:
        raise UserError(f"{field}={name}: the package {module} carries no config.json")
    return configs[0].parent


def _with_config(folder: Path, name: str) -> Path:
    if not (folder / "config.json").is_file():
        of_run = folder / "model"
        is_run = (of_run / "config.json").is_file()
        right = f"{of_run}, which that run trained" if is_run else "a model's folder"
        raise UserError(f"model.pretrained={name} has no config.json; give {right}")
    return folder
