"""Which tokens are global, what they cost, and cells that cannot be read."""

import logging
import re

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from longspan.config import GlobalsConfig
from longspan.document import SPECIAL, TEXT
from longspan.errors import UserError
from longspan.globals import GlobalsCost, globals_cost, warn_if_many
from longspan.typed import from_dict

NONE = GlobalsConfig(cls=False)
TRICKY = ["e", "\u0301", "\u0323", "\u00e9", "\u1100", "\u1161", "\u05e9", "\u05c1", "\u202e"]
EMOJI = ["\U0001f468", "\u200d", "\U0001f3fd"]
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=60),
    st.text(st.sampled_from([*"ab# \n\r\x00", *TRICKY, *EMOJI]), max_size=60),
)
REGEXES = [
    r"^#+ .*$",
    r"\w+",
    r"[a-e]",
    "[\u0301\u0323]+",
    r"\s+",
    r"x*",  # matches nothing, everywhere
    r"(?s)b.*",
    r"[^\x00-\x7f]",
    r"\Z",
]
POLICIES = st.builds(
    GlobalsConfig,
    cls=st.booleans(),
    separators=st.booleans(),
    first_k=st.integers(0, 4),
    every_k=st.integers(0, 5),
    regex=st.none() | st.sampled_from(REGEXES),
)


def words(first, stop):
    return " ".join(f"w{i}" for i in range(first, stop))


@pytest.fixture(scope="session")
def chosen(make_encoder):
    """The global positions of a document, and the document."""

    def positions(policies, text, pair=None, column=None, kind="embedded", **arguments):
        encoder = make_encoder(kind, policies=policies, **arguments)
        (feature,) = encoder.encode(
            ["row-3"],
            [text],
            None if pair is None else [pair],
            None if column is None else [column],
        )
        assert feature.global_positions.dtype == np.int32
        return feature.global_positions.tolist()

    return positions


def overlapping(document, spans):
    """Text tokens with a character inside a span, character by character."""
    characters = {place for start, end in spans for place in range(start, end)}
    return [
        i
        for i, (start, end) in enumerate(document.offsets.tolist())
        if document.segment[i] == TEXT and characters & set(range(start, end))
    ]


# --- policies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "pair", "separators"),
    [
        ("embedded", None, 1),
        ("embedded", "w3 w4", 2),
        ("roberta", None, 1),
        ("roberta", "w3 w4", 3),
    ],
)
def test_special_tokens(chosen, make_encoder, as_document, kind, pair, separators):
    document = as_document(make_encoder(kind), "w1 w2", pair)
    special = (document.segment == SPECIAL).nonzero()[0].tolist()
    assert special[0] == 0
    assert len(special) == 1 + separators
    assert chosen(GlobalsConfig(cls=True), "w1 w2", pair, kind=kind) == [0]
    only_separators = GlobalsConfig(cls=False, separators=True)
    assert chosen(only_separators, "w1 w2", pair, kind=kind) == special[1:]


def test_special_tokens_that_are_written_in_the_text_are_text(chosen):
    assert chosen(GlobalsConfig(cls=True), "w1 <s> w2", kind="roberta") == [0]
    both = GlobalsConfig(cls=False, separators=True)
    assert chosen(both, "w1 </s> w2", kind="roberta") == [4]


@pytest.mark.parametrize(
    ("truncate", "first", "every"),
    [
        # <s> then the tokens that stay: 0–5, 14–19, or 0–2 and 17–19
        ("head", [1, 2], [1, 5]),
        ("tail", [], [3]),
        ("head+tail", [1, 2], [1]),
    ],
)
def test_first_and_every_k_count_in_the_whole_text(chosen, truncate, first, every):
    given = {"kind": "roberta", "max_length": 8, "truncate": truncate}
    assert chosen(GlobalsConfig(cls=False, first_k=2), words(0, 20), **given) == first
    assert chosen(GlobalsConfig(cls=False, every_k=4), words(0, 20), **given) == every


def test_k_counts_tokens_of_the_text_and_never_of_the_pair(chosen):
    text, pair = words(0, 3), words(10, 20)
    first = GlobalsConfig(cls=False, first_k=5)
    assert chosen(first, text, pair, kind="roberta") == [1, 2, 3]
    every = GlobalsConfig(cls=False, every_k=2)
    assert chosen(every, text, pair, kind="roberta") == [1, 3]


