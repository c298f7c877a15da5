"""Label cells to classes and numbers, whatever a table made of them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.errors import UserError
from longspan.tasks.labels import class_index, label_names, name_of, number


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["b", "a", "b"], ["a", "b"]),
        ([10, 9, 2, 9], ["2", "9", "10"]),
        (["10", "9", "2"], ["2", "9", "10"]),
        ([1.0, 0.0, 3.0], ["0", "1", "3"]),
        ([2, 3.0, "3", " 2 "], ["2", "3"]),
        ([0.5, 10, -1], ["-1", "0.5", "10"]),
        ([True, False], ["False", "True"]),
        (["b ", " a", "a b"], ["a", "a b", "b"]),
        (["10", "x", "9", "inf", "nan"], ["9", "10", "inf", "nan", "x"]),
        ([["b"], ["a", "b"], []], ["a", "b"]),
        (["14", "P1-1", "2"], ["2", "14", "P1-1"]),
    ],
)
def test_names_and_their_order(cells, names):
    assert label_names(cells, None, "label") == names


def test_declared_names_keep_their_order():
    assert label_names([1, 0], ["pos", "neg"], "label") == ["pos", "neg"]


@given(st.lists(st.integers(-99, 99) | st.sampled_from(["a", "b c", "Z"]), min_size=1))
def test_every_cell_has_its_class(cells):
    names = label_names(cells, None, "label")
    assert len(set(names)) == len(names)
    index = {name: i for i, name in enumerate(names)}
    assert [names[class_index(cell, index, None, "x")] for cell in cells] == [
        str(cell) for cell in cells
    ]


@pytest.mark.parametrize(
    ("cell", "name"),
    [(3, "3"), (3.0, "3"), ("3", "3"), (0.25, "0.25"), (True, "True"), (" a b ", "a b")],
)
def test_a_name(cell, name):
    assert name_of(cell, "x") == name


@pytest.mark.parametrize("cell", [None, math.nan, "", " \t"])
def test_a_missing_label(cell):
    with pytest.raises(UserError, match=r"^label of train row 1 is empty; give every row a label"):
        label_names(["a", cell], None, "label")


def test_no_label_at_all():
    with pytest.raises(UserError, match=r"^kind: the training split has no label at all"):
        label_names([[], []], None, "kind")


def test_declared_integers_are_indices_and_words_are_names():
    index = {"neg": 0, "pos": 1}
    assert class_index(1, index, ["neg", "pos"], "x") == 1
    assert class_index("neg", index, ["neg", "pos"], "x") == 0
    # another data set may declare the same names in another order
    assert class_index(1, index, ["pos", "neg"], "x") == 0
    # without declared names an integer is a name
    assert class_index(5, {"3": 0, "5": 1}, None, "x") == 1


@pytest.mark.parametrize("cell", [-1, 2])
def test_an_index_that_is_no_class(cell):
    with pytest.raises(UserError, match=f"^label of test row 4={cell} is no class of 2"):
        class_index(cell, {"neg": 0, "pos": 1}, ["neg", "pos"], "label of test row 4")


def test_an_unknown_label_says_which_are_known():
    index = {str(i): i for i in range(12)}
    with pytest.raises(UserError) as error:
        class_index("x", index, None, "label of dev row 0")
    assert str(error.value).startswith("label of dev row 0='x' does not occur in train")
    assert "(known: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …)" in str(error.value)


@pytest.mark.parametrize(
    ("cell", "value"), [(1, 1.0), (-0.5, -0.5), ("2.5", 2.5), (" 1e-3 ", 0.001), (True, 1.0)]
)
def test_a_number(cell, value):
    assert number(cell, "x") == value


@pytest.mark.parametrize("cell", [None, "", "3,5", "x", [1.0], math.nan, "inf", -math.inf])
def test_no_number(cell):
    with pytest.raises(UserError) as error:
        number(cell, "label of train row 7")
    assert str(error.value).startswith(f"label of train row 7={cell!r} is not a")
