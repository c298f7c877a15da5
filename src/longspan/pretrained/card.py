"""The model card: what a reader of an exported folder wants to know, with the hub's header."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from longspan.config import (
    ChoiceConfig,
    ClassificationConfig,
    Config,
    MultiHopConfig,
    QAConfig,
    TaskConfig,
)
from longspan.errors import UserError
from longspan.pretrained.card_usage import notes, usage
from longspan.pretrained.markdown import plain

PIPELINES = {  # the hub's names
    "classification": "text-classification",
    "mlm": "fill-mask",
    "qa": "question-answering",
    "multihop": "question-answering",
    "choice": "multiple-choice",
}
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
FILES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt", ".md")


@dataclass(frozen=True)
class Results:
    """How a run ended.

    Attributes:
        split: that was evaluated.
        metrics: by name.
    """

    split: str
    metrics: dict[str, float]


def read_results(run: Path) -> Results | None:
    """What the run's report.json says; None where there is none, or nothing was evaluated.

    Raises:
        UserError: a damaged report.
    """
    file = run / "report.json"
    if not file.is_file():
        return None
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        if report.get("split") is None:
            return None
        metrics = {str(name): float(value) for name, value in report["metrics"].items()}
        return Results(str(report["split"]), metrics)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is damaged ({type(error).__name__}: {error}); restore it, or remove it for a "
            "card without metrics"
        ) from error


def model_card(
    config: Config, labels: list[str], architecture: str, results: Results | None = None
) -> str:
    """The card as Markdown.

    Args:
        config: the run's.
        labels: label names by class index.
        architecture: the class that loads the folder; `Longspan…` for our own.
        results: the run's metrics, if they are known.
    """
    windows = ["full" if window is None else str(window) for window in config.model.windows]
    files = ", ".join(_public(file) for file in config.data.local_files.values())
    facts = {
        "task": _task_in_words(config.task),
        "labels": ", ".join(labels[:40]) + (", …" if len(labels) > 40 else "") or "none",
        "data": files or _public(config.data.path),
        "base model": _public(config.model.pretrained or "none, trained from scratch"),
        "longest document": f"{config.data.max_length} tokens, {config.data.truncate} kept",
        "one-sided window of each layer": ", ".join(windows),
        **({} if config.model.pattern.is_plain else {"pattern": config.model.pattern.said()}),
        "global tokens": json.dumps({k: v for k, v in vars(config.globals).items() if v}),
    }
    title = f"# {plain(config.experiment)}/{plain(config.name)}"
    lines = ["---", _header(config, results), "---", "", title]
    lines += ["", *_table(("", ""), facts)]
    if results is not None:
        measured = {name: f"{value:.4f}" for name, value in results.metrics.items()}
        lines += ["", "## Metrics", "", *_table(("metric", results.split), measured)]
    lines += ["", "## Usage", "", *notes(config, architecture), ""]
    lines += ["```python", *usage(config, architecture), "```", ""]
    lines += [f"Loads as `{architecture}`. Trained with Longspan.", ""]
    return "\n".join(lines)


def _task_in_words(task: TaskConfig) -> str:
    if isinstance(task, ClassificationConfig):
        return f"classification, {task.problem}"
    if isinstance(task, QAConfig):
        return "extractive question answering"
    if isinstance(task, MultiHopConfig):
        return "multi-hop question answering with supporting sentences"
    if isinstance(task, ChoiceConfig):
        return "choice among candidate answers"
    words = "whole words" if task.whole_words else "tokens"
    return f"masked language modelling, {task.masked_share:.0%} of the {words} hidden"


def _header(config: Config, results: Results | None) -> str:
    data = config.data
    pipeline = PIPELINES[config.task.name]
    dataset = None if data.local_files else _hub_id(data.path)
    name = dataset or ("local files" if data.local_files else _public(data.path))
    card = ModelCardData(
        library_name="transformers",
        pipeline_tag=pipeline,
        tags=["longspan", "long-documents"],
        base_model=config.model.pretrained and _hub_id(config.model.pretrained),
        datasets=[dataset] if dataset else None,
    )
    if results is not None:
        card.model_name = f"{config.experiment}/{config.name}"
        card.eval_results = [
            EvalResult(
                task_type=pipeline,
                dataset_type=dataset or name.rpartition(":")[2],
                dataset_name=name,
                dataset_config=data.name,
                dataset_split=data.splits.get(results.split) or results.split,
                metric_type=metric,
                metric_value=value,
            )
            for metric, value in results.metrics.items()
            if math.isfinite(value)  # the hub reads JSON, which has no other numbers
        ]
    return card.to_yaml(line_break="\n").strip()


def _hub_id(name: str) -> str | None:
    """The name where it is one of the hub's, not a file or folder of this machine."""
    is_id = HUB_ID.fullmatch(name) and not name.endswith(FILES) and not Path(name).exists()
    return name if is_id else None


def _public(name: str) -> str:
    """Without the folders of this machine."""
    return Path(name).name if Path(name).is_absolute() else name


def _table(head: tuple[str, str], rows: dict[str, str]) -> list[str]:
    cells = [f"| {plain(name)} | {plain(value)} |" for name, value in [head, *rows.items()]]
    return [cells[0], "|---|---|", *cells[1:]]
