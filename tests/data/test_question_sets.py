"""Every ready config of questions, on small local tables with the columns of the real sets, and the
real data that lies beside the project.

The columns are those of the data sets' cards on the hub; nothing here downloads.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset, Features, List, Value

from longspan.config import GlobalsConfig, QAConfig
from longspan.data.features import encode_split
from longspan.data.sources import load_other, load_splits
from longspan.data.stream_sources import load_stream
from longspan.errors import UserError
from longspan.known_tasks import task_columns
from longspan.tasks.qa import QuestionAnswering

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
STRING, STRINGS, INTEGERS = Value("string"), List(Value("string")), List(Value("int32"))
SQUAD = {
    "id": STRING,
    "title": STRING,
    "context": STRING,
    "question": STRING,
    "answers": {"text": STRINGS, "answer_start": INTEGERS},
}
PAGES = {"doc_source": STRINGS, "filename": STRINGS, "title": STRINGS, "wiki_context": STRINGS}
RESULTS = {
    "description": STRINGS,
    "filename": STRINGS,
    "rank": INTEGERS,
    "title": STRINGS,
    "url": STRINGS,
    "search_context": STRINGS,
}
NAMES = {
    "aliases": STRINGS,
    "normalized_aliases": STRINGS,
    "matched_wiki_entity_name": STRING,
    "normalized_matched_wiki_entity_name": STRING,
    "normalized_value": STRING,
    "type": STRING,
    "value": STRING,
}
ANSWER = {
    "unanswerable": Value("bool"),
    "extractive_spans": STRINGS,
    "yes_no": Value("bool"),
    "free_form_answer": STRING,
    "evidence": STRINGS,
    "highlighted_evidence": STRINGS,
}


def squad_row(i: int) -> dict[str, Any]:
    """Two questions a document; the second of them has no answer."""
    text = f"The town of document {i // 2} is Paris."
    answers = {"text": ["Paris"], "answer_start": [text.index("Paris")]}
    return {
        "id": f"q{i}",
        "title": f"t{i // 2}",
        "context": text,
        "question": f"Which town, {i}?",
        "answers": {"text": [], "answer_start": []} if i % 2 else answers,
    }


def trivia_row(i: int) -> dict[str, Any]:
    pages = {name: ["x"] for name in PAGES} | {"wiki_context": [f"Page {i}: it is paris."]}
    names = dict.fromkeys(NAMES, "x") | {"value": "Paris"}
    lists = {"aliases": ["Paris", "City of Light"], "normalized_aliases": ["city of light"]}
    return {
        "question": f"Which town, {i}?",
        "question_id": f"q{i}",
        "question_source": "x",
        "entity_pages": pages,
        "search_results": {name: [] for name in RESULTS},
        "answer": names | lists,
    }


def hotpot_row(i: int) -> dict[str, Any]:
    return {
        "id": f"q{i}",
        "question": f"Which town, {i}?",
        "answer": "yes" if i % 2 else "Paris",
        "type": "bridge",
        "level": "hard",
        "supporting_facts": {"title": ["Ann"], "sent_id": [1]},
        "context": {
            "title": ["Bob", "Ann"],
            "sentences": [["Bob lives in Rome."], [f"Ann is {i}.", " She lives in Paris."]],
        },
    }


def wikihop_row(i: int) -> dict[str, Any]:
    return {
        "query": f"place_of_birth ann {i}",
        "supports": ["Ann was born in Paris .", "Paris is in France ."],
        "candidates": ["rome", "paris"],
        "answer": "paris",
        "id": f"q{i}",
    }


def qasper_row(i: int) -> dict[str, Any]:
    nothing: dict[str, Any] = {
        name: [] for name in ("extractive_spans", "evidence", "highlighted_evidence")
    }
    one = {"unanswerable": False, "yes_no": None, "free_form_answer": ""} | nothing
    answers = [one | {"extractive_spans": ["Paris"]}, one | {"unanswerable": True}]
    asked = {
        "question": ["Which town?", "Why?"],
        "question_id": [f"q{i}a", f"q{i}b"],
        "answers": [{"answer": [a], "annotation_id": ["x"], "worker_id": ["y"]} for a in answers],
    }
    texts = ("nlp_background", "topic_background", "paper_read", "search_query", "question_writer")
    return {
        "id": f"p{i}",
        "title": f"Towns {i}",
        "abstract": "Of Paris.",
        "full_text": {"section_name": ["Data"], "paragraphs": [["It is Paris.", "The end."]]},
        "qas": asked | {name: ["x", "x"] for name in texts},
        "figures_and_tables": {"caption": [], "file": []},
    }


@dataclass(frozen=True)
class Published:
    """A data set as the hub has it: rows by number, splits, and what our splits hold of them."""

    path: str
    name: str | None
    revision: str | None
    columns: dict[str, Any]
    row: Any
    splits: tuple[str, ...]
    ours: dict[str, int]  # questions of each split
    answer: str = "Paris"  # of the first question of test


PARQUET = "refs/convert/parquet"
TWO = ("train", "validation")
QUESTIONS = {
    "question": STRINGS,
    "question_id": STRINGS,
    "nlp_background": STRINGS,
    "topic_background": STRINGS,
    "paper_read": STRINGS,
    "search_query": STRINGS,
    "question_writer": STRINGS,
    "answers": List({"answer": List(ANSWER), "annotation_id": STRINGS, "worker_id": STRINGS}),
}
PUBLISHED = {
    "squad_v2": Published(
        "rajpurkar/squad_v2",
        None,
        None,
        SQUAD,
        squad_row,
        TWO,
        {"train": 38, "dev": 2, "test": 6},
    ),
    "cuad": Published(
        "theatticusproject/cuad-qa",
        None,
        PARQUET,
        SQUAD,
        squad_row,
        ("train", "test"),
        {"train": 36, "dev": 4, "test": 6},
    ),
    "trivia_qa": Published(
        "mandarjoshi/trivia_qa",
        "rc.wikipedia",
        None,
        {
            "question": STRING,
            "question_id": STRING,
            "question_source": STRING,
            "entity_pages": PAGES,
            "search_results": RESULTS,
            "answer": NAMES,
        },
        trivia_row,
        ("train", "validation", "test"),
        {"train": 38, "dev": 2, "test": 6},
        "paris",
    ),
    "hotpot_qa": Published(
        "hotpotqa/hotpot_qa",
        "distractor",
        None,
        {
            "id": STRING,
            "question": STRING,
            "answer": STRING,
            "type": STRING,
            "level": STRING,
            "supporting_facts": {"title": STRINGS, "sent_id": INTEGERS},
            "context": {"title": STRINGS, "sentences": List(STRINGS)},
        },
        hotpot_row,
        TWO,
        {"train": 38, "dev": 2, "test": 6},
    ),
    "wikihop": Published(
        "community-datasets/qangaroo",
        "wikihop",
        None,
        {
            "query": STRING,
            "supports": STRINGS,
            "candidates": STRINGS,
            "answer": STRING,
            "id": STRING,
        },
        wikihop_row,
        TWO,
        {"train": 38, "dev": 2, "test": 6},
    ),
    "qasper": Published(
        "allenai/qasper",
        None,
        PARQUET,
        {
            "id": STRING,
            "title": STRING,
            "abstract": STRING,
            "full_text": {"section_name": STRINGS, "paragraphs": List(STRINGS)},
            "qas": QUESTIONS,
            "figures_and_tables": {"caption": STRINGS, "file": STRINGS},
        },
        qasper_row,
        ("train", "validation", "test"),
        {"train": 80, "dev": 12, "test": 12},  # two questions a paper
    ),
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that holds one data set, as parquet files with its features."""
    load_dataset = datasets.load_dataset

    def serve(data: Published):
        files = {}
        for split in data.splits:
            rows = [data.row(i) for i in range(40 if split == "train" else 6)]
            files[split] = str(tmp_path / f"{split}.parquet")
            Dataset.from_list(rows, Features(data.columns)).to_parquet(files[split])

        def load(path, name=None, *, split, revision, cache_dir, streaming):
            assert (path, name, revision) == (data.path, data.name, data.revision)
            return load_dataset(
                "parquet", data_files=files, split=split, cache_dir=cache_dir, streaming=streaming
            )

        monkeypatch.setattr(datasets, "load_dataset", load)

    return serve


