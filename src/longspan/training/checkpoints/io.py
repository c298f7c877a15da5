"""Lightning's way to the disk and back, by folders that verify."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from longspan.durable import cannot_write, remove_folder
from longspan.training.checkpoints.folder import read_checkpoint, size_of, write_checkpoint


class CheckpointFolders(CheckpointIO):
    """Saves and loads checkpoints as folders of their own.

    Attributes:
        failure: what kept the last checkpoint from being written, in one line; None = nothing.
            It is no exception, as the other ranks wait for this one: see `CheckpointStore`.
    """

    def __init__(self) -> None:
        self.failure: str | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint folder.

        Args:
            checkpoint: Lightning's.
            path: of the folder.
            storage_options: the score, of one that is kept for it.
        """
        self.failure = None
        try:
            write_checkpoint(Path(path), checkpoint, storage_options)
        except OSError as error:
            self.failure = cannot_write(error, Path(path), size_of(checkpoint))

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint folder; onto the CPU and without running anything, whatever is asked."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint folder."""
        remove_folder(Path(path))
