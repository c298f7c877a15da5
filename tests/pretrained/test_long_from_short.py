"""A short masked language model made long: its positions copied, and what that is worth."""

import json

import pytest
import torch
from torch import nn

from longspan.checkpoint import read_model, save_model
from longspan.config import Config, EvalConfig, ModelConfig
from longspan.errors import UserError
from longspan.model.encoder import Encoder
from longspan.pretrained.load import complete_config, complete_model, load_encoder, load_head
from longspan.pretrained.tokenizer import load_tokenizer
from longspan.tasks.masked_lm import MaskedLMHead
from longspan.training.evaluate import evaluate
from longspan.training.run import train
from longspan.training.run_folder import folder_of
from longspan.typed import from_dict, to_dict

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec:FutureWarning",  # Lightning's, with torch 2.13
    "ignore:The number of training batches",
)
SHORT, LONG = 16, 64
WORDS = [f"{a}{b}" for a in "bdfgkl" for b in ("ane", "ope", "uri", "ime")]


def text(start, length):
    """Words in a fixed circle: a hidden one is told by its place among its neighbours alone."""
    return " ".join(WORDS[(start + i) % len(WORDS)] for i in range(length))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("circle")
    for split, documents, words in (("train", 600, 6), ("dev", 24, 6), ("long", 24, 30)):
        rows = [{"text": text(7 * i, words)} for i in range(documents)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def short(files, tmp_path_factory):
    """A masked language model of 16 learned positions, trained for seconds."""
    config = from_dict(
        Config,
        {
            "runs_dir": str(tmp_path_factory.mktemp("runs")),
            "model": {
                "hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64,
                "window": 4, "positions": "learned", "hidden_dropout": 0.0,
            },
            "task": {"name": "mlm"},
            "data": {
                "path": "", "max_length": SHORT, "tokens_per_batch": 256, "test_fraction": 0.0,
                "files": {s: str(files / f"{s}.jsonl") for s in ("train", "dev")},
            },
            "optim": {"learning_rate": 0.01},
            "trainer": {
                "max_epochs": 25, "accelerator": "cpu", "precision": "32-true",
                "enable_progress_bar": False, "check_val_every_n_epoch": 25,
            },
            "logger": {"kind": "none"},
        },
    )  # fmt: skip
    return train(config), folder_of(config).model


def bits_of(model, files, folder, positions):
    """Bits a hidden token of the long documents, with a table of LONG positions."""
    config, labels, state = read_model(model)
    fields = to_dict(config)
    fields["model"]["max_positions"] = fields["data"]["max_length"] = LONG
    state["encoder.position_embedding.weight"] = positions
    place = folder / "run"
    place.mkdir(parents=True)
    (place / "config.yaml").write_text("{}")
    save_model(
        place / "model", state, from_dict(Config, fields), labels, load_tokenizer(str(model))
    )
    return measured(place, files)


def measured(run, files):
    data = {"files": {"test": str(files / "long.jsonl")}}
    return evaluate(EvalConfig(run=str(run), data=data))["metrics"]["bits_per_token"]


def test_copied_positions_beat_random_ones(short, files, tmp_path):
    """The shape of Longformer's table 5: copied near the short model, random far away."""
    report, model = short
    state = complete_model({"pretrained": str(model), "max_positions": LONG})
    encoder = Encoder(from_dict(ModelConfig, state))
    load_encoder(encoder)
    copied = encoder.position_embedding.weight.detach()
    torch.testing.assert_close(copied, copied[:SHORT].repeat(LONG // SHORT, 1))
    torch.manual_seed(0)
    random = torch.cat([copied[:SHORT], torch.randn(LONG - SHORT, 32) * copied.std()])
    near = bits_of(model, files, tmp_path / "copied", copied)
    far = bits_of(model, files, tmp_path / "random", random)
    before = report["metrics"]["bits_per_token"]
    assert before < 1  # of log2(24) = 4.6 where nothing is known
    assert before < near < far
    assert far - near > 0.5


def test_a_run_goes_on_from_our_own_model_folder(short):
    _, model = short
    data = complete_config(
        {"model": {"pretrained": str(model)}, "task": {"name": "mlm"}, "data": {"path": "x"}}
    )
    assert data["data"]["tokenizer"] == str(model)
    encoder = Encoder(from_dict(ModelConfig, data["model"]))
    load_encoder(encoder)
    head = MaskedLMHead(encoder.config, encoder.token_embedding, has_bias=True)
    assert load_head(head, "mlm", str(model))
    _, _, state = read_model(model)
    ours = {f"encoder.{n}": x for n, x in encoder.state_dict().items()}
    ours |= {f"head.{n}": x for n, x in head.state_dict().items()}
    assert ours.keys() == state.keys()
    assert all(torch.equal(ours[name], state[name]) for name in state)


def test_a_head_of_another_task_starts_fresh(short):
    _, model = short
    assert not load_head(nn.Linear(32, 2), "classification", str(model))


def test_what_our_own_folder_decides_cannot_be_contradicted(short):
    _, model = short
    with pytest.raises(UserError, match=r"model.hidden_size=64 contradicts model.pretrained"):
        complete_model({"pretrained": str(model), "hidden_size": 64})
