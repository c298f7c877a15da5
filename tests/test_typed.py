"""Strict conversion: nothing is guessed, and what is wrong is named with its remedy."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.errors import UserError
from longspan.typed import from_dict, to_dict


@dataclass(frozen=True, kw_only=True)
class Inner:
    whole: int = 1
    share: float = 0.5
    maybe: int | None = None


@dataclass(frozen=True, kw_only=True)
class Outer:
    flag: bool = False
    text: str = ""
    kind: Literal["a", "b"] = "a"
    level: bool | Literal["warn"] | None = None
    number: int | float = 0
    wide: float | int = 0.0
    grade: Literal[1, 2] = 1
    pair: tuple[float, float] = (0.0, 1.0)
    several: int | tuple[int | None, ...] | None = None
    names: dict[str, str | None] = field(default_factory=dict)
    anything: Any = None
    inner: Inner = field(default_factory=Inner)


integers = st.integers(-(2**63), 2**63 - 1)
numbers = st.floats(allow_nan=False, allow_infinity=False)
inners = st.builds(Inner, whole=integers, share=numbers, maybe=st.none() | integers)
outers = st.builds(
    Outer,
    flag=st.booleans(),
    text=st.text(),
    kind=st.sampled_from(["a", "b"]),
    level=st.none() | st.booleans() | st.just("warn"),
    number=integers | numbers,
    wide=integers | numbers,
    grade=st.sampled_from([1, 2]),
    pair=st.tuples(numbers, numbers),
    several=st.none() | integers | st.lists(st.none() | integers).map(tuple),
    names=st.dictionaries(st.text(), st.none() | st.text()),
    anything=st.none() | st.lists(integers),
    inner=inners,
)


@given(outers)
def test_from_dict_is_the_inverse_of_to_dict(outer):
    again = from_dict(Outer, to_dict(outer))
    assert again == outer
    assert repr(again) == repr(outer)  # 1, 1.0 and True are equal, but not the same value


def test_what_is_not_given_keeps_its_default():
    assert from_dict(Outer, {"inner": {"whole": 3}}) == Outer(inner=Inner(whole=3))


def test_to_dict_gives_what_yaml_and_json_know():
    data = to_dict(Outer(several=(1, None)))
    assert data["several"] == [1, None]
    assert data["inner"] == {"whole": 1, "share": 0.5, "maybe": None}


def same(value, expected):
    assert value == expected
    assert type(value) is type(expected)


def test_an_integer_widens_to_a_number_and_to_nothing_else():
    same(from_dict(Inner, {"share": 2}).share, 2.0)
    same(from_dict(Outer, {"pair": [0, 1]}).pair[0], 0.0)
    same(from_dict(Outer, {"number": 1}).number, 1)
    same(from_dict(Outer, {"number": 1.0}).number, 1.0)
    same(from_dict(Outer, {"wide": 1}).wide, 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"inner": {"whole": True}}, "inner.whole=True has the wrong type; allowed: an integer"),
        ({"inner": {"whole": 1.0}}, "inner.whole=1.0 has the wrong type; allowed: an integer"),
        ({"inner": {"whole": "1"}}, "inner.whole='1' has the wrong type; allowed: an integer"),
        ({"inner": {"whole": None}}, "inner.whole=None has the wrong type; allowed: an integer"),
        ({"inner": {"share": True}}, "inner.share=True has the wrong type; allowed: a number"),
        (
            {"inner": {"maybe": "x"}},
            "inner.maybe='x' has the wrong type; allowed: an integer, or null",
        ),
        ({"inner": None}, "inner=None must be a mapping of fields"),
        ({"flag": 1}, "flag=1 has the wrong type; allowed: true or false"),
        ({"text": 1}, "text=1 has the wrong type; allowed: text"),
        ({"kind": "c"}, "kind='c' has the wrong type; allowed: a | b"),
        ({"grade": True}, "grade=True has the wrong type; allowed: 1 | 2"),
        ({"grade": 1.0}, "grade=1.0 has the wrong type; allowed: 1 | 2"),
        ({"kind": ["a"]}, "kind=['a'] has the wrong type; allowed: a | b"),
        (
            {"level": "warning"},
            "level='warning' has the wrong type; allowed: true or false, or warn, or null",
        ),
        ({"number": True}, "number=True has the wrong type; allowed: an integer, or a number"),
        ({"pair": [1.0]}, "pair=[1.0] has the wrong type; allowed: [a number, a number]"),
        ({"pair": 1.0}, "pair=1.0 has the wrong type; allowed: [a number, a number]"),
        ({"pair": [1.0, "x"]}, "pair[1]='x' has the wrong type; allowed: a number"),
        (
            {"several": [1, "x"]},
            "several=[1, 'x'] has the wrong type; allowed: an integer, "
            "or a list of (an integer, or null), or null",
        ),
        ({"names": ["x"]}, "names=['x'] has the wrong type; allowed: a mapping to (text, or null)"),
        ({"names": {"x": 1}}, "names.x=1 has the wrong type; allowed: text, or null"),
        ({"falg": True}, "falg is not a field; did you mean flag?"),
        ({"inner": {"hole": 1}}, "inner.hole is not a field; did you mean inner.whole?"),
        ({"inner": {"xyz": 1}}, "inner.xyz is not a field; known: whole, share, maybe"),
        ({"inner": {1: 1}}, "inner.1 is not a field; known: whole, share, maybe"),
    ],
)
def test_what_is_wrong_is_named_with_its_remedy(data, message):
    with pytest.raises(UserError) as error:
        from_dict(Outer, data)
    assert str(error.value) == message


@pytest.mark.parametrize("data", [None, [], "text"])
def test_a_config_that_is_no_mapping(data):
    with pytest.raises(UserError, match=r"the configuration=.* must be a mapping of fields"):
        from_dict(Outer, data)


def test_a_part_is_named_by_its_place():
    with pytest.raises(UserError, match=r"^data\.whole='x' "):
        from_dict(Inner, {"whole": "x"}, "data")
