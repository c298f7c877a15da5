"""Which tokens can influence which, from windows and global tokens alone.

Through layers of windows W_1 … W_L information travels Σ W_l on each side. A global token sees
its whole document in one layer and is seen by all of it in the next, so that two layers and one
global token connect everything; in a single layer a local token sees its window and the global
tokens, and a global one everything. A full layer connects everything by itself.
`longspan.reach.gradient` finds the same sets by asking a network.
"""

from collections.abc import Sequence

import numpy as np

from longspan.config import Window


def summed_windows(windows: Sequence[Window]) -> Window:
    """Σ W_l, how far information travels on each side without global tokens; None = anywhere."""
    total = 0
    for window in windows:
        if window is None:
            return None
        total += window
    return total


def reaches_everything(windows: Sequence[Window], num_globals: int) -> bool:
    """Whether every token influences every other, whatever the length of the document."""
    return summed_windows(windows) is None or (num_globals > 0 and len(windows) >= 2)


def influencing(
    windows: Sequence[Window], length: int, positions: np.ndarray, token: int
) -> np.ndarray:
    """(L,) bool: the input tokens that can influence one token's output.

    Args:
        windows: of each layer, one at least.
        length: L, of the document.
        positions: its global tokens.
        token: whose output is looked at.
    """
    is_global = np.zeros(length, dtype=bool)
    is_global[positions] = True
    total = summed_windows(windows)
    if total is None or is_global[token] or reaches_everything(windows, len(positions)):
        return np.ones(length, dtype=bool)
    return is_global | (abs(np.arange(length) - token) <= total)


def connects(
    windows: Sequence[Window], positions: np.ndarray, sources: np.ndarray, targets: np.ndarray
) -> bool:
    """Whether each of the source tokens influences each of the targets.

    Args:
        windows: of each layer.
        positions: global tokens of the document.
        sources, targets: tokens of the document, in any order.
    """
    total = summed_windows(windows)
    if total is None or reaches_everything(windows, len(positions)):
        return True
    local_sources = np.setdiff1d(sources, positions)  # what is global is seen, and sees, anyway
    local_targets = np.setdiff1d(targets, positions)
    if not len(local_sources) or not len(local_targets):
        return True
    ahead = int(local_targets.max() - local_sources.min())
    behind = int(local_sources.max() - local_targets.min())
    return max(ahead, behind) <= total
