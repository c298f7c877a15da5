"""What a malicious file would do if anything ran it: make a folder that a test looks for."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest


class Bomb:
    """Makes a folder where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.canary),)


@pytest.fixture
def canary(tmp_path):
    """The folder that is there when something ran, checked after the test."""
    canary = tmp_path / "ran"
    yield canary
    assert not canary.exists()


@pytest.fixture
def plant(canary):
    """Put pickles that make the canary in the place of a file: bare, or as torch saves them."""

    def plant(file: Path, zipped: bool = False) -> None:
        bomb = pickle.dumps({"state_dict": Bomb(canary), "global_step": 1}, protocol=2)  # torch's
        if not zipped:
            file.write_bytes(bomb)
            return
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", bomb)
            archive.writestr("archive/version", "3\n")

    return plant


@pytest.fixture
def code(canary):
    """Python that makes the canary, as a malicious folder brings it along."""
    return (
        f"import os\nos.mkdir({str(canary)!r})\n"
        "from transformers import PreTrainedConfig, PreTrainedTokenizerFast\n"
        "class Config(PreTrainedConfig):\n    pass\n"
        "class Tokens(PreTrainedTokenizerFast):\n    pass\n"
    )
