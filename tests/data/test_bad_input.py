"""Input that cannot be used ends in one line: field or file, value, remedy."""

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from longspan.config import GlobalsConfig
from longspan.data.sources import load_splits
from longspan.errors import UserError

GOOD = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(6)]


@pytest.fixture
def refused():
    """Call, and return the message of its `UserError`, which is one line."""

    def message(call, *arguments, **fields):
        with pytest.raises(UserError) as error:
            call(*arguments, **fields)
        text = str(error.value)
        assert "\n" not in text
        assert not text.endswith(" ")
        assert ";" in text, "a remedy is said"
        return text

    return message


@pytest.fixture
def refused_file(write, config, refused):
    """The message for a file that cannot be read; it names the file."""

    def message(name, content):
        path = write(name, content)
        text = refused(load_splits, config(path=path), stratify=True)
        assert path in text
        return text

    return message


# --- files that cannot be read ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("latin.csv", "text,label\nna\u00efve,a\n".encode("latin-1")),
        ("latin.jsonl", '{"text": "na\u00efve", "label": "a"}\n'.encode("latin-1")),
        ("latin.json", '[{"text": "na\u00efve", "label": "a"}]'.encode("latin-1")),
        ("cut.jsonl", '{"text": "na\u00ef'.encode()[:-1]),
        ("utf16.csv", "text,label\na,b\n".encode("utf-16")),
    ],
)
def test_another_encoding(refused_file, name, content):
    assert "not UTF-8; convert it" in refused_file(name, content)


@pytest.mark.parametrize(
    "name", ["a.csv", "a.jsonl", "a.json", "a.parquet"], ids=lambda name: name[2:]
)
def test_a_file_of_no_bytes(refused_file, name):
    assert "is an empty file" in refused_file(name, b"")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", b"text,label\n"), ("a.jsonl", b"\n"), ("a.json", b"[]")],
)
def test_a_file_without_rows(refused_file, name, content):
    assert "holds no rows; give it rows" in refused_file(name, content)


def test_a_parquet_table_without_rows(refused, write, config, tmp_path):
    features = Features({"text": Value("string"), "label": Value("string")})
    Dataset.from_dict({"text": [], "label": []}, features).to_parquet(str(tmp_path / "a.parquet"))
    message = refused(load_splits, config(path=str(tmp_path / "a.parquet")), stratify=True)
    assert "a.parquet holds no rows" in message


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.jsonl", b'{"text": "abc", "label": "a"}\n{"text": "x", "lab', "json"),
        ("a.parquet", b"PAR1 and then nothing of the kind", "parquet"),
        ("a.csv", b"text,label\na,b\na,b,c,d\n", "csv"),
        ("a.csv", b'text,label\n"a,b\n', "csv"),
    ],
)
def test_a_broken_file(refused_file, name, content, kind):
    message = refused_file(name, content)
    assert f"cannot be read as {kind}: " in message
    assert message.endswith("; mend the file")


def test_a_parquet_file_that_was_cut_short(refused_file, write):
    whole = write("whole.parquet", GOOD)
    with open(whole, "rb") as file:
        content = file.read()
    assert "cannot be read as parquet" in refused_file("a.parquet", content[: len(content) // 2])


def test_another_format(refused_file):
    assert ".csv, .json, .jsonl, .parquet" in refused_file("a.tsv", b"text\tlabel\n")


def test_a_name_that_reads_as_a_pattern(refused_file):
    assert "rename it" in refused_file("a[1].csv", b"text,label\na,b\n")


# --- places that are not there ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"path": "no/such/file.csv"}, "data.path=no/such/file.csv does not exist"),
        ({"path": "/no/such/folder"}, "data.path=/no/such/folder does not exist"),
        ({"path": "./nothing"}, "does not exist"),
        ({"path": "someone/something"}, "data.path=someone/something is neither a file nor"),
        ({"path": "somewhere"}, "data.path=somewhere is neither a file nor a folder"),
        ({"path": "embedded:nothing"}, "embedded:nothing does not exist; embedded data:"),
        ({"path": "embedded:../src"}, "embedded:../src does not exist; embedded data:"),
        ({"path": ""}, "data.path='' names no data; set data.path="),
        ({"path": "", "files": {"train": "no.csv"}}, "data.files.train=no.csv does not exist"),
        ({"path": "", "files": {"train": "conf"}}, "conf is a folder; give a file"),
        ({"path": "no.csv", "split_column": "fold"}, "data.path=no.csv does not exist"),
        (
            {"path": "", "files": {"train": "a.csv"}, "split_column": "fold"},
            "data.split_column=fold reads the splits of one table, but data.files",
        ),
    ],
)
def test_a_place_that_is_not_there(refused, config, fields, said):
    assert said in refused(load_splits, config(**fields), stratify=True)


