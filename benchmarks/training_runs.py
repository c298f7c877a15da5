"""Trainings that a benchmark is made of: each a fresh `train.py`, none done twice."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def train_once(
    experiment: str, name: str, overrides: Sequence[str], runs_dir: str, jobs: int
) -> dict[str, Any]:
    """The report of a run, which is trained first unless that was done.

    Args:
        experiment, name: of the run folder.
        overrides: of the command line; with `experiment=…` first where it is a preset.
        runs_dir: folder of the experiments.
        jobs: runs at once: each gets its share of the cores, as threads that wait for each other's
            cores would crawl.
    """
    file = report_file(experiment, name, runs_dir)
    if not file.is_file():
        command = [sys.executable, "train.py", *overrides, f"name='{name}'", f"runs_dir={runs_dir}"]
        command += ["logger=none", "trainer.enable_progress_bar=false"]
        threads = str(max(1, (os.cpu_count() or 1) // jobs))
        environment = os.environ | {"OMP_NUM_THREADS": threads}
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=environment)
    return json.loads(file.read_text())


def report_file(experiment: str, name: str, runs_dir: str) -> Path:
    """Written last: it is there where the run is finished."""
    return ROOT / runs_dir / experiment / name / "report.json"


def parser_of(doc: str | None, result: Path, *, seeds: int, jobs: int) -> argparse.ArgumentParser:
    """What every benchmark made of trainings can be told.

    Args:
        doc: of its module; the first line describes it.
        result: where it writes if it is not told otherwise.
        seeds: so many, from 0 on.
        jobs: runs at once.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0] if doc else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(seeds)))
    parser.add_argument("--jobs", type=int, default=jobs, help="runs at once, sharing the cores")
    parser.add_argument("--runs-dir", default="runs")
    parser.add_argument("--output", type=Path, default=result)
    parser.add_argument("--overrides", nargs="*", default=[], help="further ones, for train.py")
    return parser