@pytest.fixture
def encode_questions(make_encoder):
    """From a table to features, as `prepare` does it for task=qa."""

    def encode(table, split, data, task=None, policies=None):
        policies = policies or GlobalsConfig(question=True)
        data = task_columns(QAConfig(), data, table.column_names)
        encoder = make_encoder("embedded", data.max_length, data.truncate, policies)
        qa = QuestionAnswering(task or QAConfig())
        return encode_split(table, split, data=data, policies=policies, encoder=encoder, task=qa)

    return encode


def test_every_question_set_is_tested(question_sets):
    assert set(PUBLISHED) == question_sets


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_set(name, hub, composed, encode_questions):
    data = PUBLISHED[name]
    hub(data)
    config = composed(f"data={name}", "task=qa", "data.stride=0")
    tables = load_splits(config.data, stratify=False)
    assert {split: len(table) for split, table in tables.items()} == data.ours

    table = tables["test"]
    features = encode_questions(table, "test", config.data)
    (feature,) = features.read([0])
    assert feature.id == table["id"][0]
    (span,) = feature.label[:1]
    start, end = feature.offsets[span[0], 0], feature.offsets[span[1], 1]
    column = config.data.text_column
    assert table[column][0][start:end].strip() == data.answer
    counts = features.counts()
    assert counts["questions"] == 6 if name != "qasper" else 12
    assert counts["answers_repaired"] == 0
    assert counts["answers_dropped"] == (3 if name == "hotpot_qa" else 0)  # the closed ones


