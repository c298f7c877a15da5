"""Tokenizers and texts at their extremes: documents become tokens, or one line says why not."""

import copy
import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from longspan.config import GlobalsConfig

FUZZ = settings.get_profile(os.environ.get("LONGSPAN_FUZZ", "fuzz"))
MANY = 2000
TEXTS = {
    "control characters": "\x00\x01\x1b\x7f\x85",
    "half a pair of surrogates": "a \ud800 b \udfff",
    "one character": "a" * MANY,
    "spaces": " " * MANY,
    "marks": "e" + "\u0301" * 500 + " w1",
    "marks alone": "\u0301\u0308\u20dd",
    "right to left": "\u202e\u05e9\u05dc\u05d5\u05dd w1 \u0645\u0631\u062d\u0628\u0627",
    "no characters": "\ufdd0\uffff\U0010ffff",
    "joined emoji": "\U0001f469\u200d\U0001f469\u200d\U0001f467 w1",
    "zero width": "w\u200b1\u2060\ufeff",
    "hangul in parts": "\u1112\u1161\u11ab w1",
    "grows in lower case": "İ" * 40,
    "special tokens": "<s> </s> [CLS] [SEP] <unk> <pad>",
}
POLICIES = GlobalsConfig(cls=True, first_k=2, every_k=3, separators=True, regex=r"\w+")
# what to put into a tokenizer.json: a part, and its JSON
PARTS = {
    "normalizer": (
        None, {"type": "Replace", "pattern": {"Regex": "[\\s\\S]"}, "content": ""},
        {"type": "NFKC"}, {"type": "NFD"}, {"type": "StripAccents"}, {"type": "Nmt"},
        {"type": "Prepend", "prepend": "x"}, {"type": "Strip", "strip_left": True,
                                              "strip_right": True}),
    "pre_tokenizer": (None, {"type": "Whitespace"}, {"type": "Split", "pattern": {"String": "w"},
                      "behavior": "Removed", "invert": False}),
    "post_processor": (None, {"type": "TemplateProcessing", "single": [], "pair": [],
                              "special_tokens": {}}),
    "added_tokens": ([], [{"id": 0, "content": " ", "single_word": False, "lstrip": True,
                           "rstrip": True, "normalized": False, "special": True}]),
    "truncation": ({"direction": "Right", "max_length": 1, "strategy": "LongestFirst",
                    "stride": 0},),
    "padding": ({"strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": None,
                 "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"},),
    "model": (
        {"type": "WordLevel", "vocab": {}, "unk_token": "<unk>"},
        {"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"},
        {"type": "WordLevel", "vocab": {"w1": 0}, "unk_token": "missing"},
        {"type": "WordLevel", "vocab": {"<unk>": 0, "w1": 2**31}, "unk_token": "<unk>"},
        {"type": "WordPiece", "vocab": {"w": 0, "##1": 1}, "unk_token": "none",
         "continuing_subword_prefix": "##", "max_input_chars_per_word": 100},
        {"type": "BPE", "vocab": {"a": 0, "w": 1}, "merges": []},
        {"type": "BPE", "vocab": {}, "merges": []},
        {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0},
        {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": None},
        {}, None, 1),
}  # fmt: skip
TOKENS = (None, "", " ", "<s>", "missing", 1, [], {"content": "<s>"}, "w1", "\ud800")
SETTINGS = {
    "cls_token": TOKENS, "sep_token": TOKENS, "mask_token": TOKENS, "unk_token": TOKENS,
    "model_max_length": (0, 1, -1, None, "x", 1e30, 10**30), "tokenizer_class": (
        None, "", "BertTokenizer", "PreTrainedTokenizerFast", "NoSuchTokenizer", 1),
    "model_input_names": ([], ["token_type_ids"], None, 1), "auto_map": ({"AutoTokenizer": "x.Y"},),
    "add_prefix_space": (True, None), "padding_side": ("up",), "truncation_side": ("up", 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tokenizers, tmp_path_factory):
    """The folder of a tokenizer that is in order, with segments and special tokens."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizers["bert"].save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """A file of all texts, and ordinary ones."""
    path = tmp_path_factory.mktemp("texts") / "a.jsonl"
    texts = ["w1 w2 w3", "", "w1", *(t for t in TEXTS.values() if "\ud800" not in t)]
    rows = [{"text": text[:2000], "label": "ab"[i % 2]} for i, text in enumerate(texts)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@settings(FUZZ)
@given(st.data())
def test_a_folder(verdict, read, base, documents, new_folder, data):
    folder = new_folder() / "tokenizer"
    shutil.copytree(base, folder)
    for name, choices in (("tokenizer.json", PARTS), ("tokenizer_config.json", SETTINGS)):
        tree = json.loads((folder / name).read_text())
        for _ in range(data.draw(st.integers(0, 2))):
            part = data.draw(st.sampled_from(list(choices)))
            tree[part] = copy.deepcopy(data.draw(st.sampled_from(choices[part])))
            note(f"{part}: {tree[part]}")
        content = json.dumps(tree).encode()
        damage = data.draw(st.sampled_from(("none",) * 12 + ("cut", "gone", "list", "bytes")))
        if damage == "gone":
            (folder / name).unlink()
            continue
        cut = data.draw(st.integers(0, len(content))) if damage == "cut" else len(content)
        content = {"list": b"[]", "bytes": b"\xff\0"}.get(damage, content[:cut])
        (folder / name).write_bytes(content)
    task = data.draw(st.sampled_from(("classification", "mlm")))
    _, line = verdict(read, documents, {"data.tokenizer": str(folder), "task.name": task})
    assert line is None or "data.tokenizer" in line or "token" in line


@settings(FUZZ)
@given(
    kind=st.sampled_from(("embedded", "bert", "plain")),
    parts=st.lists(st.sampled_from(list(TEXTS.values())) | st.text(max_size=9), max_size=3),
    length=st.sampled_from((4, 16, 4096)),
    truncate=st.sampled_from(("head", "tail", "head+tail")),
)
def test_a_text(verdict, make_encoder, kind, parts, length, truncate):
    text = " ".join(parts)
    encoder = make_encoder(kind, length, truncate, POLICIES)
    for features in (
        verdict(encoder.encode, ["a"], [text])[0],
        verdict(encoder.encode, ["a"], ["w1"], [text])[0],
        *(verdict(encoder.encode_pieces, ["a"], [text])[0] or []),
        *(verdict(encoder.encode_slices, ["a"], ["w1"], [text], max_question_length=1)[0] or []),
    ):
        for feature in features or []:
            assert 0 < len(feature.input_ids) <= length
            assert (np.diff(feature.global_positions) > 0).all()
            offsets = np.zeros((0, 2)) if feature.offsets is None else feature.offsets
            assert (offsets[:, 0] <= offsets[:, 1]).all()
            assert offsets.max(initial=0) <= len(text)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["a", " ", "\u0301", "e\u0301", "\u05d0 ", "\x00", "a ", "."])
@pytest.mark.parametrize("kind", ["embedded", "plain"])
def test_a_million_repeats(verdict, make_encoder, kind, unit):
    encoder = make_encoder(kind, 4096, "head+tail", GlobalsConfig(cls=False, first_k=1, every_k=9))
    text = "w1 " + unit * 10**6
    for call in (encoder.encode, encoder.encode_pieces):
        found, line = verdict(call, ["a"], [text])
        assert line is None
        assert found
