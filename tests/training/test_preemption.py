"""A run whose machine is wanted back saves, says so by its exit code, and goes on as if nothing was.

Runs that are killed outright are in `test_resume.py`, sweeps in `tests/sweep/test_preempted.py`.
"""

import functools
import logging
import os
import signal
import time

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from longspan.data.loader_process import outlive_notices
from longspan.errors import Preempted
from longspan.training.checkpoints import io
from longspan.training.checkpoints.folder import read_checkpoint
from longspan.training.notice import Notice, requeue
from longspan.training.run_folder import folder_of

PREEMPTED = 143
TERM, USR1 = signal.SIGTERM, signal.SIGUSR1


class SignalAt(L.Callback):
    """Sends its own process signals at the n-th call of a hook."""

    def __init__(self, *signals, pause=0.0, **occasion):
        self.signals, self.pause = signals, pause
        ((hook, self.left),) = occasion.items()
        setattr(self, hook, self.pass_by)

    def pass_by(self, *arguments, **options):
        self.left -= 1
        if self.left == 0:
            for number in self.signals:
                os.kill(os.getpid(), number)
                time.sleep(self.pause)


@pytest.fixture(scope="module")
def whole(start, make_breakable, outcome_of):
    """What the run of a name leaves that is never stopped."""

    @functools.cache
    def whole(name):
        config = make_breakable(name)
        assert start(config) == 0
        return outcome_of(config)

    return whole


def saved_step(config):
    newest = folder_of(config).last_checkpoints.newest_whole(mend=False)
    return read_checkpoint(newest)["global_step"]


