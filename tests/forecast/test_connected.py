"""`longspan reach`: shares of documents, and of questions and answers, that a schedule connects."""

import io
import json

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from longspan.batch import Feature
from longspan.cli import app
from longspan.compose.cells import Cell
from longspan.forecast.connected import answers_connected, measure_reach, question_tokens
from longspan.forecast.reach_picture import draw_reach, show_reach


def piece(name, length, question, spans, positions=(), answers=("yes",)):
    """A slice: [CLS] question [SEP] text [SEP], with token 1 for special ones."""
    ids = np.full(length, 7)
    ids[[0, question + 1, length - 1]] = 1
    offsets = np.zeros((length, 2), np.int32)
    text = np.arange(question + 2, length - 1)
    offsets[text] = np.stack([text, text + 1], axis=1)
    details = {"id": name, "answers": list(answers)}
    return Feature(
        name, ids, np.array(positions, np.int64), spans, offsets=offsets, details=details
    )


def test_the_question_is_what_stands_before_the_text():
    assert question_tokens(piece("q", 20, 3, []), [1]).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("windows", "positions", "connected"),
    [
        ([9], [], False),  # from token 1 to token 11
        ([10], [], True),
        ([5, 5], [], True),
        ([1, 1], [0], True),
        ([1], [0], False),  # one layer: [CLS] sees everything, and nobody sees that in time
        ([1], [1, 2, 3], True),  # but the question itself is seen
    ],
)
def test_a_question_reaches_its_answer(windows, positions, connected):
    pieces = [piece("q", 20, 3, [[10, 11]], positions)]
    assert answers_connected(windows, pieces, [1]) == {"q": connected}


def test_one_slice_is_enough_and_what_was_cut_is_lost():
    pieces = [
        piece("near", 20, 3, []),
        piece("near", 20, 3, [[5, 5]]),
        piece("none", 20, 3, [], answers=()),  # no answer: nothing to be reached
        piece("cut", 20, 3, []),
        piece("unknown", 20, 3, "unknown"),
    ]
    assert answers_connected([4], pieces, [1]) == {"near": True, "cut": False, "unknown": False}


@pytest.fixture
def make_cell(make_config, tmp_path):
    def make(name, **changes):
        return Cell(name, make_config(tmp_path, **changes))

    return make


def test_shares_of_documents(make_cell):
    cells = [
        make_cell("short", **{"globals.cls": False, "model.window": 4}),
        make_cell("global", **{"model.window": 4}),
        make_cell("full", **{"globals.cls": False, "model.window": None}),
    ]
    short, by_global, full = measure_reach(cells)
    lengths = np.array(short.documents.lengths)
    assert short.summed_windows == 8
    assert short.every_pair == short.first_to_last == np.mean(lengths <= 9)
    assert short.every_pair < 1
    assert short.example.num_reached == 17  # the middle, and 8 on each side
    assert by_global.every_pair == full.every_pair == 1
    assert by_global.example.num_reached == by_global.example.num_tokens
    assert full.summed_windows is None


def test_picture_and_table(make_cell, tmp_path):
    cells = measure_reach(
        [make_cell(f"window={w}", **{"model.window": w}) for w in (1, 2, 3, None)], count=0
    )
    draw_reach(cells, tmp_path / "new" / "reach.png")
    assert (tmp_path / "new" / "reach.png").read_bytes().startswith(b"\x89PNG")
    console = Console(record=True, width=200, file=io.StringIO())
    show_reach(cells, console)
    text = console.export_text()
    assert "window=3" in text
    assert "everything" in text
    assert "none read" in text


def test_the_command_prints_json(tmp_path):
    arguments = ["reach", "model.window=2,4", "model.num_layers=3", "data.max_length=64"]
    options = ["--documents", "0", "--json", "--output", str(tmp_path / "reach.png")]
    result = CliRunner().invoke(app, [*arguments, "globals=none", *options])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [row["summed_windows"] for row in rows] == [6, 12]
    assert [row["example"]["reached"] for row in rows] == [13, 25]
    assert (tmp_path / "reach.png").is_file()