@pytest.mark.parametrize("name", ["squad_v2", "cuad"])
def test_no_document_is_in_two_splits(name, hub, composed):
    hub(PUBLISHED[name])
    tables = load_splits(composed(f"data={name}", "task=qa").data, stratify=False)
    assert not set(tables["train"]["title"]) & set(tables["dev"]["title"])


def test_hotpot_qas_titles_and_sentence_beginnings_can_be_global(hub, composed, encode_questions):
    hub(PUBLISHED["hotpot_qa"])
    config = composed(
        "data=hotpot_qa", "task=qa", "globals.column=global_spans", "globals.cls=false"
    )
    table = load_splits(config.data, stratify=False)["test"]
    (feature,) = encode_questions(table, "test", config.data, policies=config.globals).read([0])
    tokens = feature.offsets[feature.global_positions].tolist()
    spans = table["global_spans"][0]
    beginnings = [table["text"][0][start:].split()[0] for start, _ in spans]
    assert beginnings == ["Bob", "Bob", "Ann", "Ann", "She"]
    assert all(any(a <= start < b for a, b in tokens) for start, _ in spans)
    assert all(any(a < end and start < b for start, end in spans) for a, b in tokens)
    assert len(tokens) < len(feature.input_ids) / 2


def test_a_published_set_streams(hub, composed):
    hub(PUBLISHED["hotpot_qa"])
    config = composed("data=hotpot_qa", "data.streaming=true", "data.held_out=3", "task=mlm",
                      "trainer.max_steps=9")  # fmt: skip
    train, held_out = load_stream(config.data)
    (first,) = train.take(1)
    assert first["text"] == "Bob\nBob lives in Rome.\n\nAnn\nAnn is 3. She lives in Paris."
    assert {split: len(table) for split, table in held_out.items()} == {"dev": 3, "test": 3}


# --- what cannot be read ------------------------------------------------------------------------


