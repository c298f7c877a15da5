"""What fuzzing has found, and what it was told to look for: each once more, as a plain test."""

import json
import math
from dataclasses import replace

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from longspan.checkpoint import fill, read_model
from longspan.compose.configuration import as_config, placed
from longspan.config import ClassificationConfig, Config, GlobalsConfig, TrainerConfig
from longspan.data.datamodule import EPOCHS_COUNTED, DocumentData
from longspan.data.sources import load_splits
from longspan.data.stream_sources import load_stream
from longspan.encoding import DocumentEncoder
from longspan.errors import UserError
from longspan.predict_files import as_line
from longspan.pretrained.tokenizer import load_tokenizer, vocabulary_size
from longspan.sweep.plan import read_plan
from longspan.tasks.classification import Classification
from longspan.tasks.labels import label_names
from longspan.training import report
from longspan.training.build import check_trainer, misconfigurations
from longspan.training.capacity import check_capacity, matrix_values
from longspan.training.module import LongDocumentModule
from longspan.training.run_folder import RunFolder
from longspan.typed import from_dict

WORDS = 33  # of the tokenizers of tests/conftest.py


def refusal(call, *arguments):
    with pytest.raises(UserError) as error:
        call(*arguments)
    return str(error.value)


# --- fields --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        # a union with an integer let it through, as a number of the right type
        ({"trainer": {"limit_train_batches": math.nan}}, "trainer.limit_train_batches=nan is no"),
        ({"trainer": {"limit_val_batches": math.inf}}, "trainer.limit_val_batches=inf is no finite"),
        ({"task": {"name": []}}, "task.name=[] is not known; known: classification"),
        ({"model": {"hidden_size": 2**63}}, "does not fit into 64 bits"),
        ({"optim": {"eps": 10**400}}, "is no number of 64 bits; lower it"),
        ({"seed": 2**32}, "seed=4294967296 must be 4294967295 or less"),
        ({"MODEL": {}}, "MODEL is not a field; did you mean model?"),
        ({"model": {"num_layers": 10**9}}, "model.num_layers=1000000000 must be 10000 or less"),
        ({"data": {"num_workers": 10**6}}, "data.num_workers=1000000 must be 1024 or less"),
        ({"data": {"num_proc": 10**6}}, "data.num_proc=1000000 must be 1024 or less"),
        ({"trainer": {"devices": 10**6}}, "trainer.devices=1000000 must be 1024 or less"),
        ({"trainer": {"val_check_interval": 0}}, "trainer.val_check_interval=0 must be 1 or more"),
        ({"trainer": {"check_val_every_n_epoch": 0}}, "check_val_every_n_epoch=0 must be 1 or more"),
        ({"optim": {"lora": {"rank": 2**40}}}, "exceeds model.hidden_size=128; it is to be low"),
        ({"name": "x" * 256}, "names a file or folder, but it has more than 255 bytes"),
        ({"data": {"path": "x" * 256}}, "can name no file"),
        ({"data": {"path": "a\0b"}}, "data.path='a\\x00b' can name no file"),
        ({"data": {"needle": {"lengths": [-1], "train": [1], "dev": [1], "test": [1]}}},
         "data.needle.lengths=-1 must be 1 or more"),
        ({"data": {"needle": {"train": [10**9, 0, 0, 0]}}}, "data.needle.train=1000000000 must be"),
    ],
)  # fmt: skip
def test_a_value_that_no_run_can_have(tree, said):
    assert said in refusal(from_dict, Config, tree)


@pytest.mark.parametrize(
    ("pretrained", "fields", "said"),
    [
        ({"x": None}, {}, "model.pretrained={'x': None} has the wrong type"),
        ("x" * 300, {}, "is no folder here"),
        ("package:gt", {"num_layers": "many"}, "model.num_layers='many' has the wrong type"),
        ("package:gt", {"num_layer": 2}, "did you mean model.num_layers?"),
    ],
)
def test_a_pretrained_model_that_is_none(pretrained, fields, said):
    tree = {"model": {"pretrained": pretrained} | fields, "task": {}, "data": {}}
    assert said in refusal(as_config, tree)


