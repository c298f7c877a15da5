"""Names of cells and sweeps, and the plan that a sweep folder keeps."""

import pytest

from longspan.errors import UserError
from longspan.sweep.plan import Plan, as_value, cell_name, check_names, read_plan, sweep_name


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (
            {"model.window": "64", "model.num_layers": "4", "seed": "0"},
            "window=64,num_layers=4,seed=0",
        ),
        ({"model.window": "null"}, "window=null"),
        ({"data": "imdb", "optim.learning_rate": "1e-3"}, "data=imdb,learning_rate=1e-3"),
        ({"data.name": "a", "task.name": "b"}, "data.name=a,task.name=b"),
        ({"experiment": "sotu_era"}, "experiment=sotu_era"),
        ({"model/pattern": "equal/window", "seed": "0"}, "pattern=equal_window,seed=0"),
        ({"model/pattern": "a", "model.pattern": "b"}, "model_pattern=a,model.pattern=b"),
        ({"model.window": "[64,null]"}, "window=_64,null_"),
        ({"model.pretrained": "../x/$HOME"}, "pretrained=.._x_HOME"),
    ],
)
def test_a_cell_is_named_after_its_values(values, name):
    assert cell_name(values) == name


@pytest.mark.parametrize(
    ("choice", "swept", "fixed", "name"),
    [
        ("window_layers", ["model.window"], [], "window_layers"),
        (None, ["model.window", "seed"], [], "window-seed"),
        ("window_layers", ["seed"], ["data=imdb"], "window_layers,data=imdb"),
        (
            "window_layers",
            ["seed"],
            ["sweep=window_layers", "sweep.overwrite=true", "logger=none", "experiment=sotu_era"],
            "window_layers,experiment=sotu_era",
        ),
    ],
)
def test_a_sweep_is_named_after_what_its_cells_share(choice, swept, fixed, name):
    assert sweep_name(choice, swept, fixed) == name


def test_two_cells_in_one_folder_are_refused():
    cells = [("window=_1_", ["model.window=[1]"]), ("window=_1_", ["model.window=(1)"])]
    with pytest.raises(UserError, match=r"share the folder window=_1_: model.window=\[1\] and"):
        check_names(cells)
    check_names([cells[0], cells[0]])  # a value given twice is one cell


def test_a_plan_grows_by_what_later_commands_add(tmp_path):
    folder = tmp_path / "sweep"
    assert read_plan(folder) is None
    Plan(["seed"], {"seed=0": {"seed": 0}}).merge_into(folder)
    Plan(["seed"], {"seed=1": {"seed": 1}}, "memory", 2.5).merge_into(folder)
    assert read_plan(folder) == Plan(
        ["seed"], {"seed=0": {"seed": 0}, "seed=1": {"seed": 1}}, "memory", 2.5
    )
    (folder / "sweep.json").write_text("{")
    assert read_plan(folder) is None


def test_values_are_what_the_command_line_means():
    assert [as_value(text) for text in ("64", "null", "1.5", "abc", "[1")] == [
        64, None, 1.5, "abc", "[1",
    ]  # fmt: skip
