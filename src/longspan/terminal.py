"""What a person is shown of texts that others wrote: no control of the terminal, no secret.

A label, an id or an error that quotes them may hold escape sequences, which a terminal obeys: they
colour, erase, retitle, and on some type for the user. Errors of libraries may quote a request, and
with it the token that it carried.
"""

import os
import sys
import traceback
from collections.abc import Mapping
from types import TracebackType

# of services that a training talks to; a shorter value is no token, and might stand anywhere
SECRETS = ("WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN")
SHORTEST_SECRET = 8
HIDDEN = "[secret]"

# C0, DEL and C1 control characters but the line end and the tab, and what turns a line's direction
CONTROLS = [c for c in (*range(0x20), *range(0x7F, 0xA0)) if chr(c) not in "\n\t"]
DIRECTIONS = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
SEPARATORS = [0x2028, 0x2029]  # line ends to some programs
ESCAPES = {c: f"\\x{c:02x}" for c in CONTROLS} | {
    c: f"\\u{c:04x}" for c in (*DIRECTIONS, *SEPARATORS)
}
# the same in a text of JSON, which has escaped the characters below 0x20 already
JSON_ESCAPES = {c: f"\\u{c:04x}" for c in (*CONTROLS, *DIRECTIONS, *SEPARATORS)}


def printable(text: str) -> str:
    """A text as it may be printed: control characters as escapes, secrets hidden; lines stay."""
    return without_secrets(text).translate(ESCAPES)


def on_one_line(text: str) -> str:
    """`printable`, with white space and line ends as single spaces."""
    return " ".join(printable(text).split())


def printable_json(text: str) -> str:
    """JSON that says the same without a character that a terminal obeys."""
    return text.translate(JSON_ESCAPES)


def without_secrets(text: str, environment: Mapping[str, str] | None = None) -> str:
    """A text without the tokens that this process was given, or that an environment holds."""
    given = os.environ if environment is None else environment
    for name in SECRETS:
        secret = given.get(name, "").strip()
        if len(secret) >= SHORTEST_SECRET:
            # an error may quote a header as Python writes it, where the token is no valid one
            text = text.replace(secret, HIDDEN).replace(repr(secret)[1:-1], HIDDEN)
    return text


def print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """For `sys.excepthook`: Python's own, printable."""
    sys.stderr.write(printable("".join(traceback.format_exception(kind, error, trace))))
