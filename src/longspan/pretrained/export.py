"""Our model as a folder that plain `transformers` loads, or the feature that is in the way."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from longspan.checkpoint import ARCHITECTURES, read_model, write_config
from longspan.config import ClassificationConfig, Config
from longspan.errors import UserError
from longspan.pretrained.card import Results, model_card
from longspan.pretrained.configuration import PROBLEM_TYPES
from longspan.pretrained.family import Family, expand, scatter_weights
from longspan.pretrained.published import READ_AS, reading
from longspan.pretrained.targets import CLASS_SUFFIXES, choose_target
from longspan.pretrained.tokenizer import give_token_types, load_tokenizer

MAX_PADDING_ID = 1000


def export_to_hf(model_folder: Path, destination: Path, results: Results | None = None) -> str:
    """Write a folder that `AutoModelForSequenceClassification`, `AutoModelForQuestionAnswering` or
    `AutoModelForMaskedLM`, as the task is, loads without our code.

    Args:
        model_folder: that training wrote.
        destination: must not exist, or be empty.
        results: for the model card.

    Returns:
        the name of the Hugging Face class.

    Raises:
        UserError: a feature that no Hugging Face class has, or a destination that is taken.
    """
    _check_free(destination)
    config, labels, state = read_model(model_folder)
    target = choose_target(config)
    architecture = target.class_prefix + CLASS_SUFFIXES[config.task.name]
    tokenizer = load_tokenizer(str(model_folder))
    give_token_types(tokenizer, config.model)
    hf_config: Any = target.hf_config(config)
    _set_padding(hf_config, target.family, tokenizer.pad_token_id)
    hf_config.architectures = [architecture]
    setattr(hf_config, READ_AS, reading(config))  # for `longspan predict`
    if isinstance(config.task, ClassificationConfig):
        hf_config.id2label = dict(enumerate(labels))
        hf_config.label2id = {label: i for i, label in enumerate(labels)}
        hf_config.problem_type = PROBLEM_TYPES[config.task.problem]
    with _written_aside(destination) as aside:
        unused = target.family.unused_positions(hf_config)
        weights = their_weights(target.family, config, state, unused)
        save_file(weights, aside / "model.safetensors", metadata={"format": "pt"})
        hf_config.save_pretrained(aside)
        tokenizer.model_max_length = config.data.max_length
        tokenizer.save_pretrained(aside)
        card = model_card(config, labels, architecture, results)
        (aside / "README.md").write_text(card, encoding="utf-8")
    return architecture


def export_to_longspan(
    model_folder: Path, destination: Path, results: Results | None = None
) -> str:
    """Copy a model folder, checked: it describes itself and needs nothing of its run.

    Returns:
        what it is.
    """
    _check_free(destination)
    config, labels, _ = read_model(model_folder)
    tokenizer = load_tokenizer(str(model_folder))
    give_token_types(tokenizer, config.model)
    tokenizer.model_max_length = config.data.max_length
    architecture = ARCHITECTURES[config.task.name]
    with _written_aside(destination) as aside:
        shutil.copytree(model_folder, aside, dirs_exist_ok=True)
        write_config(aside, config, labels)  # older folders do not name their class
        tokenizer.save_pretrained(aside)
        card = model_card(config, labels, architecture, results)
        (aside / "README.md").write_text(card, encoding="utf-8")
    return "longspan model"


def _check_free(destination: Path) -> None:
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UserError(f"--output {destination} is not empty; name a new folder")


@contextmanager
def _written_aside(destination: Path) -> Iterator[Path]:
    """A folder that takes the destination's place when all is written, and vanishes otherwise."""
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    except OSError as error:
        raise UserError(
            f"--output {destination} cannot be written ({error.strerror}); name a folder that you "
            "may write to"
        ) from error
    try:
        yield aside
        aside.chmod(0o755)
        if destination.exists():
            destination.rmdir()
        aside.rename(destination)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _set_padding(hf_config: Any, family: Family, pad_id: Any) -> None:
    """Their padding token; where positions start behind it, room in the table for that."""
    hf_config.pad_token_id = pad_id
    if not family.positions_after_padding:
        return
    if pad_id is None or pad_id > MAX_PADDING_ID:
        raise UserError(
            f"the tokenizer's padding id {pad_id} is in the way: {family.model_type} counts "
            f"positions from it, and takes 0 … {MAX_PADDING_ID}"
        )
    hf_config.max_position_embeddings += family.unused_positions(hf_config)


def their_weights(
    family: Family, config: Config, state: dict[str, Tensor], unused_positions: int
) -> dict[str, Tensor]:
    """The state of encoder and head under the family's names."""
    ours = {n.removeprefix("encoder."): x for n, x in state.items() if n.startswith("encoder.")}
    wanted = expand(family.weights, range(config.model.num_layers))
    for name in wanted:
        if ".global_qkv." in name and name not in ours:  # shared: both are the same projection
            ours[name] = ours[name.replace(".global_qkv.", ".qkv.")]
    if "token_type_embedding.weight" in wanted and "token_type_embedding.weight" not in ours:
        ours["token_type_embedding.weight"] = torch.zeros(1, config.model.hidden_size)
    if "position_embedding.weight" in ours:
        table = ours["position_embedding.weight"]
        unused = table.new_zeros(unused_positions, table.shape[1])
        ours["position_embedding.weight"] = torch.cat([unused, table])
    body = scatter_weights({n: p for n, p in wanted.items() if n in ours}, ours, config.model)
    head = {n.removeprefix("head."): x for n, x in state.items() if n.startswith("head.")}
    names = expand(family.heads[config.task.name], ())
    top = scatter_weights({n: p for n, p in names.items() if n in head}, head, config.model)
    return {family.prefix + name: x for name, x in body.items()} | top
