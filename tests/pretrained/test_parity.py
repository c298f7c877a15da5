"""Every family against the model that `transformers` builds: hidden states, gradients, logits."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import (
    BertConfig,
    DistilBertConfig,
    LongformerConfig,
    ModernBertConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from longspan.batch import Feature, PackedBatch, pack
from longspan.checkpoint import save_model
from longspan.config import ClassificationConfig, Config, MaskedLMConfig, ModelConfig, QAConfig
from longspan.model.encoder import Encoder
from longspan.pretrained.export import export_to_hf
from longspan.pretrained.family import expand, gather_weights
from longspan.pretrained.load import (
    FAMILIES,
    complete_config,
    complete_model,
    encoder_weights,
    load_encoder,
    load_head,
)
from longspan.pretrained.tokenizer import load_tokenizer
from longspan.tasks.classification import Classification
from longspan.tasks.masked_lm import MaskedLM, Vocabulary
from longspan.tasks.qa import span_head
from longspan.typed import from_dict

VOCABULARY, CLASSES = 97, 3
TOLERANCE = 2e-5
LENGTHS = (7, 33, 1, 20)
SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3,
         "num_attention_heads": 4, "intermediate_size": 48, "num_labels": CLASSES}  # fmt: skip
DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
CONFIGS = {
    "bert": BertConfig(**SHAPE, **DROPOUT),
    "roberta": RobertaConfig(**SHAPE, **DROPOUT, type_vocab_size=1, max_position_embeddings=66),
    "xlm-roberta": XLMRobertaConfig(
        **SHAPE, **DROPOUT, type_vocab_size=1, max_position_embeddings=66
    ),
    "longformer": LongformerConfig(
        **SHAPE, **DROPOUT, type_vocab_size=1, max_position_embeddings=66,
        attention_window=[4, 8, 10], pad_token_id=1,
    ),
    "modernbert": ModernBertConfig(
        **SHAPE, local_attention=8, global_attn_every_n_layers=2, pad_token_id=1,
        bos_token_id=2, cls_token_id=2, eos_token_id=3, sep_token_id=3,
    ),
    "distilbert": DistilBertConfig(
        vocab_size=VOCABULARY, dim=32, hidden_dim=48, n_layers=3, n_heads=4, num_labels=CLASSES,
        dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0,
    ),
}  # fmt: skip
HEADS = {
    "classification": "ForSequenceClassification",
    "qa": "ForQuestionAnswering",
    "mlm": "ForMaskedLM",
}
# BERT has what RoBERTa has; DistilBERT's classification head alone is no other family's
COMES_BACK_AS = {
    "bert": "Bert",
    "roberta": "Bert",
    "xlm-roberta": "Bert",
    "longformer": "Longformer",
    "modernbert": "ModernBert",
    "distilbert": "Bert",
}
GLOBALS = {"none": (), "one": (0,), "many": (0, 3, 9, 30)}


def saved_model(
    family: str, folder: Path, auto: str = "AutoModelForSequenceClassification", **changes: object
) -> torch.nn.Module:
    torch.manual_seed(3)
    config = copy.deepcopy(CONFIGS[family])
    config.update(changes)
    model = getattr(transformers, auto).from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # zeros and ones would hide a swapped bias or norm
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return model.eval()


def documents(globals_of_each: tuple[int, ...]) -> list[Feature]:
    generator = np.random.default_rng(5)
    return [
        Feature(
            id=str(length),
            input_ids=generator.integers(5, VOCABULARY, length).astype(np.int32),
            global_positions=np.array([g for g in globals_of_each if g < length], np.int32),
        )
        for length in LENGTHS
    ]


def padded(batch: PackedBatch, family: str) -> dict[str, torch.Tensor]:
    """The batch as a Hugging Face model takes it."""
    tokens = batch.input_ids.split(batch.cu_seqlens.diff().tolist())
    is_global = batch.global_mask.long().split(batch.cu_seqlens.diff().tolist())
    pad = torch.nn.utils.rnn.pad_sequence
    arguments = {
        "input_ids": pad(list(tokens), batch_first=True, padding_value=1),
        "attention_mask": pad([torch.ones_like(t) for t in tokens], batch_first=True),
    }
    if family == "longformer":
        arguments["global_attention_mask"] = pad(list(is_global), batch_first=True)
    return arguments


def loaded(
    folder: Path, task: str = "classification", **overrides: object
) -> tuple[Encoder, torch.nn.Module]:
    data = complete_config(
        {"model": {"pretrained": str(folder), **overrides}, "task": {"name": task}, "data": {}}
    )
    encoder = Encoder(from_dict(ModelConfig, data["model"]))
    load_encoder(encoder)
    head = fresh_head(data["task"], encoder)
    assert load_head(head, task, str(folder))
    return encoder.eval(), head.eval()


def fresh_head(task: dict[str, Any], encoder: Encoder) -> torch.nn.Module:
    if task["name"] == "qa":
        return span_head(encoder.config, from_dict(QAConfig, task))
    if task["name"] == "mlm":
        made = MaskedLM(from_dict(MaskedLMConfig, task), Vocabulary(0, np.arange(5, VOCABULARY)))
    else:
        names = [str(i) for i in range(CLASSES)]
        made = Classification(from_dict(ClassificationConfig, task), names)
    return made.head(encoder.config, encoder.token_embedding)


@pytest.mark.parametrize(
    ("family", "policy"),
    [(name, "none") for name in CONFIGS if name != "longformer"]
    + [("longformer", policy) for policy in GLOBALS],
)
def test_hidden_states_gradients_and_logits(family: str, policy: str, tmp_path: Path) -> None:
    theirs = saved_model(family, tmp_path)
    encoder, head = loaded(tmp_path)
    batch = pack(documents(GLOBALS[policy]))
    arguments = padded(batch, family)
    mask = arguments["attention_mask"].bool()
    body = getattr(theirs, theirs.base_model_prefix)
    expected = body(**arguments).last_hidden_state[mask]  # (T, C)
    hidden = encoder(batch)
    assert (hidden - expected).abs().max() <= TOLERANCE

    probe = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0))
    (expected * probe).sum().backward()
    (hidden * probe).sum().backward()
    gradients = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    check_gradients(family, encoder, gradients)

    if family == "longformer" and policy == "none":
        return  # their classifier makes the first token global by itself
    if family == "longformer":
        arguments["global_attention_mask"][:, 0] = 1
    with torch.no_grad():
        logits = head(hidden, batch)
        assert (logits - theirs(**arguments).logits).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    ("family", "policy"),
    [(name, "none") for name in CONFIGS if name != "longformer"]
    + [("longformer", policy) for policy in GLOBALS],
)
def test_span_logits(family: str, policy: str, tmp_path: Path) -> None:
    theirs = saved_model(family, tmp_path, "AutoModelForQuestionAnswering", num_labels=2)
    encoder, head = loaded(tmp_path, "qa")
    batch, arguments, mask = with_globals(family, policy)
    with torch.no_grad():
        logits = head(encoder(batch), batch)  # (T, 2)
        expected = theirs(**arguments)
    assert logits.shape == (batch.num_tokens, 2)
    both = torch.stack([expected.start_logits, expected.end_logits], dim=-1)[mask]
    assert (logits - both).abs().max() <= TOLERANCE
    assert (logits - both.flip(1)).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("family", CONFIGS)
def test_masked_lm_logits(family: str, tmp_path: Path) -> None:
    theirs = saved_model(family, tmp_path, "AutoModelForMaskedLM")
    encoder, head = loaded(tmp_path, "mlm")
    batch, arguments, mask = with_globals(family)
    with torch.no_grad():
        logits = head(encoder(batch), batch)  # (T, V)
        expected = theirs(**arguments).logits[mask]
    assert logits.shape == (batch.num_tokens, VOCABULARY)
    assert (logits - expected).abs().max() <= TOLERANCE


def with_globals(
    family: str, policy: str | None = None
) -> tuple[PackedBatch, dict[str, torch.Tensor], torch.Tensor]:
    """A batch as ours and as theirs; by default with global tokens where the family has them."""
    policy = policy or ("many" if family == "longformer" else "none")
    batch = pack(documents(GLOBALS[policy]))
    arguments = padded(batch, family)
    return batch, arguments, arguments["attention_mask"].bool()


def check_gradients(name: str, encoder: Encoder, gradients: dict[str, torch.Tensor]) -> None:
    family = FAMILIES[name]
    theirs = encoder_weights(family, gradients)
    mapped, _ = gather_weights(expand(family.weights, range(3)), theirs)
    compared = 0
    for ours, parameter in encoder.named_parameters():
        if ours not in mapped:
            assert parameter.grad is None or not parameter.grad.any(), ours
            continue
        expected = mapped[ours]
        if ours == "position_embedding.weight":
            expected = expected[family.unused_positions(CONFIGS[name]) :]
        assert parameter.grad is not None
        scale = max(1.0, float(expected.abs().max()))
        assert (parameter.grad - expected).abs().max() <= TOLERANCE * scale, ours
        compared += 1
    assert compared >= 20


@pytest.mark.parametrize("family", CONFIGS)
def test_a_dense_window_of_any_reach_equals_the_family_where_it_covers_the_document(
    family: str, tmp_path: Path
) -> None:
    saved_model(family, tmp_path)
    batch = pack(documents(()))
    with torch.no_grad():
        full = loaded(tmp_path, window=None)[0](batch)
        wide = loaded(tmp_path, window=[max(LENGTHS)] * 3)[0](batch)
    torch.testing.assert_close(full, wide, atol=TOLERANCE, rtol=0)


def test_longformer_windows_are_halved(tmp_path: Path) -> None:
    saved_model("longformer", tmp_path)
    model = complete_model({"pretrained": str(tmp_path)})
    assert model["window"] == (2, 4, 5)
    assert model["max_positions"] == 64


def test_modernbert_keeps_its_full_layers_when_the_window_changes(tmp_path: Path) -> None:
    saved_model("modernbert", tmp_path)
    model = complete_model({"pretrained": str(tmp_path), "window": 2})
    assert model["window"] == (None, 2, None)
    assert model["rope_theta"] == (160_000.0, 10_000.0, 160_000.0)


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("family", CONFIGS)
def test_a_model_comes_back_as_it_was(family: str, task: str, tmp_path: Path) -> None:
    auto = f"AutoModel{HEADS[task]}"
    labels = {"num_labels": 2} if task == "qa" else {}
    before = saved_model(family, tmp_path / "theirs", auto, **labels)
    encoder, head = loaded(tmp_path / "theirs", task)
    fields = complete_config(
        {
            "model": {"pretrained": str(tmp_path / "theirs")},
            "task": {"name": task},
            "data": {"max_length": 48, "tokenizer": "embedded:sotu"},
            "globals": {"cls": family == "longformer"},
        }
    )
    state = torch.nn.ModuleDict({"encoder": encoder, "head": head}).state_dict()
    names = ["a", "b", "c"] if task == "classification" else []
    tokenizer = load_tokenizer("embedded:sotu")
    save_model(tmp_path / "ours", state, from_dict(Config, fields), names, tokenizer)

    architecture = export_to_hf(tmp_path / "ours", tmp_path / "back")
    own_head = (family, task) == ("distilbert", "classification")
    assert architecture == ("DistilBert" if own_head else COMES_BACK_AS[family]) + HEADS[task]
    after, told = getattr(transformers, auto).from_pretrained(
        tmp_path / "back", output_loading_info=True
    )
    assert not any(told.values())
    assert logits(after.eval(), family, task).shape[-1] > 1
    torch.testing.assert_close(
        logits(after, family, task), logits(before, family, task), atol=1e-6, rtol=0
    )


def logits(model: torch.nn.Module, family: str, task: str) -> torch.Tensor:
    """Of the documents' own tokens, or of the documents."""
    _, arguments, mask = with_globals(family)
    if family == "longformer" and task == "classification":
        arguments["global_attention_mask"][:, 0] = 1  # as their head does by itself
    with torch.no_grad():
        out = model(**arguments)
    if task == "qa":
        return torch.stack([out.start_logits, out.end_logits], dim=-1)[mask]
    return out.logits if task == "classification" else out.logits[mask]