@pytest.fixture
def hotpot_file(write):
    """A jsonl file of HotpotQA's rows, changed."""

    def hotpot_file(*changes):
        return write("rows.jsonl", [hotpot_row(i) | change for i, change in enumerate(changes)])

    return hotpot_file


def test_a_missing_column_is_named(hotpot_file, config):
    data = config(path=hotpot_file({}), format="trivia_qa")
    with pytest.raises(UserError, match=r"data\.format=trivia_qa reads question_id, entity_pages, "
                                        r"which the train split .*there are id, question, answer"):  # fmt: skip
        load_splits(data, stratify=False)


def test_a_row_of_another_shape_is_named(hotpot_file, config):
    short = {"context": {"title": ["Bob"], "sentences": [["a"], ["b"]]}}
    data = config(path=hotpot_file({}, short), format="hotpot_qa")
    with pytest.raises(UserError, match=r"data\.format=hotpot_qa: row 1 of the train split cannot"):
        load_splits(data, stratify=False)


def test_questions_without_a_document_are_left_out_and_counted(write, config, caplog):
    rows = [trivia_row(i) for i in range(4)]
    for row in rows[1:3]:
        row["entity_pages"] = {name: ["x"] for name in PAGES} | {"wiki_context": ["  "]}
    data = config(path=write("rows.jsonl", rows), format="trivia_qa")
    with caplog.at_level(logging.WARNING):
        table = load_splits(data, stratify=False)["train"]
    assert table["id"][:] == ["q0", "q3"]
    assert "train: 2 of 4 questions have no document; they are left out" in caplog.text
    bare = config(path=write("bare.jsonl", rows[1:3]), format="trivia_qa")
    with pytest.raises(UserError, match=r"no question of the train split .*check data\.name"):
        load_splits(bare, stratify=False)


def test_a_group_column_that_is_not_there(write, config):
    file = write("rows.jsonl", [squad_row(i) for i in range(20)])
    data = config(path=file, dev_fraction=0.5, group_column="article")
    with pytest.raises(UserError, match=r"data\.group_column=article is not a column; there are"):
        load_splits(data, stratify=False)


# --- real data ----------------------------------------------------------------------------------


@pytest.fixture
def shared():
    """A file of the real data beside the project."""

    def shared(name):
        if not (SHARED / name).is_file():
            pytest.skip(f"real data is not here: no {SHARED / name}")
        return str(SHARED / name)

    return shared


REAL = {
    "cuad/test.json": (2050, {}),
    "squad_articles/test.json": (1265, {}),
    "hotpotqa/test.jsonl": (100, {"format": "hotpot_qa"}),
}


@pytest.mark.parametrize("name", REAL)
def test_real_data_loads(name, shared, config, encode_questions):
    rows, fields = REAL[name]
    data = config(path=shared(name), max_length=512, tokens_per_batch=512, **fields)
    table = load_other(data, "test")
    assert len(table) == rows
    few = table.select(range(0, rows, rows // 10))
    counts = encode_questions(few, "test", data, QAConfig(long_documents="truncate")).counts()
    assert counts["questions"] == len(few)
    assert counts["answerable"] > 0
    assert counts["answers_repaired"] == 0


def test_every_real_answer_is_where_it_is_said_to_be(shared, config):
    data = config(path=shared("hotpotqa/test.jsonl"), format="hotpot_qa")
    closed = 0
    for row in load_other(data, "test"):
        closed += row["answer_type"] != "span"
        places = row["answers"]["answer_start"]
        assert bool(places) == (row["answer_type"] == "span")
        for start, text in zip(places, row["answers"]["text"], strict=True):
            assert row["text"][start : start + len(text)] == text
            assert text.lower() == row["answer"].lower()
        assert [row["text"][a:b] for a, b in row["title_spans"]] == row["titles"]
        assert set(row["supporting_facts"]["title"]) <= set(row["titles"])
    assert 0 < closed < 50
