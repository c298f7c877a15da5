"""What cells will take, told before the first one runs: `longspan cost`, for a sweep of itself.

Processes of their own calibrate, so that the sweep stays small: as many at once as cells will run
at once, which share the machine as the cells will.
"""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from longspan.command import quiet_lightning, set_up_logging, user_errors
from longspan.lock import Lock, TakenError
from longspan.sweep.cell import end_with_parent
from longspan.training.notice import PARENT_VARIABLE
from longspan.training.run_folder import write_text

FORECAST = "forecast.json"

log = logging.getLogger(__name__)


def predict(
    folder: Path, cells: Mapping[str, Sequence[str]], seconds: float, at_once: int = 1
) -> None:
    """Predict what no earlier command has, into forecast.json; what fails is one warning.

    Args:
        folder: of the sweep.
        cells: name to overrides of those that are about to run.
        seconds: of the calibration.
        at_once: cells that will run side by side.
    """
    known = read_forecast(folder)
    asked = {
        name: list(overrides)
        for name, overrides in cells.items()
        if known.get(name, {}).get("overrides") != list(overrides)
    }
    if not asked:
        return
    try:
        with Lock(folder / ".locks" / FORECAST):
            log.info(
                "%s: %g seconds of calibration, to predict times (sweep.calibrate=0: none)",
                folder,
                seconds,
            )
            found = _ask({"cells": asked, "seconds": seconds}, at_once)
            for name, cell in found.items():
                cell["overrides"] = asked[name]
            text = json.dumps(read_forecast(folder) | found, indent=2)
            write_text(folder / FORECAST, text + "\n")
    except TakenError:
        return  # another sweep over the same cells
    except (ChildProcessError, ValueError) as error:
        log.warning("%s: no times are predicted: %s", folder, error)
        return
    total = sum(cell["training_seconds"] or 0.0 for cell in found.values()) / at_once
    log.info("%s: about %.0f min of training", folder, max(1.0, total / 60))


def read_forecast(folder: Path) -> dict[str, dict[str, Any]]:
    """Name of a cell to what was predicted for it; empty where there is nothing to be read."""
    try:
        data = json.loads((folder / FORECAST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _ask(question: dict[str, Any], at_once: int) -> dict[str, dict[str, Any]]:
    """The answer of one of `at_once` processes; the others are there to be in its way.

    Raises:
        ChildProcessError: it found no answer.
    """
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // at_once))}  # as joblib does
    environment = (threads if at_once > 1 else {}) | os.environ
    environment[PARENT_VARIABLE] = str(os.getpid())
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", __name__], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(at_once)
    ]  # fmt: skip
    try:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(question))
            process.stdin.close()
            process.stdin = None  # `communicate` would write to it
        answer, said = processes[0].communicate()
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    if processes[0].returncode:
        lines = said.strip().splitlines() or [f"code {processes[0].returncode}"]
        raise ChildProcessError(lines[-1].removeprefix("error: "))
    return json.loads(answer)


def main() -> None:
    """Answer a question from standard input on standard output."""
    set_up_logging()
    end_with_parent()
    asked = json.load(sys.stdin)
    with user_errors():
        from longspan.compose.cells import Cell, compose_cells
        from longspan.forecast.forecast import forecast

        quiet_lightning()
        cells = []
        for name, overrides in asked["cells"].items():
            (cell,) = compose_cells(overrides)
            cells.append(Cell(name, cell.config))
        forecasts, _ = forecast(cells, seconds=asked["seconds"])
    answer = {
        f.name: {
            "tokens_per_second": f.tokens_per_second,
            "seconds_per_step": f.step_seconds,
            "training_seconds": f.total_seconds,
        }
        for f in forecasts
    }
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
