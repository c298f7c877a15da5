"""Texts to tokens: what is cut, what is kept, and where the tokens stand in the original text."""

import unicodedata

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from longspan.config import GlobalsConfig
from longspan.document import PAIR, SPECIAL, TEXT
from longspan.encoding import DocumentEncoder, kept, with_marks
from longspan.errors import UserError

KINDS = ["embedded", "roberta", "plain"]
TRUNCATIONS = ["head", "tail", "head+tail"]

# everything that Arrow and Python both call text; unassigned characters may compose one day
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=60)
MARKS = [
    "e",
    "\u0301",
    "\u0323",
    "\u0307",
    "\u0344",
    "\u00e9",
    "\u212b",
    "\u0958",
    "\u09c7",
    "\u09be",
]
SCRIPTS = ["\u1100", "\u1161", "\u11a8", "\ud55c", "\u05e9", "\u05c1", "\u200f", "\u202e", "\ufb01"]
EMOJI = ["\U0001f468", "\u200d", "\U0001f3fd", "\ufe0f", "\u3000"]
TRICKY = st.text(st.sampled_from([*"ab# \n\r\t\x00\x1b", *MARKS, *SCRIPTS, *EMOJI]), max_size=40)
ANY_TEXT = st.one_of(TEXTS, TRICKY)


def words(first, stop):
    return " ".join(f"w{i}" for i in range(first, stop))


def of_words(encoder, ids):
    return " ".join(encoder.tokenizer.id_to_token(int(i)) for i in ids)


# --- truncation ---------------------------------------------------------------------------------


