"""Checks that several fields share."""

import unicodedata
from typing import Any

from longspan.errors import UserError

# no machine runs more; without a bound, a slip of the hand would start processes until it stops
MAX_PROCESSES = 1024
# tokens; places in a batch are int32, and so is the sum of two of these
LONGEST = 2**30


def at_least(minimum: int, name: str, value: Any) -> None:
    if value < minimum:
        raise UserError(f"{name}={value} must be {minimum} or more")


def at_most(maximum: int, name: str, value: Any) -> None:
    if value > maximum:
        raise UserError(f"{name}={value} must be {maximum} or less")


def above_zero(name: str, value: float) -> None:
    if value <= 0:
        raise UserError(f"{name}={value} must be above 0")


def path_name(name: str, value: str | None) -> None:
    """Text that a file system takes as the name of a file or folder.

    Longer ones are refused here, as `pathlib` raises at each question about them.
    """
    if value is None:
        return
    raw = value.encode(errors="surrogatepass")
    if "\0" in value or len(raw) > 4000 or max(map(len, raw.split(b"/"))) > 255:
        raise UserError(
            f"{name}={value[:60]!r}{'…' if len(value) > 60 else ''} can name no file: it holds a "
            "NUL, or more than 255 bytes between slashes; shorten it"
        )


def probability(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UserError(f"{name}={value} must lie in [0, 1)")


# what Windows takes for a device, whatever ending it has; folders travel between machines
DEVICES = {"con", "prn", "aux", "nul"} | {f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10)}
NAME_BYTES = 255  # of most file systems


def file_name(field: str, value: str) -> None:
    """Whether a name may be that of a file or folder: one part of a path, the same everywhere."""
    reason = _what_is_wrong(value)
    if reason:
        raise UserError(f"{field}={value!r} names a file or folder, but {reason}; choose another")


def _what_is_wrong(name: str) -> str | None:
    if not name:
        return "it is empty"
    if "/" in name or "\\" in name:
        return "it holds a slash"
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        return "it holds a control character"
    if name.endswith((".", " ")):
        return "it ends in a dot or a space"
    if name.partition(".")[0].rstrip().casefold() in DEVICES:
        return "Windows takes it for a device"
    if len(name.encode()) > NAME_BYTES:
        return f"it has more than {NAME_BYTES} bytes"
    return None