def test_a_group_that_is_taken_away():
    data = {"sweep": {}} | dict.fromkeys(vars(Config()))
    del data["model"]
    assert refusal(placed, data, []) == "model is taken away; drop ~model"
    assert refusal(placed, {"sweep": 5}, []) == "sweep=5 must be a mapping of fields"
    data |= {"model": {}, "first": 5, "runs_dir": "runs", "experiment": "x", "name": "x"}
    assert refusal(placed, data, []).startswith("first=5 has the wrong type")


def test_a_field_that_lightning_does_not_take_is_named(make_config, tmp_path):
    config = make_config(tmp_path, **{"trainer.profiler": "none such", "trainer.min_steps": 2})
    said = refusal(check_trainer, config)
    assert said.startswith("trainer.profiler=none such: Lightning does not take that (")


def test_a_model_that_no_machine_holds(make_config, tmp_path):
    large = {"model.hidden_size": 10**9, "model.num_heads": 10**6}
    said = refusal(check_capacity, make_config(tmp_path, **large))
    assert said.startswith("model.hidden_size=1000000000, model.num_heads=1000000: the model's mat")
    said = refusal(check_capacity, make_config(tmp_path, **{"model.vocab_size": 10**12}))
    assert said.startswith("model.vocab_size=1000000000000: the")
    learned = {"model.positions": "learned", "data.max_length": 10**12}
    said = refusal(check_capacity, make_config(tmp_path, **learned, **{
        "data.tokens_per_batch": 10**12}))  # fmt: skip
    assert said.startswith("data.max_length=1000000000000: the")
    check_capacity(make_config(tmp_path))


def test_the_values_that_are_counted_are_those_of_the_model(make_config, tmp_path, two_classes):
    config = make_config(tmp_path, **{"model.vocab_size": 50, "model.positions": "learned",
                                      "model.max_positions": 64, "model.type_vocab_size": 2,
                                      "model.num_kv_heads": 1, "model.mlp": "swiglu"})  # fmt: skip
    module = LongDocumentModule(config, two_classes)
    matrices = [p.numel() for p in module.encoder.parameters() if p.ndim == 2]
    assert matrix_values(config) == sum(matrices)


@pytest.fixture
def two_classes():
    return Classification(ClassificationConfig(), ["a", "b"])


def test_the_steps_of_a_training_of_a_billion_epochs(make_config, tmp_path, monkeypatch):
    config = make_config(tmp_path, **{"trainer.max_epochs": 10**9})
    data = DocumentData(config, {}, None)
    monkeypatch.setattr(data, "batches_of_epoch", lambda epoch, world_size: [[None] * 3])
    assert data.num_steps(1) == 3 * 10**9
    data.config = make_config(tmp_path, **{"trainer.max_epochs": 10**9, "trainer.max_steps": 10**6})
    assert data.num_steps(1) == 10**6
    data.config = make_config(tmp_path, **{"trainer.max_epochs": EPOCHS_COUNTED})
    assert data.num_steps(1) == 3 * EPOCHS_COUNTED
    assert TrainerConfig().max_epochs < EPOCHS_COUNTED


def test_a_validation_that_no_epoch_reaches(make_config, tmp_path, monkeypatch):
    """Packing differs from epoch to epoch: it would break off in the first that is too short."""
    config = make_config(tmp_path, **{"trainer.val_check_interval": 3, "trainer.max_epochs": 2})
    data = DocumentData(config, {"dev": None}, None)
    monkeypatch.setattr(data, "batches_of_epoch", lambda epoch, world_size: [[None] * (3 - epoch)])
    assert refusal(data.num_steps, 1) == (
        "trainer.val_check_interval=3 exceeds the 2 batches of epoch 1; lower it, or set "
        "trainer.check_val_every_n_epoch=null to count on from epoch to epoch"
    )
    data.splits = {}
    assert data.num_steps(1) == 5


def test_what_lightning_refuses_as_it_meets_the_data_names_its_field(make_config, tmp_path):
    config = make_config(tmp_path, **{"trainer.limit_val_batches": 0.01})

    def train():
        with misconfigurations(config):
            raise MisconfigurationException("0.01 * 2 < 1.\n  Try more.")

    assert refusal(train) == (
        "trainer.limit_val_batches=0.01: Lightning does not take that (0.01 * 2 < 1. Try more); "
        "change it"
    )