def test_headings(chosen, make_encoder, as_document):
    text = "# The War\nIt was long.\n\n## Its End\nPeace #1 came.\n### \n"
    policies = GlobalsConfig(cls=False, regex=r"^#{1,6} .*$")
    document = as_document(make_encoder(), text)
    spans = [document.offsets[i].tolist() for i in chosen(policies, text)]
    found = {place for start, end in spans for place in range(start, end)}
    assert "".join(text[i] for i in sorted(found)) == "# The War## Its End### "


@given(text=TEXTS, regex=st.sampled_from(REGEXES), max_length=st.sampled_from([8, 4096]))
@example(text="# cafe\u0301\nx # y\n## e\u0323\u0301 z", regex=REGEXES[0], max_length=4096)
@example(text="ae\u0301b", regex="[\u0301\u0323]+", max_length=4096)
def test_a_token_is_global_iff_its_characters_overlap_a_match(
    chosen, make_encoder, as_document, text, regex, max_length
):
    policies = GlobalsConfig(cls=False, regex=regex)
    document = as_document(make_encoder(max_length=max_length), text)
    spans = [match.span() for match in re.finditer(regex, text, re.MULTILINE)]
    expected = overlapping(document, spans)
    assert chosen(policies, text, max_length=max_length) == expected


@settings(max_examples=50)
@given(text=TEXTS, pair=st.none() | TEXTS, policies=POLICIES)
def test_policies_are_united(chosen, text, pair, policies):
    alone = [
        GlobalsConfig(**({"cls": False} | {name: getattr(policies, name)}))
        for name in ("cls", "separators", "first_k", "every_k", "regex")
    ]
    united = set().union(*(chosen(policy, text, pair) for policy in alone))
    assert chosen(policies, text, pair) == sorted(united)
    assert chosen(NONE, text, pair) == []


@pytest.mark.parametrize(("policy", "token"), [("cls", "[CLS]"), ("separators", "[SEP]")])
def test_a_policy_without_its_token_is_an_error(chosen, policy, token):
    policies = GlobalsConfig(**({"cls": False} | {policy: True}))
    with pytest.raises(UserError) as error:
        chosen(policies, "w1", kind="plain")
    assert f"globals.{policy}=true" in str(error.value)
    assert token in str(error.value)


def test_every_config_of_the_group_can_be_used(chosen, conf):
    counts = {}
    with initialize_config_dir(version_base="1.3", config_dir=str(conf)):
        for file in (conf / "globals").glob("*.yaml"):
            composed = compose("train", overrides=[f"globals={file.stem}"])
            policies = from_dict(GlobalsConfig, OmegaConf.to_container(composed.globals))
            counts[file.stem] = len(chosen(policies, "# a heading\n" + "text " * 600))
    assert counts["none"] == 0
    assert counts["cls"] == 1
    assert counts["headings"] > 1
    assert counts["every_256"] > 2


# --- a column of the data -----------------------------------------------------------------------


@given(data=st.data(), text=TEXTS, max_length=st.sampled_from([8, 4096]))
def test_spans_of_a_column(chosen, make_encoder, as_document, data, text, max_length):
    bounds = st.integers(0, len(text))
    spans = data.draw(st.lists(st.tuples(bounds, bounds).map(sorted), max_size=5))
    policies = GlobalsConfig(cls=False, column="spans")
    document = as_document(make_encoder(max_length=max_length), text)
    if not spans:
        assert chosen(policies, text, column=spans, max_length=max_length) == []
    assert chosen(policies, text, column=spans, max_length=max_length) == overlapping(
        document, spans
    )


@pytest.mark.parametrize("cast", [int, bool])
@pytest.mark.parametrize("truncate", ["head", "tail", "head+tail"])
def test_a_mask_over_all_tokens_of_the_text(chosen, make_encoder, as_document, cast, truncate):
    mask = [cast(i % 3 == 0) for i in range(20)]
    given = {"kind": "roberta", "max_length": 9, "truncate": truncate}
    document = as_document(make_encoder("roberta", 9, truncate), words(0, 20))
    expected = [
        i for i, place in enumerate(document.text_index.tolist()) if place >= 0 and mask[place]
    ]
    policies = GlobalsConfig(cls=False, column="mask")
    assert chosen(policies, words(0, 20), column=mask, **given) == expected


