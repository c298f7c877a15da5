"""The model card: its header is the hub's, its metrics are the run's, its code runs."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from longspan.batch import pack
from longspan.checkpoint import save_model
from longspan.config import (
    ClassificationConfig,
    Config,
    DataConfig,
    GlobalsConfig,
    ModelConfig,
    QAConfig,
)
from longspan.encoding import DocumentEncoder
from longspan.errors import UserError
from longspan.pretrained.card import Results, model_card, read_results
from longspan.pretrained.export import export_to_hf, export_to_longspan
from longspan.pretrained.tokenizer import load_tokenizer
from longspan.tasks.classification import Classification
from longspan.tasks.qa import QuestionAnswering
from longspan.training.module import LongDocumentModule

LABELS = ["a", "b", "c"]
RESULTS = Results("test", {"accuracy": 0.8125, "loss": float("nan")})
POST_NORM = ModelConfig(
    vocab_size=8192, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=48,
    positions="learned", max_positions=64, norm_position="post", window=3, type_vocab_size=2,
)  # fmt: skip
EVERYTHING = GlobalsConfig(separators=True, first_k=2, every_k=3, regex=r"se\w+d")
# as the card's own code has them
TEXTS = ["A first document.", "A second one, which may be long."]


def config_of(model=POST_NORM, policies=None, task=None, **data):
    return Config(
        model=model,
        globals=policies or GlobalsConfig(),
        task=task or ClassificationConfig(),
        data=DataConfig(max_length=64, **data),
    )


def write(folder, config, labels=LABELS):
    """A random model's folder, and its logits on `TEXTS`."""
    torch.manual_seed(1)
    task = QuestionAnswering if isinstance(config.task, QAConfig) else Classification
    arguments = (config.task,) if task is QuestionAnswering else (config.task, labels)
    module = LongDocumentModule(config, task(*arguments)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    tokenizer = load_tokenizer("embedded:sotu")
    save_model(folder, module.state_dict(), config, labels, tokenizer)
    encoder = DocumentEncoder(
        tokenizer.backend_tokenizer, cls_id=2, sep_id=3, max_length=64,
        truncate=config.data.truncate, policies=config.globals,
    )  # fmt: skip
    if task is QuestionAnswering:  # the first of them, whose tokens have no padding behind
        (slices,) = encoder.encode_slices(["0"], ["Which document?"], TEXTS[:1],
                                          max_question_length=64, truncate=True)  # fmt: skip
        with torch.no_grad():
            return module(pack(slices))
    pairs = ["Its title.", "The second's."] if config.data.text_pair_column else None
    with torch.no_grad():
        return module(pack(encoder.encode(["0", "1"], TEXTS, pairs)))


# one process for all, as loading torch takes longest
RUN_ALL = """
import json, os, re, sys, torch
logits_of = {}
for name, folder in json.loads(sys.argv[1]).items():
    os.chdir(folder)
    with open("README.md") as card:
        code = re.search(r"```python\\n(.*?)```", card.read(), re.DOTALL)[1]
    print(code)
    variables = {}
    exec(code, variables)
    outputs = variables["outputs"]
    logits_of[name] = (outputs[0] if "start_logits" not in outputs else torch.stack(
        [outputs.start_logits, outputs.end_logits], dim=2)[0]).tolist()
print(json.dumps(logits_of))
"""


CASES = {
    "longspan": (config_of(ModelConfig(vocab_size=8192, hidden_size=32, window=3)), LABELS),
    "longspan with every policy": (config_of(policies=EVERYTHING), LABELS),
    "Longformer with every policy": (config_of(policies=EVERYTHING), LABELS),
    "Longformer without a policy": (config_of(policies=GlobalsConfig(cls=False)), LABELS),
    "Bert, several labels": (
        config_of(
            replace(POST_NORM, window=None), task=ClassificationConfig(problem="multi_label")
        ),
        LABELS,
    ),
    "Longformer, questions": (
        config_of(task=QAConfig(), policies=GlobalsConfig(question=True)),
        [],
    ),
    "longspan, questions": (
        config_of(task=QAConfig(), policies=GlobalsConfig(question=True, first_k=1)),
        [],
    ),
    "longspan, pairs, a number": (
        config_of(
            task=ClassificationConfig(problem="regression"),
            text_pair_column="title",
            truncate="tail",
        ),
        ["value"],
    ),
}


def test_the_usage_runs_and_gives_our_logits(tmp_path: Path) -> None:
    ours, folders = {}, {}
    # the plain ones first: they have to run before longspan is imported
    for name in sorted(CASES, key=lambda name: name.startswith("longspan")):
        config, labels = CASES[name]
        ours[name] = write(tmp_path / name / "model", config, labels)
        export = export_to_longspan if name.startswith("longspan") else export_to_hf
        export(tmp_path / name / "model", tmp_path / name / "out", RESULTS)
        folders[name] = str(tmp_path / name / "out")
    command = [sys.executable, "-W", "error", "-c", RUN_ALL, json.dumps(folders)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    logits_of = json.loads(result.stdout.splitlines()[-1])
    for name, logits in ours.items():
        theirs = torch.tensor(logits_of[name])
        theirs = theirs[: len(logits)] if "questions" in name else theirs
        difference = (theirs - logits).abs().max()
        assert difference <= 1e-4, f"{name}: {difference}"


def test_the_header_is_one_that_the_hub_reads() -> None:
    model = replace(POST_NORM, pretrained="org/base-model")
    config = config_of(model, path="org/corpus", splits={"train": "train", "test": "held_out"})
    header = ModelCard(model_card(config, LABELS, "LongformerForX", RESULTS)).data
    assert header.base_model == "org/base-model"
    assert header.datasets == ["org/corpus"]
    assert header.pipeline_tag == "text-classification"
    assert header.language is None
    (result,) = header.eval_results  # NaN is no result
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.8125)
    assert (result.dataset_type, result.dataset_split) == ("org/corpus", "held_out")


def test_a_card_says_nothing_of_this_machine(tmp_path: Path) -> None:
    config = config_of(
        replace(POST_NORM, pretrained=str(tmp_path)), files={"train": str(tmp_path / "mine.csv")}
    )
    card = model_card(config, LABELS, "LongformerForX", RESULTS)
    assert str(tmp_path) not in card
    assert "mine.csv" in card
    header = ModelCard(card).data
    assert header.base_model is None
    assert header.datasets is None
    assert header.eval_results[0].dataset_name == "local files"


def test_a_card_without_results_has_no_metrics() -> None:
    card = model_card(config_of(), LABELS, "LongformerForX")
    assert "## Metrics" not in card
    assert ModelCard(card).data.eval_results is None


def test_the_metrics_are_those_of_the_report(tmp_path: Path) -> None:
    assert read_results(tmp_path) is None
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"split": "test", "metrics": {"accuracy": 0.8125}}))
    results = read_results(tmp_path)
    assert results == Results("test", {"accuracy": 0.8125})
    card = model_card(config_of(), LABELS, "LongformerForX", results)
    assert "| metric | test |\n|---|---|\n| accuracy | 0.8125 |" in card
    report.write_text(json.dumps({"split": None}))
    assert read_results(tmp_path) is None


@pytest.mark.parametrize("damaged", ["{", "[]", '{"split": "test"}', '{"split": 1, "metrics": 2}'])
def test_a_damaged_report_is_named(damaged: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(damaged)
    with pytest.raises(UserError, match=r"report\.json is damaged"):
        read_results(tmp_path)


def test_a_column_of_global_tokens_is_left_to_the_reader() -> None:
    config = config_of(policies=GlobalsConfig(column="spans"))
    card = model_card(config, LABELS, "LongspanForX")
    assert "# set is_global where the column spans marks a token" in card
