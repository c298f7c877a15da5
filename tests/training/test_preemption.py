"""A run whose machine is wanted back saves, says so by its exit code, and goes on as if nothing was.

What a run leaves that was killed outright is in `test_resume.py`; sweeps are in `tests/sweep/`.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from longspan.data.loader_process import outlive_notices
from longspan.errors import Preempted
from longspan.training import notice
from longspan.training.notice import Notice

ROOT = Path(__file__).resolve().parents[2]
PREEMPTED = 143


class SignalAt(L.Callback):
    """Sends its own process signals at the n-th call of hooks."""

    def __init__(self, *signals, pause=0.0, **occasion):
        self.signals, self.pause, self.left = signals, pause, dict(occasion)
        for name in occasion:
            setattr(self, name, lambda *arguments, hook=name, **options: self.pass_by(hook))

    def pass_by(self, hook):
        self.left[hook] -= 1
        if self.left[hook] == 0:
            for number in self.signals:
                os.kill(os.getpid(), number)
                time.sleep(self.pause)


def step_of(config):
    return torch.load(folder_of(config).last_checkpoint, weights_only=True)["global_step"]
