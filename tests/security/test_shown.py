"""What others wrote is shown as text: in browsers, in Markdown, in pictures, on terminals."""

import io
import json
import logging
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image
from rich.console import Console

from longspan.command import PlainFormatter, user_errors
from longspan.config import (
    ClassificationConfig,
    Config,
    DataConfig,
    GlobalsConfig,
    QAConfig,
)
from longspan.errors import UserError
from longspan.forecast.table import as_cell
from longspan.predict_files import write_rows
from longspan.pretrained.card import Results, model_card
from longspan.pretrained.markdown import code, plain
from longspan.sweep.report import draw
from longspan.tasks.classification import Classification
from longspan.tasks.qa_decoding import Prediction
from longspan.terminal import on_one_line, printable, printable_json
from longspan.training import report
from longspan.training.answer_page import ShownAnswer, answer_page
from longspan.training.figures import draw_figures

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
OWN = "document.documentElement.id='owned'"
EVIL = [
    f"<script>{OWN}</script>",
    f"</script><script>{OWN}</script>",
    f"</title></style><script>{OWN}</script>",
    f"<img src=x onerror={OWN}>",
    f'" onmouseover="{OWN}" autofocus onfocus="{OWN}',
    f"' onmouseover='{OWN}",
    f'<a href="javascript:{OWN}">click</a>',
    f"<svg onload={OWN}>",
    f"<iframe srcdoc='<script>parent.{OWN}</script>'></iframe>",
    "<!--", "]]>", "</td></tr></table>", "&lt;script&gt;", "\u2028alert(1)\u2029", "\x00<b>\x1b[31m",
]  # fmt: skip
TEXT = " word ".join(EVIL)


class Page(HTMLParser):
    """Tags and attributes of a document, as a browser made it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def browse(tmp_path):
    """Open a page in headless Chromium: its document once all has run."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")

    def browse(file: Path) -> Page:
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=1000",
            f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", file.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return Page(done.stdout)

    return browse