def test_no_train_split(refused, write, config):
    data = config(path="", files={"test": write("a.csv", GOOD)})
    assert "no train split; name it in data.files.train" in refused(load_splits, data, True)
    data = config(path=write("b.csv", GOOD), split_column="label", splits={"train": "train"})
    assert "no train split; name it in data.splits.train" in refused(load_splits, data, True)
    data = config(path=write("c.csv", GOOD), split_column="fold")
    message = refused(load_splits, data, True)
    assert "data.split_column=fold is not a column; there are text, label" in message


def test_a_folder_without_texts(refused, config, tmp_path):
    (tmp_path / "texts" / "a").mkdir(parents=True)
    folder = str(tmp_path / "texts")
    message = refused(load_splits, config(path=folder), stratify=True)
    assert (
        message == f"data.path: {folder} holds no texts; expected {folder}/<label>/<document>.txt"
    )
    (tmp_path / "texts" / "a" / "1.txt").write_bytes(b"na\xefve")
    message = refused(load_splits, config(path=folder), stratify=True)
    assert "a/1.txt cannot be read: it is not UTF-8; convert it" in message


# --- rows that cannot be used, read by one process and by two -----------------------------------


@pytest.fixture(params=[None, 2], ids=["one process", "two processes"])
def refused_rows(request, write, config, encode, refused):
    """The message for rows of train, and of dev."""

    def message(train, dev=None, problem="single_label", policies=None, task=None, **fields):
        files = {"train": write("train.jsonl", train)}
        if dev is not None:
            files["dev"] = write("dev.jsonl", dev)
        data = config(path="", files=files, num_proc=request.param, **fields)
        return refused(encode, data, problem, policies, **(task or {}))

    return message


def with_label(label, rows=GOOD, row=2):
    return [r | {"label": label} if i == row else r for i, r in enumerate(rows)]


def test_an_unknown_label(refused_rows):
    message = refused_rows(GOOD, dev=with_label("zebra"))
    assert message.startswith("label of dev row 2='zebra' does not occur in train (known: a, b)")


@pytest.mark.parametrize("label", [None, "", "  "])
def test_a_missing_label(refused_rows, label):
    said = "is empty; give every row a label or drop the row"
    assert f"label of train row 2 {said}" in refused_rows(with_label(label))
    assert f"label of dev row 2 {said}" in refused_rows(GOOD, dev=with_label(label))
    for problem in ({"class_weights": "balanced"}, {}):
        assert f"label of train row 2 {said}" in refused_rows(with_label(label), task=problem)


def test_labels_where_lists_are_configured(refused_rows):
    message = refused_rows(GOOD, problem="multi_label")
    assert message == "label of train row 0='a' is no list; set task.problem=single_label"


def test_lists_where_one_label_is_configured(refused_rows):
    rows = [row | {"label": [row["label"]]} for row in GOOD]
    message = refused_rows(rows)
    assert message == "label of train row 0=['a'] is a list; set task.problem=multi_label"


def test_a_missing_list(refused_rows):
    rows = [row | {"label": [row["label"]]} for row in GOOD]
    missing = with_label(None, rows)
    assert "label of train row 2 is empty" in refused_rows(missing, problem="multi_label")
    message = refused_rows(rows, dev=missing, problem="multi_label")
    assert message == "label of dev row 2 is empty; give every row a list of labels or drop the row"
    nothing = with_label([None], rows)
    assert "label of dev row 2 is empty" in refused_rows(rows, dev=nothing, problem="multi_label")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("high", "='high' is not a number; mend the row"),
        (None, "=None is not a number; mend the row"),
        ([1.0], "is not a number; mend the row"),
        ("nan", "='nan' is not a finite number; mend or drop the row"),
        ("-inf", "='-inf' is not a finite number"),
    ],
)
def test_a_target_that_is_no_number(refused_rows, target, said):
    rows = [row | {"label": "1.5"} for row in GOOD]
    rows = rows if not isinstance(target, list) else [row | {"label": [1.5]} for row in GOOD]
    row = 0 if isinstance(target, list) else 2
    message = refused_rows(with_label(target, rows, row), problem="regression")
    assert message.startswith(f"label of train row {row}=")
    assert said in message


