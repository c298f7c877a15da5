"""A search whose trials are cells: `hydra/sweeper=optuna`, as `sweep=optuna` chooses it.

Hydra's own plugin for Optuna stops at the Optuna of 2022. The study lies in the sweep folder
(`study.db`), so that the same command goes on where an earlier one ended, however it ended.
"""

import logging
from collections.abc import Sequence
from typing import Any, Literal

from hydra.core.override_parser.types import IntervalSweep, Override

from hydra_plugins.longspan_sweeper.grid import Cell, GridSweeper
from longspan.errors import UserError
from longspan.sweep.paths import CellPaths
from longspan.sweep.plan import Plan
from longspan.sweep.process import Outcome
from longspan.sweep.results import read_cell
from longspan.sweep.table import cost, quality

log = logging.getLogger("longspan.sweep")

CELL = "cell"  # attribute of a trial that ran
OVER = "over the ceiling by"  # constraint of a trial: above 0 = it may not win


class SearchSweeper(GridSweeper):
    """Optuna asks, a launcher trains, Optuna is told.

    Args:
        params: fields to what is searched; the command line adds to them and overrules them.
        trials: finished, pruned or failed ones that the study is to have.
        at_once: trials handed to the launcher together.
        objective: `ceiling` = quality, where `sweep.cost` is at most `sweep.ceiling`;
            `front` = quality and cost at the same time.
        warmup: trials that are drawn at random before the sampler learns.
        seed: of the sampler.
    """

    def __init__(
        self,
        params: dict[str, str] | None = None,
        trials: int = 20,
        at_once: int = 1,
        objective: Literal["ceiling", "front"] = "ceiling",
        warmup: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__(params)
        for name, value in (("trials", trials), ("at_once", at_once)):
            if value < 1:
                raise UserError(f"hydra.sweeper.{name}={value} must be 1 or more")
        if objective not in ("ceiling", "front"):
            raise UserError(f"hydra.sweeper.objective={objective} must be ceiling or front")
        self.trials, self.at_once, self.objective = trials, at_once, objective
        self.warmup, self.seed = warmup, seed

    def sweep(self, arguments: list[str]) -> list[Outcome]:
        """Search until the study has its trials."""
        searched, fixed = self._searched(arguments)
        self._name_sweep(list(searched), [str(o.input_line) for o in fixed])
        self.folder.mkdir(parents=True, exist_ok=True)
        study = self._study()
        space = {name: _distribution(override) for name, override in searched.items()}
        shared = [f"{o.get_key_element()}={o.get_value_element_as_str()}" for o in fixed]
        if self.objective == "front":  # a cheap trial may be worse and still be wanted
            shared.append("sweep.prune_after=null")
        self._take_up_broken_trials(study)
        outcomes: list[Outcome] = []
        while (missing := self.trials - len(_ended(study))) > 0:
            asked = [study.ask(space) for _ in range(min(self.at_once, missing))]
            cells = [self._trial_cell(trial, shared) for trial in asked]
            if not outcomes:
                self._check(cells[:1])  # a slip in the command stops the search before it starts
            plan = Plan(list(space), {c.name: c.values for c in cells}, *self._weighing())
            plan.merge_into(self.folder)
            for trial, outcome in zip(asked, self._launch_trials(cells), strict=True):
                self._tell(study, trial, outcome)
                outcomes.append(outcome)
        log.info("%s: %d trials", self.folder, len(_ended(study)))
        return outcomes

    def _searched(self, arguments: list[str]) -> tuple[dict[str, Override], list[Override]]:
        overrides = {o.get_key_element(): o for o in self._parse(self._parse_config() + arguments)}
        searched = {n: o for n, o in overrides.items() if o.is_sweep_override()}
        if not searched:
            raise UserError("nothing to search; give a field several values or an interval(…,…)")
        return searched, [o for n, o in overrides.items() if n not in searched]

    def _study(self) -> Any:
        try:
            import optuna
        except ImportError as error:
            raise UserError(
                "hydra/sweeper=optuna needs Optuna: pip install 'longspan[sweep]'"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        directions: list[Any] = ["maximize", "minimize"][: 1 + (self.objective == "front")]
        return optuna.create_study(
            storage=f"sqlite:///{self.folder / 'study.db'}",
            study_name="sweep",
            load_if_exists=True,
            directions=directions,
            sampler=optuna.samplers.TPESampler(
                seed=self.seed,
                n_startup_trials=self.warmup,
            ),
        )

    def _take_up_broken_trials(self, study: Any) -> None:
        """Ask first for what an earlier command was at when it was killed: its cells resume."""
        from optuna.trial import TrialState

        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study.enqueue_trial(trial.params)
            study.tell(trial.number, state=TrialState.FAIL)

    def _trial_cell(self, trial: Any, shared: Sequence[str]) -> Cell:
        values = {name: _as_override(value) for name, value in trial.params.items()}
        return self._cell([*(f"{n}={v}" for n, v in values.items()), *shared], list(values))

    def _launch_trials(self, cells: Sequence[Cell]) -> list[Outcome]:
        by_name = {o.cell: o for o in self._launch_all(list({c.name: c for c in cells}.values()))}
        return [by_name[cell.name] for cell in cells]

    def _tell(self, study: Any, trial: Any, outcome: Outcome) -> None:
        from optuna.trial import TrialState

        trial.set_user_attr(CELL, outcome.cell)
        result = read_cell(CellPaths(self.folder, outcome.cell), Plan())
        metric, mode = result.report.get("monitor", (None, "max"))
        value, price = quality(result, metric), cost(result, self.settings.cost)
        if outcome.status == "pruned":
            study.tell(trial, state=TrialState.PRUNED)
        elif value is None or (price is None and self._needs_cost):
            study.tell(trial, state=TrialState.FAIL)
        else:
            signed = value if mode == "max" else -value
            if self.settings.ceiling is not None and price is not None:
                trial.set_constraint(OVER, price - self.settings.ceiling)
            study.tell(trial, signed if self.objective == "ceiling" else (signed, price))

    @property
    def _needs_cost(self) -> bool:
        return self.objective == "front" or self.settings.ceiling is not None


def _ended(study: Any) -> list[Any]:
    """Trials that ran; not those that were broken off and taken up by a later one."""
    return [
        t
        for t in study.get_trials(deepcopy=False)
        if t.state.is_finished() and CELL in t.user_attrs
    ]


def _distribution(override: Override) -> Any:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    sweep: Any = override.value()
    log_scale = "log" in sweep.tags
    if isinstance(sweep, IntervalSweep):
        if isinstance(sweep.start, int) and isinstance(sweep.end, int):
            return IntDistribution(sweep.start, sweep.end, log=log_scale)
        assert sweep.start is not None
        assert sweep.end is not None
        return FloatDistribution(sweep.start, sweep.end, log=log_scale)
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def _as_override(value: Any) -> str:
    """Four digits say enough of a rate, and name its folder."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