def assert_nothing_ran(page: Page, scripts: int) -> None:
    assert page.tags.count("script") == scripts
    assert not {"iframe", "a", "svg", "object", "embed", "form", "base"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        assert value != "owned"
        assert not value.lower().startswith("javascript:")
        if name in ("src", "href"):
            assert value.startswith("data:image/svg+xml")


# --- pages --------------------------------------------------------------------------------------


def prediction(text: str) -> Prediction:
    best = [{"text": text, "start": 0, "end": len(text), "probability": 0.5}]
    return Prediction(
        id=text, question=text, gold=[text], predicted=text, start=0, end=len(text),
        probability=0.5, null_score_difference=0.0, best=text, nbest=best, length=9, tokens_cut=0,
        loss=None,
    )  # fmt: skip


def test_the_page_of_answers_stays_text(browse, tmp_path):
    shown = [ShownAnswer(prediction(text), text, [(0, len(text))]) for text in [TEXT, *EVIL]]
    (tmp_path / "page.html").write_text(answer_page(TEXT, {TEXT: 0.5}, shown, 2))
    page = browse(tmp_path / "page.html")
    assert_nothing_ran(page, scripts=0)
    for text in (EVIL[0], EVIL[3], EVIL[4], EVIL[6], EVIL[12]):
        assert text in page.text


def test_the_report_of_a_sweep_stays_text(browse, tmp_path):
    folder = tmp_path / "<b onclick=x>sweep"
    metric = EVIL[0]
    evil = [text for text in EVIL if not set(text) & {"/", "\0"}]
    plan: dict = {"swept": ["model.window", EVIL[4]], "cells": {}}
    for number, name in enumerate([*evil, "plain", "other"]):
        cell = folder / name
        cell.mkdir(parents=True)
        text = EVIL[number % len(EVIL)].replace("\0", "")
        plan["cells"][name] = {"model.window": text, EVIL[4]: text}
        if number % 3 == 0:
            (cell / "failed.json").write_text(json.dumps({"kind": text, "reason": TEXT}))
            continue
        (cell / "config.yaml").write_text(yaml.safe_dump({"model": {"window": text}, "seed": text}))
        measured = {metric: 0.5, EVIL[3]: 1.0, "$\\bad$": 2.0}
        found = {"split": EVIL[3], "monitor": [metric, "max"], "metrics": measured, "steps": 1,
                 "tokens_per_second": 9.0}  # fmt: skip
        (cell / "report.json").write_text(json.dumps(found))
    (folder / "sweep.json").write_text(json.dumps(plan))
    drawn = draw(folder)
    page = browse(drawn.files[-1])
    assert_nothing_ran(page, scripts=1)  # our own, which sorts
    for text in (EVIL[0], EVIL[3], EVIL[4], EVIL[5], TEXT.split(" word ")[6]):
        assert text in page.text


# --- Markdown -----------------------------------------------------------------------------------

MARKDOWN = [
    *EVIL, "[click](javascript:alert(1))", "![x](http://a.example/x.png)", "<http://a.example>",
    "http://a.example", "www.a.example", "`code`", "``", "```\nimport os\n```", "**bold**", "_it_",
    "| a | b |", "\n\n# Heading", "\n---\nbase_model: other", "$x$", "@someone", "~~x~~", "\\",
    "x\nimport os", "[a]: http://a.example", "&copy;",
]  # fmt: skip


def tokens_of(text: str) -> list:
    parsed = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    return [t for block in parsed for t in [block, *(block.children or [])]]


@settings(max_examples=40)
@given(st.lists(st.sampled_from(MARKDOWN) | st.text(max_size=8), max_size=5).map("".join))
def test_a_text_in_markdown_is_one_text(text):
    kinds = {token.type for token in tokens_of(f"Said: {plain(text)}.")}
    assert kinds <= {"paragraph_open", "inline", "text", "text_special", "paragraph_close"}
    spans = [t for t in tokens_of(f"Said: {code(text)}.") if t.type == "code_inline"]
    assert [span.content for span in spans] in ([on_one_line(text)], [])
    if on_one_line(text):
        assert spans


@pytest.mark.parametrize("task", [ClassificationConfig(), QAConfig()], ids=lambda task: task.name)
@pytest.mark.parametrize("evil", MARKDOWN, ids=repr)
def test_a_model_card_stays_text(evil, task):
    policies = GlobalsConfig(regex=re.escape(evil), column=evil)
    pair = None if isinstance(task, QAConfig) else evil
    data = DataConfig(
        path=evil.replace("\0", ""), name=evil, text_column=(evil, evil), text_pair_column=pair,
        section_separator=evil, splits={"test": evil}, truncate="tail",
    )  # fmt: skip
    config = Config(data=data, globals=policies, task=task)
    usual = replace(config, data=DataConfig(text_column=("a", "b"), truncate="tail",
                                            text_pair_column=pair and "p"),
                    globals=GlobalsConfig(regex="x", column="y"))  # fmt: skip
    kind = "LongspanForX"
    card = model_card(config, [evil, evil], kind, Results(evil, {evil: 0.5}))
    harmless = model_card(usual, ["a", "b"], kind, Results("test", {"f1": 0.5}))

    def body(card: str) -> list:
        return tokens_of(card.partition("\n---\n")[2])

    kinds = [t.type for t in body(card) if t.type not in ("text", "text_special")]
    assert kinds == [t.type for t in body(harmless) if t.type not in ("text", "text_special")]
    header = ModelCard(card).data.to_dict()
    assert header.keys() - {"datasets"} == ModelCard(harmless).data.to_dict().keys() - {"datasets"}
    (program,) = [t.content for t in body(card) if t.type == "fence"]
    (usual_program,) = [t.content for t in body(harmless) if t.type == "fence"]
    compile(program, "card", "exec")
    assert program.count("\n") == usual_program.count("\n")
    assert "import os" not in program.splitlines()


# --- pictures -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Glyph .* missing from font")
def test_labels_are_no_formulas_in_pictures(tmp_path):
    labels = ["$\\frac$", "$x^$ {", "a" * 3000, "\x1b[31m", "$", "two\nlines"]
    task = Classification(ClassificationConfig(), labels)

    class Guess:
        length, tokens_cut, id = 9, 0, "q"

        def __init__(self, gold):
            self.gold = self.predicted = gold

    task.metrics = lambda predictions: {"accuracy": 0.5}  # type: ignore[method-assign]
    files = draw_figures(task, [Guess(label) for label in labels], tmp_path)
    with Image.open(files["confusion_matrix"]) as image:
        assert max(image.size) < 4000


# --- terminals ----------------------------------------------------------------------------------

TERMINAL = ["\x1b[31m", "\x1b]0;title\x07", "\x9b31m", "\x1b[2J", "\r", "\b", "\x00", "\x7f",
            "\u202e", "\u2066", "[bold]", "[/]", "[/bold]", "[link=http://a.example]x[/link]",
            "[@click=app.bell]", ":smile:", "\n", "\nerror: forged", "a", "é", "%s", "{}", "\\"]  # fmt: skip
TEXTS = st.lists(st.sampled_from(TERMINAL) | st.text(max_size=4), max_size=8).map("".join)


def assert_tame(text: str) -> None:
    """Nothing in it is a terminal's command."""
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)


