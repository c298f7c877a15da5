"""What fuzzing shares: the verdict on an input, and the count of the inputs that were tried.

`LONGSPAN_FUZZ` names the hypothesis profile (tests/conftest.py): the same few inputs every time
without it, thousands of new ones with `fuzz-long`, as `make fuzz` sets it.
"""

import logging
import tempfile
import warnings
from pathlib import Path

import pytest

from longspan.batch import pack
from longspan.errors import UserError
from longspan.training import build

LONGEST_LINE = 1300  # characters of an error; a cell of a megabyte is not repeated in it
TRIED = "inputs tried"


class Verdicts:
    """Tries inputs, and counts them."""

    def __init__(self):
        self.tried = 0

    def __call__(self, call, *arguments, **fields):
        """What a call returns, and None; or None, and the line of its `UserError`.

        Any other exception is the test's failure.
        """
        self.tried += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, about what is odd in the input
            try:
                return call(*arguments, **fields), None
            except UserError as error:
                line = str(error)
        assert line.strip(), "an error says something"
        assert "\n" not in line, line
        assert len(line) <= LONGEST_LINE, f"{line[:200]} … {len(line)} characters"
        return None, line


_VERDICTS = Verdicts()


@pytest.fixture(scope="session")
def verdict():
    return _VERDICTS


@pytest.fixture(scope="session")
def new_folder(tmp_path_factory):
    """Make an empty folder: hypothesis calls a test many times within one `tmp_path`."""
    base = tmp_path_factory.mktemp("fuzz")
    return lambda: Path(tempfile.mkdtemp(dir=base))


@pytest.fixture(scope="session")
def read(make_config, new_folder):
    """All features of a configuration's data, as training reads them, and a batch of them."""
    load, name = build.load_tokenizer, "embedded:sotu"
    tokenizer = load(name)  # once: it takes as long as the rest

    def read(path, fields):
        cache = new_folder()
        fields = {"data.dev_fraction": 0.0, "data.test_fraction": 0.0, **fields}
        place = {"data.path": str(path)} if "data.split_column" in fields else {
            "data.files": {"train": str(path)}}  # fmt: skip
        unused = {"data.files": None, "data.cache_dir": str(cache)}
        try:
            config = make_config(new_folder(), **unused | place | fields)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    build, "load_tokenizer", lambda n: tokenizer if n == name else load(n)
                )
                prepared = build.prepare(config)
            chunks = [f.read(range(min(8, len(f)))) for f in prepared.splits.values()]
            if prepared.stream is not None:
                chunks += prepared.stream.features(config, epoch=0)
            for chunk in filter(None, chunks):
                pack([prepared.task.prepare(f, (0, 0, row)) for row, f in enumerate(chunk)])
            return prepared
        finally:
            parts = (".incomplete", ".part", ".arrow_")
            left = [p for p in cache.rglob("*") if p.name.startswith("tmp") or p.suffix in parts]
            assert not left, "a cache that was half written"

    return read


@pytest.fixture(scope="session")
def says_where():
    """Whether an error names the file, or the row, its split or the field that reads it."""

    def says_where(line, path):
        places = (str(path), " train", "data.", "document ", "question ")
        return any(place in line for place in places)

    return says_where


@pytest.fixture(autouse=True, scope="module")
def quiet():
    """Thousands of inputs would log as many warnings, which nobody reads."""
    loggers = [logging.getLogger(name) for name in ("longspan", "lightning", "datasets")]
    loggers += [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    before = _VERDICTS.tried
    try:
        return (yield)
    finally:
        item.user_properties.append((TRIED, _VERDICTS.tried - before))


def pytest_terminal_summary(terminalreporter):
    """Summed over the processes of pytest-xdist, as reports carry the counts."""
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, [])]
    counts = [n for r in reports for name, n in r.user_properties if name == TRIED]
    if counts:
        terminalreporter.write_line(f"fuzz: {sum(counts)} inputs tried in {len(counts)} tests")
