"""A run that was killed, wherever it was, ends as one that was never stopped: the same bytes."""

import functools
import os
import random
import resource
import signal

import lightning as L
import pytest
import torch

from longspan.training.run_folder import folder_of

KILLED = -signal.SIGKILL
# what a run's report says of its machine and its clock; everything else must be equal
OF_THE_CLOCK = {"tokens_per_second", "peak_memory_bytes", "seconds", "predicted"}
MOMENTS = sorted(
    name
    for name in dir(L.Callback)
    if name.startswith("on_") and name not in ("on_exception", "on_load_checkpoint")
)

DROPOUT = {"model.hidden_dropout": 0.1, "model.attention_dropout": 0.1, "task.head_dropout": 0.1}
# five batches an epoch: the third step of an epoch has one batch, and a validation after the third
# batch falls among accumulated gradients
PLAIN = {"model.num_layers": 1, "trainer.accumulate_grad_batches": 2, **DROPOUT}
CONFIGS = {
    "validation at the end of an epoch": {},
    "validation between steps": {"trainer.val_check_interval": 2},
    "validation among gradients": {"trainer.val_check_interval": 3},
    "validation over epochs": {
        "trainer.val_check_interval": 4,
        "trainer.check_val_every_n_epoch": None,
    },
    "saved at every step": {"checkpoint.every_n_steps": 1, "trainer.val_check_interval": 2},
    "saved at every second step": {"checkpoint.every_n_steps": 2, "trainer.max_steps": 5},
    "stopped early": {
        "checkpoint.monitor": "loss",
        "checkpoint.mode": "max",  # falls from the first epoch on
        "checkpoint.patience": 1,
        "trainer.max_epochs": 5,
    },
    "stopped early within an epoch": {
        "checkpoint.monitor": "loss",
        "checkpoint.mode": "max",
        "checkpoint.patience": 2,
        "trainer.val_check_interval": 2,
        "trainer.max_epochs": 5,
    },
    "no dev split": {"data.dev_fraction": 0, "checkpoint.every_n_steps": 2},
    "loader processes": {"data.num_workers": 2, "trainer.val_check_interval": 2},
}


def moment(name):
    def pass_by(self, *arguments, **options):
        self.passed.append(name)
        if len(self.passed) == self.number or self.passed.count(name) == self.occasion.get(name):
            self.strike()

    return pass_by


class Moments(L.Callback):
    """Counts the moments of a run: Lightning's hooks, in the order that they come.

    Attributes:
        passed: names of those that came.
    """

    number, occasion = 0, {}

    def __init__(self):
        self.passed = []

    def strike(self):
        raise NotImplementedError


for name in MOMENTS:
    setattr(Moments, name, moment(name))


class KillAt(Moments):
    """Kills its own process at a moment: the n-th of all, or the n-th of a name."""

    def __init__(self, number=0, **occasion):
        super().__init__()
        self.number, self.occasion = number, occasion

    def strike(self):
        os.kill(os.getpid(), signal.SIGKILL)


class KillInWriting(KillAt):
    """Lets the kernel kill the process as the file that comes next has so many bytes."""

    def __init__(self, size, **occasion):
        super().__init__(**occasion)
        self.size = size

    def strike(self):
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))


class WriteMoments(Moments):
    """Leaves the names of all moments in a file."""

    def __init__(self, file):
        super().__init__()
        self.file = file

    def on_test_end(self, *arguments):
        self.file.write_text("\n".join(self.passed))


def outcome(config):
    """All that a run leaves and that no clock decides: bytes of its files, tensors of its state."""
    folder = folder_of(config)
    files = [folder.path / "metrics.jsonl", *folder.model.iterdir(), *folder.predictions.iterdir()]
    place = config.runs_dir.encode()  # which model/config.json names
    found = {file.name: file.read_bytes().replace(place, b"") for file in files}
    report = folder.read_report()
    found |= leaves({name: v for name, v in report.items() if name not in OF_THE_CLOCK}, "report")
    state = torch.load(folder.last_checkpoint, weights_only=True)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        found |= leaves(state[part], part)
    return found


def leaves(tree, path):
    if isinstance(tree, dict):
        branches = tree.items()
    elif isinstance(tree, (list, tuple)):
        branches = enumerate(tree)
    else:
        return {path: tree.numpy().tobytes() if isinstance(tree, torch.Tensor) else tree}
    return {at: leaf for k, branch in branches for at, leaf in leaves(branch, f"{path}.{k}").items()}


def differences(config, expected):
    found = outcome(config)
    return {name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)}


@pytest.fixture(scope="module")
def prepare(make_config, tiny_fields, tmp_path_factory):
    """Make the config of a run, in a folder of its own, by the name of what is special about it."""
    without_dev = {s: file for s, file in tiny_fields["data.files"].items() if s != "dev"}

    def prepare(name):
        fields = PLAIN | CONFIGS[name]
        if "data.dev_fraction" in fields:
            fields["data.files"] = without_dev
        return make_config(tmp_path_factory.mktemp("runs"), **fields)

    return prepare


@pytest.fixture(scope="module")
def whole(start, prepare, tmp_path_factory):
    """What the run of a name leaves that is never stopped, and the moments that it passes."""

    @functools.cache
    def whole(name):
        config, passed = prepare(name), tmp_path_factory.mktemp("passed") / "moments"
        assert start(config, WriteMoments(passed)) == 0
        return outcome(config), passed.read_text().split()

    return whole


@pytest.fixture
def break_off(start, prepare, whole):
    """Kill a run at moments, one start after the other, and let it end: what differs then."""

    def break_off(name, *kills):
        config = prepare(name)
        for kill in kills:
            assert start(config, kill) == KILLED, vars(kill)
        assert start(config) == 0
        return differences(config, whole(name)[0])

    return break_off


@pytest.mark.parametrize(
    "kills",
    [
        # in a step: of gradients that are being accumulated, and of one that ends them
        [KillAt(on_before_backward=7), KillAt(on_after_backward=4)],
        [KillAt(on_before_optimizer_step=5)],
        # in a validation, and as it ends
        [KillAt(on_validation_batch_start=3), KillAt(on_validation_epoch_end=2)],
        # during a checkpoint: before it is written, and at a byte of it
        [KillAt(on_save_checkpoint=2), KillInWriting(5000, on_save_checkpoint=1)],
        # between epochs, and in the test that follows training
        [KillAt(on_train_epoch_end=1), KillAt(on_train_epoch_start=1), KillAt(on_test_batch_end=1)],
    ],
    ids=["step", "end of a step", "validation", "checkpoint", "between epochs"],
)
def test_a_run_that_was_killed_ends_as_one_that_was_not(break_off, kills):
    assert break_off("validation among gradients", *kills) == set()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (place > 2)) for place, name in enumerate(CONFIGS)],
)
def test_wherever_it_is_killed(break_off, whole, name):
    draw = random.Random(name)
    for _ in range(2):
        _, moments = whole(name)
        last = draw.randrange(10, len(moments))
        assert break_off(name, KillAt(last)) == set(), (last, moments[last - 1])
