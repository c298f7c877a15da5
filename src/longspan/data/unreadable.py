"""Files that cannot be read: what libraries say of them, in our words."""

import codecs
import errno
from pathlib import Path

from longspan.errors import UserError

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def unreadable(path: Path, kind: str, error: Exception) -> UserError:
    """What `datasets` said of a file, in our words."""
    cause = cause_of(error)
    # how `datasets` says that there are no rows
    if "corresponds to no data" in cause or "BatchSize must be greater than 0" in cause:
        return UserError(f"data: {path} holds no rows; give it rows")
    return UserError(f"data: {path} cannot be read as {kind}: {cause}")


def cause_of(error: BaseException) -> str:
    """The first line of the innermost reason, with a remedy for the usual one."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8; convert it, e.g. with iconv -f latin1 -t utf-8"
    if isinstance(error, OSError) and error.errno in CANNOT_WRITE:
        return f"its table cannot be kept ({error.strerror}); make room, or set data.cache_dir"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return reason.rstrip(".") + "; mend the file"


def check_utf8(path: Path) -> None:
    """Arrow's JSON reader takes any bytes for text and fails when the row is read, much later."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
