"""Where libraries keep their caches, where the home folder takes none: read-only, full, or missing.

They would fail far from the reason, or make a folder called `~`. So they get a temporary folder,
for this process and those that it starts, before any of them is imported.
"""

import atexit
import logging
import os
import shutil
import tempfile
from pathlib import Path

# what is written however little is asked for; what is read only, the models of the hub, stays
VARIABLES = {
    "HF_DATASETS_CACHE": "datasets",
    "MPLCONFIGDIR": "matplotlib",
    "WANDB_CACHE_DIR": "wandb",
    "WANDB_CONFIG_DIR": "wandb",
    "WANDB_DATA_DIR": "wandb",
}

log = logging.getLogger(__name__)


def ensure_caches() -> None:
    """Give libraries a temporary folder where they could not write to that of the user."""
    try:
        _try_to_write(_usual_folder())
        return
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody knows a home
        reason = getattr(error, "strerror", None) or str(error)
    missing = {name: part for name, part in VARIABLES.items() if name not in os.environ}
    if "HF_HOME" in os.environ:  # of the user's choice, whatever the home folder is like
        missing.pop("HF_DATASETS_CACHE", None)
    if not missing:
        return
    folder = tempfile.mkdtemp(prefix="longspan-")  # mode 0700
    atexit.register(_remove, folder, os.getpid())
    for name, part in missing.items():
        os.environ[name] = str(Path(folder, part))
    log.info(
        "no cache can be kept in the home folder (%s): data is prepared in %s for this run alone; "
        "set HF_HOME to keep it",
        reason,
        folder,
    )


def _usual_folder() -> Path:
    given = os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else Path.home() / ".cache"


def _try_to_write(folder: Path) -> None:
    """Raise OSError where nothing can be written in a folder, or where it would be made."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with tempfile.TemporaryFile(dir=folder):  # permissions say nothing of a read-only disk
        pass


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked worker ends earlier
        shutil.rmtree(folder, ignore_errors=True)
