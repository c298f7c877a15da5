"""How a command speaks and ends: one line for errors that people can mend, tracebacks for defects."""

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from longspan.caches import ensure_caches
from longspan.errors import UserError, was_interrupted
from longspan.terminal import on_one_line, print_traceback, printable
from longspan.typed import unknown_key

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
# lines of Hydra's and OmegaConf's messages that say nothing about the mistake
DETAILS = ("full_key:", "object_type=", "See https://", "Config search path:", "provider=")


class PlainFormatter(logging.Formatter):
    """The message alone, with its level where that is a warning or worse.

    Messages quote data: what is in them neither controls the terminal nor begins a line.
    """

    def format(self, record: logging.LogRecord) -> str:
        message = printable(super().format(record)).replace("\n", "\n  ")
        return message if record.levelno < logging.WARNING else f"warning: {message}"


def run_command(
    main: Callable[[], None],
    paths: Sequence[str] = (),
    implied: Mapping[str, str] | None = None,
) -> None:
    """Run a Hydra entry point; what the command line gets wrong ends in one line and code 1.

    Args:
        main: the entry point.
        paths: fields whose values are taken as they stand: `run=runs/x/window=64,seed=1` is no
            list to Hydra then.
        implied: field to the choice of a group that goes with it, where the user chose none.
    """
    set_up_logging()
    given = [_quoted(argument, paths) for argument in sys.argv[1:]]
    sys.argv[1:] = implied_choices(given, implied or {}) + given
    # Hydra would print its own errors over several lines, and advice instead of our tracebacks
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        try:
            with user_errors():
                main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _leave_closed_stdout()
        raise


def implied_choices(given: Sequence[str], implied: Mapping[str, str]) -> list[str]:
    """Choices of groups that go with fields on a command line, as of `run_command`."""
    fields = {argument.partition("=")[0] for argument in given}
    return [
        choice
        for field, choice in implied.items()
        if field in fields and choice.partition("=")[0] not in fields
    ]


def _quoted(argument: str, paths: Sequence[str]) -> str:
    name, equals, value = argument.partition("=")
    if not equals or name not in paths or value[:1] in ("'", '"'):
        return argument
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{name}='{escaped}'"


@contextmanager
def user_errors() -> Iterator[None]:
    """End the program with one line on stderr and exit code 1 where the user can mend it.

    Inside Hydra's task function too, as Hydra prints lines of its own about exceptions that leave
    it.
    """
    try:
        yield
    except UserError as error:
        _fail(str(error))
    except (Exception, KeyboardInterrupt) as error:
        if was_interrupted(error):
            raise SystemExit(1) from None  # training has said where it stands
        if not _is_of_composition(error):
            raise
        _fail(_composition_error(error))


def _is_of_composition(error: BaseException) -> bool:
    """Whether Hydra or OmegaConf raised it: a type of theirs, or a plain ValueError in Hydra."""
    if type(error).__module__.startswith(("hydra.", "omegaconf.")):
        return True
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    raised_in = "" if last is None else str(last.tb_frame.f_globals.get("__name__"))
    return isinstance(error, ValueError) and raised_in.startswith("hydra.")


def is_further_rank() -> bool:
    """Whether this process is one of a distributed training, and not the first of them."""
    return any(os.environ.get(name, "0") != "0" for name in RANK_VARIABLES)


def quiet_lightning() -> None:
    """Stop its lists of devices, limits and products; its warnings stay. After its import."""
    logging.getLogger("lightning").handlers.clear()  # ours prints what it has to say
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _fail(message: str) -> None:
    print(f"error: {on_one_line(message)}", file=sys.stderr)
    raise SystemExit(1)


def _leave_closed_stdout() -> None:
    """End quietly if it is our reader (head, less) that has seen enough, not another pipe."""
    try:
        print(flush=True)
    except BrokenPipeError:
        # what is left in the buffer would break once more as Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def _composition_error(error: Any) -> str:
    """What Hydra says of a wrong command line, in one line that names the field and a remedy."""
    cause = error.__cause__ or error
    if isinstance(cause, UserError):  # of an object that Hydra was to make: a sweeper, say
        return str(cause)
    reason = [line for line in str(error).splitlines() if not line.lstrip().startswith(DETAILS)]
    if getattr(error, "options", None):  # of a group
        missing = error.missing_cfg_file
        found = re.search(r"Available options in '(.+)'", str(error))  # a choice may hold a slash
        group = found[1] if found else missing.rpartition("/")[0]
        choice = missing.removeprefix(f"{group}/")
        return f"{group}={choice} does not exist; there are {', '.join(error.options)}"
    if isinstance(getattr(error, "override", None), str):  # not in Hydra's syntax
        return (
            f"{error.override} cannot be read ({' '.join(reason)}); write field=value, with "
            "quotes around a value that holds special characters: 'field=\"a, b\"'"
        )
    if getattr(cause, "parent_node", None) is not None and "not in" in str(cause):
        return _unknown_field(cause.full_key, str(cause.key), cause.parent_node)
    name = getattr(error, "full_key", None)
    if type(error).__name__ == "MissingMandatoryValue":
        return f"{name} is missing; give it a value: {name}=…"
    return f"{name}: {' '.join(reason)}" if name else " ".join(reason)


def _unknown_field(full_name: str, key: str, siblings: Mapping[Any, Any]) -> str:
    known = [str(name) for name in siblings if name != "hydra"]
    parent = full_name.rpartition(".")[0]
    if not known:
        return (
            f"{full_name} is not a field, as {parent} holds none; "
            f"+{full_name}=… makes one if {parent} takes a mapping"
        )
    inside = [
        f"{group}.{key}"
        for group in known
        if isinstance(siblings[group], Mapping) and key in siblings[group]
    ]
    if not parent and inside:  # the group was left out
        return f"{full_name} is not a field; did you mean {' or '.join(inside)}?"
    return str(unknown_key(full_name, key, known))


def set_up_logging() -> None:
    """Our own news in plain lines on stderr; of the libraries, warnings only."""
    sys.excepthook = print_traceback
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    # the ranks of a distributed training see the same data: one of them speaks
    logging.getLogger("longspan").setLevel(logging.ERROR if is_further_rank() else logging.INFO)
    ensure_caches()
    # advice that does not apply: batches are packed in the loader's own process
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # our loader reads on where an interrupted epoch stopped (DocumentData._batches_done)
    warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before")
    # our records go on counting steps from epoch to epoch
    warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than")
    # labels in a script that matplotlib's font lacks are drawn as boxes
    warnings.filterwarnings("ignore", message="Glyph .* missing from font")
    # Lightning 2.6 calls what torch 2.13 deprecates; nothing a user could do about it
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
