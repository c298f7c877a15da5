"""Question answering as a user meets it: `train.py` and `eval.py` on files, in fresh processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARAGRAPHS = {
    "Ann lives in Paris and Bob lives in Rome. " + "The sea is calm and the sky is clear. " * 3: [
        ("a", "Where does Ann live?", "Paris"),
        ("b", "Where does Bob live?", "Rome"),
    ],
    "The sea is calm and the sky is clear. " * 3 + "The letter was written by Jefferson in 1801.": [
        ("c", "Who wrote the letter?", "Jefferson"),
        ("d", "Who sank the ship?", None),
    ],
}
MODEL = {
    "data.max_length": 32,  # every document is two slices or three
    "data.stride": 8,
    "data.tokens_per_batch": 512,
    "model.hidden_size": 32,
    "model.intermediate_size": 64,
    "model.hidden_dropout": 0,
    "trainer.accelerator": "cpu",
    "trainer.precision": "32-true",
    "trainer.enable_progress_bar": "false",
    "logger.kind": "none",
}
LEARNING = {
    "optim.learning_rate": 3e-3,
    "trainer.max_epochs": 100,
    "trainer.check_val_every_n_epoch": 100,
    "trainer.log_every_n_steps": 1,
}
ONE_STEP = {"trainer.max_epochs": 1, "trainer.log_every_n_steps": 1}


def squad() -> dict[str, object]:
    paragraphs = []
    for context, rows in PARAGRAPHS.items():
        qas = []
        for name, question, text in rows:
            # one character beside where it stands
            answers = [{"text": text, "answer_start": context.index(text) + 1}] if text else []
            qas.append({"id": name, "question": question, "answers": answers})
        paragraphs.append({"context": context, "qas": qas})
    return {"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}


def rows() -> list[dict[str, object]]:
    return [
        {"context": context, "question": question, "answers": [text] if text else []}
        for context, questions in PARAGRAPHS.items()
        for _, question, text in questions
    ]


def run(script: str, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / script), *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def train(cwd: Path, file: str, *more: str, **fields: object) -> subprocess.CompletedProcess[str]:
    files = [f"data.files.{split}={file}" for split in ("train", "dev", "test")]
    set_to = [f"{name}={value}" for name, value in (MODEL | fields).items()]
    return run("train.py", cwd, "task=qa", "globals=question", "data=files", "name=run", *files,
               *set_to, *more)  # fmt: skip


def predictions(cwd: Path, name: str) -> dict[str, dict]:
    lines = (cwd / "runs" / "default" / "run" / "predictions" / f"{name}.jsonl").read_text()
    return {row["id"]: row for row in map(json.loads, lines.splitlines())}


def test_four_questions_are_learnt_by_heart_and_evaluated_again(tmp_path: Path) -> None:
    (tmp_path / "squad.json").write_text(json.dumps(squad()))
    trained = train(tmp_path, "squad.json", **LEARNING)
    assert trained.returncode == 0, trained.stderr
    assert "3 answers repaired" in trained.stderr
    assert "3 of 4 questions have an answer; truncation and slice borders took it from 0" in (
        trained.stderr
    )
    report = json.loads((tmp_path / "runs" / "default" / "run" / "report.json").read_text())
    assert report["metrics"]["exact_match"] == report["metrics"]["f1"] == 1.0
    assert report["data"]["test"]["highest_exact_match"] == 1.0
    found = predictions(tmp_path, "test")
    assert set(found) == {"a", "b", "c", "d"}
    for context, questions in PARAGRAPHS.items():
        for name, question, text in questions:
            row = found[name]
            assert (row["question"], row["predicted"]) == (question, text or "")
            assert row["gold"] == ([text] if text else [])
            assert 0 < row["probability"] < 1
            if text:
                assert context[row["start"] : row["end"]] == text

    lines = [json.dumps(row | {"answers": None}) for row in rows()]
    (tmp_path / "asked.jsonl").write_text("".join(line + "\n" for line in lines))
    again = run("eval.py", tmp_path, "run=runs/default/run", "output=asked",
                "data.files.test=asked.jsonl", "data.text_column=context")  # fmt: skip
    assert again.returncode == 0, again.stderr
    answers = [row["predicted"] for row in predictions(tmp_path, "asked").values()]
    assert answers == ["Paris", "Rome", "Jefferson", ""]


def test_jsonl_with_texts_as_answers(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    trained = train(tmp_path, "rows.jsonl", "data.text_column=context", **ONE_STEP)
    assert trained.returncode == 0, trained.stderr
    assert set(predictions(tmp_path, "test")) == {f"test-{i}" for i in range(4)}


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"question": " "}, "question train-0: its question is empty"),
        ({"context": ""}, "question train-0: its document is empty"),
        ({"answers": {"text": ["x"], "answer_start": [999]}}, "answer_start=999 is outside"),
        ({"id": "same"}, "ids stand twice"),
        ({"answers": []}, "no question of the train split has an answer"),
        (None, "data.question_column=question is not a column"),
    ],
)
def test_bad_rows_end_in_one_line(
    tmp_path: Path, changed: dict[str, object] | None, line: str
) -> None:
    row = {"context": "Ann lives.", "question": "Who?"}
    row |= {"answers": {"text": ["Ann"], "answer_start": [0]}} | (changed or {})
    if changed is None:
        del row["question"]
    (tmp_path / "rows.jsonl").write_text((json.dumps(row) + "\n") * 2)
    result = train(tmp_path, "rows.jsonl", "data.text_column=context", **ONE_STEP)
    assert result.returncode == 1
    assert line in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
