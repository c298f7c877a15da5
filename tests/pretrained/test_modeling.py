"""Our model folders under transformers' own names, with the numbers of the packed model."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from longspan.batch import pack
from longspan.checkpoint import read_model, save_model
from longspan.config import (
    ClassificationConfig,
    Config,
    DataConfig,
    GlobalsConfig,
    MaskedLMConfig,
    ModelConfig,
    QAConfig,
)
from longspan.encoding import DocumentEncoder
from longspan.errors import UserError
from longspan.pretrained.configuration import LongspanConfig
from longspan.pretrained.tokenizer import load_tokenizer
from longspan.tasks.classification import Classification
from longspan.tasks.masked_lm import MaskedLM, Vocabulary
from longspan.tasks.qa import QuestionAnswering
from longspan.training.module import LongDocumentModule
from longspan.typed import to_dict

TEXTS = ["Fellow citizens", "My fellow Americans, the state of the Union is strong. " * 6, "!"]
LABELS = ["a", "b", "c"]
ROTARY = ModelConfig(
    vocab_size=8192, hidden_size=32, num_layers=2, num_kv_heads=2, window=(3, None)
)
LEARNED = ModelConfig(
    vocab_size=8192, hidden_size=32, num_layers=2, window=5, positions="learned",
    max_positions=128, norm_position="post", global_projections="separate", type_vocab_size=2,
)  # fmt: skip


def write(folder, model=ROTARY, task=None, policies=None, labels=None):
    """A random model's folder; its run config and its Lightning module."""
    torch.manual_seed(1)
    labels = LABELS if labels is None else labels
    config = Config(
        model=model,
        task=task or ClassificationConfig(),
        data=DataConfig(max_length=128),
        globals=policies or GlobalsConfig(),
    )
    module = LongDocumentModule(config, task_of(config, labels)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    save_model(folder, module.state_dict(), config, labels, load_tokenizer("embedded:sotu"))
    return config, module


def task_of(config, labels):
    if isinstance(config.task, MaskedLMConfig):
        return MaskedLM(config.task, Vocabulary(4, np.arange(5, 8192)))
    if isinstance(config.task, QAConfig):
        return QuestionAnswering(config.task)
    return Classification(config.task, labels)


def packed(config, texts=TEXTS):
    tokenizer = load_tokenizer("embedded:sotu")
    encoder = DocumentEncoder(
        tokenizer.backend_tokenizer, cls_id=2, sep_id=3, max_length=128, truncate="head",
        policies=config.globals,
    )  # fmt: skip
    return pack(encoder.encode([str(i) for i in range(len(texts))], texts))


def padded(folder, texts=TEXTS, side="right"):
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=side)
    return tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt")


def classifier(folder, **changes):
    model, report = AutoModelForSequenceClassification.from_pretrained(
        folder, output_loading_info=True, **changes
    )
    assert not any(report.values()), report
    return model.eval()


# what a user types, in a process of its own
FIRST = {
    "longspan first": "import longspan\nassert not {'torch', 'transformers'} & set(sys.modules)\n"
    "from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification",
    "transformers first": "from transformers import AutoConfig, AutoModel, "
    "AutoModelForSequenceClassification\nimport longspan",
}
USE = """
import json
print(json.dumps([type(loaded).__name__ for loaded in (
    AutoConfig.from_pretrained(sys.argv[1]),
    AutoModel.from_pretrained(sys.argv[1]),
    AutoModelForSequenceClassification.from_pretrained(sys.argv[1]),
)]))
"""


