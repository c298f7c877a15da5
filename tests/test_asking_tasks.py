"""`task=multihop`, `task=choice` and pairs of texts as a user meets them, in fresh processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import longspan
from longspan.config import EvalConfig
from longspan.errors import UserError
from longspan.pretrained.export import export_to_hf, export_to_longspan
from longspan.training.evaluate import evaluate
from longspan.training.run import train
from longspan.training.run_folder import RunFolder, folder_of

ROOT = Path(__file__).resolve().parents[1]
LEARNING = {
    "globals.question": True,
    "data.max_length": 96,
    "data.tokens_per_batch": 1024,
    "model.hidden_size": 32,
    "model.intermediate_size": 64,
    "model.num_layers": 2,
    "model.hidden_dropout": 0.0,
    "model.window": 64,
    "optim.learning_rate": 5e-3,
    "trainer.max_epochs": 100,
    "trainer.check_val_every_n_epoch": 100,
}
ONE_STEP = LEARNING | {"trainer.max_epochs": 1, "trainer.check_val_every_n_epoch": 1}

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec:FutureWarning",  # Lightning's, with torch 2.13
)


@pytest.fixture(scope="module")
def run(make_config):
    """Train on rows that are dev and test too; the folder of the run and its report."""

    def run(folder, rows, **fields):
        write(folder / "rows.jsonl", rows)
        files = {split: str(folder / "rows.jsonl") for split in ("train", "dev", "test")}
        config = make_config(folder, **{"data.files": files, "experiment": "e", "name": "run"},
                             **fields)  # fmt: skip
        return folder_of(config), train(config)

    return run


def in_a_process(cwd: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip


def write(file: Path, rows: list[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def predictions(folder: RunFolder, name: str = "test") -> dict[str, dict]:
    lines = (folder.predictions / f"{name}.jsonl").read_text().splitlines()
    return {row["id"]: row for row in map(json.loads, lines)}


# --- multi-hop ----------------------------------------------------------------------------------


def hop_rows() -> list[dict]:
    """Three questions over the same paragraphs, with the columns of HotpotQA on the hub."""
    context = {
        "title": ["Ann", "Bob", "Sea"],
        "sentences": [
            ["Ann sings.", " She is Bob's friend."],
            ["Bob is tall.", " He lives in Rome."],
            ["The sea is calm.", " It is blue."],
        ],
    }
    asked = {
        "a": ("Where does Ann's friend live?", "Rome", [["Ann", 1], ["Bob", 1]]),
        "b": ("Does she sing, and is he tall?", "yes", [["Ann", 0], ["Bob", 0]]),
        "c": ("Is the sea green or loud?", "no", [["Sea", 0], ["Sea", 1], ["Ann", 0]]),
    }
    return [
        {
            "id": name,
            "question": question,
            "answer": answer,
            "type": "bridge",
            "level": "hard",
            "supporting_facts": {"title": [t for t, _ in facts], "sent_id": [n for _, n in facts]},
            "context": context,
        }
        for name, (question, answer, facts) in asked.items()
    ]


HOP = {"task.name": "multihop", "data.text_column": "context", "data.answers_column": "answer"}


@pytest.fixture(scope="module")
def hop_run(run, tmp_path_factory):
    """A training that learnt `hop_rows` by heart."""
    return run(tmp_path_factory.mktemp("hop"), hop_rows(), **LEARNING, **HOP)


def test_multi_hop_questions_are_learnt_by_heart(hop_run) -> None:
    folder, report = hop_run
    metrics = report["metrics"]
    assert metrics["exact_match"] == metrics["joint_exact_match"] == metrics["joint_f1"] == 1.0
    assert report["data"]["test"]["highest_exact_match"] == 1.0
    found = predictions(folder)
    for row in hop_rows():
        told = found[row["id"]]
        assert told["predicted"] == told["gold"] == row["answer"]
        facts = {(fact["title"], fact["sentence"]) for fact in told["facts"]}
        assert facts == set(zip(*row["supporting_facts"].values(), strict=True))


def test_a_multi_hop_model_answers_without_gold(hop_run, tmp_path: Path) -> None:
    folder, _ = hop_run
    columns = ("id", "question", "context")
    write(tmp_path / "asked.jsonl", [{name: row[name] for name in columns} for row in hop_rows()])
    given = {"files": {"test": str(tmp_path / "asked.jsonl")}}
    assert evaluate(EvalConfig(run=str(folder.path), output="asked", data=given))["metrics"] == {}
    answers = {name: row["predicted"] for name, row in predictions(folder, "asked").items()}
    assert answers == {"a": "Rome", "b": "yes", "c": "no"}

    evaluate(EvalConfig(run=str(folder.path), format="hotpot"))
    official = json.loads((folder.predictions / "test.hotpot" / "predictions.json").read_text())
    assert official["answer"] == answers
    assert sorted(official["sp"]["a"]) == [["Ann", 1], ["Bob", 1]]

    model, row = longspan.load(folder.path), hop_rows()[0]
    told = model.predict(row["context"], question=row["question"])
    assert (told["answer"], told["type"]) == ("Rome", "span")
    assert {fact["title"] for fact in told["facts"]} == {"Ann", "Bob"}
    with pytest.raises(UserError, match=r"question 0.*are no paragraphs; give a list of"):
        model.predict("A text.", question="Where?")
    with pytest.raises(UserError, match="has no question; this model answers questions"):
        model.predict(row["context"])
    with pytest.raises(UserError, match="has candidates, but this model's task is multihop"):
        model.predict(row["context"], question="Where?", candidates=["a", "b"])


def test_paragraphs_without_sentences_are_facts_as_a_whole(tmp_path: Path) -> None:
    """From the command line, in a process of its own."""
    paragraphs = [
        {"title": "Ann", "text": "Ann is Bob's friend.", "is_supporting": True},
        {"title": "Bob", "text": "Bob lives in Rome.", "is_supporting": True},
        {"title": "Sea", "text": "The sea is calm.", "is_supporting": False},
    ]
    row = {"question": "Where does he live?", "answer": "Rome", "paragraphs": paragraphs}
    write(tmp_path / "rows.jsonl", [row] * 12)
    trained = in_a_process(
        tmp_path, str(ROOT / "train.py"), "task=multihop", "globals=question", "data=files",
        "data.files.train=rows.jsonl", "data.text_column=paragraphs", "data.answers_column=answer",
        "data.max_length=96", "data.tokens_per_batch=1024", "model.hidden_size=16", "name=run",
        "trainer.accelerator=cpu", "trainer.max_epochs=1", "trainer.log_every_n_steps=1",
        "trainer.enable_progress_bar=false", "logger=none",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert "questions, 0 with yes or no; 0 lost their answer" in trained.stderr
    (told, *_) = predictions(RunFolder(tmp_path / "runs" / "default" / "run")).values()
    assert told["gold_facts"] == [["Ann", 0], ["Bob", 0]]
    assert len(told["facts"]) == 2


# --- choice -------------------------------------------------------------------------------------

LONG = "The sea is calm and the sky is clear. " * 12


def choice_rows() -> list[dict]:
    asked = [
        ("Where does Ann live?", ["Rome", "Oslo", "Bonn"], "Oslo"),
        ("Where does Bob live?", ["Bonn", "Rome"], "Bonn"),
        ("Who lives in Oslo?", ["Bob", "Cid", "Ann", "Eve"], "C"),
    ]
    return [
        {"id": str(i), "query": q, "supports": ["Ann lives in Oslo.", LONG, "Bob lives in Bonn."],
         "options": candidates, "gold": answer}
        for i, (q, candidates, answer) in enumerate(asked)
    ]  # fmt: skip


CHOICE = {
    "task.name": "choice",
    "data.question_column": "query",
    "data.text_column": "supports",
    "data.candidates_column": "options",
    "data.answers_column": "gold",
}


@pytest.fixture(scope="module")
def choice_run(run, tmp_path_factory):
    """A training that learnt `choice_rows` by heart, in slices."""
    return run(tmp_path_factory.mktemp("choice"), choice_rows(), **LEARNING, **CHOICE,
               **{"data.stride": 8})  # fmt: skip


def test_choices_are_learnt_by_heart_over_slices(choice_run) -> None:
    folder, report = choice_run
    assert report["metrics"]["accuracy"] == 1.0
    found = predictions(folder)
    assert [found[name]["predicted"] for name in "012"] == ["Oslo", "Bonn", "Ann"]
    for row in found.values():
        assert sum(row["probabilities"]) == pytest.approx(1)
        assert row["probabilities"][row["predicted_index"]] > 0.9
        assert row["length"] > 96  # more than one slice
        assert row["tokens_cut"] == 0


def test_a_model_chooses_from_rows(choice_run, tmp_path: Path) -> None:
    """From the command line, in a process of its own."""
    folder, _ = choice_run
    rows = [
        {"id": row["id"], "text": "\n\n".join(row["supports"]), "question": row["query"],
         "candidates": row["options"]}
        for row in choice_rows()
    ]  # fmt: skip
    write(tmp_path / "asked.jsonl", rows)
    script = str(Path(sys.executable).with_name("longspan"))
    told = in_a_process(tmp_path, script, "predict", str(folder.path), "--rows", "asked.jsonl")
    assert told.returncode == 0, told.stderr
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    assert [line["predicted"] for line in lines] == ["Oslo", "Bonn", "Ann"]
    evaluated = predictions(folder)
    for line in lines:
        expected = evaluated[line["id"]]["probabilities"]
        assert line["probabilities"] == pytest.approx(expected, abs=1e-4)
    with pytest.raises(UserError, match=r"question 0.*are no candidates; give a list"):
        longspan.load(folder.path).predict("A text.", question="Which?")


@pytest.mark.parametrize("name", ["hop_run", "choice_run"])
def test_what_no_class_of_transformers_has_is_said(
    request: pytest.FixtureRequest, name: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    folder, _ = request.getfixturevalue(name)
    with pytest.raises(UserError, match=r"no Hugging Face class expresses task=.*--to longspan"):
        export_to_hf(folder.model, tmp_path / "hf")
    export_to_longspan(folder.model, tmp_path / "ours")
    card = (tmp_path / "ours" / "README.md").read_text()
    monkeypatch.chdir(tmp_path / "ours")
    exec(card.split("```python\n")[1].split("```")[0], {})
    assert "'question'" in capsys.readouterr().out


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "row", "line"),
    [
        (HOP, hop_rows()[0] | {"answer": None}, "the answer 'None' is no text"),
        (HOP, hop_rows()[0] | {"answer": "Paris"}, "none of the 2 answers of the train split"),
        (HOP | {"globals.column": "spans"}, hop_rows()[0],
         "globals.column=spans has no place in task=multihop"),
        (HOP | {"data.text_column": ("a", "b")}, hop_rows()[0],
         "task=multihop reads its paragraphs from one column"),
        (CHOICE, choice_rows()[0] | {"gold": "Paris"}, "train row 0 (id a)='Paris' means none of the 3"),
        (CHOICE | {"data.answers_column": "nope"}, choice_rows()[0],
         "data.answers_column=nope is not a column of the train split"),
        (CHOICE | {"data.candidates_column": "choices"}, choice_rows()[0],
         "data.candidates_column=choices is not a column; there are"),
        (CHOICE | {"data.text_pair_column": "query"}, choice_rows()[0],
         "data.text_pair_column=query has no place in task=choice"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(run, tmp_path: Path, fields: dict, row: dict, line: str) -> None:
    with pytest.raises(UserError) as error:
        run(tmp_path, [row | {"id": name} for name in "ab"], **ONE_STEP, **fields)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


# --- pairs of texts -----------------------------------------------------------------------------


def test_a_hypothesis_is_global_and_decides(run, tmp_path: Path) -> None:
    """One contract, hypotheses of all labels: only who reads the second text can tell them."""
    contract = "The parties keep all secrets for two years. " + LONG[:150]
    hypotheses = {"secrets are kept": "entailment", "they tell all of it": "contradiction",
                  "rent is paid monthly": "neutral"}  # fmt: skip
    rows = [
        {"premise": contract, "hypothesis": h, "label": label} for h, label in hypotheses.items()
    ]
    fields = {"data.text_column": "premise", "data.text_pair_column": "hypothesis"}
    folder, report = run(tmp_path, rows, **LEARNING, **fields, **{"task.head_dropout": 0.0})
    assert report["metrics"]["accuracy"] == 1.0
    model = longspan.load(folder.path)
    tokens = model.documents.tokenizer
    most = max(len(tokens.encode(h, add_special_tokens=False)) for h in hypotheses)
    assert report["data"]["globals"]["maximum"] == 1 + most  # [CLS] and the hypothesis
    for hypothesis, label in hypotheses.items():
        assert model.predict(contract, pair=hypothesis)["predicted"] == label