# three steps an epoch; the first two have two batches each
@pytest.mark.parametrize(
    ("name", "preemptions"),
    [
        (
            "validation among gradients",
            [
                (SignalAt(TERM, on_before_backward=1), 1),  # at the end of its step
                (SignalAt(USR1, on_validation_batch_start=1), 1),  # before the batch after the step
                (SignalAt(TERM, on_train_epoch_end=1), 3),  # between epochs
                (SignalAt(TERM, on_validation_epoch_end=1), 5),  # with the next step
                (SignalAt(TERM, on_test_batch_start=1), 6),
            ],
        ),
        pytest.param(
            "saved at every second step",
            # in the last validation, which ends the training: at its begin, and once more
            [(SignalAt(TERM, on_validation_batch_start=k), s) for k, s in ((3, 5), (1, 5))],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "stopped early within an epoch",
            # in the validation that stops the training
            [(SignalAt(TERM, on_validation_start=3), 4)],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_preempted_run_goes_on(start, make_breakable, outcome_of, whole, name, preemptions):
    config = make_breakable(name)
    for preemption, step in preemptions:
        assert start(config, preemption) == PREEMPTED
        assert saved_step(config) == step
    assert not folder_of(config).report_file.exists()
    assert start(config) == 0
    assert outcome_of(config) == whole(name)


class RefuseStates(L.Callback):
    """Lets the disk refuse all checkpoints after that of a step, and keeps what is said then."""

    def __init__(self, step, said):
        self.step, self.said = step, said

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.global_step == self.step:
            logging.getLogger("longspan").addHandler(logging.FileHandler(self.said))
            io.write_checkpoint = refuse


def refuse(folder, *arguments):
    raise OSError(28, "No space left on device", str(folder))


def test_a_preempted_run_whose_state_the_disk_refuses_says_where_it_goes_on(
    start, make_breakable, outcome_of, whole, tmp_path
):
    config = make_breakable("validation among gradients")
    told = SignalAt(TERM, on_before_optimizer_step=3)
    assert start(config, RefuseStates(2, tmp_path / "said"), told) == PREEMPTED
    assert saved_step(config) == 2
    said = (tmp_path / "said").read_text()
    assert "step=00000003 cannot be written (No space left on device" in said
    assert "SIGTERM: stopped after step 3; the same command goes on from the checkpoint" in said
    assert start(config) == 0
    assert outcome_of(config) == whole("validation among gradients")


def test_a_second_signal_ends_at_once(start, make_breakable):
    config = make_breakable("validation between steps")
    twice = SignalAt(TERM, USR1, pause=1.1, on_before_backward=1)
    assert start(config, twice) == -USR1
    assert not folder_of(config).last_checkpoints.steps()
    # what a scheduler sends to all, and a launcher passes on to its own, is one
    assert start(config, SignalAt(TERM, TERM, on_before_backward=1)) == PREEMPTED
    assert saved_step(config) == 1


class NoSignalsOfOthers(L.Callback):
    """Ends the process with a code where Lightning has taken over the signals."""

    def on_train_start(self, trainer, pl_module):
        for number in (TERM, USR1):
            if not isinstance(getattr(signal.getsignal(number), "__self__", None), Notice):
                os._exit(7)


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A `scontrol` that says in a file what it was asked for; its exit code can be set."""
    file, program = tmp_path / "asked", tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {file}\necho no such job >&2\nexit ${{CODE:-0}}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return file


def test_slurm_queues_a_job_again_by_the_same_way(start, make_breakable, scontrol):
    slurm = {
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS": "1",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "localhost",
    }
    config = make_breakable("validation between steps")
    alone = NoSignalsOfOthers()
    assert start(config, alone, SignalAt(TERM, on_before_backward=1), **slurm) == PREEMPTED
    assert not scontrol.exists()  # it may be scancel; SLURM queues what it preempts by itself
    assert start(config, alone, SignalAt(USR1, on_before_backward=1), **slurm) == PREEMPTED
    assert saved_step(config) == 2
    assert scontrol.read_text() == "requeue 4711\n"
    assert not list(folder_of(config).path.rglob("hpc_ckpt*"))  # Lightning's own way


def test_a_requeue_names_a_job_of_an_array_and_says_where_it_fails(scontrol, monkeypatch, caplog):
    requeue()  # no job of SLURM's
    assert not scontrol.exists()
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "8")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    requeue()
    assert scontrol.read_text() == "requeue 8_3\n"
    assert "SLURM job 8_3 is queued again" in caplog.text
    monkeypatch.setenv("CODE", "1")
    requeue()
    assert "scontrol requeue 8_3 failed: no such job; queue the job again by hand" in caplog.text
    monkeypatch.setenv("PATH", "")
    requeue()
    assert "No such file or directory: 'scontrol'; queue the job again by hand" in caplog.text
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "$(rm)")
    requeue()
    assert "is no job" in caplog.text


def test_a_signal_where_nothing_can_be_saved_ends_the_program(scontrol, monkeypatch):
    before = signal.getsignal(TERM)
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    with pytest.raises(Preempted) as end, Notice():
        os.kill(os.getpid(), USR1)
    assert end.value.code == PREEMPTED
    assert scontrol.read_text() == "requeue 9\n"
    monkeypatch.setenv("LONGSPAN_SWEEP_PID", "1")  # of a cell: the sweep asks
    with pytest.raises(Preempted), Notice():
        os.kill(os.getpid(), USR1)
    assert scontrol.read_text() == "requeue 9\n"
    assert signal.getsignal(TERM) == before


def test_what_was_forked_from_a_training_dies_of_its_signals():
    with Notice() as notice:
        notice.defers = True
        is_there, says_so = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(says_so, b"!")
            time.sleep(60)
            os._exit(0)
        os.read(is_there, 1)  # Python forgets the signals that a child gets as it begins
        os.kill(child, TERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -TERM
        assert notice.signal is None


class Pids(torch.utils.data.Dataset):
    """The process that reads."""

    def __len__(self):
        return 6

    def __getitem__(self, place):
        return os.getpid()


def test_a_loader_outlives_a_signal_to_all_and_ends_with_its_training():
    options = {"batch_size": None, "num_workers": 1, "prefetch_factor": 1}
    batches = iter(DataLoader(Pids(), **options, worker_init_fn=outlive_notices))
    pid = next(batches)
    stranger = os.fork()
    if stranger == 0:
        os.kill(pid, TERM)
        os.kill(pid, USR1)
        os._exit(0)
    os.waitpid(stranger, 0)
    assert list(batches) == [pid] * 5

    batches = iter(DataLoader(Pids(), **options, worker_init_fn=outlive_notices))
    next(batches)
    (worker,) = batches._workers
    worker.terminate()
    worker.join(timeout=60)
    assert worker.exitcode == 0


def test_all_ranks_go_where_one_was_told(start, make_breakable, outcome_of, whole):
    config = make_breakable("two ranks")
    for occasion in ({"on_before_backward": 3}, {"on_validation_batch_start": 1}):
        # rank 1 alone; its own code is 0, as Lightning's launcher kills all for any other
        ends = start.ranks(config, [], [SignalAt(TERM, **occasion)])
        assert ends == [PREEMPTED, 0]
    assert start.ranks(config, [], []) == [0, 0]
    reference = make_breakable("two ranks")
    assert start.ranks(reference, [], []) == [0, 0]
    assert outcome_of(config) == outcome_of(reference)
