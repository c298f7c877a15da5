"""One training at a time in a run folder."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from longspan.command import is_further_rank
from longspan.errors import UserError
from longspan.lock import Lock, Owner, TakenError, is_held_here, owner_of
from longspan.training.run_folder import RunFolder

log = logging.getLogger(__name__)


def check_alone(folder: RunFolder) -> None:
    """Whether nobody seems to train in a run folder; nothing is written.

    Raises:
        UserError: somebody does.
    """
    if is_further_rank() or is_held_here(folder.lock):
        return
    owner = owner_of(folder.lock)
    if owner is not None:
        raise _taken(folder, owner)


@contextmanager
def alone_in(folder: RunFolder) -> Iterator[None]:
    """Around all that is written into a run folder.

    A process that holds the lock already goes in: a cell of a sweep has it around more than its
    training. The further ranks of a distributed training follow their first.

    Raises:
        UserError: another process trains there.
    """
    if is_further_rank() or is_held_here(folder.lock):
        yield
        return
    with ExitStack() as held:
        try:
            lock = held.enter_context(Lock(folder.lock))
        except TakenError as taken:
            raise _taken(folder, taken.owner) from None
        except OSError as error:
            raise UserError(
                f"runs_dir={folder.path.parent.parent}: {folder.path} cannot be made "
                f"({error.strerror}); name a folder that you may write to"
            ) from error
        if lock.taken_over is not None:
            log.info("taking over from %s, which is gone", lock.taken_over)
        yield


def _taken(folder: RunFolder, owner: Owner) -> UserError:
    return UserError(
        f"{folder.path}: {owner} trains here; wait for it, or set name=… for another folder"
    )
