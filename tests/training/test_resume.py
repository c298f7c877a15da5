"""A run that was killed, wherever it was, ends as one that was never stopped: the same bytes."""

import functools
import json
import os
import random
import resource
import signal

import lightning as L
import pytest
from lightning.pytorch.loggers import Logger

from longspan.training.halves import halves
from longspan.training.run_folder import folder_of

MOMENTS = sorted(
    name
    for name in dir(L.Callback)
    if name.startswith("on_") and name not in ("on_exception", "on_load_checkpoint")
)


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

    ends_with = -signal.SIGKILL

    def __init__(self, number=0, **occasion):
        super().__init__()
        self.number, self.occasion = number, occasion

    def strike(self):
        os.kill(os.getpid(), signal.SIGKILL)


class KillInWriting(KillAt):
    """Lets the kernel kill the process as the file that comes next has so many bytes."""

    ends_with = -signal.SIGXFSZ

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


@pytest.fixture(scope="module")
def whole(start, make_breakable, outcome_of, tmp_path_factory):
    """What the run of a name leaves that is never stopped, and the moments that it passes."""

    @functools.cache
    def whole(name):
        config, passed = make_breakable(name), tmp_path_factory.mktemp("passed") / "moments"
        if name == "two ranks":
            assert start.ranks(config, [WriteMoments(passed)], []) == [0, 0]
        else:
            assert start(config, WriteMoments(passed)) == 0
        return outcome_of(config), passed.read_text().split()

    return whole


@pytest.fixture
def break_off(start, make_breakable, outcome_of, whole):
    """Kill a run at moments, one start after the other, and let it end: what differs then."""

    def break_off(name, *kills):
        expected, config = whole(name)[0], make_breakable(name)
        for kill in kills:
            assert start(config, kill) == kill.ends_with, vars(kill)
        assert start(config) == 0
        found = outcome_of(config)
        return {n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n)}

    return break_off