def test_cells_without_anything(chosen):
    policies = GlobalsConfig(cls=True, column="spans")
    for cell in (None, [], [[3, 3]]):
        assert chosen(policies, "w1 w2", column=cell) == [0]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ([[0, 99]], "[[0, 99]]"),
        ([[-1, 2]], "[[-1, 2]]"),
        ([[3, 1]], "[[3, 1]]"),
        ([[0, 1, 2]], "shape (1, 3)"),
        ([1, 0, 1], "shape (3,)"),
        ([[0, 1], [2]], "[[0, 1], [2]]"),
        ([0.5, 1.0], "[0.5, 1.0]"),
        (["0-3", "4-6"], "0-3"),
        ("0-3", "0-3"),
        ("", "''"),
        ([None, 1], "[None, 1]"),
        ({"start": [0], "end": [1]}, "start"),
        ([{"start": 0, "end": 1}] * 2, "start"),
        (1, "shape ()"),
    ],
)
def test_a_cell_that_cannot_be_read(chosen, cell, said):
    policies = GlobalsConfig(cls=False, column="spans")
    with pytest.raises(UserError) as error:
        chosen(policies, "w1 w2", column=cell, kind="roberta")
    message = str(error.value)
    assert message.startswith("document row-3: globals.column: ")
    assert said in message
    assert "\n" not in message


# --- what they cost -----------------------------------------------------------------------------


def pairs(length, window, global_tokens):
    """Counted one by one."""
    return sum(
        window is None or abs(i - j) <= window or i in global_tokens or j in global_tokens
        for i in range(length)
        for j in range(length)
    )


@given(
    documents=st.lists(
        st.integers(1, 14).flatmap(
            lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)).map(sorted))
        ),
        min_size=1,
        max_size=4,
    ),
    windows=st.lists(st.none() | st.integers(0, 6), min_size=1, max_size=3),
)
def test_cost_counted_pair_by_pair(documents, windows):
    lengths = [length for length, _ in documents]
    positions = [np.array(chosen, np.int64) for _, chosen in documents]
    cost = globals_cost(lengths, positions, [{"window": w} for w in windows])
    with_them = sum(pairs(n, w, set(chosen)) for n, chosen in documents for w in windows)
    without = sum(pairs(n, w, set()) for n, _ in documents for w in windows)
    assert cost.pairs_share == pytest.approx((with_them - without) / with_them)
    assert cost.mean == pytest.approx(np.mean([len(chosen) for _, chosen in documents]))
    assert cost.maximum == max(len(chosen) for _, chosen in documents)


def test_cost_in_words():
    words = str(GlobalsCost(mean=2.25, maximum=7, pairs_share=0.125))
    assert (
        words == "global tokens a document: mean 2.2, max 7; they are 12.5% of the attention pairs"
    )


@pytest.mark.parametrize(
    ("maximum", "windows", "warned"),
    [(5, [2], False), (6, [2], True), (6, [None, 8, 2], True), (99, [None], False), (2, [0], True)],
)
def test_more_globals_than_keys_in_a_window_is_said(caplog, maximum, windows, warned):
    warn_of(caplog, maximum, [{"window": window} for window in windows], warned)


@pytest.mark.parametrize(
    ("maximum", "layer", "warned"),
    [
        (20, {"window": 2, "block": 4}, False),  # 5 blocks of 4 tokens
        (21, {"window": 2, "block": 4}, True),
        (5, {"window": 2, "dilation": 3}, False),  # as many keys, further apart
        (6, {"window": 2, "dilation": (1, 3)}, True),
        (4, {"window": 2, "causal": True}, True),
    ],
)
def test_a_window_s_keys_are_counted_by_its_pattern(caplog, maximum, layer, warned):
    warn_of(caplog, maximum, [{"window": None}, layer], warned)


def warn_of(caplog, maximum, layers, warned):
    with caplog.at_level(logging.WARNING, logger="longspan"):
        warn_if_many(GlobalsCost(mean=1.0, maximum=maximum, pairs_share=0.0), layers)
    assert bool(caplog.records) == warned
    if warned:
        assert f"{maximum} global tokens" in caplog.text
        assert "model.window" in caplog.text


def test_the_second_text_is_global_wherever_it_stands(make_encoder):
    encoder = make_encoder("roberta", policies=GlobalsConfig(question=True))
    (feature,) = encoder.encode(["x"], ["w1 w2"], ["w3 w4 w5"])
    assert feature.input_ids.tolist() == [0, 4, 5, 1, 1, 6, 7, 8, 1]
    assert feature.global_positions.tolist() == [0, 5, 6, 7]
