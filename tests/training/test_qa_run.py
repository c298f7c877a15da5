"""Question answering from training to the files of an evaluation, in one process."""

import json
import random
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
import yaml

from longspan.checkpoint import read_model
from longspan.config import EvalConfig, QAConfig
from longspan.errors import UserError
from longspan.predict import load_predictor
from longspan.pretrained.load import load_head
from longspan.tasks.qa_head import span_head
from longspan.training.evaluate import evaluate
from longspan.training.run import train

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec:FutureWarning",  # Lightning's, with torch 2.13
)
NAMES = ["Ann", "Bob", "Jefferson", "Lincoln", "Grant"]
OPTIONS = {
    "slice": {"task.normalisation": "slice"},
    "document": {"task.normalisation": "document", "task.answerability": "head"},
    # at most two of a document's slices share a batch
    "parted": {"task.normalisation": "document", "data.tokens_per_batch": 70},
    "fixed": {"task.null_threshold": 0.5, "task.temperature": 2.0},
}


def questions(split: str, number: int) -> str:
    shuffle = random.Random(split)
    rows = []
    for i in range(number):
        name = shuffle.choice(NAMES)
        before, after = ("the sea and the sky are calm <b> " * shuffle.randint(0, 6) for _ in "ab")
        text = f"{before}the letter was written by {name} in 1801 {after}"
        answers = {"text": [name], "answer_start": [text.index(name)]}
        if i % 4 == 3:
            text, answers = text.replace(name, "nobody"), {"text": [], "answer_start": []}
        rows.append({"id": f"{split}/{i}", "context": text, "question": "who wrote the letter ?",
                     "answers": answers})  # fmt: skip
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def make_run(make_config, tmp_path_factory):
    """Train one of `OPTIONS` for an epoch; its folder and report."""
    place, made = tmp_path_factory.mktemp("qa"), {}
    for split, number in (("train", 16), ("dev", 12), ("test", 8)):
        (place / f"{split}.jsonl").write_text(questions(split, number))
    files = {split: str(place / f"{split}.jsonl") for split in ("train", "dev", "test")}

    def make(option: str):
        if option not in made:
            fields = {
                "task.name": "qa", "data.files": files, "data.text_column": "context",
                "data.tokens_per_batch": 256, "data.stride": 8, "globals.question": True,
                "trainer.max_epochs": 1, "name": option,
            } | OPTIONS[option]  # fmt: skip
            config = make_config(place / "runs", **fields)
            made[option] = (place / "runs" / "default" / option, train(config))
        return made[option]

    return make


@pytest.mark.parametrize("option", ["slice", "document", "parted"])
def test_what_is_fitted_to_dev_is_saved_with_the_model(make_run, option):
    folder, report = make_run(option)
    fitted = report["calibration"]
    assert fitted["questions"] == 12
    assert fitted["f1"] >= fitted["f1_uncalibrated"]
    said = yaml.safe_load((folder / "config.yaml").read_text())["task"]
    assert (said["null_threshold"], said["temperature"]) == ("auto", "auto")
    saved = json.loads((folder / "model" / "config.json").read_text())["config"]["task"]
    for name in ("null_threshold", "temperature"):
        assert saved[name] == fitted[name]
    # the model that is kept, evaluated on dev again, decides as it was calibrated
    again = evaluate(EvalConfig(run=str(folder), split="dev", page=0))
    assert again["metrics"]["f1"] == pytest.approx(fitted["f1"])
    predictor = load_predictor(folder)
    assert predictor.task.decision.null_threshold == fitted["null_threshold"]
    assert predictor.task.decision.temperature == fitted["temperature"]


def test_a_head_takes_what_a_model_without_answerability_has(make_run):
    folder, _ = make_run("slice")
    model = read_model(folder / "model")[0].model
    torch.manual_seed(0)
    head = span_head(model, QAConfig(answerability="head"))
    before = head.answerable.weight.clone()
    assert load_head(head, "qa", str(folder / "model"))
    state = read_model(folder / "model")[2]
    assert torch.equal(head.out.weight, state["head.out.weight"])
    assert torch.equal(head.answerable.weight, before)  # that starts fresh
    folder, _ = make_run("document")
    assert load_head(head, "qa", str(folder / "model"))
    state = read_model(folder / "model")[2]
    assert torch.equal(head.answerable.weight, state["head.answerable.weight"])


