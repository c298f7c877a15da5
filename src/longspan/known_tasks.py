"""Which task a config means, built from the data it trains on or from what a model remembers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from longspan.config import (
    AskingConfig,
    ChoiceConfig,
    ClassificationConfig,
    Config,
    DataConfig,
    MaskedLMConfig,
    MultiHopConfig,
    QAConfig,
    TaskConfig,
)
from longspan.errors import UserError
from longspan.pretrained.tokenizer import PreTrainedTokenizerFast
from longspan.tasks import choice, multihop, qa_ledger
from longspan.tasks.choice import Choice
from longspan.tasks.classification import Classification
from longspan.tasks.masked_lm import MaskedLM, Vocabulary
from longspan.tasks.multihop import MultiHop
from longspan.tasks.qa import QuestionAnswering

KnownTask = Choice | Classification | MaskedLM | MultiHop | QuestionAnswering


def has_classes(task: TaskConfig) -> bool:
    """Whether every document has one class, so that splits can be cut alike in them."""
    return isinstance(task, ClassificationConfig) and task.problem == "single_label"


def task_columns(task: TaskConfig, data: DataConfig, columns: Sequence[str]) -> DataConfig:
    """Where the task finds its texts and labels, in the terms that all tasks share.

    Args:
        task: of the run.
        data: as configured.
        columns: of the table.

    Raises:
        UserError: no column of questions.
    """
    if not isinstance(task, AskingConfig):
        return data
    if data.question_column not in columns:
        raise UserError(
            f"data.question_column={data.question_column} is not a column; there are "
            f"{', '.join(columns)}"
        )
    # published sets name their questions, and official scorers ask for those names
    id_column = "id" if data.id_column is None and "id" in columns else data.id_column
    return replace(
        data,
        id_column=id_column,
        text_pair_column=data.question_column,
        label_column=data.answers_column,
    )


def task_cells(task: TaskConfig, data: DataConfig, columns: Sequence[str]) -> dict[str, str]:
    """What else the task reads of a row (`RawDocument.cells`), and the columns it stands in.

    Raises:
        UserError: no column of candidates.
    """
    if isinstance(task, ChoiceConfig):
        if data.candidates_column not in columns:
            raise UserError(
                f"data.candidates_column={data.candidates_column} is not a column; there are "
                f"{', '.join(columns)}"
            )
        return {"candidates": data.candidates_column}
    if isinstance(task, MultiHopConfig):
        assert isinstance(data.text_column, str), "Config checks it"
        facts = {"facts": data.facts_column} if data.facts_column in columns else {}
        return {"paragraphs": data.text_column} | facts
    return {}


def new_task(
    config: Config,
    cells: Sequence[Any],
    names: list[str] | None,
    tokenizer: PreTrainedTokenizerFast,
) -> KnownTask:
    """The task, with what it learns from the label cells of the training split.

    Args:
        config: the run.
        cells: none where the task reads no labels.
        names: the data set's own for its integers, if it has any.
        tokenizer: as loaded.
    """
    if isinstance(config.task, ClassificationConfig):
        column = config.data.label_column
        return Classification.from_training_labels(config.task, cells, names, column)
    return _without_labels(config.task, tokenizer)


def known_task(
    config: Config,
    labels: list[str],
    names: list[str] | None,
    tokenizer: PreTrainedTokenizerFast,
) -> KnownTask:
    """The task as a saved model knows it, for a data set with these `names` for its integers."""
    if isinstance(config.task, ClassificationConfig):
        return Classification(config.task, labels, names)
    return _without_labels(config.task, tokenizer)


def _without_labels(
    task: MaskedLMConfig | AskingConfig, tokenizer: PreTrainedTokenizerFast
) -> KnownTask:
    if isinstance(task, MaskedLMConfig):
        return MaskedLM(task, vocabulary(tokenizer))
    if isinstance(task, MultiHopConfig):
        return MultiHop(task)
    if isinstance(task, ChoiceConfig):
        return Choice(task)
    return QuestionAnswering(task)


def report_losses(task: TaskConfig, split: str, counts: Mapping[str, float]) -> dict[str, float]:
    """Say what encoding took away from a split's questions, and what that caps.

    Raises:
        UserError: a training split that teaches nothing.
    """
    if isinstance(task, QAConfig):
        return qa_ledger.report_losses(split, counts)
    if isinstance(task, MultiHopConfig):
        return multihop.report_losses(split, counts)
    return choice.report_losses(split, counts) if isinstance(task, ChoiceConfig) else {}


def vocabulary(tokenizer: PreTrainedTokenizerFast) -> Vocabulary:
    """What masking needs.

    Raises:
        UserError: a tokenizer without a mask.
    """
    mask_id = tokenizer.mask_token_id
    if not isinstance(mask_id, int):
        raise UserError(
            "task=mlm needs a tokenizer with a mask token; choose another data.tokenizer"
        )
    ordinary = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)
    return Vocabulary(mask_id, ordinary)
