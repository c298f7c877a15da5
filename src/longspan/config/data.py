"""The fields of `data.*` and `globals.*`: documents, and which of their tokens are global."""

import re
from dataclasses import dataclass, field
from typing import Literal

from longspan.config.checks import MAX_PROCESSES, at_least, at_most, path_name, probability
from longspan.errors import UserError


@dataclass(frozen=True, kw_only=True)
class GlobalsConfig:
    """Which tokens are global: the union of every policy that is switched on."""

    cls: bool = True  # the [CLS] token
    question: bool = False  # the question's tokens, or the second text's
    first_k: int = 0  # the first k tokens of the document's text
    every_k: int = 0  # every k-th token of the document's text: 0, k, 2k, …
    separators: bool = False  # the [SEP] tokens
    regex: str | None = None  # tokens that overlap a match (multi-line mode), e.g. '^#+ .*$'
    column: str | None = None  # column of [start, end) character spans, or of 0/1 per text token

    @property
    def is_on(self) -> bool:
        """Whether any policy may choose a token."""
        return any(vars(self).values())

    def __post_init__(self) -> None:
        at_least(0, "globals.first_k", self.first_k)
        at_least(0, "globals.every_k", self.every_k)
        if self.regex is not None:
            try:
                re.compile(self.regex)
            except re.error as error:
                raise UserError(
                    f"globals.regex={self.regex!r} is not a regular expression ({error}); mend it"
                ) from error


MAX_FACTS = 16  # needles about four places at most, of four kinds
MAX_NEEDLES = 1_000_000  # questions of a length, which are all made before training


