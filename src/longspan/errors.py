"""The one error that is meant for people, and the one that people make."""

LONGEST_START, LONGEST_END = 900, 300  # characters of a message: its remedy stands at the end


class UserError(ValueError):
    """An input that the user can mend: field, value and remedy in one line.

    Commands print it as that line and exit with code 1; every other exception is a defect of
    ours and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(message: str) -> str:
    """A message with what a value or a library's words brought into it: line breaks, characters
    that a terminal would act upon, a cell of a megabyte."""
    line = " ".join(part.strip() for part in message.splitlines()) or message
    if not line.isprintable():
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
    if len(line) > LONGEST_START + LONGEST_END:
        line = f"{line[:LONGEST_START]} … {line[-LONGEST_END:]}"
    return line


class FieldError(UserError):
    """A field that does not exist, or a value of the wrong type: a slip, whatever else is given."""


def was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: cut off in its own clean-up, a library may raise another."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