@pytest.mark.parametrize("order", FIRST)
def test_import_longspan_is_all_it_takes_in_either_order(order: str, tmp_path: Path) -> None:
    write(tmp_path / "model")
    program = f"import sys\n{FIRST[order]}\n{USE}"
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path / "model")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    names = ["LongspanConfig", "LongspanModel", "LongspanForSequenceClassification"]
    assert json.loads(result.stdout) == names
    assert "LOAD REPORT" not in result.stderr  # of missing and unexpected weights


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("model", [ROTARY, LEARNED], ids=["rotary", "learned"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padded_batches_give_what_packed_ones_give(
    model: ModelConfig, pooling: str, side: str, tmp_path: Path
) -> None:
    config, module = write(tmp_path / "model", model, ClassificationConfig(pooling=pooling))
    batch, inputs = packed(config), padded(tmp_path / "model", side=side)
    encoder, report = AutoModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(report.values()), report
    with torch.no_grad():
        hidden = encoder.eval()(**inputs).last_hidden_state
        logits = classifier(tmp_path / "model")(**inputs).logits
        tokens = inputs["attention_mask"].bool()
        torch.testing.assert_close(hidden[tokens], module.encoder(batch), rtol=0, atol=1e-6)
        torch.testing.assert_close(logits, module(batch), rtol=0, atol=1e-6)
    assert not hidden[~tokens].any()
    assert hidden.shape == (*inputs["input_ids"].shape, 32)


@pytest.mark.parametrize("side", ["left", "right"])
def test_masked_language_models(side: str, tmp_path: Path) -> None:
    config, module = write(tmp_path / "model", LEARNED, MaskedLMConfig(), labels=[])
    inputs = padded(tmp_path / "model", side=side)
    tokens = inputs["attention_mask"].bool()
    model, report = AutoModelForMaskedLM.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not any(report.values()), report
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[tokens] = inputs["input_ids"][tokens].where(tokens[tokens].cumsum(0) % 3 == 0, -100)
    with torch.no_grad():
        output = model.eval()(**inputs, labels=labels)
        expected = module(packed(config))
    torch.testing.assert_close(output.logits[tokens], expected, rtol=0, atol=1e-5)
    loss = F.cross_entropy(expected, labels[tokens])
    torch.testing.assert_close(output.loss, loss)
    model.save_pretrained(tmp_path / "again")
    saved, ours = (read_model(tmp_path / name)[2] for name in ("again", "model"))
    assert saved.keys() == ours.keys()
    assert all(torch.equal(saved[name], ours[name]) for name in ours)


@pytest.mark.parametrize(
    ("side", "answerability"), [("left", "null_score"), ("right", "null_score"), ("right", "head")]
)
def test_question_answering_models(side: str, answerability, tmp_path: Path) -> None:
    task = QAConfig(answerability=answerability)
    config, module = write(tmp_path / "model", LEARNED, task, labels=[])
    inputs = padded(tmp_path / "model", side=side)
    tokens = inputs["attention_mask"].bool()
    model, report = AutoModelForQuestionAnswering.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not any(report.values()), report
    first = tokens.int().argmax(dim=1)
    with torch.no_grad():
        output = model.eval()(**inputs, start_positions=first, end_positions=first + 1)
        expected = module(packed(config))[:, :2]  # (T, 2): theirs have no place for a third
    scores = torch.stack([output.start_logits, output.end_logits], dim=2)
    torch.testing.assert_close(scores[tokens], expected, rtol=0, atol=1e-6)
    assert (scores[~tokens] == torch.finfo(torch.float32).min).all()
    rows = torch.arange(len(TEXTS))
    nats = -torch.stack(
        [output.start_logits.log_softmax(1)[rows, first],
         output.end_logits.log_softmax(1)[rows, first + 1]]
    )  # fmt: skip
    torch.testing.assert_close(output.loss, nats.mean())


@pytest.mark.parametrize(
    ("auto", "what"),
    [
        (AutoModelForMaskedLM, "masked-language-model"),
        (AutoModelForQuestionAnswering, "question-answering"),
    ],
)
def test_a_model_of_another_task_has_no_such_head(auto, what, tmp_path: Path) -> None:
    write(tmp_path / "model")
    with pytest.raises(UserError, match=rf"task.name=classification has no {what} head"):
        auto.from_pretrained(tmp_path / "model")


def test_without_an_attention_mask_nothing_is_padding(tmp_path: Path) -> None:
    config, module = write(tmp_path / "model")
    ids = padded(tmp_path / "model", TEXTS[:1])["input_ids"]
    with torch.no_grad():
        output = classifier(tmp_path / "model")(ids, return_dict=False)
        torch.testing.assert_close(output[0], module(packed(config, TEXTS[:1])), rtol=0, atol=1e-6)
    assert isinstance(output, tuple)


def test_global_tokens_are_the_ones_that_are_given(tmp_path: Path) -> None:
    policies = GlobalsConfig(separators=True, every_k=7)
    config, module = write(tmp_path / "model", policies=policies)
    batch, inputs = packed(config), padded(tmp_path / "model", side="left")
    model = classifier(tmp_path / "model")
    given = torch.ones_like(inputs["input_ids"])  # at padding it says nothing
    given[inputs["attention_mask"].bool()] = batch.global_mask.long()
    with torch.no_grad():
        logits = model(**inputs, global_attention_mask=given).logits
        other = model(**inputs, global_attention_mask=torch.zeros_like(given)).logits
        torch.testing.assert_close(logits, module(batch), rtol=0, atol=1e-6)
    assert (other - logits).abs().max() > 1e-3
    with pytest.raises(UserError, match=r"global_attention_mask is missing.*globals\.every_k=7"):
        model(**inputs)


def test_a_run_without_global_tokens_has_none(tmp_path: Path) -> None:
    config, module = write(tmp_path / "model", policies=GlobalsConfig(cls=False))
    with torch.no_grad():
        logits = classifier(tmp_path / "model")(**padded(tmp_path / "model")).logits
        torch.testing.assert_close(logits, module(packed(config)), rtol=0, atol=1e-6)


LOSSES = {
    "single_label": (torch.tensor([2, 0, 1]), F.cross_entropy),
    "multi_label": (
        torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1]]),
        lambda x, y: F.binary_cross_entropy_with_logits(x, y.float()),
    ),
    "regression": (torch.tensor([0.5, -1, 3]), lambda x, y: F.mse_loss(x[:, 0], y)),
}


