"""The embedded corpus and its tokenizer are what data/README.md says they are."""

import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

DATA = Path(__file__).resolve().parents[2] / "data"
FOLDER = DATA / "sotu"
SCRIPT = DATA / "prepare_sotu.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("prepare_sotu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def table():
    return pq.read_table(FOLDER / "sotu.parquet")


@pytest.fixture(scope="module")
def addresses(table):
    return table.to_pylist()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER / "tokenizer")


@pytest.fixture
def copied_data(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "sotu")
    shutil.copy(DATA / "README.md", tmp_path / "README.md")
    return tmp_path


def run_script(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


# --- the README ---------------------------------------------------------------------------------


def test_files_have_the_checksums_of_the_readme(script):
    assert script.changed_files(FOLDER, DATA / "README.md") == []


def test_check_names_the_files_that_changed(copied_data):
    folder = copied_data / "sotu"
    with (folder / "sotu.parquet").open("ab") as file:
        file.write(b"\0")
    (folder / "tokenizer" / "tokenizer.json").unlink()
    result = run_script("--check", "--folder", folder, "--readme", copied_data / "README.md")
    assert result.returncode == 1
    assert result.stderr.strip().endswith("sotu.parquet, tokenizer/tokenizer.json")


def test_tables_of_the_readme_are_those_of_the_files(script):
    assert script.TABLES.search((DATA / "README.md").read_text())[0] == script.describe(FOLDER)


# --- the addresses ------------------------------------------------------------------------------


def test_columns(table):
    string = pa.string()
    assert table.schema.remove_metadata() == pa.schema(
        {
            "id": string,
            "text": string,
            "era": string,
            "year": pa.int32(),
            "president": string,
            "split": string,
        }
    )
    assert all(column.null_count == 0 for column in table.columns)
    assert table.num_rows == 237


def test_labels_agree_with_years(addresses):
    bounds = {
        "before 1861": range(1790, 1861),
        "1861-1912": range(1861, 1913),
        "1913-1960": range(1913, 1961),
        "from 1961": range(1961, 2027),
    }
    assert {address["era"] for address in addresses} == set(bounds)
    for address in addresses:
        assert address["year"] in bounds[address["era"]], address["id"]
        assert address["id"].startswith(f"{address['year']}-"), address["id"]


def test_splits_are_disjoint_and_stratified(addresses):
    for column in ("id", "text"):
        assert len({address[column] for address in addresses}) == len(addresses)
    in_era = Counter(address["era"] for address in addresses)
    in_split = Counter((address["era"], address["split"]) for address in addresses)
    for era, total in in_era.items():
        for split, share in (("train", 0.60), ("dev", 0.15), ("test", 0.25)):
            assert abs(in_split[era, split] - share * total) <= 1.5, (era, split)
    assert sum(n for (_, split), n in in_split.items() if split == "test") >= 60


def test_no_address_has_a_tenth_of_its_text_in_another_split(addresses):
    sequences, holders = {}, defaultdict(set)
    for address in addresses:
        words = re.findall(r"\w+", address["text"].lower())
        sequences[address["id"]] = {
            hash(tuple(words[i : i + 8])) for i in range(max(1, len(words) - 7))
        }
        for sequence in sequences[address["id"]]:
            holders[sequence].add(address["id"])
    shared = Counter(
        pair for ids in holders.values() if len(ids) > 1 for pair in combinations(sorted(ids), 2)
    )
    split_of = {address["id"]: address["split"] for address in addresses}
    reused = {
        (a, b)
        for (a, b), n in shared.items()
        if n > 0.1 * min(len(sequences[a]), len(sequences[b]))
    }
    assert reused, "the pairs that the script keeps together"
    assert [pair for pair in reused if split_of[pair[0]] != split_of[pair[1]]] == []


def test_splits_do_not_depend_on_the_order_of_the_addresses(script, addresses):
    ids = [address["id"] for address in addresses]
    eras = [address["era"] for address in addresses]
    backwards = script.assign_splits(ids[::-1], eras[::-1])
    assert backwards[::-1] == [address["split"] for address in addresses]


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("[ Delivered in person at 9:04 p.m. ]\n\nMr. Speaker:", "Mr. Speaker:"),
        ("Jump toPart II |Part III\n\nPart 1. [On Our Relations.]\n\nWe.", "Part 1.\n\nWe."),
        ("The last--maybe--[laughter]--but so it is. [Applause]", "The last--maybe--but so it is."),
        ("No.\n\nAudience members. Boo!\n\nThe President. ——yes.", "No.\n\n——yes."),
        ("Of public [see APP Note] funds.", "Of public funds."),
        ("Our GTB [GDP; White House correction] is up.", "Our GTB is up."),
        ("At Guam.1\n\n1 See 1969 volume, Item 279.\n\nThe.", "At Guam.\n\nThe."),
        ("The end.\n\nHARRY S. TRUMAN", "The end."),
        ("The end.\n\nJIMMY CARTER.\nThe White House,\n\nJanuary 16, 1981.", "The end."),
    ],
)
def test_editorial_text_goes(script, source, address):
    assert script.strip_editorial(source) == address