@given(length=st.integers(0, 40), room=st.integers(0, 40), truncate=st.sampled_from(TRUNCATIONS))
def test_kept_tokens(length, room, truncate):
    tokens = list(range(length))
    half = room - room // 2
    fits = length <= room
    expected = {
        "head": tokens[:room],
        "tail": tokens if fits else tokens[length - room :],
        "head+tail": tokens if fits else tokens[:half] + tokens[length - room // 2 :],
    }
    assert kept(length, room, truncate).tolist() == expected[truncate]


@pytest.mark.parametrize(
    ("truncate", "expected"),
    [
        ("head", "<s> w0 w1 w2 w3 w4 </s>"),
        ("tail", "<s> w5 w6 w7 w8 w9 </s>"),
        ("head+tail", "<s> w0 w1 w2 w8 w9 </s>"),
    ],
)
def test_which_part_of_a_long_text_stays(make_encoder, truncate, expected):
    encoder = make_encoder("roberta", max_length=7, truncate=truncate)
    (feature,) = encoder.encode(["x"], [words(0, 10)])
    assert of_words(encoder, feature.input_ids) == expected
    assert feature.tokens_cut == 5


@given(data=st.data())
def test_the_tokens_that_stay_and_the_count_of_those_that_do_not(make_encoder, as_document, data):
    kind, truncate = data.draw(st.sampled_from(KINDS)), data.draw(st.sampled_from(TRUNCATIONS))
    text = data.draw(ANY_TEXT)
    pair = data.draw(st.none() | ANY_TEXT)
    whole = make_encoder(kind, max_length=10**6)
    uncut = as_document(whole, text, pair)
    max_length = data.draw(st.integers(5, 40))
    cut = as_document(make_encoder(kind, max_length, truncate), text, pair)

    assert uncut.tokens_cut == 0
    assert len(cut.input_ids) <= max_length
    assert cut.tokens_cut == len(uncut.input_ids) - len(cut.input_ids)
    if cut.tokens_cut:
        assert len(cut.input_ids) == max_length  # no more is cut than must be
    for kind_of_token in (SPECIAL, TEXT, PAIR):
        before = uncut.input_ids[uncut.segment == kind_of_token]
        after = cut.input_ids[cut.segment == kind_of_token]
        if kind_of_token == SPECIAL:
            assert after.tolist() == before.tolist()
        elif kind_of_token == PAIR:
            assert after.tolist() == before[: len(after)].tolist()
        else:
            places = cut.text_index[cut.segment == TEXT]
            assert places.tolist() == kept(len(before), len(after), truncate).tolist()
            assert after.tolist() == before[places].tolist()
    assert (cut.text_index[cut.segment != TEXT] == -1).all()
    assert cut.num_text_tokens == uncut.num_text_tokens == (uncut.segment == TEXT).sum()


@pytest.mark.parametrize(
    ("text", "pair", "kept_of_text", "kept_of_pair"),
    [
        (4, 3, 4, 3),  # fits
        (20, 3, 7, 3),  # the text is what gets cut
        (20, 5, 5, 5),
        (20, 20, 5, 5),  # a pair keeps half of the room at least
        (2, 20, 2, 8),  # and all that the text leaves
        (0, 20, 0, 10),
        (20, 0, 10, 0),
    ],
)
def test_a_text_is_cut_before_its_pair(
    make_encoder, as_document, text, pair, kept_of_text, kept_of_pair
):
    encoder = make_encoder("roberta", max_length=14)  # room for 10 beside 4 special tokens
    document = as_document(encoder, words(0, text), words(0, pair))
    inner = f"{words(0, kept_of_text)} </s> </s> {words(0, kept_of_pair)}"
    assert of_words(encoder, document.input_ids).split() == f"<s> {inner} </s>".split()
    assert document.tokens_cut == text + pair - kept_of_text - kept_of_pair


# --- the same as the tokenizer itself -----------------------------------------------------------


@given(kind=st.sampled_from(KINDS), text=ANY_TEXT, max_length=st.integers(3, 40))
def test_single_input_equals_the_tokenizer(tokenizers, make_encoder, kind, text, max_length):
    expected = tokenizers[kind](
        text, truncation=True, max_length=max_length, return_token_type_ids=True
    )
    assume(expected["input_ids"])
    (feature,) = make_encoder(kind, max_length).encode(["x"], [text])
    assert feature.input_ids.tolist() == expected["input_ids"]
    assert feature.token_type_ids.tolist() == expected["token_type_ids"]


@given(
    kind=st.sampled_from(KINDS),
    text=ANY_TEXT,
    pair=ANY_TEXT.filter(bool),  # `transformers` takes "" for no pair at all
    max_length=st.integers(5, 60),
)
@example(kind="roberta", text=words(0, 20), pair=words(3, 5), max_length=12)
@example(kind="plain", text=words(0, 20), pair=words(3, 5), max_length=12)
def test_pair_input_equals_the_tokenizer(tokenizers, make_encoder, kind, text, pair, max_length):
    encoder = make_encoder(kind, max_length)
    room = max_length - len(encoder.double)
    lengths = [len(encoder.tokenizer.encode(t, add_special_tokens=False)) for t in (text, pair)]
    # a pair that is too long is where the tokenizer cuts both and we the text only
    assume(sum(lengths) <= room or lengths[1] <= room // 2)
    expected = tokenizers[kind](
        text, pair, truncation=True, max_length=max_length, return_token_type_ids=True
    )
    assume(expected["input_ids"])
    (feature,) = encoder.encode(["x"], [text], [pair])
    assert feature.input_ids.tolist() == expected["input_ids"]
    assert feature.token_type_ids.tolist() == expected["token_type_ids"]


@pytest.mark.parametrize(
    ("kind", "single", "double"),
    [
        ("embedded", (["[CLS]"], [], ["[SEP]"]), (["[CLS]"], ["[SEP]"], ["[SEP]"])),
        ("roberta", (["<s>"], [], ["</s>"]), (["<s>"], ["</s>", "</s>"], ["</s>"])),
        ("plain", ([], [], []), ([], [], [])),
    ],
)
def test_special_tokens_are_read_off_the_template(make_encoder, kind, single, double):
    encoder = make_encoder(kind)
    for special, expected in ((encoder.single, single), (encoder.double, double)):
        ids = (special.before, special.between, special.after)
        names = tuple([encoder.tokenizer.id_to_token(i) for i in part] for part in ids)
        assert names == expected
        assert len(special) == sum(map(len, expected))


def test_truncation_and_padding_of_the_tokenizer_are_ignored_and_left_alone(tokenizers):
    tokenizer = Tokenizer.from_str(tokenizers["roberta"].backend_tokenizer.to_str())
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=50)
    encoder = DocumentEncoder(
        tokenizer,
        cls_id=0,
        sep_id=1,
        max_length=20,
        truncate="head",
        policies=GlobalsConfig(cls=False),
    )
    (feature,) = encoder.encode(["x"], [words(0, 10)])
    assert len(feature.input_ids) == 12
    assert tokenizer.truncation["max_length"] == 4
    assert tokenizer.padding["length"] == 50


# --- short and empty ----------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " ", "\n\n\t", "\u3000\u00a0"])
def test_a_document_without_text_is_kept_and_flagged(make_encoder, tokenizers, text):
    (feature,) = make_encoder("embedded").encode(["x"], [text])
    assert feature.is_empty
    assert feature.id == "x"
    assert feature.input_ids.tolist() == tokenizers["embedded"](text)["input_ids"]
    assert len(feature.input_ids) >= 2
    assert feature.tokens_cut == 0


def test_a_document_without_text_keeps_its_pair(make_encoder):
    encoder = make_encoder("roberta")
    (feature,) = encoder.encode(["x"], [""], ["w1 w2"])
    assert feature.is_empty
    assert of_words(encoder, feature.input_ids) == "<s> </s> </s> w1 w2 </s>"


@pytest.mark.parametrize("text", ["a", " \x00", "\u200b", "\u0301"])
def test_a_document_with_text_is_not_flagged(make_encoder, text):
    (feature,) = make_encoder("embedded").encode(["x"], [text])
    assert not feature.is_empty


def test_a_document_without_any_token_is_an_error(make_encoder):
    with pytest.raises(UserError, match=r"^document row-7 has no tokens.*data\.tokenizer"):
        make_encoder("plain").encode(["row-6", "row-7"], ["w1", " "])


def test_max_length_leaves_room_for_the_text(make_encoder):
    with pytest.raises(UserError, match=r"data\.max_length=2 .* 2 special tokens"):
        make_encoder("roberta", max_length=2)
    encoder = make_encoder("roberta", max_length=4)
    assert len(encoder.encode(["x"], [words(0, 9)])[0].input_ids) == 4
    with pytest.raises(UserError, match=r"data\.max_length=4 .* 4 special tokens"):
        encoder.encode(["x"], ["w1"], ["w2"])


def test_features_come_in_the_order_of_the_texts(make_encoder):
    encoder = make_encoder("roberta")
    features = encoder.encode(["a", "b", "c"], ["w1", "w2 w3", "w4"], ["w5", "w6", "w7"])
    assert [f.id for f in features] == ["a", "b", "c"]
    assert [of_words(encoder, f.input_ids) for f in features] == [
        "<s> w1 </s> </s> w5 </s>",
        "<s> w2 w3 </s> </s> w6 </s>",
        "<s> w4 </s> </s> w7 </s>",
    ]


# --- offsets index the original text ------------------------------------------------------------


def utf8_of(tokens):
    """The bytes behind byte-level tokens (GPT-2's alphabet)."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    alphabet = {chr(b): b for b in visible} | {chr(256 + i): b for i, b in enumerate(hidden)}
    return bytes(alphabet[c] for c in "".join(tokens))


@given(text=ANY_TEXT)
@example(text="cafe\u0301 x")
@example(text="\u1100\u1161\u11a8 \u1112\u1161\u11ab\u1100\u1173\u11af")
@example(text="a\u0323\u0307b q\u0307\u0323z o\u0302\u0301k")
@example(text="\u0301e \u0344z \u0958x \ufb1dy \u212b")
@example(text="\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f44d\U0001f3fd")
@example(text="\u202e\u05e9\u05c1\u05dc\u05d5\u05b9\u05dd \x00\x1b[0m\r\n")
def test_offsets_index_the_original_text(make_encoder, as_document, text):
    encoder = make_encoder("embedded", max_length=10**6)
    document = as_document(encoder, text)
    inside = document.segment == TEXT
    offsets = document.offsets[inside].tolist()
    tokens = [encoder.tokenizer.id_to_token(int(i)) for i in document.input_ids[inside]]
    assert (document.offsets[~inside] == 0).all()
    assert all(0 <= start < end <= len(text) for start, end in offsets)
    # no character is left out, whatever NFC made of it
    assert {place for span in offsets for place in range(*span)} == set(range(len(text)))
    # wherever the text can be cut in two, the tokens before the cut are those of the first part
    for i, (_, end) in enumerate(offsets):
        first, second = (unicodedata.normalize("NFC", part) for part in (text[:end], text[end:]))
        is_cut = all(start >= end for start, _ in offsets[i + 1 :])
        if is_cut and first + second == unicodedata.normalize("NFC", text):
            assert utf8_of(tokens[: i + 1]) == first.encode()


def test_marks_belong_to_the_character_that_they_stand_on(make_encoder, as_document):
    text = "cafe\u0301 \u1112\u1161\u11ab"  # the tokenizer reads é and 한
    document = as_document(make_encoder("embedded"), text)
    spans = {tuple(span) for span in document.offsets[document.segment == TEXT].tolist()}
    assert {(3, 5), (6, 9)} <= spans
    assert {text[start:end] for start, end in spans} >= {"e\u0301", "\u1112\u1161\u11ab"}


def test_marks_that_the_tokenizer_strips_belong_to_their_letter():
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "e": 1}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    text = "e\u0301\u0323 \u00e9 \u0301"
    offsets = np.array(tokenizer.encode(text).offsets, np.int32)
    assert offsets.tolist()[:2] == [[0, 1], [4, 5]]
    assert with_marks(text, offsets).tolist()[:2] == [[0, 3], [4, 5]]  # white space stays outside


def test_offsets_without_marks_are_as_the_tokenizer_gave_them():
    offsets = np.array([[0, 1], [1, 1], [2, 3]], np.int32)
    assert with_marks("a\u00e9b", offsets).tolist() == offsets.tolist()
    assert with_marks("abc", offsets) is offsets
    empty = np.zeros((0, 2), np.int32)
    assert with_marks("\u0301", empty).shape == (0, 2)


# --- whole, in pieces -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(text=ANY_TEXT, max_length=st.integers(4, 20))
def test_pieces_hold_the_whole_text(make_encoder, as_document, kind, text, max_length):
    encoder = make_encoder(kind, max_length)
    whole = as_document(make_encoder(kind, 10_000), text)
    assume(len(whole.input_ids))
    (pieces,) = encoder.encode_pieces(["d"], [text])
    in_text = [piece.words >= 0 for piece in pieces]
    ids = np.concatenate([p.input_ids[chosen] for p, chosen in zip(pieces, in_text)])
    assert ids.tolist() == whole.input_ids[whole.segment == TEXT].tolist()
    assert all(len(piece.input_ids) <= max_length for piece in pieces)
    assert all(piece.tokens_cut == 0 for piece in pieces)
    # every character up to the last token's end is accounted for once
    ends = whole.offsets[whole.segment == TEXT][:, 1]
    assert sum(int(p.characters.sum()) for p in pieces) == (ends.max() if len(ends) else 0)
    assert [p.id for p in pieces] == (
        ["d"] if len(pieces) == 1 else [f"d#{i}" for i in range(len(pieces))]
    )


def test_words_go_on_over_the_border_of_two_pieces(make_encoder):
    encoder = make_encoder("embedded", 5)
    (pieces,) = encoder.encode_pieces(["d"], ["unconstitutionally peaceful"])
    words = np.concatenate([piece.words[piece.words >= 0] for piece in pieces])
    assert len(pieces) > 1
    assert set(words.tolist()) == {0, 1}
    assert (np.diff(words) >= 0).all()
