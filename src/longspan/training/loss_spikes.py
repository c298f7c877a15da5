"""When a loss is so far above those before it that somebody should know."""

from collections import deque
from statistics import median
from typing import Any

WINDOW = 128  # steps that a loss is held against
LEAST = 32  # of them, before anything is said
DEVIATIONS = 10.0
NORMAL = 1.4826  # MAD times this estimates the standard deviation of normal numbers
FLOOR = 0.01  # of the median: losses that are nearly equal make no spike of a ripple


class LossSpikes:
    """Losses beyond median + 10 · max(1.4826 · MAD, 1 % of the median) of the last 128 steps.

    MAD is the median absolute deviation from the median, which a few spikes do not move, as they
    would a mean or a standard deviation (Hampel's identifier; Davies & Gather 1993). A loss that
    stays high is the new level after half the window.

    Attributes:
        count: of spikes so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._losses: deque[float] = deque(maxlen=WINDOW)

    def see(self, loss: float) -> float | None:
        """Take in the finite loss of a step; the threshold, where it is beyond it."""
        threshold = self.threshold
        self._losses.append(loss)
        if threshold is None or loss <= threshold:
            return None
        self.count += 1
        return threshold

    @property
    def threshold(self) -> float | None:
        """Of the next loss; None while too few were seen."""
        if len(self._losses) < LEAST:
            return None
        middle = median(self._losses)
        deviation = NORMAL * median(abs(loss - middle) for loss in self._losses)
        return middle + DEVIATIONS * max(deviation, FLOOR * abs(middle))

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "losses": list(self._losses)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.count = state_dict["count"]
        self._losses = deque(state_dict["losses"], maxlen=WINDOW)
