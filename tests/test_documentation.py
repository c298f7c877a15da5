"""Every command in README and docs runs, shortened to a training that takes seconds."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(
    r"^    ((?:python|make|source|pip|git|longspan) ?.*?)(?:\s+#.*)?$", re.MULTILINE
)
QUICK_TRAINING = (
    "logger=none sweep.calibrate=0 trainer.enable_progress_bar=false trainer.max_epochs=1 "
    "trainer.limit_train_batches=1 trainer.limit_val_batches=1 trainer.limit_test_batches=1 "
    "model.hidden_size=16 data.max_length=128 data.tokens_per_batch=1024"
).split()
# what the sweeps of docs/sweeps.md would be called without QUICK_TRAINING
SWEEP_NAMES = {
    "model.window=16,64 model.num_layers=1 experiment=debug_one_step": (
        "window,experiment=debug_one_step,num_layers=1"
    ),
    "sweep=window_layers model.window=64,128 model.num_layers=1 seed=0": "window_layers",
}
# commands that another test runs, or that are this very test suite
ELSEWHERE = {
    "make test": "this is it",
    "source .venv/bin/activate": "done by running the same interpreter",
    "python train.py experiment=minilm_long_era": "tests/test_commands.py, both parts shortened",
    "make needle": "tests/test_needle_qa.py, made small",
    "python benchmarks/needle.py": "tests/benchmarks/test_needle.py",
    "python train.py -m sweep=window_layers": "an hour; tests/sweep/test_sweep.py runs small ones",
    "python train.py -m sweep=window_layers hydra/launcher=two_at_once": "likewise, twice at once",
    "python train.py -m sweep=optuna sweep.ceiling=60": "tests/sweep/test_sweep.py, smaller",
    "python train.py -m sweep=optuna hydra.sweeper.objective=front hydra.sweeper.trials=40": "there too",
    "python benchmarks/quality.py": "tests/benchmarks/test_quality.py",
    "python benchmarks/quality_qa.py": "tests/benchmarks/test_quality_qa.py",
    "python train.py -m sweep=patterns": "tests/benchmarks/test_patterns.py, smaller",
    "python train.py -m sweep=patterns_qa": "there too",
    "python benchmarks/patterns.py": "there too",
    "python benchmarks/read_far.py": "tests/benchmarks/test_read_far.py",
    "python benchmarks/train_step.py": "tests/benchmarks/test_train_step_benchmark.py",
    "python benchmarks/batching.py": "tests/benchmarks/test_batching_benchmark.py",
    "python benchmarks/profile_step.py": "tests/benchmarks/test_profile_step.py",
    "python benchmarks/scaling.py": "tests/benchmarks/test_scaling.py",
    "python benchmarks/checkpoint_faults.py": "tests/training/test_checkpoint_folder.py",
    "python benchmarks/checkpoint_kills.py": "tests/training/test_checkpoint_folder.py",
    "make fuzz": "tests/fuzz, with fewer inputs",
    "python benchmarks/matmul_share.py": "tests/benchmarks/test_matmul_share.py",
}


def commands(page: Path) -> list[str]:
    """In the order that a reader meets them."""
    return COMMAND.findall(page.read_text())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A checkout's working folder with a reader's own files in it."""
    place = tmp_path / "reader"
    place.mkdir()
    for name in ("train.py", "eval.py", "conf", "Makefile", "pyproject.toml", "constraints.txt"):
        (place / name).symlink_to(ROOT / name)
    (place / ".venv").symlink_to(Path(sys.prefix))
    for split, rows in (("train", 24), ("test", 8)):
        lines = [
            {"text": f"{'good' if i % 2 else 'bad'} film " * 9, "label": i % 2} for i in range(rows)
        ]
        file = place / f"{split}.jsonl"
        file.write_text("".join(json.dumps(line | {"text": f"{line['text']} {split} {i}"}) + "\n"
                                for i, line in enumerate(lines)))  # fmt: skip
    write_questions(place)
    write_other_questions(place)
    shutil.copy(place / "test.jsonl", place / "more.jsonl")
    (place / "more.csv").write_text(
        "text,era\nFellow citizens of the Senate,before 1861\nMy fellow Americans,from 1961\n"
    )
    return place


