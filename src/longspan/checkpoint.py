"""A self-describing model folder: weights, config, labels and tokenizer, without pickle.

model.safetensors  every tensor of encoder and head
config.json        format, the run's config, label names, model type and class for transformers
tokenizer files    as Hugging Face's fast tokenizers are saved
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from longspan.config import Config
from longspan.errors import UserError
from longspan.typed import from_dict, to_dict

FORMAT = "longspan-1"
MODEL_TYPE = "longspan"  # for transformers, as `architectures` is
ARCHITECTURES = {  # of a task
    "classification": "LongspanForSequenceClassification",
    "mlm": "LongspanForMaskedLM",
    "qa": "LongspanForQuestionAnswering",
    "multihop": "LongspanModel",  # the encoder alone
    "choice": "LongspanModel",
}


class SavesItself(Protocol):
    """What this room needs of a tokenizer."""

    def save_pretrained(self, save_directory: Any) -> Any: ...


def save_model(
    folder: Path,
    state: dict[str, Tensor],
    config: Config,
    labels: list[str],
    tokenizer: SavesItself,
) -> None:
    """Write the folder aside and rename it into place: it is there whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    new = aside / "new"
    try:
        new.mkdir()
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in state.items()},
            new / "model.safetensors",
            metadata={"format": "pt"},
        )
        write_config(new, config, labels)
        tokenizer.save_pretrained(str(new))
        _replace(folder, new, aside / "old")
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_config(folder: Path, config: Config, labels: list[str]) -> None:
    """Write the `config.json` of a model folder."""
    about = {
        "model_type": MODEL_TYPE,
        "architectures": [ARCHITECTURES[config.task.name]],
        "format": FORMAT,
        "labels": labels,
        "config": to_dict(config),
    }
    (folder / "config.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _replace(folder: Path, new: Path, old: Path) -> None:
    """Put `new` in the place of `folder`; if that fails, `folder` is as it was."""
    if not folder.exists():
        new.rename(folder)
        return
    folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        old.rename(folder)
        raise


def fill(module: nn.Module, state: dict[str, Tensor], folder: Path) -> None:
    """Put the weights of a model folder into a module, which may be on the meta device.

    Nothing is allocated for a module that its config.json describes wrongly.

    Raises:
        UserError: weights are missing, unknown or of another shape.
    """
    try:
        module.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise UserError(
            f"{folder}/model.safetensors does not fit its config.json ({error}); restore them or "
            "train again"
        ) from error


def _names(labels: Any) -> list[str]:
    if not isinstance(labels, list) or not all(isinstance(name, str) for name in labels):
        raise UserError(f"labels={str(labels)[:60]} are no list of names")
    return labels


def read_model(folder: Path) -> tuple[Config, list[str], dict[str, Tensor]]:
    """Config, label names and weights of a model folder.

    Raises:
        UserError: not a model folder, one of another format, or a damaged one.
    """
    try:
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{folder} is no model folder ({error}); give one that training wrote"
        ) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise UserError(f"{folder}/config.json is not of format {FORMAT}; give a longspan model")
    try:
        config, labels = from_dict(Config, about["config"]), _names(about["labels"])
    except (UserError, KeyError) as error:
        raise UserError(
            f"{folder}/config.json is damaged ({error}); restore it or train again"
        ) from error
    try:
        state = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{folder}/model.safetensors cannot be read ({error}); restore it or train again"
        ) from error
    return config, labels, state
