"""Hugging Face folders with a trained head predict as `transformers` does, and as before export."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import BertConfig, LongformerConfig, ModernBertConfig

import longspan
from longspan.checkpoint import save_model
from longspan.config import (
    ClassificationConfig,
    Config,
    DataConfig,
    GlobalsConfig,
    ModelConfig,
    QAConfig,
)
from longspan.errors import UserError
from longspan.model.encoder import Encoder
from longspan.pretrained.export import export_to_hf
from longspan.pretrained.tokenizer import load_tokenizer
from longspan.tasks.classification import Classification
from longspan.tasks.qa import QuestionAnswering

SHAPE = {"vocab_size": 8192, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 48}  # fmt: skip
MODERN_IDS = dict.fromkeys(("pad", "bos", "cls", "eos", "sep"), 0)
CONFIGS = {
    "bert": BertConfig(**SHAPE, max_position_embeddings=128),
    "longformer": LongformerConfig(
        **SHAPE, max_position_embeddings=130, attention_window=[8, 8], pad_token_id=1,
        sep_token_id=load_tokenizer("embedded:sotu").sep_token_id, type_vocab_size=1,
    ),
    "modernbert": ModernBertConfig(
        **SHAPE, max_position_embeddings=128, local_attention=8, global_attn_every_n_layers=2,
        classifier_pooling="mean", **{f"{name}_token_id": i for name, i in MODERN_IDS.items()},
    ),
}  # fmt: skip
QUESTION, TEXT = "How strong is the Union?", "My fellow Americans: é😀 the state is strong. " * 2
LONG = TEXT * 20


def published(family: str, ending: str, folder: Path, **changes: Any) -> Any:
    """A model with random weights, and its folder."""
    torch.manual_seed(4)
    config = CONFIGS[family].__class__.from_dict(CONFIGS[family].to_dict() | changes)
    model = getattr(transformers, f"AutoModel{ending}").from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    load_tokenizer("embedded:sotu").save_pretrained(folder)
    return model


def arguments(family: str, *texts: str) -> tuple[dict[str, Tensor], Any]:
    encoding = load_tokenizer("embedded:sotu").backend_tokenizer.encode(*texts)
    given = {"input_ids": torch.tensor([encoding.ids])}
    if family == "bert":  # the others have one type at most
        given["token_type_ids"] = torch.tensor([encoding.type_ids])
    return given, encoding


@pytest.mark.parametrize("family", CONFIGS)
def test_an_answer_is_the_best_span_of_their_scores(family: str, tmp_path: Path) -> None:
    theirs = published(family, "ForQuestionAnswering", tmp_path)
    given, encoding = arguments(family, QUESTION, TEXT)
    if family == "longformer":  # as it would choose them, had it RoBERTa's three separators
        chosen = [i == 0 or part == 0 for i, part in enumerate(encoding.sequence_ids)]
        given["global_attention_mask"] = torch.tensor([chosen]).long()
    with torch.no_grad():
        out = theirs(**given)
    best: tuple[float, int, int] = (-1e9, 0, 0)
    inside = [i for i, part in enumerate(encoding.sequence_ids) if part == 1]
    for first in inside:
        for last in inside:
            if first <= last < first + QAConfig().max_answer_length:
                score = float(out.start_logits[0, first] + out.end_logits[0, last])
                best = max(best, (score, encoding.offsets[first][0], encoding.offsets[last][1]))
    told = longspan.load(tmp_path).predict(TEXT, question=QUESTION)
    assert told["answer"] == TEXT[told["start"] : told["end"]]
    assert told["answer"] == TEXT[best[1] : best[2]].strip()
    assert told["end"] == best[2]


@pytest.mark.parametrize("family", CONFIGS)
def test_documents_beyond_their_positions_are_read_in_slices(family: str, tmp_path: Path) -> None:
    published(family, "ForQuestionAnswering", tmp_path)
    model = longspan.load(tmp_path)
    assert (model.documents.max_length, model.documents.stride) == (128, 32)
    told = model.predict(LONG, question=QUESTION)
    assert told["answer"] == LONG[told["start"] : told["end"]] != ""


@pytest.mark.parametrize("family", CONFIGS)
def test_labels_have_their_probabilities(family: str, tmp_path: Path) -> None:
    names = {0: "war", 1: "peace", 2: "neither"}
    theirs = published(family, "ForSequenceClassification", tmp_path, id2label=names)
    given, _ = arguments(family, TEXT)
    with torch.no_grad():
        expected = theirs(**given).logits.softmax(1)[0].tolist()
    told = longspan.load(tmp_path).predict(TEXT)
    assert list(told["probabilities"]) == list(names.values())
    assert list(told["probabilities"].values()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("problem", "labels", "predicted"),
    [("multi_label_classification", 3, list), (None, 1, float), ("regression", 1, float)],
)
def test_other_problems_are_told_apart(
    problem: str | None, labels: int, predicted: type, tmp_path: Path
) -> None:
    changes = {"problem_type": problem, "num_labels": labels}
    published("bert", "ForSequenceClassification", tmp_path, **changes)
    assert isinstance(longspan.load(tmp_path).predict(TEXT)["predicted"], predicted)


POST_NORM = ModelConfig(
    vocab_size=8192, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=48,
    positions="learned", max_positions=128, norm_position="post", window=5,
)  # fmt: skip


def trained(folder: Path, task: QAConfig | ClassificationConfig, **data: Any) -> None:
    """A model folder as training writes it, with random weights."""
    torch.manual_seed(5)
    config = Config(
        model=POST_NORM,
        task=task,
        data=DataConfig(max_length=96, **data),
        globals=GlobalsConfig(question=isinstance(task, QAConfig), every_k=7),
    )
    labels = ["war", "peace"] if isinstance(task, ClassificationConfig) else []
    made = QuestionAnswering(task) if isinstance(task, QAConfig) else Classification(task, labels)
    encoder = Encoder(POST_NORM)
    both = nn.ModuleDict(
        {"encoder": encoder, "head": made.head(POST_NORM, encoder.token_embedding)}
    )
    with torch.no_grad():
        for parameter in both.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    save_model(folder, both.state_dict(), config, labels, load_tokenizer("embedded:sotu"))


@pytest.mark.parametrize(
    ("task", "data", "asked"),
    [
        (
            QAConfig(null_threshold=-3.5, temperature=2.5, max_answer_length=5),
            {"stride": 20},
            {"text": LONG, "question": QUESTION},
        ),
        (QAConfig(null_threshold=-1e4), {}, {"text": LONG, "question": QUESTION}),
        (ClassificationConfig(problem="multi_label", threshold=0.3), {}, {"text": LONG}),
        (
            ClassificationConfig(),
            {"text_pair_column": "other", "truncate": "tail"},
            {"text": LONG, "pair": QUESTION},
        ),
    ],
)
def test_what_was_exported_predicts_as_before(
    task: QAConfig | ClassificationConfig,
    data: dict[str, Any],
    asked: dict[str, Any],
    tmp_path: Path,
) -> None:
    trained(tmp_path / "model", task, **data)
    before = longspan.load(tmp_path / "model").predict(**asked)
    export_to_hf(tmp_path / "model", tmp_path / "hf")
    after = longspan.load(tmp_path / "hf").predict(**asked)
    for name in ("probability", "probabilities"):
        assert after.pop(name, None) == pytest.approx(before.pop(name, None), abs=1e-5)
    assert after == before


def change(folder: Path, **fields: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


BLOCK = {"task": {"name": "qa"}, "globals": {}, "data": {}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architectures": ["BertModel"]}, "class BertModel, without a head that predicts"),
        ({"architectures": ["BertForMaskedLM"]}, "class BertForMaskedLM, without a head"),
        ({"architectures": None}, "class none, without a head"),
        ({"hidden_act": "relu"}, "hidden_act='relu' is not supported"),
        ({"model_type": "t5"}, "is a t5 model, which is not supported"),
        ({"architectures": ["BertForSequenceClassification"]}, "no classification head that is"),
        ({"longspan": {"task": {"name": "qa"}}}, "longspan lacks 'globals'"),
        ({"longspan": BLOCK | {"task": {"name": "choice"}}}, "task.name='choice' is not qa"),
        ({"longspan": BLOCK | {"data": {"max_length": 4096}}}, "max_length=4096 exceeds"),
        ({"longspan": BLOCK | {"data": {"no": 1}}}, "data.no is not a field"),
        ({"longspan": [1]}, "cannot be read as a model that predicts"),
    ],
)
def test_what_cannot_predict_says_so_in_one_line(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    published("bert", "ForQuestionAnswering", tmp_path)
    change(tmp_path, **fields)
    with pytest.raises(UserError) as caught:
        longspan.load(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    small = replace_vocabulary(CONFIGS["bert"], 100)
    transformers.BertForQuestionAnswering(small).save_pretrained(tmp_path)
    load_tokenizer("embedded:sotu").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="its tokenizer has 8192 tokens, but the model knows 100"):
        longspan.load(tmp_path)


def replace_vocabulary(config: Any, size: int) -> Any:
    return config.__class__.from_dict(config.to_dict() | {"vocab_size": size})
