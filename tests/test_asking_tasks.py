"""`task=multihop`, `task=choice` and pairs of texts as a user meets them, in fresh processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import longspan
from longspan.errors import UserError
from longspan.pretrained.export import export_to_hf, export_to_longspan

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "data.max_length": 96,
    "data.tokens_per_batch": 1024,
    "model.hidden_size": 32,
    "model.intermediate_size": 64,
    "model.hidden_dropout": 0,
    "model.num_layers": 2,
    "trainer.accelerator": "cpu",
    "trainer.precision": "32-true",
    "trainer.enable_progress_bar": "false",
    "trainer.log_every_n_steps": 1,
    "logger.kind": "none",
}
LEARNING = {"optim.learning_rate": 5e-3, "optim.weight_decay": 0, "trainer.max_epochs": 100,
            "trainer.check_val_every_n_epoch": 100}  # fmt: skip
ONE_STEP = {"trainer.max_epochs": 1}


def run(script: str, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / script), *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def train(
    cwd: Path, rows: list[dict], *choices: str, **fields: object
) -> subprocess.CompletedProcess[str]:
    write(cwd / "rows.jsonl", rows)
    files = [f"data.files.{split}=rows.jsonl" for split in ("train", "dev", "test")]
    set_to = [f"{name}={value}" for name, value in (SMALL | fields).items()]
    return run("train.py", cwd, "data=files", "globals=question", "name=run", *files, *set_to,
               *choices)  # fmt: skip


def write(file: Path, rows: list[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def predictions(cwd: Path, name: str = "test") -> dict[str, dict]:
    lines = (cwd / "runs" / "default" / "run" / "predictions" / f"{name}.jsonl").read_text()
    return {row["id"]: row for row in map(json.loads, lines.splitlines())}


def report(cwd: Path) -> dict:
    return json.loads((cwd / "runs" / "default" / "run" / "report.json").read_text())


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


HOP = ("task=multihop", "data.text_column=context", "data.answers_column=answer")


@pytest.fixture(scope="module")
def hop_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that learnt `hop_rows` by heart."""
    folder = tmp_path_factory.mktemp("hop")
    trained = train(folder, hop_rows(), *HOP, **LEARNING)
    assert trained.returncode == 0, trained.stderr
    assert "train: 3 questions, 2 with yes or no; 0 lost their answer" in trained.stderr
    return folder


def test_multi_hop_questions_are_learnt_by_heart(hop_run: Path) -> None:
    metrics = report(hop_run)["metrics"]
    assert metrics["exact_match"] == metrics["joint_exact_match"] == metrics["joint_f1"] == 1.0
    assert report(hop_run)["data"]["test"]["highest_exact_match"] == 1.0
    found = predictions(hop_run)
    for row in hop_rows():
        told = found[row["id"]]
        assert told["predicted"] == told["gold"] == row["answer"]
        facts = {(fact["title"], fact["sentence"]) for fact in told["facts"]}
        assert facts == set(zip(*row["supporting_facts"].values(), strict=True))


def test_a_multi_hop_model_answers_without_gold(hop_run: Path) -> None:
    columns = ("id", "question", "context")
    write(hop_run / "asked.jsonl", [{name: row[name] for name in columns} for row in hop_rows()])
    again = run("eval.py", hop_run, "run=runs/default/run", "output=asked",
                "data.files.test=asked.jsonl")  # fmt: skip
    assert again.returncode == 0, again.stderr
    answers = {name: row["predicted"] for name, row in predictions(hop_run, "asked").items()}
    assert answers == {"a": "Rome", "b": "yes", "c": "no"}

    model = longspan.load(hop_run / "runs" / "default" / "run")
    row = hop_rows()[0]
    told = model.predict(row["context"], question=row["question"])
    assert (told["answer"], told["type"]) == ("Rome", "span")
    assert {fact["title"] for fact in told["facts"]} == {"Ann", "Bob"}
    with pytest.raises(UserError, match="question 0.*are no paragraphs; give a list of"):
        model.predict("A text.", question="Where?")
    with pytest.raises(UserError, match="has no question; this model answers questions"):
        model.predict(row["context"])
    with pytest.raises(UserError, match="has candidates, but this model's task is multihop"):
        model.predict(row["context"], question="Where?", candidates=["a", "b"])


def test_paragraphs_without_sentences_are_facts_as_a_whole(tmp_path: Path) -> None:
    paragraphs = [
        {"title": "Ann", "text": "Ann is Bob's friend.", "is_supporting": True},
        {"title": "Bob", "text": "Bob lives in Rome.", "is_supporting": True},
        {"title": "Sea", "text": "The sea is calm.", "is_supporting": False},
    ]
    row = {"question": "Where does he live?", "answer": "Rome", "paragraphs": paragraphs}
    choices = ("task=multihop", "data.text_column=paragraphs", "data.answers_column=answer")
    trained = train(tmp_path, [row] * 2, *choices, **ONE_STEP)
    assert trained.returncode == 0, trained.stderr
    told = predictions(tmp_path)["test-0"]
    assert told["gold_facts"] == [["Ann", 0], ["Bob", 0]]
    assert len(told["facts"]) == 2


# --- choice -------------------------------------------------------------------------------------

LONG = "The sea is calm and the sky is clear. " * 12


