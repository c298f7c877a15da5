"""Files with anything in them: they are read whole, or one line names the file and what is wrong."""

import csv
import gzip
import io
import json
import os
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

# a stream that is left before its end is closed by the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

FUZZ = settings.get_profile(os.environ.get("LONGSPAN_FUZZ", "fuzz"))
TEXTS = ("war", "peace", "", " ", "\0", "\ufeff", "é", "e\u0301", "nan", "NA", "null", "1", "1.0",
         "True", "w " * 3000, "a\nb", 'say "so"', "a,b", "\r", "\u2028", "\x1b[2J", "\u200f\u05d0",
         "<script>", "[1]", "{}", "\ud7ff\uffff", "../x")  # fmt: skip
KINDS = {
    "single_label": {"task.problem": "single_label"},
    "multi_label": {"task.problem": "multi_label"},
    "regression": {"task.problem": "regression"},
    "mlm": {"task.name": "mlm"},
    "stream": {"task.name": "mlm", "data.streaming": True, "trainer.max_steps": 1},
    "pair": {"data.text_pair_column": "label", "data.label_column": "text"},
    "columns": {"data.text_column": ["label", "text"], "data.id_column": "label"},
    "globals": {"globals.column": "spans"},
    "split": {"data.split_column": "label", "data.splits": {"train": "war", "dev": "peace"}},
    "groups": {"data.group_column": "label", "data.dev_fraction": 0.3},
}  # fmt: skip

texts = st.sampled_from(TEXTS) | st.text(max_size=6)
numbers = st.sampled_from((0, 1, -1, 2**31, 2**63 - 1, 0.5, -0.0, 1e308))
scalars = st.none() | st.booleans() | numbers | texts
cells = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=5,
)
labels = st.sampled_from(("war", "peace"))


@st.composite
def rows(draw, cell=cells):
    """A table that is in order but for some of its cells."""
    good = {"text": st.sampled_from(("war is war", "peace, of a nation")), "label": labels}
    table = draw(st.lists(st.fixed_dictionaries(good), min_size=1, max_size=6))
    for _ in range(draw(st.integers(0, 4))):
        row = draw(st.sampled_from(table))
        name = draw(st.sampled_from(("text", "label", "spans", "", "text ")))
        if draw(st.booleans()):
            row[name] = draw(cell)
        else:
            row.pop(name, None)
    return table


@st.composite
def csv_files(draw):
    table = draw(rows(scalars))
    names = list(dict.fromkeys(name for row in table for name in row))
    if draw(st.integers(0, 9)) == 0 and names:
        names.append(draw(st.sampled_from(names)))  # twice
    stream = io.StringIO()
    end = draw(st.sampled_from(("\n", "\r\n", "\r")))
    writer = csv.writer(stream, lineterminator=end, escapechar="\\")
    lines = [names, *([row.get(name) for name in names] for row in table)]
    for line in lines[draw(st.sampled_from((0, 0, 0, 0, 1))) :]:
        ragged = draw(st.sampled_from((0, 0, 0, 0, 0, -1, 1)))
        writer.writerow(line[:ragged] if ragged < 0 else line + ["x"] * ragged)
    return stream.getvalue().encode(errors="surrogatepass")


@st.composite
def jsonl_files(draw):
    lines = [json.dumps(row, ensure_ascii=draw(st.booleans())) for row in draw(rows())]
    if draw(st.booleans()):
        odd = ("", "[]", "1", "null", '"x"', '{"text": NaN, "label": -Infinity}', "{", "x",
               '{"text": "a", "text": 1}', '{"text": "\\ud800", "label": "war"}',
               '{"text": {"a": [[]]}}', "[" * 2000, '{"text": "a"} {"text": "b"}')  # fmt: skip
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(odd)))
    return "\n".join(lines).encode(errors="surrogatepass")


@st.composite
def json_files(draw):
    table = draw(rows())
    columns = {name: [row.get(name) for row in table] for name in table[0]}
    shapes = (table, columns, {"data": table}, {"data": {}}, table[0], [table], 1, "x", [[]])
    return json.dumps(draw(st.sampled_from(shapes))).encode(errors="surrogatepass")


