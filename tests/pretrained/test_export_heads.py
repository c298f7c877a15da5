"""Span and masked-LM heads that are trained here load in plain `transformers`, logits and all."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from longspan.batch import Feature, PackedBatch, pack
from longspan.checkpoint import save_model
from longspan.config import (
    Config,
    DataConfig,
    GlobalsConfig,
    MaskedLMConfig,
    ModelConfig,
    QAConfig,
    TaskConfig,
)
from longspan.errors import UserError
from longspan.model.encoder import Encoder
from longspan.pretrained.export import export_to_hf
from longspan.pretrained.targets import choose_target
from longspan.pretrained.tokenizer import load_tokenizer
from longspan.tasks.masked_lm import MaskedLM, Vocabulary
from longspan.tasks.qa import span_head

POST_NORM = ModelConfig(
    vocab_size=8192, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=48,
    positions="learned", max_positions=128, norm_position="post", window=5,
)  # fmt: skip
MODERN = ModelConfig(
    vocab_size=8192, hidden_size=32, num_layers=3, num_heads=4, intermediate_size=48, mlp="geglu",
    first_norm=False, window=(None, 6, 6), rope_theta=(160_000.0, 10_000.0, 10_000.0),
    mlp_bias=False, attention_bias=False, norm_bias=False,
)  # fmt: skip
MODELS = {
    "Bert": replace(POST_NORM, window=None, type_vocab_size=2),
    "Longformer": replace(POST_NORM, global_projections="separate", type_vocab_size=2),
    "ModernBert": MODERN,
}
TASKS: dict[str, dict[str, TaskConfig]] = {
    "qa": {
        "ModernBert": QAConfig(head_activation="gelu", head_norm=True, head_bias=False),
        "Bert": QAConfig(),
        "Longformer": QAConfig(),
    },
    "mlm": {
        "ModernBert": MaskedLMConfig(head_bias=False),
        "Bert": MaskedLMConfig(),
        "Longformer": MaskedLMConfig(),
    },
}
QUESTIONS = ["How strong is the Union?", "Who?"]
TEXTS = ["My fellow Americans, the state of the Union is strong. " * 4, "Fellow citizens"]

# in a process of its own, where longspan cannot be imported
READER = """
import json, sys
sys.modules["longspan"] = None
import torch, transformers
folder, auto, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
model, info = getattr(transformers, auto).from_pretrained(folder, output_loading_info=True)
with torch.no_grad():
    out = model.eval()(**{name: torch.tensor(rows) for name, rows in arguments.items()})
logits = out.logits if "logits" in out else torch.stack([out.start_logits, out.end_logits], -1)
keys = [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]
print(json.dumps([type(model).__name__, keys, logits.tolist()]))
"""


def pairs(is_global: bool) -> PackedBatch:
    """Questions with their texts as the tokenizer lays them; [CLS] and question tokens global."""
    backend = load_tokenizer("embedded:sotu").backend_tokenizer
    features = []
    for question, text in zip(QUESTIONS, TEXTS, strict=True):
        encoding = backend.encode(question, text)
        sequences = enumerate(encoding.sequence_ids)
        chosen = [0, *(i for i, s in sequences if s == 0)] if is_global else []
        features.append(
            Feature(
                id=question,
                input_ids=np.array(encoding.ids, np.int32),
                global_positions=np.array(chosen, np.int32),
                token_type_ids=np.array(encoding.type_ids, np.int8),
            )
        )
    return pack(features)


def save(folder: Path, model: ModelConfig, task: TaskConfig, batch: PackedBatch) -> torch.Tensor:
    """A random model's folder, and its logits (T, outputs) on the batch."""
    torch.manual_seed(1)
    config = Config(
        model=model, task=task, data=DataConfig(max_length=128), globals=GlobalsConfig(cls=False)
    )
    encoder = Encoder(model)
    if isinstance(task, QAConfig):
        head: nn.Module = span_head(model, task)
    else:
        assert isinstance(task, MaskedLMConfig)
        masked = MaskedLM(task, Vocabulary(0, np.arange(5, 9)))
        head = masked.head(model, encoder.token_embedding)
    both = nn.ModuleDict({"encoder": encoder, "head": head}).eval()
    with torch.no_grad():
        for parameter in both.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        save_model(folder, both.state_dict(), config, [], load_tokenizer("embedded:sotu"))
        return head(encoder(batch), batch)


def padded(batch: PackedBatch, name: str) -> dict[str, list[Any]]:
    lengths = batch.cu_seqlens.diff().tolist()
    columns = {
        "input_ids": batch.input_ids,
        "attention_mask": torch.ones(batch.num_tokens, dtype=torch.long),
        "token_type_ids": batch.token_type_ids,
        "global_attention_mask": batch.global_mask.long(),
    }
    if name != "Longformer":
        del columns["global_attention_mask"]
    if name == "ModernBert":
        del columns["token_type_ids"]
    pad = nn.utils.rnn.pad_sequence
    return {k: pad(x.split(lengths), batch_first=True).tolist() for k, x in columns.items()}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_same_without_our_code(name: str, task: str, tmp_path: Path) -> None:
    batch = pairs(is_global=name == "Longformer")
    ours = save(tmp_path / "model", MODELS[name], TASKS[task][name], batch)
    architecture = export_to_hf(tmp_path / "model", tmp_path / "hf")
    ending = {"qa": "ForQuestionAnswering", "mlm": "ForMaskedLM"}[task]
    arguments = json.dumps(padded(batch, name))
    command = [sys.executable, "-c", READER, str(tmp_path / "hf"), f"AutoModel{ending}", arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    loaded, keys, logits = json.loads(result.stdout.splitlines()[-1])
    assert loaded == architecture == name + ending
    assert keys == []
    lengths = batch.cu_seqlens.diff().tolist()
    theirs = torch.cat([torch.tensor(row[:n]) for row, n in zip(logits, lengths, strict=True)])
    assert (theirs - ours).abs().max() <= 1e-4


@pytest.mark.parametrize(
    ("model", "task", "feature"),
    [
        (POST_NORM, QAConfig(head_activation="tanh"), "task.head_activation=tanh"),
        (MODERN, QAConfig(), "task.head_activation=None"),
        (MODELS["Bert"], QAConfig(answerability="head"), "task.answerability=head"),
        (
            MODERN,
            QAConfig(head_activation="gelu", head_norm=True, head_bias=True),
            "task.head_bias=True",
        ),
    ],
)
def test_a_span_head_that_is_in_the_way_is_named(
    model: ModelConfig, task: QAConfig, feature: str
) -> None:
    config = Config(
        model=model, task=task, data=DataConfig(max_length=64), globals=GlobalsConfig(cls=False)
    )
    with pytest.raises(UserError, match="in the way") as caught:
        choose_target(config)
    assert feature in str(caught.value)