def choice_rows() -> list[dict]:
    asked = [
        ("Where does Ann live?", ["Rome", "Oslo", "Bonn"], "Oslo"),
        ("Where does Bob live?", ["Bonn", "Rome"], 0),
        ("Who lives in Oslo?", ["Bob", "Cid", "Ann", "Eve"], "C"),
    ]
    return [
        {"id": str(i), "query": q, "supports": ["Ann lives in Oslo.", LONG, "Bob lives in Bonn."],
         "options": candidates, "gold": str(answer)}
        for i, (q, candidates, answer) in enumerate(asked)
    ]  # fmt: skip


CHOICE = ("task=choice", "data.question_column=query", "data.text_column=supports",
          "data.candidates_column=options", "data.answers_column=gold")  # fmt: skip


@pytest.fixture(scope="module")
def choice_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that learnt `choice_rows` by heart, in slices."""
    folder = tmp_path_factory.mktemp("choice")
    rows = choice_rows()
    rows[1]["gold"] = "Bonn"
    trained = train(folder, rows, *CHOICE, **LEARNING | {"data.stride": 8})
    assert trained.returncode == 0, trained.stderr
    return folder


def test_choices_are_learnt_by_heart_over_slices(choice_run: Path) -> None:
    assert report(choice_run)["metrics"]["accuracy"] == 1.0
    found = predictions(choice_run)
    assert [found[name]["predicted"] for name in "012"] == ["Oslo", "Bonn", "Ann"]
    for row in found.values():
        assert sum(row["probabilities"]) == pytest.approx(1)
        assert row["probabilities"][row["predicted_index"]] > 0.9
        assert row["length"] > 96  # more than one slice
        assert row["tokens_cut"] == 0


def test_a_model_chooses_from_rows(choice_run: Path) -> None:
    rows = [
        {"id": row["id"], "text": "\n\n".join(row["supports"]), "question": row["query"],
         "candidates": row["options"]}
        for row in choice_rows()
    ]  # fmt: skip
    write(choice_run / "asked.jsonl", rows)
    command = [str(Path(sys.executable).with_name("longspan")), "predict", "runs/default/run",
               "--rows", "asked.jsonl"]  # fmt: skip
    told = subprocess.run(
        command, cwd=choice_run, capture_output=True, text=True, timeout=300, check=False
    )
    assert told.returncode == 0, told.stderr
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    assert [line["predicted"] for line in lines] == ["Oslo", "Bonn", "Ann"]
    evaluated = predictions(choice_run)
    for line in lines:
        assert line["probabilities"] == pytest.approx(
            evaluated[line["id"]]["probabilities"], abs=1e-4
        )
    model = longspan.load(choice_run / "runs" / "default" / "run")
    with pytest.raises(UserError, match="question 0.*are no candidates; give a list"):
        model.predict("A text.", question="Which?")


@pytest.mark.parametrize("name", ["hop_run", "choice_run"])
def test_what_no_class_of_transformers_has_is_said(
    request: pytest.FixtureRequest, name: str, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(name)
    model = folder / "runs" / "default" / "run" / "model"
    with pytest.raises(UserError, match="no Hugging Face class expresses task=.*--to longspan"):
        export_to_hf(model, tmp_path / "hf")
    export_to_longspan(model, tmp_path / "ours")
    card = (tmp_path / "ours" / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "ours", capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "'question'" in told.stdout


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "row", "line"),
    [
        (HOP, hop_rows()[0] | {"answer": None}, "the answer 'None' is no text"),
        (HOP, hop_rows()[0] | {"answer": "Paris"}, "none of the 2 answers of the train split"),
        (
            (*HOP, "globals.column=spans"),
            hop_rows()[0],
            "globals.column=spans has no place in task=multihop",
        ),
        (CHOICE, choice_rows()[0] | {"gold": "Paris"}, "'Paris' means none of the 3 candidates"),
        ((*CHOICE, "data.candidates_column=choices"), choice_rows()[0],
         "data.candidates_column=choices is not a column; there are"),
        ((*CHOICE, "data.text_pair_column=query"), choice_rows()[0],
         "data.text_pair_column=query has no place in task=choice"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line(
    tmp_path: Path, choices: tuple[str, ...], row: dict, line: str
) -> None:
    rows = [row | {"id": name} for name in "ab"]
    result = train(tmp_path, rows, *choices, **ONE_STEP)
    assert result.returncode == 1
    assert line in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


# --- pairs of texts -----------------------------------------------------------------------------


def test_a_hypothesis_is_global_and_decides(tmp_path: Path) -> None:
    """One contract, hypotheses of all labels: only who reads the second text can tell them."""
    contract = "The parties keep all secrets for two years. " + LONG[:150]
    hypotheses = {"secrets are kept": "entailment", "secrets are told": "contradiction",
                  "rent is paid": "neutral"}  # fmt: skip
    rows = [
        {"premise": contract, "hypothesis": h, "label": label} for h, label in hypotheses.items()
    ]
    choices = ("task=single_label", "data.text_column=premise", "data.text_pair_column=hypothesis")
    trained = train(tmp_path, rows, *choices, **LEARNING, **{"task.head_dropout": 0})
    assert trained.returncode == 0, trained.stderr
    assert report(tmp_path)["metrics"]["accuracy"] == 1.0
    globals_of_documents = report(tmp_path)["data"]["globals"]
    tokens = longspan.load(tmp_path / "runs" / "default" / "run").documents.tokenizer
    most = max(len(tokens.encode(h, add_special_tokens=False)) for h in hypotheses)
    assert globals_of_documents["maximum"] == 1 + most  # [CLS] and the hypothesis
    model = longspan.load(tmp_path / "runs" / "default" / "run")
    for hypothesis, label in hypotheses.items():
        assert model.predict(contract, pair=hypothesis)["predicted"] == label
