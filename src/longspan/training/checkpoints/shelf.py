"""Checkpoints side by side in a folder, in the order of their steps; no clock is ever asked."""

import logging
from collections.abc import Sequence
from pathlib import Path

from longspan.durable import clear_aside, remove_folder
from longspan.training.checkpoints.manifest import (
    DamagedError,
    folder_name,
    read_manifest,
    step_of,
    verify,
)

log = logging.getLogger(__name__)


class Shelf:
    """The checkpoints in a folder that hold the same kind of state.

    Args:
        path: the folder; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def folder(self, step: int) -> Path:
        """Where the checkpoint of a step is, or will be."""
        return self.path / folder_name(step)

    def steps(self) -> list[int]:
        """Of all checkpoints, whole or not, the first step first."""
        if not self.path.is_dir():
            return []
        found = (step_of(entry.name) for entry in self.path.iterdir())
        return sorted(step for step in found if step is not None)

    def scores(self, until: int) -> dict[int, float | None]:
        """Scores by step, up to a step; what has none that can be read is set aside.

        Later ones may be there: of the time before a run was resumed at an earlier step.
        """
        scores = {}
        for step in self.steps():
            if step <= until:
                try:
                    scores[step] = read_manifest(self.folder(step)).score
                except DamagedError as damage:
                    self._set_aside(self.folder(step), damage)
        return scores

    def first_whole(self, steps: Sequence[int], mend: bool) -> Path | None:
        """The first of these checkpoints of which every byte is as it was written.

        Args:
            steps: in the order in which they are wanted.
            mend: set the damaged ones aside, each with a warning; of all processes, one may.
        """
        for step in steps:
            folder = self.folder(step)
            try:
                verify(folder)
            except DamagedError as damage:
                if mend:
                    self._set_aside(folder, damage)
            else:
                return folder
        return None

    def newest_whole(self, mend: bool) -> Path | None:
        """As `first_whole`, the last step first."""
        return self.first_whole(self.steps()[::-1], mend)

    def keep(self, steps: Sequence[int], until: int) -> None:
        """Remove the checkpoints up to a step that are not among these."""
        for step in self.steps():
            if step <= until and step not in steps:
                self.remove(step)

    def remove(self, step: int) -> None:
        """Remove a checkpoint, if there is one."""
        if step in self.steps():
            remove_folder(self.folder(step))

    def clear_leftovers(self) -> None:
        """Remove what a kill left half written; for the only process that writes here."""
        clear_aside(self.path)

    def _set_aside(self, folder: Path, damage: DamagedError) -> None:
        number = 1
        while (aside := folder.with_name(f"{folder.name}.damaged-{number}")).exists():
            number += 1
        folder.rename(aside)
        log.warning("%s is damaged (%s): set aside as %s", folder, damage, aside.name)
