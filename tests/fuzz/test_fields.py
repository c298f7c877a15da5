"""Fields with any value: a run is possible, or one line names the field."""

import math
import os
import types
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import torch
import yaml
from hypothesis import given, note, settings
from hypothesis import strategies as st

from longspan.compose.configuration import as_config
from longspan.config import Config, EvalConfig, SweepConfig
from longspan.training import report, run, run_callbacks
from longspan.typed import from_dict, to_dict

# a training that is broken off here leaves its profiler to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

FUZZ = settings.get_profile(os.environ.get("LONGSPAN_FUZZ", "fuzz"))
TEXTS = ("", " ", "x", "null", "auto", "a/b", "../x", "/dev/null", "é\u202e\u0301", "\0", "\udc80",
         "a\nb", "%s{}", "x" * 300, "[", "embedded:nothing", "package:nothing", "w0=1;2")  # fmt: skip
INTEGERS = (0, 1, -1, 2, 3, 7, 8, 32, 2**31, 2**32, 2**63, -(2**63), 10**30)
NUMBERS = (0.0, -0.0, 0.5, 1.0, 1.5, -0.5, 1e-320, 1e300, math.nan, math.inf, -math.inf)

texts = st.sampled_from(TEXTS) | st.text(max_size=8)
integers = st.sampled_from(INTEGERS) | st.integers(-3, 40) | st.integers(1, 8)
numbers = st.sampled_from(NUMBERS) | st.floats(-2, 2)
scalars = st.none() | st.booleans() | integers | numbers | texts
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)


def leaves(cls, prefix=""):
    """(dotted name, annotation) of every field that holds no dataclass."""
    found = []
    for name, hint in get_type_hints(cls).items():
        members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        inner = [member for member in members if is_dataclass(member)]
        for member in inner:
            found += leaves(member, f"{prefix}{name}.")
        if not inner:
            found.append((prefix + name, hint))
    return list(dict.fromkeys(found))


def of_type(hint):
    """Values of a field's type, in range or not."""
    origin, members = get_origin(hint), get_args(hint)
    simple = {int: integers, float: numbers | integers, str: texts, bool: st.booleans(),
              type(None): st.none(), Any: anything}  # fmt: skip
    if hint in simple:
        return simple[hint]
    if origin in (Union, types.UnionType):
        return st.one_of([of_type(member) for member in members])
    if origin is Literal:
        return st.sampled_from(members)
    if origin is tuple and members[-1] is Ellipsis:
        return st.lists(of_type(members[0]), max_size=4)
    if origin is tuple:
        return st.tuples(*map(of_type, members)).map(list)
    assert origin is dict, hint
    return st.dictionaries(st.sampled_from(("train", "dev", "test", "a")), of_type(members[1]))


@st.composite
def changed(draw, cls, base=None, excluded=(), share_of_nonsense=3):
    """Nested fields of `cls`, and the dotted names of the few that were changed."""
    tree, names = {}, set()
    for name, value in (base or {}).items():
        put(tree, name, value)
    candidates = [leaf for leaf in leaves(cls) if leaf[0] not in excluded]
    for _ in range(draw(st.integers(1, 4))):
        name, hint = draw(st.sampled_from(candidates))
        typed = draw(st.integers(0, share_of_nonsense))
        value = draw(of_type(hint) if typed else anything)
        if not draw(st.integers(0, 15)):
            name = draw(st.sampled_from((name[:-1], name + "s", name + ".x", name.upper(), "x")))
        elif not draw(st.integers(0, 15)):
            name = name.rpartition(".")[0] or name  # a whole group
        put(tree, name, value)
        names.add(name)
    return tree, names


def put(tree, name, value):
    *parents, leaf = name.split(".")
    for key in parents:
        if not isinstance(tree.get(key), dict):
            tree[key] = {}
        tree = tree[key]
    tree[leaf] = value


def names_one(line, names):
    """Whether a line names a field that was changed, or what it was put into."""
    return any(
        name in line or any(line.startswith((f"{p}=", f"{p} is not")) for p in parents(name))
        for name in names
    )


def parents(name):
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def test_every_field_is_drawn():
    """A field that a new type would hide from the fuzz is an error here."""
    for cls in (Config, EvalConfig, SweepConfig):
        assert {f.name for f in fields(cls)} == {n.split(".")[0] for n, _ in leaves(cls)}
        for _, hint in leaves(cls):
            of_type(hint).validate()
    assert len(leaves(Config)) > 150


@settings(FUZZ, max_examples=FUZZ.max_examples * 8)
@given(changed(Config))
def test_the_config_of_a_run(verdict, given):
    tree, names = given
    tree = {"model": {}, "task": {}, "data": {}} | tree
    config, line = verdict(as_config, tree)
    if line is not None:
        note(line)
        assert names_one(line, names)
    else:  # what the run folder keeps is read back as the same run
        kept = yaml.safe_dump(to_dict(config))
        assert to_dict(from_dict(Config, yaml.safe_load(kept))) == to_dict(config)


@settings(FUZZ, max_examples=FUZZ.max_examples * 2)
@given(changed(EvalConfig, {"run": "runs/x"}) | changed(SweepConfig))
def test_other_configs(verdict, given):
    tree, names = given
    cls = SweepConfig if "run" not in tree and not names & {"run"} else EvalConfig
    _, line = verdict(from_dict, cls, tree, "sweep" if cls is SweepConfig else "")
    assert line is None or names_one(line, names)


# --- as far as a step of training -------------------------------------------------------------------

# more processes than this one, accounts, and folders outside the test's own
EXCLUDED = ("trainer.num_nodes", "trainer.devices", "trainer.strategy", "logger.kind", "runs_dir",
            "logger.mode", "trainer.plugins", "trainer.accelerator")  # fmt: skip
NUMBER_OF_PROCESSES = ("data.num_workers", "data.num_proc")
STEPS = 3


class EnoughError(Exception):
    """The run is possible."""


class EndsSoon(run_callbacks.Throughput):
    """Takes the place of `Throughput`; some of the trainings here would never end."""

    def __init__(self, began):
        super().__init__(began)
        self.steps = 0

    def on_train_batch_end(self, *arguments):
        super().on_train_batch_end(*arguments)
        self.steps += 1
        if self.steps == STEPS:
            raise EnoughError


@pytest.fixture
def training(tiny_fields, new_folder, monkeypatch):
    """Train a tiny run with some fields changed, for a few steps."""
    monkeypatch.setattr(run_callbacks, "Throughput", EndsSoon)
    monkeypatch.setattr(report, "show", lambda *_: None)
    monkeypatch.chdir(new_folder())

    def train(tree):
        try:
            return run.train(as_config(tree))
        except EnoughError:
            return None
        finally:
            torch.use_deterministic_algorithms(False)

    return train


@pytest.fixture(scope="session")
def tiny_base(tiny_fields):
    return tiny_fields | {"trainer.max_epochs": 1, "data.num_workers": 0}


@settings(FUZZ, max_examples=FUZZ.max_examples // 2)
@given(st.data())
def test_a_training(verdict, training, tiny_base, new_folder, data):
    excluded = EXCLUDED + NUMBER_OF_PROCESSES
    base = tiny_base | {"runs_dir": str(new_folder())}
    tree, names = data.draw(changed(Config, base, excluded, share_of_nonsense=20))
    _, line = verdict(training, tree)
    if line is not None:  # where a field asks for another one, the line may name that one
        note(line)
        assert names_one(line, names | {name for name, _ in leaves(Config)} | {"label of"})