def write_questions(place: Path) -> None:
    """The same questions as SQuAD's json and as a table."""
    rows = [
        {
            "id": str(i),
            "question": f"What is film {i}?",
            "context": f"This is film {i}. It is good.",
            "answers": [{"text": "good", "answer_start": len(f"This is film {i}. It is ")}],
        }
        for i in range(24)
    ]
    (place / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paragraphs = [{"context": row.pop("context"), "qas": [row]} for row in rows]
    squad = {"data": [{"title": "films", "paragraphs": paragraphs}]}
    (place / "squad.json").write_text(json.dumps(squad))


def write_other_questions(place: Path) -> None:
    """Questions over several paragraphs, choices among candidates, pairs of texts."""
    tables: dict[str, list[dict[str, object]]] = {"hops": [], "choices": [], "pairs": []}
    for i in range(24):
        question, name = f"What is film {i}?", {"id": str(i)}
        context = {"title": [f"Film {i}", "Sea"], "sentences": [["It is good."], ["It is blue."]]}
        facts = {"title": [f"Film {i}"], "sent_id": [0]}
        asked = name | {"question": question, "answer": "good"}
        tables["hops"].append(asked | {"context": context, "supporting_facts": facts})
        tables["choices"].append(asked | {"text": "It is good.", "candidates": ["bad", "good"]})
        pair = {"premise": f"Film {i} is good.", "hypothesis": "good" if i % 2 else "bad"}
        tables["pairs"].append(pair | {"label": ["contradiction", "entailment"][i % 2]})
    for table, rows in tables.items():
        (place / f"{table}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_pages_hold_commands_in_the_form_that_is_tested() -> None:
    assert sum(len(commands(page)) for page in PAGES) >= 12
    for page in PAGES:  # no fenced blocks that this test would not see
        assert "```" not in page.read_text(), f"{page.name}: indent commands by four spaces"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_runs(place: Path, page: Path) -> None:
    for command in commands(page):
        if command in ELSEWHERE:
            continue
        result = run(place, command)
        assert result.returncode == 0, f"{command}\n{result.stderr[-2000:]}"


def run(place: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run one command as written, with overrides behind it that make a training short."""
    words = shlex.split(command)
    if words[0] == "make":
        # -o: the environment that runs the tests is the one that make would install
        words += ["-o", ".venv/.installed", "ARGS=" + " ".join(QUICK_TRAINING)]
    if words[0] == "longspan":
        words[0] = str(Path(sys.executable).with_name("longspan"))
        if words[1] == "cost":
            words += ["--seconds", "1"]  # of calibration
    if words[0] == "python":
        words[0] = sys.executable
        if words[1] == "train.py" and "--help" not in words:
            words += shortened(words)
    return subprocess.run(
        words, cwd=place, capture_output=True, text=True, timeout=600, check=False
    )


def shortened(words: list[str]) -> list[str]:
    """`QUICK_TRAINING` without what the command sets itself, and the name it would have alone."""
    from longspan.training.run_folder import run_name

    given = {word.partition("=")[0] for word in words}
    if "-m" in words:  # it names itself
        extra = [word for word in QUICK_TRAINING if word.partition("=")[0] not in given]
        return [*extra, f"sweep.name='{SWEEP_NAMES[' '.join(words[3:])]}'"]
    if "model.pretrained" in given:
        given.add("model.hidden_size")  # it has its own
    extra = [word for word in QUICK_TRAINING if word.partition("=")[0] not in given]
    group = ("experiment=",)
    implied = ["model=pretrained"] * ("model.pretrained" in given and "model" not in given)
    own = implied + [word for word in words[2:] if not word.startswith(group)]
    return [*extra, f"name='{run_name(own)}'"]
