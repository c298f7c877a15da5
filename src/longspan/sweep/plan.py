"""Which cells a sweep has, and what they and the sweep are called."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from longspan.config.sweep import Cost, SweepConfig
from longspan.errors import UserError
from longspan.lock import Lock, TakenError
from longspan.sweep.paths import PLAN
from longspan.training.run_folder import folder_name, run_name, write_text
from longspan.typed import from_dict

OWN_FIELDS = ("sweep", "hydra")  # what they set says how a sweep goes, not what it computes
MERGE_SECONDS = 30.0


@dataclass
class Plan:
    """The plan of a sweep folder, as in its sweep.json.

    Attributes:
        swept: dotted fields, in the order of the command.
        cells: name of a cell to its values of the swept fields.
        cost, ceiling: for the report, see `SweepConfig`.
    """

    swept: list[str] = field(default_factory=list)
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    cost: Cost = "time"
    ceiling: float | None = None

    def merge_into(self, folder: Path) -> None:
        """Write the plan, with the cells that earlier commands planned.

        Raises:
            TakenError: another process has been at it for half a minute.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for attempt in range(int(MERGE_SECONDS)):
            try:
                with Lock(folder / ".locks" / PLAN):
                    earlier = read_plan(folder) or Plan()
                    merged = Plan(
                        list(dict.fromkeys(earlier.swept + self.swept)),
                        earlier.cells | self.cells,
                        self.cost,
                        self.ceiling,
                    )
                    write_text(folder / PLAN, json.dumps(asdict(merged), indent=2) + "\n")
                return
            except TakenError:
                if attempt + 1 == int(MERGE_SECONDS):
                    raise


def read_plan(folder: Path) -> Plan | None:
    """The plan of a sweep folder; None where there is none that can be read.

    Sweep folders travel: a plan whose cells are no names of folders is none.
    """
    try:
        plan = Plan(**json.loads((folder / PLAN).read_text(encoding="utf-8")))
        from_dict(SweepConfig, {"cost": plan.cost, "ceiling": plan.ceiling}, "sweep")
        for name, values in plan.cells.items():
            from_dict(SweepConfig, {"cell": name}, "sweep")
            if not isinstance(values, dict):
                return None
        whole = isinstance(plan.swept, list) and all(isinstance(x, str) for x in plan.swept)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):  # UserError too
        return None
    return plan if whole else None


def cell_name(values: Mapping[str, str]) -> str:
    """`{"model.window": "64", "seed": "0"}` gives `window=64,seed=0`.

    The last part of a field's or group's name stands for it, the whole where two share it.
    """
    leaves = Counter(map(last_part, values))
    parts = []
    for name, value in values.items():
        leaf = last_part(name)
        parts.append(f"{leaf if leaves[leaf] == 1 else name}={value}")
    return folder_name(parts)


def last_part(field: str) -> str:
    """`window` of `model.window`, `pattern` of `model/pattern`."""
    return re.split(r"[./]", field)[-1]


def sweep_name(choice: str | None, swept: Sequence[str], fixed: Iterable[str]) -> str:
    """The name of a sweep that was given none: the same command finds its own cells.

    Args:
        choice: of the group `sweep`.
        swept: the fields that vary.
        fixed: overrides that all cells share.
    """
    parts = [choice or "-".join(map(last_part, swept))]
    experiments = [o for o in fixed if o.partition("=")[0] == "experiment"]
    others = run_name(o for o in fixed if not o.startswith(OWN_FIELDS))
    return folder_name(parts + experiments + ([] if others == "default" else [others]))


def check_names(cells: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Whether every cell has a name of its own.

    Raises:
        UserError: values of two cells differ in characters only that no folder name takes.
    """
    seen: dict[str, Sequence[str]] = {}
    for name, overrides in cells:
        if name in seen and list(seen[name]) != list(overrides):
            raise UserError(
                f"two cells would share the folder {name}: {' '.join(seen[name])} and "
                f"{' '.join(overrides)}; sweep over values whose letters and digits differ"
            )
        seen[name] = overrides


def as_value(text: str) -> Any:
    """A value as the command line has it: `64` is a number, `null` is None."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
