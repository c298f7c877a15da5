"""`longspan.load(...).predict(...)` and `longspan predict`: what evaluation says, without its data."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

import longspan
from longspan.config import GlobalsConfig, QAConfig
from longspan.document import RawDocument
from longspan.errors import UserError
from longspan.model.chunked import LayerInChunks
from longspan.predict import held_together, within_budget
from longspan.training.run import train
from longspan.training.run_folder import folder_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec:FutureWarning",  # Lightning's, with torch 2.13
)


@pytest.fixture(scope="module")
def classifier(make_config, tmp_path_factory):
    """A run of seconds, and the texts of its test split."""
    config = make_config(tmp_path_factory.mktemp("runs"))
    train(config)
    with open(config.data.local_files["test"]) as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    return folder_of(config), texts


def test_predictions_are_those_of_the_evaluation(classifier):
    folder, texts = classifier
    told = longspan.load(folder.path).predict_all({"text": text} for text in texts)
    lines = (folder.predictions / "test.jsonl").read_text().splitlines()
    expected = {row["id"]: row for row in map(json.loads, lines)}
    for number, ours in enumerate(told):
        theirs = expected[f"test-{number}"]
        assert ours["id"] == str(number)
        assert ours["predicted"] == theirs["predicted"]
        assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=1e-6)
        assert (ours["length"], ours["tokens_cut"]) == (theirs["length"], theirs["tokens_cut"])
    assert number == len(texts) - 1


def test_names_that_are_given_twice_keep_their_predictions(classifier):
    folder, texts = classifier
    model = longspan.load(folder.path)
    twice = list(model.predict_all({"id": "same", "text": text} for text in texts))
    assert [row["id"] for row in twice] == ["same"] * len(texts)
    assert [row["probabilities"] for row in twice] == [
        pytest.approx(model.predict(text)["probabilities"], abs=1e-6) for text in texts
    ]


def test_rows_are_read_as_predictions_are_asked_for(classifier):
    folder, texts = classifier
    read = []

    def rows():
        for i in range(1000):
            read.append(i)
            yield {"id": f"d{i}", "text": texts[i % len(texts)]}

    told = longspan.load(folder.model).predict_all(rows())
    assert [next(told)["id"], next(told)["id"]] == ["d0", "d1"]
    assert len(read) < 100


QUESTION = "Who governs it?"
CONTEXT = "  The parties agree. " * 40 + "The law of Éire governs it."


@pytest.fixture(scope="module")
def answering(make_config, tmp_path_factory):
    """A question-answering run that learned one answer by heart."""
    place = tmp_path_factory.mktemp("qa")
    start = CONTEXT.index("Éire")
    row = {
        "id": "a", "question": QUESTION, "context": CONTEXT,
        "answers": {"text": ["Éire"], "answer_start": [start]},
    }  # fmt: skip
    file = place / "rows.jsonl"
    file.write_text("".join(json.dumps(row | {"id": f"a{i}"}) + "\n" for i in range(4)))
    config = make_config(
        place / "runs",
        **{
            "task": {"name": "qa"},
            "data.files": {"train": str(file), "dev": str(file)},
            "data.test_fraction": 0,
            "data.text_column": "context",
            "data.max_length": 64,
            "data.tokens_per_batch": 512,
            "globals.question": True,
            "trainer.max_epochs": 40,
            "trainer.check_val_every_n_epoch": 40,
            "model.hidden_dropout": 0,
        },
    )
    assert isinstance(config.task, QAConfig)
    assert config.globals == GlobalsConfig(question=True)
    train(config)
    return folder_of(config)


def test_an_answer_is_a_place_in_the_whole_document(answering):
    model = longspan.load(answering.path)
    told = model.predict(CONTEXT, question=QUESTION, id="contract")
    assert (told["id"], told["question"]) == ("contract", QUESTION)
    assert told["answer"] == "Éire"
    assert CONTEXT[told["start"] : told["end"]] == told["answer"]
    assert 0 < told["probability"] <= 1
    assert told["answer"] in told["snippet"]
    longer = model.predict("Nothing here. " * 100 + CONTEXT, question=QUESTION)
    assert longer["start"] is None or longer["end"] <= 1400 + len(CONTEXT)


def test_documents_longer_than_a_chunk_are_answered_as_at_once(classifier, answering, monkeypatch):
    asked = [
        (longspan.load(classifier[0].path), {"text": classifier[1][0]}),
        (longspan.load(answering.path), {"text": CONTEXT, "question": QUESTION}),
    ]
    at_once = [model.predict(**row) for model, row in asked]
    chunks, run = [], LayerInChunks.run
    spy = lambda layer, x, size: chunks.append(len(x) / size) or run(layer, x, size)  # noqa: E731
    monkeypatch.setattr(LayerInChunks, "run", spy)
    monkeypatch.setattr("longspan.predict.CHUNK_TOKENS", 8)
    for (model, row), expected in zip(asked, at_once, strict=True):
        chunks.clear()
        told = model.predict(**row)
        assert min(chunks) > 2
        for name in ("probability", "probabilities"):
            assert told.pop(name, None) == pytest.approx(expected.pop(name, None), abs=1e-5)
        assert told == expected


def test_what_cannot_be_predicted_is_said_in_one_line(classifier, answering, tmp_path):
    labels, answers = longspan.load(classifier[0].path), longspan.load(answering.path)
    with pytest.raises(UserError, match="document 0 has a question, but this model's task is cla"):
        labels.predict("text", question="why?")
    with pytest.raises(UserError, match="document x has no question; this model answers"):
        answers.predict("text", id="x")
    with pytest.raises(UserError, match="its document is empty"):
        answers.predict(" ", question="why?")
    # rows are counted from the first, not from those that are held together
    empty = [{"id": "x", "text": "a" if i < 20 else "", "question": "why?"} for i in range(21)]
    with pytest.raises(UserError, match=r"question x \(row 20\): its document is empty"):
        list(answers.predict_all(empty))
    with pytest.raises(UserError, match="was trained without a second text; drop pair"):
        labels.predict("text", pair="other")
    with pytest.raises(UserError, match="is no model folder"):
        longspan.load(tmp_path)


def test_batches_keep_to_the_budget(answering):
    model = longspan.load(answering.path)
    (slices,) = model.documents.encode_slices(["a"], [QUESTION], [CONTEXT], max_question_length=9)
    batches = list(within_budget(slices, 130))
    assert [piece for batch in batches for piece in batch] == slices
    assert all(sum(len(p.input_ids) for p in batch) <= 130 for batch in batches)
    assert [len(batch) for batch in within_budget(slices, 1)] == [1] * len(slices)


def test_few_documents_are_held_in_memory_and_long_ones_alone(monkeypatch):
    monkeypatch.setattr("longspan.predict.DOCUMENTS_AT_ONCE", 3)
    monkeypatch.setattr("longspan.predict.CHARACTERS_AT_ONCE", 10)
    lengths = [1, 1, 1, 1, 9, 20, 5, 5, 1]
    held = held_together(RawDocument(id=str(n), text="x" * n) for n in lengths)
    found = [[len(document.text) for document in together] for together in held]
    assert found == [[1, 1, 1], [1, 9], [20], [5, 5], [1]]


def command(*arguments):
    program = [str(Path(sys.executable).with_name("longspan")), "predict", *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, check=False)


def test_the_command_reads_a_document_or_rows(classifier, answering, tmp_path):
    document = tmp_path / "contract.txt"
    document.write_text(CONTEXT)
    done = command(answering.path, "--document", document, "--question", QUESTION)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answer"] == "Éire"
    rows, output = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in classifier[1]))
    done = command(classifier[0].path, "--rows", rows, "--output", output)
    assert done.stdout == f"{output}: 9 predictions\n", done.stderr
    assert len(output.read_text().splitlines()) == 9
    assert not list(tmp_path.glob("*.part"))


def test_a_wrong_command_is_answered_in_one_line(classifier, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\nno json\n')
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes('{"text": "a"}\n{"text": "é"}\n'.encode("latin-1"))
    for arguments, said in (
        ([], "predict needs either --document file.txt or --rows file.jsonl"),
        (["--rows", rows, "--question", "why?"], "--question goes with --document"),
        (["--document", tmp_path / "none.txt"], "none.txt cannot be read (No such file"),
        (["--rows", rows, "--output", tmp_path / "out.jsonl"], "rows.jsonl line 2 is no JSON"),
        (["--rows", latin, "--output", tmp_path / "out.jsonl"], "line 2 is not UTF-8; convert it"),
        (["--rows", rows, "--output", tmp_path / "no" / "x"], "no/x cannot be written (No such f"),
    ):
        done = command(classifier[0].path, *arguments)
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1
        assert said in done.stderr
    assert not (tmp_path / "out.jsonl").exists()