@st.composite
def parquet_files(draw):
    """Columns of one type each, as parquet has them, of any."""
    length = draw(st.integers(0, 4))
    kinds = (pa.string(), pa.large_string(), pa.binary(), pa.int8(), pa.uint64(), pa.float16(),
             pa.null(), pa.bool_(), pa.timestamp("ns"), pa.date32(), pa.decimal128(5, 2),
             pa.dictionary(pa.int8(), pa.string()), pa.list_(pa.string()), pa.list_(pa.int64()),
             pa.list_(pa.list_(pa.int64())), pa.struct([("a", pa.string())]), pa.duration("s"),
             pa.map_(pa.string(), pa.int64()), pa.binary(3), pa.string_view())  # fmt: skip
    names = draw(st.lists(st.sampled_from(("text", "label", "spans", "")), min_size=1, max_size=4))
    columns = []
    for _ in names:
        kind = draw(st.sampled_from(kinds))
        raw = draw(st.lists(st.integers(0, 3) | st.none(), min_size=length, max_size=length))
        columns.append(pa.array([cell_of(kind, value) for value in raw], kind))
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, names=names), stream)
    return stream.getvalue()


def cell_of(kind, value):
    """A value of an Arrow type."""
    if value is None or pa.types.is_null(kind):
        return None
    if pa.types.is_list(kind):
        return [cell_of(kind.value_type, value)] * value
    if pa.types.is_struct(kind):
        return {"a": str(value)}
    if pa.types.is_map(kind):
        return [("a", value)] * value
    if pa.types.is_fixed_size_binary(kind) or pa.types.is_binary(kind):
        return b"\xff\x00a" if value else b"abc"
    if "string" in str(kind):
        return TEXTS[value]
    return bool(value) if pa.types.is_boolean(kind) else value


TABLES = {"csv": csv_files(), "jsonl": jsonl_files(), "json": json_files(),
          "parquet": parquet_files()}  # fmt: skip


@st.composite
def damaged(draw, content):
    """Bytes that something went wrong with on their way here."""
    place = draw(st.integers(0, len(content)))
    noise = (b"\0", b"\xff", b"\xef\xbb\xbf", b"\r", b'"', b"\xc3", b"\xed\xa0\x80", b"\n\n", b"{")
    kind = draw(st.sampled_from(("cut", "insert", "drop", "twice", "utf-16", "latin-1", "utf-8-sig",
                                 "gz", "zip", "blank", "no newline", "crlf")))  # fmt: skip
    if kind in ("utf-16", "latin-1", "utf-8-sig"):
        return content.decode(errors="ignore").encode(kind, errors="replace")
    if kind == "zip":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("a.csv", content)
        return stream.getvalue()
    return {
        "cut": content[:place],
        "insert": content[:place] + draw(st.sampled_from(noise)) + content[place:],
        "drop": content[:place] + content[place + draw(st.integers(1, 9)) :],
        "twice": content + content,
        "gz": gzip.compress(content),
        "blank": draw(st.sampled_from((b"", b" ", b"\n", b"\r\n \t\n", b"\0" * 20, b"\xff" * 9))),
        "no newline": content.rstrip(),
        "crlf": content.replace(b"\n", b"\r\n"),
    }[kind]


@settings(FUZZ)
@given(st.data())
def test_a_table(verdict, read, says_where, new_folder, data):
    kind = data.draw(st.sampled_from(list(TABLES)))
    content = data.draw(TABLES[kind])
    if data.draw(st.booleans()):
        content = data.draw(damaged(content))
    suffix = data.draw(st.sampled_from(list(TABLES))) if not data.draw(st.integers(0, 9)) else kind
    path = new_folder() / f"a.{suffix}"
    path.write_bytes(content)
    note(f"{content[:300]!r}")
    _, line = verdict(read, path, KINDS[data.draw(st.sampled_from(list(KINDS)))])
    assert line is None or says_where(line, path)