def test_numbers_are_left_as_they_are(make_run):
    folder, report = make_run("fixed")
    assert "calibration" not in report
    saved = json.loads((folder / "model" / "config.json").read_text())["config"]["task"]
    assert (saved["null_threshold"], saved["temperature"]) == (0.5, 2.0)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_evaluation_and_a_prediction_say_what_the_training_said(make_run, option):
    folder, report = make_run(option)
    before = lines_of(folder, "test")
    summary = evaluate(EvalConfig(run=str(folder), output="again", page=0))
    assert summary["metrics"] == pytest.approx(report["metrics"])
    after = lines_of(folder, "again")
    assert [row["predicted"] for row in after] == [row["predicted"] for row in before]
    for row in after:
        assert sum(c["probability"] for c in row["nbest"]) == pytest.approx(1)
    predictor = load_predictor(folder)
    rows = [json.loads(line) for line in questions("test", 8).splitlines()]
    rows = [{"id": r["id"], "text": r["context"], "question": r["question"]} for r in rows]
    told = {row["id"]: row for row in predictor.predict_all(rows)}
    for row in after:
        assert told[row["id"]]["answer"] == row["predicted"]
        assert told[row["id"]]["probability"] == pytest.approx(row["probability"], rel=1e-3)


def lines_of(folder: Path, name: str) -> list[dict]:
    lines = (folder / "predictions" / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_predictions_in_official_formats(make_run):
    folder, _ = make_run("slice")
    evaluate(EvalConfig(run=str(folder), output="x", format="squad", page=0))
    evaluate(EvalConfig(run=str(folder), output="x", format="cuad", page=0))
    rows = {row["id"]: row for row in lines_of(folder, "x")}
    written = folder / "predictions"
    texts = json.loads((written / "x.squad" / "predictions.json").read_text())
    assert texts == {name: row["predicted"] for name, row in rows.items()}
    odds = json.loads((written / "x.squad" / "na_prob.json").read_text())
    assert odds.keys() == texts.keys() == {f"test/{i}" for i in range(8)}
    nbest = json.loads((written / "x.cuad" / "nbest_predictions_.json").read_text())
    assert nbest.keys() == texts.keys()
    assert not (written / "x.html").exists()


def test_formats_that_do_not_fit_are_named(make_run, make_config, tmp_path):
    folder, _ = make_run("slice")
    bare = tmp_path / "bare.jsonl"
    rows = [json.loads(line) for line in questions("test", 4).splitlines()]
    bare.write_text("".join(json.dumps({k: r[k] for k in r if k != "id"}) + "\n" for r in rows))
    with pytest.raises(UserError, match=r"format=squad needs the names .* set data\.id_column"):
        evaluate(EvalConfig(run=str(folder), format="squad", data={"path": str(bare)}))
    config = make_config(tmp_path / "runs", **{"trainer.max_epochs": 1})
    train(config)
    other = EvalConfig(run=str(tmp_path / "runs/default/default"), format="cuad")
    with pytest.raises(UserError, match="format=cuad holds predictions of task=qa, but this run's"):
        evaluate(other)
    # and there is no page of answers where there are none
    evaluate(EvalConfig(run=str(tmp_path / "runs/default/default")))
    assert not list(tmp_path.rglob("*.html"))


class Articles(HTMLParser):
    """Questions of a page in its order, and how often each tag stands in it."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_shows_the_worst_questions_beside_their_documents(make_run):
    folder, _ = make_run("slice")
    evaluate(EvalConfig(run=str(folder), output="page", page=5))
    page = Articles()
    page.feed((folder / "predictions" / "page.html").read_text())
    assert page.tags["article"] == 5
    text = "".join(page.text)
    assert "5 of 8 questions" in text
    assert "the letter was written by" in text
    assert "calm <b> the sea" in text  # what looks like a tag is text

    # without answers there is nothing to be measured by, but still something to be looked at
    rows = [json.loads(line) | {"answers": None} for line in questions("test", 3).splitlines()]
    asked = folder / "asked.jsonl"
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluate(EvalConfig(run=str(folder), output="asked", data={"path": str(asked)}))
    assert "3 of 3 questions" in (folder / "predictions" / "asked.html").read_text()
