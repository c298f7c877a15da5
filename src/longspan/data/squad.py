"""SQuAD's JSON (data → paragraphs → qas) as a table with one row a question."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value
from datasets.exceptions import DatasetGenerationError

from longspan.config import DataConfig
from longspan.errors import UserError


def is_squad(path: Path) -> bool:
    """Whether a file holds one JSON object with articles of paragraphs under `data`."""
    if path.suffix.lower() != ".json":
        return False
    try:
        articles = json.loads(path.read_text(encoding="utf-8"))["data"]
        return isinstance(articles, list) and "paragraphs" in articles[0]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return False  # a table of another form, whose reader says what is wrong with it


def read_squad(path: Path, config: DataConfig) -> Dataset:
    """Columns `id`, `title`, and those that `data.*_column` names for question, text and answers.

    Raises:
        UserError: a paragraph or a question that lacks a field, with its place in the file.
    """
    text = config.text_column if isinstance(config.text_column, str) else config.text_column[0]
    columns = (config.question_column, text, config.answers_column)
    answers = {"text": List(Value("string")), "answer_start": List(Value("int64"))}
    strings = dict.fromkeys(("id", "title", *columns[:2]), Value("string"))
    # the stamp is there for the table's fingerprint: a file that has changed is read anew
    stamp = (path.stat().st_mtime_ns, path.stat().st_size)
    try:
        read = Dataset.from_generator(
            squad_rows,
            features=Features(strings | {columns[2]: answers}),
            gen_kwargs={"path": str(path.resolve()), "columns": columns, "stamp": stamp},
            cache_dir=config.cache_dir,  # type: ignore[arg-type]  # None = its default
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise
    assert isinstance(read, Dataset)
    return read


def squad_rows(
    path: str, columns: tuple[str, str, str], stamp: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    """One row a question; its answers as SQuAD's table on the hub has them."""
    question, text, answers = columns
    articles = json.loads(Path(path).read_text(encoding="utf-8"))["data"]
    for i, article in enumerate(articles):
        for j, paragraph in enumerate(_get(article, "paragraphs", list, f"{path}: data[{i}]")):
            where = f"{path}: data[{i}].paragraphs[{j}]"
            context = _get(paragraph, "context", str, where)
            for k, row in enumerate(_get(paragraph, "qas", list, where)):
                place = f"{where}.qas[{k}]"
                asked = {"id": str(_get(row, "id", str | int, place))}
                given = [] if row.get("answers") is None else _get(row, "answers", list, place)
                yield asked | {
                    "title": str(article.get("title", "")),
                    question: _get(row, "question", str, place),
                    text: context,
                    answers: {
                        "text": [_get(answer, "text", str, place) for answer in given],
                        "answer_start": [_get(a, "answer_start", int, place) for a in given],
                    },
                }


NAMES = {str: "text", int: "a whole number", list: "a list", str | int: "text or a number"}


def _get(record: Any, field: str, kind: Any, where: str) -> Any:
    if not isinstance(record, dict) or record.get(field) is None:
        raise UserError(f"data: {where} has no {field!r}, as SQuAD's format asks; mend the file")
    if not isinstance(record[field], kind):
        raise UserError(
            f"data: {where}: {field!r} is {str(record[field])[:60]!r}, not {NAMES[kind]}; mend the "
            "file"
        )
    return record[field]
