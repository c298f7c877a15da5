"""Checks that several fields share."""

from typing import Any

from longspan.errors import UserError


def at_least(minimum: int, name: str, value: Any) -> None:
    if value < minimum:
        raise UserError(f"{name}={value} must be {minimum} or more")


def above_zero(name: str, value: float) -> None:
    if value <= 0:
        raise UserError(f"{name}={value} must be above 0")


def probability(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UserError(f"{name}={value} must lie in [0, 1)")
