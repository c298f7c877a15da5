"""Sweep folders as sweeps leave them, without the training; and sweeps as users start them."""

import json
import random
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import yaml

from longspan.config import Config
from longspan.sweep.plan import Plan, cell_name
from longspan.typed import from_dict, to_dict

ROOT = Path(__file__).resolve().parents[2]
SPANS = ((1024, 2048, 4), (2048, 4096, 12), (4096, 8192, 14), (8192, 16384, 18), (16384, 32768, 12))


@pytest.fixture(scope="session")
def make_cell():
    """Write a cell folder with a report that follows a known law of window and layers."""

    def make(folder, window, layers, seed, quality=None, **extra):
        name = f"window={'null' if window is None else window},num_layers={layers},seed={seed}"
        cell = folder / name
        cell.mkdir(parents=True)
        config = from_dict(
            Config,
            {"experiment": folder.name, "name": name, "seed": seed}
            | {"model": {"window": window, "num_layers": layers}},
        )
        (cell / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
        noise = random.Random(name)
        wide = window if isinstance(window, int) else 1500
        if quality is None:
            quality = 0.93 - 0.25 / (layers * wide) ** 0.4 + noise.gauss(0, 0.008)
        microseconds = 12 + layers * (14 + 0.09 * wide) + noise.gauss(0, 0.5)
        report = {
            "split": "test",
            "monitor": ["accuracy", "max"],
            "metrics": {"loss": 1 - quality, "accuracy": quality, "macro_f1": quality - 0.02},
            "by_length": [
                {"above": above, "up_to": up_to, "documents": n, "accuracy": quality - i * 0.01}
                for i, (above, up_to, n) in enumerate(SPANS)
            ],
            "tokens_per_second": 1e6 / microseconds,
            "peak_memory_bytes": int((0.62 + layers * wide * 4e-4) * 2**30),
            "seconds": 80.0 + layers * 9,
            "parameters": 1_060_000 + layers * 198_000,
            "steps": 220,
            **extra,
        }
        (cell / "report.json").write_text(json.dumps(report))
        records = [
            {"step": 20 * n - 1, "dev/accuracy": quality * (1 - 0.8**n), "dev/loss": 0.8**n}
            for n in range(1, 12)
        ]
        (cell / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        return cell

    return make


@pytest.fixture(scope="session")
def write_sweep(make_cell):
    """Write a whole sweep folder; cells of `without` are planned, but not there."""

    def write(
        folder,
        windows=(16, 64, 256, None),
        layers=(1, 2, 4),
        seeds=(0, 1, 2),
        without=(),
        **more,
    ):
        cells = {}
        for window in windows:
            for number in layers:
                for seed in seeds:
                    values = {"model.window": window, "model.num_layers": number, "seed": seed}
                    shown = "null" if window is None else window
                    cells[f"window={shown},num_layers={number},seed={seed}"] = values
                    if (window, number, seed) not in without:
                        make_cell(folder, window, number, seed, **more)
        Plan(["model.window", "model.num_layers", "seed"], cells).merge_into(folder)
        return folder

    return write


@pytest.fixture
def make_sweep(tmp_path, write_sweep):
    """As `write_sweep`, in a folder of this test."""

    def make(*shape, name="w", **more):
        return write_sweep(tmp_path / name, *shape, **more)

    return make


@pytest.fixture
def make_pattern_sweep(tmp_path, make_cell):
    """A sweep over patterns, whose windows say little: cells are named after the group's option."""

    def make(patterns, seeds=(0, 1), layers=(2,), without=()):
        folder, cells = tmp_path / "patterns", {}
        for place, (pattern, number, seed) in enumerate(product(patterns, layers, seeds)):
            depth = {"model.num_layers": number} if len(layers) > 1 else {}
            values = {"model/pattern": pattern} | depth | {"seed": seed}
            name = cell_name({field: str(value) for field, value in values.items()})
            cells[name] = values
            if pattern not in without:
                pairs = {"predicted": {"pairs_per_token": 129.0}}
                made = make_cell(folder, 64, number, 100 * place + seed, 0.8 + place / 100, **pairs)
                made.rename(folder / name)
        Plan(list(values), cells).merge_into(folder)
        return folder

    return make


@pytest.fixture
def command(tiny_fields):
    """A sweep of two tiny cells, window=4 and window=8, into the folder s."""
    fields = dict(tiny_fields)
    files = fields.pop("data.files")
    del fields["model.window"], fields["trainer.enable_progress_bar"]
    return [
        sys.executable, str(ROOT / "train.py"), "-m", "data=files", "sweep.name=s", "sweep.calibrate=0",
        *(f"data.files.{split}={file}" for split, file in files.items()),
        *(f"{name}={value}" for name, value in fields.items()),
        "model.window=4,8",
    ]  # fmt: skip


@pytest.fixture
def start(command, tmp_path):
    """Start the sweep in `tmp_path` with further overrides."""

    def start(*more):
        return subprocess.Popen(
            [*command, *more], cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return start


@pytest.fixture
def run(start):
    """Run the sweep to its end."""

    def run(*more):
        process = start(*more)
        try:
            stdout, stderr = process.communicate(timeout=900)  # machines may be busy
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return subprocess.CompletedProcess([], process.returncode, stdout, stderr)

    return run