# --- messages ------------------------------------------------------------------------------------


def test_an_error_is_one_line_of_what_can_be_printed():
    assert str(UserError("a\n  b\r\nc")) == "a b c"
    assert str(UserError("\x1b[2J \udc80 \u202e é")) == "\\x1b[2J \\udc80 \\u202e é"
    long = str(UserError("start " + "x" * 10**6 + "; the remedy"))
    assert len(long) < 1300
    assert long.startswith("start ")
    assert long.endswith("; the remedy")
    assert str(UserError("")) == ""
    value = refusal(from_dict, Config, {"seed": "x" * 10**6})
    assert value.endswith("xxx… has the wrong type; allowed: an integer")


# --- data ----------------------------------------------------------------------------------------


@pytest.fixture
def place(make_config, tmp_path):
    """Write a file, and the `DataConfig` that reads it."""

    def place(name, content, **fields):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        own = {"data.files": {"train": str(path)}, "data.cache_dir": str(tmp_path / "cache")}
        return str(path), make_config(tmp_path, **own, **fields).data

    return place


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_a_stream_that_breaks_off_names_its_file(place):
    stream = {"data.streaming": True, "task.name": "mlm", "trainer.max_steps": 1}
    path, data = place("a.csv", "text\nnaïve\n".encode("latin-1"), **stream)
    said = refusal(load_stream, data)
    assert said.startswith(f"data: {path} cannot be read")
    assert "not UTF-8; convert it" in said
    path, data = place("a.parquet", b"PAR1 and no more", **stream)
    assert refusal(load_stream, data).startswith(f"data: {path} cannot be read as parquet")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("context", 5, "paragraphs[0]: 'context' is '5', not text; mend the file"),
        ("qas", {"a": 1}, "paragraphs[0]: 'qas' is \"{'a': 1}\", not a list; mend the file"),
        ("qas", [{"id": "1", "question": "x", "answers": 5}], "'answers' is '5', not a list"),
        ("qas", [{"id": "1", "question": ["x"]}], "qas[0]: 'question' is \"['x']\", not text"),
        ("qas", [{"id": "1", "question": "x", "answers": [{"text": "a", "answer_start": "0"}]}],
         "'answer_start' is '0', not a whole number"),
    ],
)  # fmt: skip
def test_a_squad_file_with_other_types(place, field, value, said):
    paragraph = {"context": "a b", "qas": [{"id": "1", "question": "x", "answers": []}]}
    path, data = place("a.json", {"data": [{"paragraphs": [paragraph | {field: value}]}]})
    message = refusal(load_splits, data, False)
    assert message.startswith(f"data: {path}: data[0].paragraphs[0]")
    assert said in message


def test_a_cache_that_cannot_be_made(place):
    _, data = place("a.json", [{"text": "a", "label": "b"}])
    data = replace(data, cache_dir="/dev/null/x")
    assert refusal(load_splits, data, False).startswith("data.cache_dir=/dev/null/x cannot be made")


def test_every_k_beyond_what_places_are_counted_in(make_encoder):
    encoder = make_encoder("embedded", 32, "head", GlobalsConfig(cls=False, every_k=2**62))
    (feature,) = encoder.encode(["a"], ["war and peace"])
    assert len(feature.global_positions) == 1


def test_json_too_deep_to_be_read(place):
    path, data = place("a.json", b"[" * 100_000)
    assert path in refusal(load_splits, data, False)


# --- tokenizers ----------------------------------------------------------------------------------


def encoder_of(tokenizer):
    return DocumentEncoder(
        tokenizer,
        cls_id=None,
        sep_id=None,
        max_length=8,
        truncate="head",
        policies=GlobalsConfig(cls=False),
    )


def test_a_tokenizer_of_which_nothing_becomes_a_token():
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer.normalizer = normalizers.Replace("a", "")
    assert encoder_of(tokenizer).encode(["x"], ["b"])[0].input_ids.tolist() == [1]
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace("a", ""), normalizers.Replace("b", "")]
    )
    assert refusal(encoder_of, tokenizer).startswith("data.tokenizer makes no tokens of any text")