@given(TEXTS)
def test_log_lines_neither_control_nor_forge(text):
    record = logging.LogRecord(
        "x", logging.WARNING, "", 0, "the label %r is %s", (text, text), None
    )
    said = PlainFormatter("%(message)s").format(record)
    assert_tame(said)
    first, *others = said.splitlines()
    assert first.startswith("warning: ")
    assert all(line.startswith("  ") for line in others)
    assert "\n" not in on_one_line(text)
    assert_tame(on_one_line(text))
    assert printable(printable(text)) == printable(text)


@given(TEXTS)
def test_json_on_a_terminal_says_the_same(text):
    said = printable_json(json.dumps({"label": text}, ensure_ascii=False))
    assert_tame(said)
    assert json.loads(said) == {"label": text}


def test_an_error_that_quotes_data_is_one_tame_line(capsys):
    with pytest.raises(SystemExit), user_errors():
        raise UserError("the label " + "".join(TERMINAL))
    assert_tame(said := capsys.readouterr().err)
    assert said.count("\n") == 1


def test_predictions_are_printed_tame(capsys):
    write_rows(iter([{"id": "".join(TERMINAL), "answer": "\x9b31m"}]), None)
    assert_tame(said := capsys.readouterr().out)
    assert json.loads(said)["id"] == "".join(TERMINAL)


@given(TEXTS)
def test_tables_show_names_and_no_markup(text):
    # a terminal of colours, so that markup would be seen
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=2000)
    metric = {text: 0.5}
    rows = [{"above": 0, "up_to": 512, "documents": 1} | metric]
    summary = {"split": "test", "metrics": metric, "by_length": rows,
               "by_depth": [{"from": 0.0, "to": 0.2, "documents": 1} | metric]}  # fmt: skip
    report.show(summary, Path("runs") / text.replace("\0", ""), console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    ours = re.sub(r"\x1b\[[0-9;]*m", "", said)  # the styles of a table: bold, italic, none
    assert_tame(ours)
    assert set(re.findall(r"\x1b\[([0-9;]*)m", said)) <= {"0", "1", "3"}


@given(TEXTS)
def test_the_name_of_a_cell_is_shown_as_it_is(text):
    console = Console(file=io.StringIO(), width=2000)
    console.print(as_cell(text), end="", soft_wrap=True)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.split() == on_one_line(text or "–").split()


def test_a_traceback_is_tame():
    program = (
        "from longspan.command import set_up_logging\nset_up_logging()\n"
        f"raise RuntimeError({''.join(TERMINAL)!r})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "RuntimeError" in done.stderr
    assert_tame(done.stderr)
