"""Files made to run code when they are read: none does, and what cannot be read is said."""

import json
import pickle
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from longspan.checkpoint import read_model, save_model
from longspan.config import Config, DataConfig, ModelConfig
from longspan.data.sources import load_splits
from longspan.errors import UserError
from longspan.model.encoder import Encoder
from longspan.predict import load_predictor
from longspan.pretrained.folder import read_config, read_weights
from longspan.pretrained.load import complete_model, load_encoder
from longspan.pretrained.tokenizer import load_tokenizer
from longspan.sweep.results import read_sweep
from longspan.tasks.classification import Classification
from longspan.training.module import LongDocumentModule
from longspan.training.run import train
from longspan.training.run_folder import RunFolder
from longspan.typed import from_dict

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec:FutureWarning",  # Lightning's, with torch 2.13
    "ignore:Checkpoint directory .* exists and is not empty",
    "ignore:You're resuming from a checkpoint that ended before",
)
SMALL = ModelConfig(vocab_size=8192, hidden_size=16, num_layers=1, num_heads=2,
                    intermediate_size=16)  # fmt: skip


@pytest.mark.parametrize("zipped", [False, True])
def test_the_pickle_runs_where_it_is_trusted(tmp_path, plant, canary, zipped):
    """A test of these tests."""
    plant(tmp_path / "file", zipped)
    if zipped:
        torch.load(tmp_path / "file", weights_only=False)
    else:
        pickle.loads((tmp_path / "file").read_bytes())
    canary.rmdir()