@pytest.mark.parametrize(
    "kills",
    [
        # in a step: of gradients that are being accumulated, and of the last one of them
        pytest.param([KillAt(on_before_backward=7), KillAt(on_before_optimizer_step=2)], id="step"),
        # during a checkpoint: before it is written, and at a byte of it
        pytest.param(
            [KillAt(on_save_checkpoint=2), KillInWriting(5000, on_save_checkpoint=1)],
            id="checkpoint",
        ),
        # in a validation, and as it ends
        pytest.param(
            [KillAt(on_validation_batch_start=3), KillAt(on_validation_epoch_end=1)],
            id="validation",
            marks=pytest.mark.slow,
        ),
        # between epochs, and in the test that follows training
        pytest.param(
            [
                KillAt(on_train_epoch_end=1),
                KillAt(on_train_epoch_start=1),
                KillAt(on_test_batch_end=1),
            ],
            id="between epochs",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_that_was_killed_ends_as_one_that_was_not(break_off, kills):
    assert break_off("validation among gradients", *kills) == set()


@pytest.mark.parametrize(
    "name",
    [
        "stopped early within an epoch",
        pytest.param("saved at every second step", marks=pytest.mark.slow),
        pytest.param("masked language modelling", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_killed_anywhere(break_off, whole, name):
    _, moments = whole(name)
    number = random.Random(name).randrange(1, len(moments))
    assert break_off(name, KillAt(number)) == set(), (number, moments[number - 1])


@pytest.mark.slow
def test_any_run_that_was_killed_anywhere(break_off, whole, any_run):
    draw = random.Random(f"any {any_run}")
    _, moments = whole(any_run)
    for number in draw.sample(range(1, len(moments)), 8):
        assert break_off(any_run, KillAt(number)) == set(), (number, moments[number - 1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["validation among gradients", "saved at every step", "a stream"])
def test_however_often_it_is_killed(start, make_breakable, outcome_of, whole, name):
    draw = random.Random(name)
    for _ in range(3):
        config, numbers = make_breakable(name), []
        is_done = False
        while not is_done:
            # later than the moments of a start that gets no further, so that there is an end
            numbers.append(draw.randrange(10, 30 + 3 * len(numbers)))
            end = start(config, KillAt(numbers[-1]))
            assert end in (0, KillAt.ends_with), numbers
            is_done = end == 0
        assert outcome_of(config) == whole(name)[0], numbers
        assert len(numbers) > 2


@pytest.mark.slow
def test_a_rank_that_is_killed(start, make_breakable, outcome_of, whole):
    expected, moments = whole("two ranks")
    draw = random.Random(0)
    for _ in range(4):
        config, killed = make_breakable("two ranks"), draw.randrange(2)
        kill = [KillAt(draw.randrange(10, len(moments)))]
        ends = start.ranks(config, *([kill, []] if killed == 0 else [[], kill]))
        assert ends[killed] == KillAt.ends_with
        assert start.ranks(config, [], []) == [0, 0]
        assert outcome_of(config) == expected, (killed, kill[0].number)


class Tracker(Logger):
    """Leaves every record that it is given in a file, but for speeds."""

    name, version = "tracker", "0"

    def __init__(self, file):
        super().__init__()
        self.file = file

    def log_hyperparams(self, *arguments):
        pass

    def log_metrics(self, metrics, step):
        numbers = {n: float(v) for n, v in metrics.items() if not n.startswith("speed/")}
        with self.file.open("a") as file:
            file.write(json.dumps([step, numbers]) + "\n")


class TrackIn(L.Callback):
    """Gives the trainer a tracker beside those of the run."""

    def __init__(self, file):
        self.tracker = Tracker(file)

    def setup(self, trainer, pl_module, stage):
        if self.tracker not in trainer.loggers:
            trainer.loggers = [*trainer.loggers, self.tracker]


def test_a_tracker_goes_on_at_the_step_of_the_checkpoint(start, make_breakable, tmp_path):
    name, files = "saved at every second step", [tmp_path / str(number) for number in range(3)]
    config = make_breakable(name)
    assert start(config, TrackIn(files[0])) == 0
    config = make_breakable(name)
    assert start(config, TrackIn(files[1]), KillAt(on_before_optimizer_step=4)) == KillAt.ends_with
    assert start(config, TrackIn(files[2])) == 0
    whole, before, after = (
        [json.loads(line) for line in f.read_text().splitlines()] for f in files
    )
    assert before == whole[: len(before)]
    assert after == [record for record in whole if record[0] >= 2]  # optimiser steps before it


class ReadSteps(L.Callback):
    """Asks for the steps of the training before the checkpoint is restored."""

    def setup(self, trainer, pl_module, stage):
        if stage == "fit":
            assert trainer.estimated_stepping_batches > 0


@pytest.mark.slow
def test_asking_for_the_steps_of_a_training_does_not_move_it(
    start, make_breakable, outcome_of, whole
):
    name = "saved at every second step"
    config = make_breakable(name)
    assert start(config, KillAt(on_before_optimizer_step=3)) == KillAt.ends_with
    assert start(config, ReadSteps()) == 0
    assert outcome_of(config) == whole(name)[0]


class Misfortune(L.Callback):
    """A step whose gradient is not finite, and batches that memory does not hold."""

    def setup(self, trainer, pl_module, stage):
        if stage == "fit":
            fits = pl_module.memory_guard._parts_that_fit
            pl_module.memory_guard._parts_that_fit = lambda batch: (
                fits(batch)
                if trainer.fit_loop.epoch_loop.batch_idx % 2
                else halves(batch, whole_documents=False)
            )

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step in (1, 4):
            next(p for p in pl_module.parameters() if p.grad is not None).grad[0] = float("nan")


def test_what_went_wrong_before_a_kill_is_counted_after_it(start, make_breakable, outcome_of):
    name = "saved at every second step"
    whole, config = make_breakable(name), make_breakable(name)
    assert start(whole, Misfortune()) == 0
    assert start(config, Misfortune(), KillAt(on_before_optimizer_step=4)) == KillAt.ends_with
    assert start(config, Misfortune()) == 0
    report = folder_of(config).read_report()
    assert report["bad_steps"] == 2
    assert report["split_batches"] > 2
    found = outcome_of(config)
    assert found == outcome_of(whole)
    assert b"train/bad_steps" in found["metrics.jsonl"]
