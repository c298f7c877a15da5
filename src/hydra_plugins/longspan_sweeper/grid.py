"""A grid whose cells have names and know what they did before: `hydra/sweeper=grid`."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

from longspan.compose.configuration import as_config, placed
from longspan.config import Config, SweepConfig
from longspan.errors import FieldError, Preempted, UserError
from longspan.lock import owner_of
from longspan.sweep.cell import PLAIN, corruption_of, record_failure
from longspan.sweep.paths import CellPaths
from longspan.sweep.plan import Plan, as_value, cell_name, check_names, sweep_name
from longspan.sweep.prediction import predict
from longspan.sweep.process import Outcome
from longspan.sweep.stopping import listening
from longspan.training.run_folder import differing_fields
from longspan.typed import from_dict

BUSY_POLL_SECONDS = 2.0
# a log file is no terminal
QUIET = "trainer.enable_progress_bar=false"

log = logging.getLogger("longspan.sweep")


@dataclass(frozen=True)
class Cell:
    """A cell, and the command line that makes it."""

    name: str
    values: dict[str, Any]
    overrides: list[str]


class GridSweeper(BasicSweeper):
    """Hydra's basic sweeper, for cells that are run folders.

    Args:
        params: fields to values with commas; the command line adds to them and overrules them.
        max_batch_size: of Hydra's basic sweeper; all cells are handed to the launcher at once.
    """

    def __init__(
        self, params: dict[str, str] | None = None, max_batch_size: int | None = None
    ) -> None:
        super().__init__(max_batch_size, dict(params or {}))

    def sweep(self, arguments: list[str]) -> list[Outcome]:
        """Run what is not finished; what cannot run stops everything before it starts."""
        swept, fixed, combinations = self._expand(arguments)
        self._name_sweep(swept, fixed)
        cells = [self._cell(overrides, swept) for overrides in combinations]
        check_names([(cell.name, cell.overrides) for cell in cells])
        ready = self._check(cells)
        plan = Plan(swept, {cell.name: cell.values for cell in cells}, *self._weighing())
        plan.merge_into(self.folder)
        self._predict(ready)
        return self._launch_all(ready)

    @property
    def settings(self) -> SweepConfig:
        assert self.config is not None
        return from_dict(SweepConfig, OmegaConf.to_container(self.config.sweep), "sweep")

    @property
    def folder(self) -> Path:
        assert self.settings.name is not None
        return Path(self.settings.dir) / self.settings.name

    def _weighing(self) -> tuple[Any, Any]:
        return self.settings.cost, self.settings.ceiling

    def _expand(self, arguments: list[str]) -> tuple[list[str], list[str], list[list[str]]]:
        """Swept fields, overrides that all cells share, and those of every cell."""
        given = self._parse(arguments)
        merged = self._parse(self._parse_config()) + given
        swept = list(self.params)
        for override in given:
            if override.is_sweep_override():
                swept.append(override.get_key_element())
        swept = list(dict.fromkeys(swept))
        fixed = [o.input_line for o in given if o.get_key_element() not in swept]
        if not swept:
            raise UserError(
                "-m has nothing to sweep over; give a field several values, model.window=64,256, "
                "or choose sweep=window_layers"
            )
        (combinations,) = self.split_arguments(merged, None)
        return swept, fixed, combinations

    def _parse(self, arguments: list[str]) -> list[Any]:
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        return parser.parse_overrides(arguments)

    def _name_sweep(self, swept: list[str], fixed: list[str]) -> None:
        """Into the configuration, where the callback at the end finds it."""
        assert self.config is not None
        if self.config.sweep.name is None:
            choice = self.config.hydra.runtime.choices["sweep"]
            with open_dict(self.config):
                self.config.sweep.name = sweep_name(
                    None if choice == PLAIN else choice, swept, fixed
                )

    def _cell(self, overrides: Sequence[str], swept: Sequence[str]) -> Cell:
        pairs = dict(override.split("=", 1) for override in overrides)
        values = {field: pairs[field] for field in swept}
        name = cell_name(values)
        own = [f"sweep.name={_quoted(self.settings.name or '')}", f"sweep.cell={_quoted(name)}"]
        if "trainer.enable_progress_bar" not in pairs:
            own.append(QUIET)
        return Cell(name, {f: as_value(v) for f, v in values.items()}, [*overrides, *own])

    def _check(self, cells: Sequence[Cell]) -> list[Cell]:
        """The cells that are still to run, each with a valid configuration.

        Raises:
            UserError: a field or a type is wrong, no cell is possible, or folders hold runs of
                another configuration.
        """
        ready, finished, wrong = [], 0, {}
        differing: dict[str, list[str]] = {}
        for cell in cells:
            try:
                config = self._config(cell)
            except FieldError:
                raise  # a slip, in the hundredth cell as in the first
            except UserError as error:
                wrong[cell.name] = error
                continue
            paths = CellPaths(self.folder, cell.name)
            differences = [] if config is None else differences_of(paths, config)
            if differences and not self.settings.overwrite:
                differing[cell.name] = differences
            elif differences:
                ready.append(Cell(cell.name, cell.values, [*cell.overrides, "overwrite=true"]))
            elif (
                paths.folder.is_finished
                and not (config and config.overwrite)
                and (corruption_of(paths.folder) is None)
            ):
                finished += 1
            else:
                ready.append(cell)
        if len(wrong) == len(cells):
            raise next(iter(wrong.values()))
        if differing:
            raise UserError(_say_differing(self.folder, differing))
        for name, error in wrong.items():
            log.warning("%s cannot run: %s", name, error)
            record_failure(CellPaths(self.folder, name), str(error))
        log.info("%s: %d cells, %d finished before", self.folder, len(cells), finished)
        return ready

    def _config(self, cell: Cell) -> Config | None:
        """The configuration of a cell, checked; None where only another run will tell it."""
        assert self.hydra_context is not None
        assert self.config is not None
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, cell.overrides)
        with open_dict(composed):
            del composed["hydra"]
        plain: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        data = placed(plain, [])
        return None if data["first"] else as_config(data)

    def _predict(self, cells: Sequence[Cell]) -> None:
        assert self.config is not None
        at_once = cells_at_once(self.config.hydra.launcher)
        if cells and at_once is not None and self.settings.calibrate:
            overrides = {cell.name: cell.overrides for cell in cells}
            predict(self.folder, overrides, self.settings.calibrate, at_once)

    def _launch_all(self, cells: Sequence[Cell]) -> list[Outcome]:
        """Launch; come back to the cells that another sweep was at, until none is left."""
        outcomes: dict[str, Outcome] = {}
        waiting = list(cells)
        with listening(self.folder) as notice:
            while waiting:
                for outcome in self._launch(waiting):
                    outcomes[outcome.cell] = outcome
                waiting = [c for c in cells if outcomes[c.name].status == "busy"]
                if waiting:
                    waiting = self._wait_for_one(waiting, lambda: notice.signal is not None)
                if notice.signal or any(o.status == "preempted" for o in outcomes.values()):
                    raise Preempted
        return list(outcomes.values())

    def _launch(self, cells: Sequence[Cell]) -> list[Outcome]:
        assert self.launcher is not None
        results = self.launcher.launch([c.overrides for c in cells], initial_job_idx=0)
        return [result.return_value for result in results]

    def _wait_for_one(self, cells: Sequence[Cell], must_end: Callable[[], bool]) -> list[Cell]:
        """Those of the cells that nobody is at any more, once there are any or all is to end."""
        log.info("waiting for %d cells of another sweep", len(cells))
        while True:
            free = [c for c in cells if owner_of(CellPaths(self.folder, c.name).lock) is None]
            if free or must_end():
                return free
            time.sleep(BUSY_POLL_SECONDS)


def cells_at_once(launcher: Any) -> int | None:
    """Cells that a launcher runs side by side on this machine; None where it may use others."""
    kind = launcher["_target_"].rpartition(".")[-1]
    if kind == "BasicLauncher":
        return 1
    if kind != "JoblibLauncher":
        return None
    cores = os.cpu_count() or 1
    jobs = launcher["n_jobs"]
    return max(1, cores + 1 + jobs if jobs < 0 else jobs)


def differences_of(paths: CellPaths, config: Config) -> list[str]:
    """In what the run in a cell's folder differs from `config`; nothing where it is damaged."""
    if not paths.folder.config_file.exists() or corruption_of(paths.folder) is not None:
        return []
    return differing_fields(paths.folder.read_config(), config)


def _say_differing(folder: Path, differing: dict[str, list[str]]) -> str:
    name, differences = next(iter(differing.items()))
    more = len(differing) - 1
    others = f", and so do {more} more" if more else ""
    return (
        f"{folder / name} holds a run with another config ({'; '.join(differences)}){others}; "
        "set sweep.name=… for a new folder, or sweep.overwrite=true to redo them"
    )


def _quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