@pytest.mark.parametrize("problem", LOSSES)
def test_the_loss_is_that_of_the_problem_and_reaches_every_weight(
    problem: str, tmp_path: Path
) -> None:
    labels, expected = LOSSES[problem]
    names = ["value"] if problem == "regression" else LABELS
    write(tmp_path / "model", LEARNED, ClassificationConfig(problem=problem), labels=names)
    model = classifier(tmp_path / "model")
    assert model.config.problem_type.startswith(problem)
    inputs = padded(tmp_path / "model")
    output = model(**inputs, labels=labels)
    torch.testing.assert_close(output.loss, expected(output.logits, labels))
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(UserError, match="labels of shape"):
        model(**inputs, labels=labels[:2])


def test_a_saved_model_is_a_model_folder_again(tmp_path: Path) -> None:
    weights = ClassificationConfig(class_weights=(1.0, 2.0, 0.5), label_smoothing=0.1)
    write(tmp_path / "model", LEARNED, weights)
    classifier(tmp_path / "model").save_pretrained(tmp_path / "again")
    before, after = read_model(tmp_path / "model"), read_model(tmp_path / "again")
    assert before[:2] == after[:2]
    torch.testing.assert_close(before[2], after[2], rtol=0, atol=0)
    inputs = padded(tmp_path / "model")
    with torch.no_grad():
        first, second = (classifier(tmp_path / name)(**inputs) for name in ("model", "again"))
    assert torch.equal(first.logits, second.logits)


def test_a_new_head_is_saved_with_its_labels(tmp_path: Path) -> None:
    write(tmp_path / "model")
    names = {0: "war", 1: "peace"}
    model = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "model",
        num_labels=2,
        id2label=names,
        problem_type="multi_label_classification",
        ignore_mismatched_sizes=True,
    )
    assert 0 < model.head.out.weight.std() < 0.1
    assert not model.head.out.bias.any()
    model.resize_token_embeddings(8200)
    model.save_pretrained(tmp_path / "again")
    config, labels, state = read_model(tmp_path / "again")
    assert labels == ["war", "peace"]
    assert (config.task.problem, config.model.vocab_size) == ("multi_label", 8200)
    assert len(state["encoder.token_embedding.weight"]) == 8200
    classifier(tmp_path / "again")


def test_from_config_starts_as_training_does() -> None:
    config = Config(model=replace(ROTARY, num_layers=8, window=3), data=DataConfig(max_length=64))
    hf_config = LongspanConfig(labels=LABELS, config=to_dict(config))
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(hf_config)
    torch.manual_seed(0)
    ours = LongDocumentModule(config, Classification(config.task, LABELS))
    torch.testing.assert_close(model.state_dict(), ours.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_mask": [[1, 1, 1, 1], [0, 0, 0, 0]]}, "document 1 is nothing but padding"),
        ({"attention_mask": [[1, 1, 1, 1], [1, 0, 1, 1]]}, "document 1 has padding between"),
        ({"attention_mask": [[1, 1, 1]]}, r"attention_mask has shape \(1, 3\)"),
        ({"global_attention_mask": [[1, 0]]}, "global_attention_mask has shape"),
        ({"input_ids": [1, 2]}, "is no batch"),
        ({"input_ids": [[5] * 129]}, "129 tokens exceeds the model's 128 positions"),
    ],
)
def test_inputs_that_make_no_sense_are_named(changes, message, tmp_path: Path) -> None:
    write(tmp_path / "model", LEARNED)
    inputs = {"input_ids": [[1, 2, 3, 4], [1, 2, 3, 4]]} | changes
    with pytest.raises(ValueError, match=message) as caught:
        classifier(tmp_path / "model")(**{k: torch.tensor(v) for k, v in inputs.items()})
    assert "\n" not in str(caught.value)


def edit(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "longspan-2"}, "longspan-2"),
        ({"config": {"modle": {}}}, "did you mean model"),
        ({"config": [1]}, "must be a mapping"),
    ],
)
def test_a_damaged_config_is_refused_with_a_reason(fields, message, tmp_path: Path) -> None:
    write(tmp_path / "model")
    edit(tmp_path / "model", **fields)
    with pytest.raises(UserError, match=message):
        AutoModel.from_pretrained(tmp_path / "model")


def test_the_config_answers_to_the_usual_names(tmp_path: Path) -> None:
    write(tmp_path / "model")
    config = AutoConfig.from_pretrained(tmp_path / "model")
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (32, 2, 4)
    assert config.id2label == {0: "a", 1: "b", 2: "c"}
    assert config.label2id == {"a": 0, "b": 1, "c": 2}
