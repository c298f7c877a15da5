"""What is trained here loads in plain `transformers`, with the same logits."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from longspan.batch import pack
from longspan.checkpoint import save_model
from longspan.config import ClassificationConfig, Config, DataConfig, GlobalsConfig, ModelConfig
from longspan.encoding import DocumentEncoder
from longspan.errors import UserError
from longspan.pretrained.export import export_to_hf
from longspan.pretrained.targets import choose_target
from longspan.pretrained.tokenizer import load_tokenizer
from longspan.tasks.classification import Classification
from longspan.training.module import LongDocumentModule

POST_NORM = ModelConfig(
    vocab_size=8192, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=48,
    positions="learned", max_positions=128, norm_position="post", window=5,
)  # fmt: skip
ALTERNATING = ModelConfig(
    vocab_size=8192, hidden_size=32, num_layers=3, num_heads=4, intermediate_size=48, mlp="geglu",
    first_norm=False, window=(None, 6, 6), rope_theta=(160_000.0, 10_000.0, 10_000.0),
    mlp_bias=False, attention_bias=False, norm_bias=False,
)  # fmt: skip
MODELS = {
    "Longformer": (POST_NORM, True, ClassificationConfig()),
    "Longformer with separate projections": (
        replace(POST_NORM, global_projections="separate", type_vocab_size=2), True, ClassificationConfig(),
    ),
    "Bert": (replace(POST_NORM, window=None, type_vocab_size=2), True, ClassificationConfig()),
    "ModernBert": (
        ALTERNATING, False,
        ClassificationConfig(pooling="mean", head_activation="gelu", head_norm=True, head_bias=False),
    ),
}  # fmt: skip
TEXTS = ["Fellow citizens", "My fellow Americans, the state of the Union is strong. " * 6, "!"]
LABELS = ["a", "b", "c"]

# in a process of its own, where longspan cannot be imported
READER = """
import json, sys
sys.modules["longspan"] = None
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
folder, texts = sys.argv[1], json.loads(sys.argv[2])
model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
with torch.no_grad():
    logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
print(json.dumps([type(model).__name__, model.config.id2label, logits.tolist()]))
"""


def save(folder: Path, model: ModelConfig, cls: bool, task: ClassificationConfig) -> torch.Tensor:
    """A random model's folder, and its logits on `TEXTS`."""
    torch.manual_seed(1)
    config = Config(
        model=model, task=task, data=DataConfig(max_length=128), globals=GlobalsConfig(cls=cls)
    )
    module = LongDocumentModule(config, Classification(task, LABELS)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    tokenizer = load_tokenizer("embedded:sotu")
    save_model(folder, module.state_dict(), config, LABELS, tokenizer)
    encoder = DocumentEncoder(
        tokenizer.backend_tokenizer, cls_id=2, sep_id=3, max_length=128, truncate="head",
        policies=config.globals,
    )  # fmt: skip
    with torch.no_grad():
        return module(pack(encoder.encode(["0", "1", "2"], TEXTS)))


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_same_without_our_code(name: str, tmp_path: Path) -> None:
    ours = save(tmp_path / "model", *MODELS[name])
    architecture = export_to_hf(tmp_path / "model", tmp_path / "hf")
    command = [sys.executable, "-c", READER, str(tmp_path / "hf"), json.dumps(TEXTS)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    loaded, labels, logits = json.loads(result.stdout.splitlines()[-1])
    assert loaded == architecture == f"{name.split()[0]}ForSequenceClassification"
    assert labels == {"0": "a", "1": "b", "2": "c"}
    assert (torch.tensor(logits) - ours).abs().max() <= 1e-4
    assert "one-sided window" in (tmp_path / "hf" / "README.md").read_text()


@pytest.mark.parametrize(
    ("model", "task", "feature"),
    [
        (replace(POST_NORM, window=(5, None)), ClassificationConfig(), "model.window=(5, None)"),
        (replace(POST_NORM, num_kv_heads=2), ClassificationConfig(), "model.num_kv_heads=2"),
        (POST_NORM, ClassificationConfig(pooling="mean"), "task.pooling=mean"),
        (ModelConfig(vocab_size=8192), ClassificationConfig(), "model.positions=rotary"),
        (replace(POST_NORM, norm="rmsnorm"), ClassificationConfig(), "model.norm=rmsnorm"),
    ],
)
def test_what_is_in_the_way_is_named(
    model: ModelConfig, task: ClassificationConfig, feature: str
) -> None:
    config = Config(model=model, task=task, data=DataConfig(max_length=64))
    with pytest.raises(UserError, match="in the way") as caught:
        choose_target(config)
    assert feature in str(caught.value)


def test_global_tokens_are_in_the_way_of_modernbert() -> None:
    config = Config(
        model=ALTERNATING, task=MODELS["ModernBert"][2], globals=GlobalsConfig(cls=True, every_k=64)
    )
    with pytest.raises(UserError, match=r"globals\.every_k=64"):
        choose_target(config)


def test_a_folder_that_is_taken_stays_as_it_is(tmp_path: Path) -> None:
    save(tmp_path / "model", *MODELS["Bert"])
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "mine").write_text("precious")
    with pytest.raises(UserError, match="not empty"):
        export_to_hf(tmp_path / "model", tmp_path / "hf")
    assert (tmp_path / "hf" / "mine").read_text() == "precious"
    with pytest.raises(UserError, match=r"hf/mine/new cannot be written"):
        export_to_hf(tmp_path / "model", tmp_path / "hf" / "mine" / "new")