def test_a_tokenizer_without_a_token_for_what_it_does_not_know():
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="missing"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    encoder = encoder_of(tokenizer)
    assert encoder.encode(["x"], ["a a"])[0].input_ids.tolist() == [0, 0]
    said = refusal(encoder.encode, ["x"], ["a b"])
    assert said.startswith("data.tokenizer cannot read a text (")
    assert "give it an unk_token" in said


def test_a_tokenizer_json_that_cannot_be_read(tokenizers, tmp_path):
    tokenizers["bert"].save_pretrained(tmp_path)
    whole = (tmp_path / "tokenizer.json").read_bytes()
    for content in (whole[: len(whole) // 2], b"{}", b"", b'{"model": 1}', b"\xff"):
        (tmp_path / "tokenizer.json").write_bytes(content)
        said = refusal(load_tokenizer, str(tmp_path))
        assert said.startswith(f"data.tokenizer={tmp_path}")


def test_a_vocabulary_with_numbers_far_beyond_its_size(tokenizers, tmp_path):
    """`tokenizers` would fill the memory with the numbers between them."""
    tokenizers["bert"].save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    tree = json.loads(file.read_text())
    tree["model"]["vocab"]["w1"] = 2**31
    file.write_text(json.dumps(tree))
    said = refusal(load_tokenizer, str(tmp_path))
    assert said.startswith(f"data.tokenizer={tmp_path} numbers its {WORDS} tokens up to 2147483648")
    tree["model"]["vocab"]["w1"] = 99
    file.write_text(json.dumps(tree))
    assert vocabulary_size(load_tokenizer(str(tmp_path))) == 100


def test_half_a_pair_of_surrogates_is_no_character(make_encoder):
    encoder = make_encoder("embedded")
    broken, mended = encoder.encode(["a", "b"], ["war \ud800", "war \ufffd"])
    assert broken.input_ids.tolist() == mended.input_ids.tolist()
    line = as_line({"id": "\ud800", "text": "é"})
    assert line.encode() == '{"id": "\\ud800", "text": "é"}'.encode()
    assert json.loads(line)["id"] == "\ud800"


# --- finished work -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"metrics": {"a": 1}}', b"[" * 10**5]
)
def test_a_damaged_report(tmp_path, content):
    folder = RunFolder(tmp_path)
    folder.report_file.write_bytes(content)
    said = refusal(report.show_again, folder)
    assert said.startswith(f"{folder.report_file} is damaged (")
    assert said.endswith("remove it, and the same command finishes the run again")


@pytest.mark.parametrize("content", [b"\xff", b"", b"a: [", b"model: 5", b"x: 1"])
def test_a_damaged_config(tmp_path, content):
    folder = RunFolder(tmp_path)
    folder.config_file.write_bytes(content)
    assert str(tmp_path) in refusal(folder.read_config)


def test_weights_that_do_not_fit_their_config(make_config, tmp_path, two_classes):
    config = make_config(tmp_path, **{"model.vocab_size": 9})
    module = LongDocumentModule(config, two_classes)
    state = module.state_dict()
    state["head.out.bias"] = state["head.out.bias"][:1]
    said = refusal(fill, module, state, tmp_path)
    assert said.startswith(f"{tmp_path}/model.safetensors does not fit its config.json (")
    assert "head.out.bias" in said


def test_labels_that_are_no_names(tmp_path):
    about = {"format": "longspan-1", "config": {}, "labels": "ab"}
    (tmp_path / "config.json").write_text(json.dumps(about))
    assert "labels=ab are no list of names" in refusal(read_model, tmp_path)


@pytest.mark.parametrize(
    "plan", [{"cells": 5}, {"cells": {"a": 5}}, {"swept": [5]}, {"cost": "love"}, {"ceiling": "x"}]
)
def test_a_plan_of_another_shape_is_none(tmp_path, plan):
    (tmp_path / "sweep.json").write_text(json.dumps(plan))
    assert read_plan(tmp_path) is None


def test_labels_that_look_alike_are_told_apart_and_named(caplog):
    caplog.set_level("WARNING", "longspan")
    names = label_names(["é", "e\u0301", "b", "B ", "c"], None, "label")
    assert len(names) == 5
    assert "label: 4 labels look alike but are told apart (first: " in caplog.text
    caplog.clear()
    label_names(["a", " a ", "b"], None, "label")
    assert not caplog.records
