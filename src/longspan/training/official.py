"""Formats of official scorers that `eval.py format=<name>` writes, and the task that each is of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from longspan.config import EvalConfig, TaskConfig
from longspan.errors import UserError
from longspan.tasks.multihop_decoding import hotpot_predictions
from longspan.tasks.qa_official import Files, cuad_files, squad_files


@dataclass(frozen=True)
class OfficialFormat:
    """One format.

    Attributes:
        task: `task.name` of the runs that have it.
        files: predictions of that task to JSON files.
    """

    task: str
    files: Callable[[Sequence[Any]], Files]


FORMATS = {
    "squad": OfficialFormat("qa", squad_files),
    "cuad": OfficialFormat("qa", cuad_files),
    # for `hotpot_evaluate_v1.py predictions.json data.json`
    "hotpot": OfficialFormat(
        "multihop", lambda rows: {"predictions.json": hotpot_predictions(rows)}
    ),
}


def official_format(config: EvalConfig, task: TaskConfig) -> OfficialFormat | None:
    """The format that is asked for, if any.

    Raises:
        UserError: it is another task's.
    """
    if config.format is None:
        return None
    wanted = FORMATS[config.format]
    if task.name != wanted.task:
        raise UserError(
            f"format={config.format} holds predictions of task={wanted.task}, but this run's task "
            f"is {task.name}; drop it"
        )
    return wanted
