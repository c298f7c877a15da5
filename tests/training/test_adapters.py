"""Training a part of the model: what changes, what stays, and a model folder as any other."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from longspan.batch import pack
from longspan.checkpoint import read_model
from longspan.config import Config, EvalConfig
from longspan.encoding import DocumentEncoder
from longspan.errors import UserError
from longspan.pretrained.export import export_to_hf
from longspan.pretrained.tokenizer import load_tokenizer
from longspan.tasks.classification import Classification
from longspan.training.adapters import adapt, merged_state
from longspan.training.evaluate import evaluate
from longspan.training.module import LongDocumentModule
from longspan.training.optim import build_optimizer
from longspan.training.run import train
from longspan.training.run_folder import RunFolder
from longspan.typed import from_dict

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec:FutureWarning",  # Lightning's, with torch 2.13
    "ignore:Checkpoint directory .* exists and is not empty",
)

ROOT = Path(__file__).resolve().parents[2]
MODEL = {"vocab_size": 8192, "hidden_size": 16, "num_layers": 3, "num_heads": 2, "window": 3}
EVERY_TARGET = ["qkv", "global_qkv", "out", "up", "down"]
TEXTS = ["Fellow citizens", "My fellow Americans, the state of the Union is strong.", "!"]


def make(adapted=True, model=(), globals=(), **optim):
    """A module in evaluation mode, the same weights every time, adapted as `optim` says."""
    # the mean of all tokens: of [CLS] alone, the top layer's qkv has no gradient where global
    # tokens have projections of their own
    fields = {"model": MODEL | dict(model), "globals": dict(globals), "task": {"pooling": "mean"}}
    config = from_dict(Config, fields | {"optim": optim})
    torch.manual_seed(0)
    module = LongDocumentModule(config, Classification(config.task, ["a", "b"])).eval()
    if adapted:
        adapt(module)
    return module


@pytest.fixture(scope="module")
def batch():
    return batch_for(Config())


def batch_for(config):
    encoder = DocumentEncoder(
        load_tokenizer("embedded:sotu").backend_tokenizer, cls_id=2, sep_id=3, max_length=32,
        truncate="head", policies=config.globals,
    )  # fmt: skip
    return pack(encoder.encode(["0", "1", "2"], TEXTS))


def step(module, batch, rate=0.1):
    """One step of AdamW; the names of the parameters that it changed."""
    before = {name: p.clone() for name, p in module.named_parameters()}
    optimizer = build_optimizer(module, module.config.model.num_layers, module.config.optim)
    for group in optimizer.param_groups:
        group["lr"] = rate
    module(batch).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}


VARIANTS = {
    "default": {"optim": {"lora": {"rank": 2}}},
    "every layer": {
        "model": {"global_projections": "separate", "mlp": "geglu", "mlp_bias": False},
        "optim": {"lora": {"rank": 3, "alpha": 5.0, "targets": EVERY_TARGET}},
    },
    "upper layers": {"optim": {"lora": {"rank": 2}, "freeze_layers": 2}},
    "checkpointing": {
        "model": {"gradient_checkpointing": True},
        "optim": {"lora": {"rank": 2}, "freeze_layers": 1},
    },
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def variant(request):
    fields = dict(request.param)
    return {**fields.pop("optim"), **fields}


# --- adapters -----------------------------------------------------------------------------------


def test_adapters_start_as_nothing(variant, batch):
    with torch.no_grad():
        # nearly: without adapters, global rows are computed from hidden states themselves
        torch.testing.assert_close(
            make(**variant)(batch), make(adapted=False, **variant)(batch), atol=1e-6, rtol=1e-5
        )


def test_adapters_and_head_train_and_nothing_else(variant, batch):
    module = make(**variant).train()
    frozen = variant.get("freeze_layers", 0)
    changed = step(module, batch) | step(module, batch)  # A is first moved by the second step
    adapters = {name for name, _ in module.named_parameters() if ".lora_" in name}
    assert adapters
    assert changed == adapters | {n for n, _ in module.named_parameters() if n.startswith("head.")}
    assert {int(name.split(".")[2]) for name in adapters} == set(range(frozen, 3))


def test_merged_weights_are_those_of_a_plain_module_and_compute_the_same(variant, batch):
    module, plain = make(**variant), make(adapted=False, **variant)
    step(module, batch)
    step(module, batch)
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    merged = merged_state(module)
    shapes = {name: weight.shape for name, weight in plain.state_dict().items()}
    assert {name: weight.shape for name, weight in merged.items()} == shapes
    plain.load_state_dict(merged)
    with torch.no_grad():
        expected = module(batch)
        assert (plain(batch) - expected).abs().max() <= 1e-6 * expected.abs().max()
    for name, weight in module.state_dict().items():
        assert torch.equal(weight, before[name])


def test_without_adapters_the_merged_state_is_the_state():
    module = make()
    state = merged_state(module)
    assert state.keys() == module.state_dict().keys()
    assert all(torch.equal(state[name], x) for name, x in module.state_dict().items())


def test_adapters_follow_the_decay_of_their_layer():
    module = make(lora={"rank": 2}, learning_rate=1.0, layer_decay=0.5)
    name_of = {parameter: name for name, parameter in module.named_parameters()}
    rate = {
        name_of[p]: group["lr"]
        for group in build_optimizer(module, 3, module.config.optim).param_groups
        for p in group["params"]
    }
    for name, value in rate.items():
        layer = int(name.split(".")[2]) if name.startswith("encoder.") else 3
        assert value == 0.5 ** (3 - layer), name


def test_without_peft_one_line_says_how_to_install_it(make_config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"optim.lora.rank=2 needs peft .*'longspan\[lora\]'"):
        train(make_config(tmp_path, **{"optim.lora.rank": 2}))
    assert list(tmp_path.iterdir()) == []


# --- frozen parts -------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_frozen_layers_keep_their_weights_and_build_no_graph(layers, batch):
    module = make(freeze_embeddings=True, freeze_layers=layers).train()
    outputs = []
    for layer in module.encoder.layers:
        layer.register_forward_hook(lambda _, args, out: outputs.append(out.requires_grad))
    below = ("encoder.token_", "encoder.embedding_")
    below += tuple(f"encoder.layers.{layer}." for layer in range(layers))
    stays = {name for name, _ in module.named_parameters() if name.startswith(below)}
    names = {name for name, _ in module.named_parameters()}
    assert step(module, batch) == names - stays
    assert outputs == [False] * layers + [True] * (3 - layers)


def test_checkpointing_gives_the_gradients_that_it_saves_memory_for(batch):
    def gradients(checkpointing):
        optim = {"lora": {"rank": 2}, "freeze_layers": 1}
        model = {"gradient_checkpointing": checkpointing, "hidden_dropout": 0.0}
        module = make(model=model, **optim).train()
        module.head.eval()
        step(module, batch)
        module(batch).square().sum().backward()
        return {n: p.grad for n, p in module.named_parameters() if p.requires_grad}

    with_it, without = gradients(True), gradients(False)
    for name, expected in without.items():
        assert expected.abs().max() > 0
        torch.testing.assert_close(with_it[name], expected)


@pytest.mark.parametrize("policies", [{"cls": False}, {"cls": False, "first_k": 1}, {}])
@pytest.mark.parametrize("rank", [0, 2])
def test_projections_that_no_global_token_uses_are_frozen(policies, rank, caplog):
    caplog.set_level(logging.INFO, logger="longspan")
    module = make(
        model={"global_projections": "separate"}, globals=policies, lora={"rank": rank}
    ).train()
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    assert any(".global_qkv." in name for name in trained) is (policies != {"cls": False})
    assert ("no policy of globals.* is on" in caplog.text) is (policies == {"cls": False})
    module(batch_for(module.config)).sum().backward()  # the test of what DDP asks for
    assert {name for name, p in module.named_parameters() if p.grad is not None} == trained


def test_the_log_counts_what_trains(caplog):
    caplog.set_level(logging.INFO, logger="longspan")
    module = make(lora={"rank": 2}, freeze_layers=1)
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    (line,) = caplog.messages
    assert line.startswith(f"{trained:,} of ")
    assert "lowest 1 of 3 layers" in line
    assert "LoRA of rank 2 on qkv, out, 4 linear layers" in line
    caplog.clear()
    make()
    assert caplog.messages == []


# --- runs ---------------------------------------------------------------------------------------

LORA = {"optim.lora.rank": 4, "optim.freeze_layers": 1}
DETERMINISTIC = {"model.hidden_dropout": 0, "task.head_dropout": 0}


def test_a_broken_run_with_adapters_resumes_to_the_same_bytes(make_config, tmp_path, monkeypatch):
    class CrashError(Exception):
        pass

    def crash(self, batch, batch_idx):
        if self.trainer.global_step == 7:
            raise CrashError
        return training_step(self, batch, batch_idx)

    def config(name):
        return make_config(tmp_path, name=name, **LORA, **DETERMINISTIC)

    report = train(config("unbroken"))
    training_step = LongDocumentModule.training_step
    with monkeypatch.context() as patch:
        patch.setattr(LongDocumentModule, "training_step", crash)
        with pytest.raises(CrashError):
            train(config("broken"))
    train(config("broken"))
    broken, unbroken = (tmp_path / "default" / name for name in ("broken", "unbroken"))
    for file in ("metrics.jsonl", "model/model.safetensors", "predictions/test.jsonl"):
        assert (broken / file).read_bytes() == (unbroken / file).read_bytes()
    assert "lora_" not in "".join(load_file(broken / "model" / "model.safetensors"))
    assert report["trained_parameters"] < report["parameters"]


@pytest.fixture(scope="module")
def pretrained_run(tiny_fields, tmp_path_factory):
    """The folders of a small BERT, and of a run of `train.py` that adapted it."""
    place = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(0)
    shape = transformers.BertConfig(
        vocab_size=8192, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=32, initializer_range=0.2,
    )  # fmt: skip
    transformers.BertForSequenceClassification(shape).save_pretrained(place / "bert")
    fields = {k: v for k, v in tiny_fields.items() if not k.startswith("model.")}
    files = fields.pop("data.files")
    command = [
        sys.executable, ROOT / "train.py", "name=run", "data=files", "model=pretrained",
        f"model.pretrained={place / 'bert'}", "optim.lora.rank=4",
        *(f"data.files.{split}={file}" for split, file in files.items()),
        *(f"{name}={value}" for name, value in fields.items()),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "LoRA of rank 4 on qkv, out, 4 linear layers" in done.stderr
    return place / "bert", RunFolder(place / "runs" / "default" / "run")


def test_the_adapted_weights_are_the_pretrained_ones(pretrained_run):
    bert, folder = pretrained_run
    theirs = load_file(bert / "model.safetensors")
    ours = load_file(folder.model / "model.safetensors")
    embeddings = theirs["bert.embeddings.word_embeddings.weight"]
    assert torch.equal(ours["encoder.token_embedding.weight"], embeddings)
    query = theirs["bert.encoder.layer.0.attention.self.query.weight"]
    change = ours["encoder.layers.0.attention.qkv.weight"][:16] - query
    assert 0 < change.norm() < query.norm()
    assert torch.linalg.matrix_rank(change, tol=1e-5) <= 4


def test_an_evaluation_of_the_model_folder_gives_the_reports_numbers(pretrained_run):
    _, folder = pretrained_run
    report = json.loads(folder.report_file.read_text())
    summary = evaluate(EvalConfig(run=str(folder.path)))
    assert summary["metrics"] == pytest.approx(report["metrics"], abs=1e-6)


def test_the_exported_model_has_the_same_logits(pretrained_run, tmp_path):
    _, folder = pretrained_run
    assert export_to_hf(folder.model, tmp_path / "hf") == "BertForSequenceClassification"
    config, labels, state = read_model(folder.model)
    module = LongDocumentModule(config, Classification(config.task, labels)).eval()
    module.load_state_dict(state)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    with torch.no_grad():
        ours = module(batch_for(config))
        logits = theirs.eval()(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
    assert (ours - logits).abs().max() <= 1e-4
