"""Who may import whom, and how large a file may be (DESIGN.md, "Imports run one way")."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "longspan"
PLUGIN = sorted((ROOT / "src" / "hydra_plugins").rglob("*.py"))  # the sweepers and their callback
MODULES = sorted(SOURCE.rglob("*.py"))

# What the modules of a room may import of longspan. A room is a module or a package.
ROOMS = {
    "terminal": set(),
    "caches": set(),
    "hub": set(),
    "__init__": {"predict", "registration"},
    "registration": {"pretrained"},  # once transformers is loaded
    "errors": set(),
    "durable": set(),
    "lock": set(),
    "document": {"errors"},
    "config": {"errors"},
    "typed": {"errors"},
    "command": {"caches", "errors", "terminal", "typed"},
    "embedded": {"errors"},
    "batch": set(),
    "attention": set(),
    "globals": {"attention", "config", "document", "errors"},
    "encoding": {"batch", "config", "document", "errors", "globals"},
    "model": {"attention", "batch", "config", "errors"},
    "cost": {"attention", "config", "errors"},
    "reach": {"batch", "config", "model"},
    "compose": {"command", "config", "errors", "pretrained", "training", "typed"},
    "checkpoint": {"config", "durable", "errors", "typed"},
    "tasks": {"batch", "config", "document", "encoding", "errors"},
    "data": {"__init__", "batch", "config", "document", "embedded", "encoding", "errors", "hub"},
    "pretrained": {
        "batch",
        "checkpoint",
        "config",
        "embedded",
        "encoding",
        "errors",
        "hub",
        "model",
        "tasks",
        "terminal",
        "typed",
    },
    "known_tasks": {"config", "errors", "pretrained", "tasks"},
    "predict": {
        "batch",
        "checkpoint",
        "config",
        "document",
        "encoding",
        "errors",
        "known_tasks",
        "model",
        "pretrained",
        "tasks",
    },
    "predict_files": {"errors", "terminal"},
    "cli": {
        "command",
        "compose",
        "cost",
        "errors",
        "forecast",
        "predict",
        "predict_files",
        "pretrained",
        "sweep",
        "terminal",
        "training",
    },
    "forecast": {
        "attention",
        "batch",
        "compose",
        "config",
        "cost",
        "data",
        "errors",
        "known_tasks",
        "model",
        "pretrained",
        "reach",
        "terminal",
        "training",
    },
    "sweep": {
        "command",
        "compose",
        "config",
        "durable",
        "errors",
        "forecast",
        "lock",
        "terminal",
        "training",
        "typed",
    },
    "training": {
        "batch",
        "checkpoint",
        "command",
        "config",
        "cost",
        "data",
        "durable",
        "encoding",
        "errors",
        "globals",
        "known_tasks",
        "lock",
        "model",
        "pretrained",
        "tasks",
        "terminal",
        "typed",
    },
}

# Libraries that stay in certain rooms; everything else is free to all but STANDARD_ONLY.
HOMES = {
    "hydra": {"compose.cells"},  # beside train.py, eval.py and the plugin
    "omegaconf": {"compose.cells"},
    "lightning": {"training", "data.datamodule", "forecast.steps"},
    "transformers": {"pretrained"},
    "wandb": {"training.wandb_process", "training.wandb_logger"},
    "datasets": {"data"},
    "peft": {"training.adapters"},
    "matplotlib": {
        "training.figures",
        "forecast.reach_picture",
        "sweep.bars",
        "sweep.figures",
        "sweep.sketch",
    },
    "rich": {"training.report", "predict_files", "forecast", "cli"},
    "torchmetrics": {"tasks"},
    "typer": {"cli"},
}
STANDARD_ONLY = {
    "__init__",
    "registration",
    "errors",
    "durable",
    "lock",
    "config",
    "typed",
    "command",
    "embedded",
    "terminal",
    "caches",
}
LIBRARIES_OF = {"batch": {"torch", "numpy"}, "attention": {"torch", "numpy"}, "model": {"torch"}}

LINES = 300


def name_of(file):
    return ".".join(file.relative_to(SOURCE).with_suffix("").parts)


def room_of(module):
    return module.split(".")[0]


def imports_of(file):
    """The dotted names that a file imports anywhere, in functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports relatively"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms_imported(file):
    names = imports_of(file)
    version = {"__init__"} if "longspan" in names else set()
    modules = {name.split(".")[1] for name in names if name.startswith("longspan.")}
    return version | modules & {room_of(name_of(f)) for f in MODULES}


def libraries_imported(file):
    return {n.split(".")[0] for n in imports_of(file)} - {"longspan"} - sys.stdlib_module_names


def test_every_room_has_its_rule_and_every_rule_its_room():
    assert {room_of(name_of(file)) for file in MODULES} == set(ROOMS)


def test_the_rules_run_one_way():
    def below(room, seen=()):
        assert room not in seen, f"{' → '.join([*seen, room])} runs in a circle"
        for lower in ROOMS[room]:
            below(lower, (*seen, room))

    for room in ROOMS:
        below(room)


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_a_module_imports_only_what_its_room_may(file):
    room = room_of(name_of(file))
    assert rooms_imported(file) <= ROOMS[room] | {room}


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_a_library_stays_where_it_belongs(file):
    module, libraries = name_of(file), libraries_imported(file)
    room = room_of(module)
    for library in libraries & HOMES.keys():
        assert HOMES[library] & {room, module}, f"{module} imports {library}"
    if room in STANDARD_ONLY:
        assert not libraries
    if room in LIBRARIES_OF:
        assert libraries <= LIBRARIES_OF[room]


def test_a_backend_knows_no_other():
    backends = {"reference", "blocked", "native", "flex"}
    for file in SOURCE.glob("attention/*.py"):
        if file.stem in backends:
            named = {n.split(".")[2] for n in imports_of(file) if n.count(".") >= 2}
            assert not (named & backends) - {file.stem}


@pytest.mark.parametrize("name", ["train.py", "eval.py"])
def test_an_entry_point_is_hydra_and_one_call(name):
    file = ROOT / name
    assert libraries_imported(file) <= {"hydra", "omegaconf"}
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 53


@pytest.mark.parametrize("file", PLUGIN, ids=lambda file: file.stem)
def test_the_plugin_is_light_and_knows_no_training(file):
    """Every start of Hydra imports it."""
    assert libraries_imported(file) <= {"hydra", "hydra_plugins", "omegaconf", "optuna"}
    rooms = {"compose", "config", "errors", "lock", "sweep", "terminal", "training", "typed"}
    assert rooms_imported(file) <= rooms
    assert {n for n in imports_of(file) if n.startswith("longspan.training.")} <= {
        "longspan.training.run_folder",
        "longspan.training.run_folder.differing_fields",
    }
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LINES


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_a_file_can_be_read_at_one_sitting(file):
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= LINES


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_a_module_is_named_for_what_it_holds(file):
    assert not {"utils", "util", "helpers", "common", "misc", "manager"} & set(
        name_of(file).lower().split(".")
    )