def test_a_globals_cell_that_cannot_be_read(refused_rows):
    rows = [row | {"spans": [[0, 4 if i != 3 else 400]]} for i, row in enumerate(GOOD)]
    message = refused_rows(rows, policies=GlobalsConfig(column="spans"))
    assert message.startswith("document train-3: globals.column: [[0, 400]]")


def test_missing_columns(refused_rows):
    message = refused_rows(GOOD, label_column="author")
    assert message.startswith("data.label_column=author is not a column of the train split; there")
    message = refused_rows(GOOD, dev=[{"text": "x", "lable": "a"}])
    assert (
        message == "data.label_column=label is not a column of the dev split; there are text, lable"
    )


def test_ids_that_name_no_row(refused_rows):
    rows = [row | {"name": f"n{i % 4}"} for i, row in enumerate(GOOD)]
    message = refused_rows(rows, id_column="name")
    assert "data.id_column=name: 2 ids stand twice in the train split (first: 'n0')" in message
    rows = [row | {"name": None if i == 4 else f"n{i}"} for i, row in enumerate(GOOD)]
    message = refused_rows(rows, id_column="name")
    assert message.startswith("data.id_column=name: row 4 of the train split has no id; give")


@pytest.mark.parametrize("problem", ["single_label", "multi_label"])
def test_one_class_only(refused_rows, problem):
    label = "only" if problem == "single_label" else ["only"]
    message = refused_rows([row | {"label": label} for row in GOOD], problem=problem)
    assert message.startswith("label: the training split knows only the label 'only'; two or more")


def test_no_label_at_all(refused_rows):
    message = refused_rows([{"text": "x", "label": []}] * 2, problem="multi_label")
    assert message == "label: the training split has no label at all; give labels"


def test_weights_of_another_number_of_classes(refused_rows):
    message = refused_rows(GOOD, task={"class_weights": (1.0, 2.0, 3.0)})
    assert message == "task.class_weights has 3 numbers for the 2 labels a, b; give one a label"
    lists = [row | {"label": [row["label"]]} for row in GOOD]
    message = refused_rows(lists, problem="multi_label", task={"class_weights": "balanced"})
    assert message.startswith("task.class_weights=balanced needs task.problem=single_label")


# --- what only some formats can hold ------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_not_a_number_as_a_label(refused, config, encode, write, suffix):
    labels = [1.0, 0.0, float("nan"), 1.0]
    rows = [{"text": "x", "label": label} for label in labels]
    if suffix == ".csv":
        rows[2]["label"] = ""
    data = config(path=write(f"a{suffix}", rows))
    assert "label of train row 2 is empty; give" in refused(encode, data)
    assert "label of train row 2=" in refused(encode, data, "regression")


@pytest.mark.parametrize(("label", "said"), [(-1, "=-1 is no class of 2"), (None, " is empty")])
def test_an_index_that_is_no_class(refused, config, encode, label, said):
    names = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    whole = Dataset.from_dict({"text": ["x"] * 4, "label": [0, 1, 0, 1]}, names)
    hidden = Dataset.from_dict({"text": ["x"] * 4, "label": [0, 1, label, 1]}, names)
    message = refused(encode, config(), tables={"train": whole, "test": hidden})
    assert message.startswith(f"label of test row 2{said}")


def test_an_index_of_a_list_that_is_no_class(refused, config, encode):
    names = Features({"text": Value("string"), "label": List(ClassLabel(names=["a", "b"]))})
    table = Dataset.from_dict({"text": ["x"] * 2, "label": [[0, 1], [1]]}, names)
    other = Dataset.from_dict({"text": ["x"] * 2, "label": [[0], [-1]]}, names)
    message = refused(encode, config(), "multi_label", tables={"train": table, "dev": other})
    assert message.startswith("label of dev row 1=-1 is no class of 2; mend the row")
