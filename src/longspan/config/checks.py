"""Checks that several fields share."""

from typing import Any

from longspan.errors import UserError

# no machine runs more; without a bound, a slip of the hand would start processes until it stops
MAX_PROCESSES = 1024


def at_least(minimum: int, name: str, value: Any) -> None:
    if value < minimum:
        raise UserError(f"{name}={value} must be {minimum} or more")


def at_most(maximum: int, name: str, value: Any) -> None:
    if value > maximum:
        raise UserError(f"{name}={value} must be {maximum} or less")


def above_zero(name: str, value: float) -> None:
    if value <= 0:
        raise UserError(f"{name}={value} must be above 0")


def probability(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UserError(f"{name}={value} must lie in [0, 1)")