@pytest.fixture
def bert(tmp_path):
    """A small encoder of others, with its tokenizer."""
    folder = tmp_path / "bert"
    shape = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1,
             "num_attention_heads": 2, "intermediate_size": 16}  # fmt: skip
    BertModel(BertConfig(**shape)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(folder)
    return folder


@pytest.fixture
def model(tmp_path):
    """A model folder as training writes it."""
    config = Config(model=SMALL)
    module = LongDocumentModule(config, Classification(config.task, ["a", "b"]))
    tokenizer = load_tokenizer("embedded:sotu")
    save_model(tmp_path / "model", module.state_dict(), config, ["a", "b"], tokenizer)
    return tmp_path / "model"


def change(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


# --- pickles in the place of weights ------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_pickle_of_weights_is_refused(bert, plant, name, zipped):
    (bert / "model.safetensors").unlink()
    plant(bert / name, zipped)
    with pytest.raises(UserError, match=r"pickled weights only|damaged"):
        read_weights(bert)


def test_pickles_beside_the_weights_are_not_looked_at(bert, model, plant):
    for folder in (bert, model):
        for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "model.pkl"):
            plant(folder / name)
    complete = from_dict(ModelConfig, complete_model({"pretrained": str(bert)}))
    load_encoder(Encoder(complete))
    assert load_predictor(model).predict("a text")["predicted"] in ("a", "b")


def test_a_pickle_in_our_model_folder_is_damage(model, plant):
    plant(model / "model.safetensors")
    with pytest.raises(UserError, match="cannot be read"):
        read_model(model)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_in_the_place_of_a_checkpoint_does_not_run(make_config, tmp_path, plant, zipped):
    config = make_config(tmp_path / "runs", **{"trainer.max_epochs": 1})
    train(config)
    folder = RunFolder(tmp_path / "runs" / config.experiment / config.name)
    folder.report_file.unlink()
    files = [file for file in folder.checkpoints.rglob("*") if file.is_file()]
    assert files
    for file in files:
        plant(file, zipped)
    with suppress(UserError):  # begun anew or refused: what is done with damage is told elsewhere
        train(config)


# --- code and objects that a config names -------------------------------------------------------


@pytest.mark.parametrize("reference", ["evil.Config", "someone/else--evil.Config"])
def test_code_that_a_config_names_is_not_run(bert, code, reference):
    (bert / "evil.py").write_text(code)
    names = dict.fromkeys(("AutoConfig", "AutoModel", "AutoTokenizer"), reference)
    change(bert / "config.json", auto_map=names, _target_="os.mkdir")
    assert complete_model({"pretrained": str(bert)})["hidden_size"] == 16
    change(bert / "config.json", model_type="evil")
    with pytest.raises(UserError, match="evil model, which is not supported"):
        complete_model({"pretrained": str(bert)})
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        read_config(bert)


@pytest.mark.parametrize("kind", ["TokenizersBackend", "Tokens", None])
@pytest.mark.parametrize("reference", ["evil.Tokens", "someone/else--evil.Tokens"])
def test_code_that_a_tokenizer_names_is_not_run(bert, code, reference, kind):
    (bert / "evil.py").write_text(code)
    auto_map = {"AutoTokenizer": [None, reference]}
    change(bert / "tokenizer_config.json", auto_map=auto_map, tokenizer_class=kind)
    with suppress(UserError):  # refused, or read without it
        assert type(load_tokenizer(str(bert))).__module__.startswith("transformers.")


def test_templates_of_a_tokenizer_become_no_files(bert, tmp_path):
    names = ["default", "../escaped", "/" + str(tmp_path / "absolute"), "NUL", "x" * 300]
    templates = [{"name": name, "template": "{{ 1 }}"} for name in names]
    change(bert / "tokenizer_config.json", chat_template=templates)
    tokenizer = load_tokenizer(str(bert))
    before = set(tmp_path.rglob("*"))
    tokenizer.save_pretrained(tmp_path / "saved")
    made = {str(f.relative_to(tmp_path)) for f in set(tmp_path.rglob("*")) - before}
    assert made == {"saved", "saved/tokenizer.json", "saved/tokenizer_config.json"}


@pytest.mark.parametrize(
    "document",
    [
        "!!python/object/apply:os.mkdir [{}]",
        "seed: !!python/object/apply:os.mkdir [{}]",
        "model: {{_target_: os.mkdir, path: {}}}",
        "_target_: os.mkdir\npath: {}",
    ],
)
def test_objects_in_the_yaml_of_a_run_are_not_made(document, canary, tmp_path):
    folder = RunFolder(tmp_path / "sweep" / "cell")
    folder.path.mkdir(parents=True)
    folder.config_file.write_text(document.format(canary))
    with pytest.raises(UserError, match=r"holds no run|_target_ is not a field"):
        folder.read_config()
    (cell,) = read_sweep(tmp_path / "sweep").cells  # which reads what it can
    assert cell.status == "broken off"


def test_objects_in_the_config_of_a_model_are_not_made(model, canary):
    about = json.loads((model / "config.json").read_text())
    about["config"]["model"] |= {"_target_": "os.mkdir", "path": str(canary)}
    (model / "config.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"model\._target_ is not a field"):
        read_model(model)


# --- data ---------------------------------------------------------------------------------------


def test_objects_in_a_table_stay_text(tmp_path, canary):
    cell = f"!!python/object/apply:os.mkdir [{canary}]"
    rows = [{"text": {"_target_": "os.mkdir", "path": str(canary)}, "label": cell}] * 8
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(path=str(tmp_path / "rows.jsonl"), cache_dir=str(tmp_path / "cache"))
    assert set(load_splits(config, stratify=True)["train"]["label"]) == {cell}


def test_the_script_of_a_data_set_is_not_run(tmp_path, code, plant):
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("set.py", "conftest.py", "__init__.py"):
        (folder / name).write_text(code)
    plant(folder / "train.pkl")
    with pytest.raises(UserError, match="holds no texts"):
        load_splits(DataConfig(path=str(folder)), stratify=False)


@pytest.mark.parametrize("name", ["rows.pkl", "rows.pickle", "rows.npy", "rows.joblib", "rows.py"])
def test_a_pickle_is_no_format_of_data(tmp_path, plant, name):
    plant(tmp_path / name)
    with pytest.raises(UserError, match="has no known format"):
        load_splits(DataConfig(path=str(tmp_path / name)), stratify=False)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json", "parquet"])
def test_a_pickle_with_the_ending_of_data_is_damage(tmp_path, plant, ending):
    plant(tmp_path / f"rows.{ending}")
    config = DataConfig(path=str(tmp_path / f"rows.{ending}"), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(UserError, match="cannot be read"):
        load_splits(config, stratify=False)
