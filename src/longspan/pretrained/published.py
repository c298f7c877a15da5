"""Models with a trained task head in Hugging Face's format, as a config that predicts with them."""

import json
from pathlib import Path
from typing import Any

from longspan.checkpoint import MODEL_TYPE
from longspan.config import Config
from longspan.errors import UserError
from longspan.pretrained.configuration import PROBLEM_TYPES
from longspan.pretrained.folder import read_config
from longspan.pretrained.load import complete_config, family_of, load_encoder, load_head
from longspan.pretrained.tokenizer import PreTrainedTokenizerFast, vocabulary_size
from longspan.typed import from_dict, to_dict

TASKS = {"ForQuestionAnswering": "qa", "ForSequenceClassification": "classification"}
STRIDE = 128  # tokens that slices share, as in BERT's recipe for SQuAD; a quarter of short ones
READ_AS = "longspan"  # what `longspan export` adds to their config.json, which they keep as it is
OF_DATA = ("max_length", "truncate", "stride", "text_pair_column")


def is_published(folder: Path) -> bool:
    """Whether a folder holds a model in Hugging Face's format, rather than in ours."""
    try:
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False  # no model at all, of which `read_model` says why
    is_ours = not isinstance(about, dict) or "format" in about
    return not is_ours and about.get("model_type") not in (None, MODEL_TYPE)


def reading(config: Config) -> dict[str, Any]:
    """What a model needs beside its weights to predict as it did in training.

    Returns:
        fields of `task`, `globals` and `data`, for the key `READ_AS` of a config.json.
    """
    whole = to_dict(config)
    data = {name: whole["data"][name] for name in OF_DATA}
    return {"task": whole["task"], "globals": whole["globals"], "data": data}


def read_published(folder: Path) -> tuple[Config, list[str]]:
    """Config and label names of a folder with a task head.

    What `longspan export` wrote is read as in training. Of other people's models nobody knows
    when they leave a question without an answer: they always give one. They read as many tokens
    as they have positions, Longformer with the global tokens that `transformers` gives it.

    Raises:
        UserError: a family, a head or a variant that is not supported, or a damaged folder.
    """
    family_of(folder)  # says so of a family that is not supported
    theirs = read_config(folder)
    task = _task(folder, theirs)
    given = getattr(theirs, READ_AS, None) or _usual(theirs, task)
    labels = [name for _, name in sorted((theirs.id2label or {}).items())]
    try:
        if given["task"]["name"] != task:
            raise UserError(f"{READ_AS}.task.name={given['task']['name']!r} is not {task}")
        fields = {"model": {"pretrained": str(folder)}} | {
            part: dict(given[part]) for part in ("task", "globals", "data")
        }
        fields = complete_config(fields)
        if fields["data"].get("max_length") is None:
            fields["data"] |= _usual_lengths(fields["model"], theirs, task)
        return from_dict(Config, fields), labels if task == "classification" else []
    except (UserError, KeyError, TypeError, ValueError) as error:
        reason = f"{READ_AS} lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{folder} cannot be read as a model that predicts: {reason}") from error


def _task(folder: Path, theirs: Any) -> str:
    """By the class of `transformers` that the folder names."""
    named = (getattr(theirs, "architectures", None) or ["none"])[0]
    for ending, task in TASKS.items():
        if str(named).endswith(ending):
            return task
    raise UserError(
        f"{folder} is a model of the class {named}, without a head that predicts; give one whose "
        f"config.json names a class that ends in {' or '.join(TASKS)}"
    )


def _usual(theirs: Any, task: str) -> dict[str, Any]:
    """How a model is read of which only `transformers` is known."""
    is_longformer = theirs.model_type == "longformer"
    policies = {"cls": is_longformer, "question": is_longformer and task == "qa"}
    fields: dict[str, Any] = {"name": task}
    if task == "qa":
        fields |= {"null_threshold": None, "temperature": 1.0}
    else:
        ours = {name: problem for problem, name in PROBLEM_TYPES.items()}
        only_one = "regression" if theirs.num_labels == 1 else "single_label"
        fields["problem"] = ours.get(theirs.problem_type or "", only_one)
        fields["pooling"] = getattr(theirs, "classifier_pooling", "cls")  # ModernBERT's
    return {"task": fields, "globals": policies, "data": {}}


def _usual_lengths(model: dict[str, Any], theirs: Any, task: str) -> dict[str, int]:
    longest = model.get("max_positions") or theirs.max_position_embeddings
    stride = min(STRIDE, longest // 4) if task == "qa" else 0
    return {"max_length": longest, "stride": stride}


def fill_published(
    encoder: Any, head: Any, config: Config, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Put the folder's weights into a fresh encoder and head.

    Raises:
        UserError: weights that are missing or do not fit, of the head too; a tokenizer with more
            tokens than the model has.
    """
    folder = config.model.pretrained
    assert folder is not None
    tokens, known = vocabulary_size(tokenizer), config.model.vocab_size
    if known is not None and tokens > known:
        raise UserError(
            f"{folder}: its tokenizer has {tokens} tokens, but the model knows {known}; give both "
            "of the same model"
        )
    load_encoder(encoder)
    if not load_head(head, config.task.name, folder):
        raise UserError(
            f"{folder} has no {config.task.name} head that is supported; fine-tune it, or give "
            "another model"
        )