@pytest.mark.parametrize(
    "address",
    [
        "On [1815-09-30], the debt stood at $120,000,000.",
        "That [the States] may.\n\n[In millions]\n\n[1.] First is growth.",
        "[In any event, this one reduction will save taxpayers 2 hundred million dollars.]",
        "The President of Paraguay. Representative government is best.\n\nCIVIL SERVICE.\n\nIt is.",
        "Not the loss of a single 1 on our part.\n\n1 Public Building, Highways, Rivers.",
    ],
)
def test_the_words_of_the_address_stay(script, address):
    assert script.strip_editorial(address) == address


def test_no_editorial_text_is_left(script, addresses):
    traces = re.compile(r"(?i)\[(laughter|applause|inaudible)|APP note|Jump to|correction\]")
    for address in addresses:
        assert not traces.search(address["text"]), address["id"]
        assert script.strip_editorial(address["text"]) == address["text"], address["id"]


# --- the tokenizer ------------------------------------------------------------------------------


def test_size_and_special_tokens(tokenizer):
    assert tokenizer.is_fast
    assert len(tokenizer) == tokenizer.vocab_size == 8192
    specials = [
        tokenizer.pad_token_id,
        tokenizer.unk_token_id,
        tokenizer.cls_token_id,
        tokenizer.sep_token_id,
        tokenizer.mask_token_id,
    ]
    assert specials == [0, 1, 2, 3, 4]
    assert tokenizer.convert_ids_to_tokens(specials) == [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
    ]  # fmt: skip
    assert tokenizer.model_max_length >= 10**9


def test_templates_of_one_and_two_texts(tokenizer):
    first = tokenizer("Who spoke?", add_special_tokens=False)["input_ids"]
    second = tokenizer("The President.", add_special_tokens=False)["input_ids"]
    assert tokenizer("Who spoke?")["input_ids"] == [2, *first, 3]
    pair = tokenizer("Who spoke?", "The President.", return_token_type_ids=True)
    assert pair["input_ids"] == [2, *first, 3, *second, 3]
    assert pair["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)


def test_case_is_kept_and_unicode_composed(tokenizer):
    assert tokenizer.decode(tokenizer("THE Union", add_special_tokens=False)["input_ids"]) == (
        "THE Union"
    )
    assert tokenizer("cafe\u0301")["input_ids"] == tokenizer("caf\u00e9")["input_ids"]


def test_every_address_comes_back_and_offsets_tile_it(tokenizer, addresses):
    for address in addresses:
        text = address["text"]
        encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
        assert tokenizer.decode(ids) == text, address["id"]
        assert tokenizer.unk_token_id not in ids, address["id"]
        end_before, span_before = 0, None
        for start, end in offsets:
            shares_a_character = (start, end) == span_before and end - start == 1
            assert start == end_before or shares_a_character, (address["id"], start)
            end_before, span_before = end, (start, end)
        assert end_before == len(text), address["id"]


def test_offsets_give_the_text_of_each_token(tokenizer, addresses):
    text = addresses[120]["text"]
    assert text.isascii(), "one byte per character, so that every token decodes by itself"
    encoding = tokenizer(text, return_offsets_mapping=True)
    ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
    assert offsets[0] == offsets[-1] == (0, 0)  # [CLS], [SEP]
    for token_id, (start, end) in zip(ids[1:-1], offsets[1:-1], strict=True):
        assert tokenizer.decode([token_id]) == text[start:end]


# --- making it anew -----------------------------------------------------------------------------


def test_the_script_makes_the_same_content_again(script, table, tmp_path):
    try:
        installed = importlib.metadata.version("sotu")
    except importlib.metadata.PackageNotFoundError:
        installed = None
    if installed != script.SOTU_VERSION:
        pytest.skip(f"needs sotu=={script.SOTU_VERSION}, installed is {installed}")
    shutil.copy(DATA / "README.md", tmp_path / "README.md")
    folder = tmp_path / "sotu"
    result = run_script("--folder", folder, "--readme", tmp_path / "README.md")
    assert result.returncode == 0, result.stderr
    assert pq.read_table(folder / "sotu.parquet").equals(table)
    again, committed = (
        json.loads((path / "tokenizer" / "tokenizer.json").read_text()) for path in (folder, FOLDER)
    )
    assert again == committed
    assert result.stdout in (tmp_path / "README.md").read_text()
    assert script.changed_files(folder, tmp_path / "README.md") == []
