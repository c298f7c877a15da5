"""A kill at every line of writing checkpoints: `python benchmarks/checkpoint_kills.py`.

A forked process writes; a tracer ends it, as SIGKILL would, before the first line of our code that
it runs, before the second, and so on to the last. Each time what is left must be a shelf whose
newest checkpoint is whole, and once the leftovers are cleared nothing else. The clearing of what
such a kill has left is killed at every line too.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from checkpoint_faults import NEWER, OLDER, make_shelf, tiny_checkpoint

from longspan import durable
from longspan.training.checkpoints import folder, manifest, shelf
from longspan.training.checkpoints.folder import write_checkpoint
from longspan.training.checkpoints.manifest import verify
from longspan.training.checkpoints.shelf import Shelf

FILES = {module.__file__ for module in (durable, folder, manifest, shelf)}
NEXT = 40


def write_next(shelf: Shelf) -> None:
    """What training does: write one, remove the oldest."""
    write_checkpoint(shelf.folder(NEXT), tiny_checkpoint(NEXT))
    shelf.keep([NEWER, NEXT], until=NEXT)


def write_again(shelf: Shelf) -> None:
    """Replace one, as after resuming."""
    write_checkpoint(shelf.folder(NEWER), tiny_checkpoint(NEWER))


def dies_at(line: int, action: Callable[[Shelf], None], shelf: Shelf) -> bool:
    """Run an action in a fork that ends before its line of that number; False = it has fewer."""
    process = os.fork()
    if not process:
        left = line

        def count(frame, event, argument):
            nonlocal left
            if frame.f_code.co_filename not in FILES:
                return None
            if event == "line":
                left -= 1
                if not left:
                    os._exit(9)
            return count

        sys.settrace(count)
        try:
            action(shelf)
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert code in (0, 9), f"{action.__name__} failed, exit code {code}"
    return code == 9


def kills(path: Path) -> Iterator[tuple[str, list[int], list[str]]]:
    """Kill every action at every line.

    Yields:
        what was killed, the steps that are whole afterwards, and all names in the shelf.
    """
    template = make_shelf(path / "template").path
    current = Shelf(path / "shelf")
    for action in (write_next, write_again):
        line = 1
        while True:
            shutil.rmtree(current.path, ignore_errors=True)
            shutil.copytree(template, current.path)
            if not dies_at(line, action, current):
                break
            if line % 10 == 0:  # and the start after it
                left = path / "left"
                shutil.copytree(current.path, left)
                yield from _kills_of_clearing(left, current)
                shutil.rmtree(left)
            current.clear_leftovers()
            yield f"{action.__name__}, line {line}", *state_of(current)
            line += 1


def _kills_of_clearing(left: Path, current: Shelf) -> Iterator[tuple[str, list[int], list[str]]]:
    line = 1
    while dies_at(line, Shelf.clear_leftovers, current):
        current.clear_leftovers()
        yield f"clear_leftovers, line {line}", *state_of(current)
        shutil.rmtree(current.path)
        shutil.copytree(left, current.path)
        line += 1


def state_of(shelf: Shelf) -> tuple[list[int], list[str]]:
    """The steps, every one whole, and all names."""
    steps = shelf.steps()
    for step in steps:
        verify(shelf.folder(step))
    return steps, sorted(entry.name for entry in shelf.path.iterdir())


def is_resumable(steps: list[int], names: list[str]) -> bool:
    """Whether nothing is lost, and nothing is left over."""
    expected = ([OLDER, NEWER], [OLDER, NEWER, NEXT], [NEWER, NEXT])
    return steps in expected and len(names) == len(steps)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix=f"longspan-kills-{os.getpid()}-") as path:
        outcomes = list(kills(Path(path)))
    survived = [name for name, steps, names in outcomes if is_resumable(steps, names)]
    print(f"{len(outcomes):,} kills, {len(survived):,} survived with nothing lost or left over")
    for name, steps, names in outcomes:
        if name not in survived:
            print(f"{name}: {steps}, {names}")


if __name__ == "__main__":
    main()