@dataclass(frozen=True, kw_only=True)
class NeedleConfig:
    """data.path=embedded:needle: questions about facts set into the embedded addresses."""

    lengths: tuple[int, ...] = (256, 512, 1024, 2048)  # tokens of question and document, nearly
    depths: tuple[int, ...] = (0, 25, 50, 75, 100)  # per cent of the document before the fact
    train: tuple[int, ...] = (2400, 120, 60, 60)  # questions of each length
    dev: tuple[int, ...] = (10, 10, 10, 10)
    test: tuple[int, ...] = (50, 50, 50, 100)
    facts: int = 4  # in a document; one of them is asked about
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, "data.needle.facts", self.facts)
        if self.facts > MAX_FACTS:
            raise UserError(f"data.needle.facts={self.facts} exceeds {MAX_FACTS}; lower it")
        at_least(0, "data.needle.seed", self.seed)
        for name in ("lengths", "depths"):
            if len(set(getattr(self, name))) < max(1, len(getattr(self, name))):
                raise UserError(
                    f"data.needle.{name}={list(getattr(self, name))} must list "
                    "different numbers, at least one"
                )
        for length in self.lengths:
            at_least(1, "data.needle.lengths", length)
        for depth in self.depths:
            if not 0 <= depth <= 100:
                raise UserError(f"data.needle.depths: {depth} must lie in [0, 100], in per cent")
        for split in ("train", "dev", "test"):
            given = getattr(self, split)
            if len(given) != len(self.lengths):
                raise UserError(
                    f"data.needle.{split}={list(given)} must give a number for each of "
                    f"data.needle.lengths={list(self.lengths)}"
                )
            for number in given:
                at_least(0, f"data.needle.{split}", number)
                at_most(MAX_NEEDLES, f"data.needle.{split}", number)
        if not sum(self.train):
            raise UserError(
                f"data.needle.train={list(self.train)} leaves nothing to train on; raise a number"
            )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the documents come from, how they become tokens and batches."""

    path: str = "embedded:sotu"  # embedded:<name>, a local file or folder, or a hub id
    name: str | None = None  # configuration name on the hub
    revision: str | None = None  # branch, tag or commit on the hub
    files: dict[str, str | None] | None = None  # train/dev/test → local file, instead of path
    splits: dict[str, str | None] = field(  # our split → the source's split; null = cut our own
        default_factory=lambda: {"train": "train", "dev": "validation", "test": "test"}
    )
    format: Literal["hotpot_qa", "qasper", "trivia_qa", "wikihop"] | None = None  # data set whose
    # columns become id, question, text and answers (docs/data.md); null = columns as named below
    split_column: str | None = None  # one table that names each row's split in a column
    dev_fraction: float = 0.1  # share cut from train where the source has no dev split
    test_fraction: float = 0.2  # share cut from train where the source has no test split
    split_seed: int = 0
    group_column: str | None = None  # rows that are alike in it fall into one split
    id_column: str | None = None  # null = <split>-<row number>
    text_column: str | tuple[str, ...] = "text"  # several columns, or a list cell: joined sections
    text_pair_column: str | None = None
    question_column: str = "question"  # task=qa|multihop|choice; text_column is what it is about
    answers_column: str = "answers"  # task=qa: {text, answer_start}, or texts to be searched;
    # task=multihop: a text, yes or no; task=choice: a candidate's text, number or letter
    candidates_column: str = "candidates"  # task=choice: list of texts
    facts_column: str = "supporting_facts"  # task=multihop: titles and sentence numbers, if any
    section_separator: str = "\n\n"
    label_column: str = "label"
    needle: NeedleConfig | None = None  # of data.path=embedded:needle; null = its defaults
    tokenizer: str | None = None  # embedded:<name>, a folder, a hub id; null = the pretrained
    # model's own, or embedded:sotu from scratch
    max_length: int = 4096  # tokens of a document, special tokens included
    truncate: Literal["head", "tail", "head+tail"] = "head"  # which part is kept
    stride: int = 0  # tokens that consecutive slices of a document share (task=qa|multihop|choice)
    tokens_per_batch: int | Literal["auto"] = 16_384  # tokens of all documents of a batch
    # together; auto = the most that fit into memory, decided once as a run begins
    shortest_first: bool = False  # an epoch goes from short documents to long ones (curriculum)
    streaming: bool = False  # read train as it comes, never whole: task=mlm on large sources
    shuffle_buffer: int = 1000  # documents of a stream that are shuffled together
    held_out: int = 256  # documents of a stream's dev and test, cut from train where it has no dev
    num_proc: int | None = None  # processes that tokenise; null = in this process
    num_workers: int = 0  # processes that load batches
    cache_dir: str | None = None  # of `datasets`; null = its default

    @property
    def local_files(self) -> dict[str, str]:
        """The files that are named, by split."""
        return {split: file for split, file in (self.files or {}).items() if file is not None}

    @property
    def token_budget(self) -> int:
        """`tokens_per_batch` as a number."""
        assert self.tokens_per_batch != "auto", "training decides before it reads this"
        return self.tokens_per_batch

    def __post_init__(self) -> None:
        for split, file in self.local_files.items():
            path_name(f"data.files.{split}", file)
        for name in ("path", "tokenizer", "cache_dir"):
            path_name(f"data.{name}", getattr(self, name))
        at_least(3, "data.max_length", self.max_length)
        if self.tokens_per_batch != "auto" and self.tokens_per_batch < self.max_length:
            raise UserError(
                f"data.tokens_per_batch={self.tokens_per_batch} cannot hold one document of "
                f"data.max_length={self.max_length} tokens; raise it or lower data.max_length"
            )
        if not self.text_column:
            raise UserError("data.text_column names no column; give one, or several as [a,b]")
        at_least(0, "data.stride", self.stride)
        if self.stride >= self.max_length:
            raise UserError(
                f"data.stride={self.stride} is not smaller than data.max_length="
                f"{self.max_length}; slices would not move on: lower it"
            )
        for name in ("dev_fraction", "test_fraction"):
            probability(f"data.{name}", getattr(self, name))
        if self.dev_fraction + self.test_fraction >= 1:
            raise UserError(
                f"data.dev_fraction={self.dev_fraction} and data.test_fraction="
                f"{self.test_fraction} leave nothing to train on; lower one"
            )
        at_least(0, "data.split_seed", self.split_seed)
        for name, given in (("splits", self.splits), ("files", self.files or {})):
            for split in given:
                if split not in ("train", "dev", "test"):
                    raise UserError(f"data.{name}.{split} is not a split; use train, dev, test")
        if self.num_proc is not None:
            at_least(1, "data.num_proc", self.num_proc)
            at_most(MAX_PROCESSES, "data.num_proc", self.num_proc)
        at_least(0, "data.num_workers", self.num_workers)
        at_most(MAX_PROCESSES, "data.num_workers", self.num_workers)
        at_least(1, "data.shuffle_buffer", self.shuffle_buffer)
        at_least(0, "data.held_out", self.held_out)
        if self.streaming and self.shortest_first:
            raise UserError(
                "data.shortest_first=true needs the lengths of all documents, which a stream does "
                "not tell; set it to false"
            )
        if self.streaming and self.num_workers > 1:
            raise UserError(
                f"data.num_workers={self.num_workers}: a stream is read by one process; set 0 or 1"
            )
