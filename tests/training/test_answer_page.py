"""The page of the worst answers: nothing of a document is markup, and nothing of it is lost."""

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from longspan.tasks.qa_decoding import Prediction
from longspan.training.answer_page import (
    CONTEXT,
    FOLDED,
    ShownAnswer,
    answer_page,
    pieces,
    windows,
    worst_first,
)


def prediction(
    text: str = "", span: tuple[int, int] | None = None, gold: list[str] | None = None, **fields
) -> Prediction:
    start, end = span or (None, None)
    predicted = text[start:end] if span else ""
    given = {
        "id": "q", "question": "Who?", "gold": gold, "predicted": predicted, "start": start,
        "end": end, "probability": 0.5, "null_score_difference": 0.0, "best": predicted,
        "nbest": [{"text": predicted, "start": start, "end": end, "probability": 0.5}],
        "length": 9, "tokens_cut": 0, "loss": None,
    }  # fmt: skip
    return Prediction(**(given | fields))


class Page(HTMLParser):
    """What a browser would make of a page: the text of its document, what is marked and folded."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.open: list[tuple[str, str]] = []
        self.document, self.marked, self.folded = "", {"gold": "", "predicted": ""}, ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        if tag != "meta":
            self.open.append((tag, dict(attrs).get("class") or ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if ("div", "document") not in self.open or self.open[-1][0] == "summary":
            return
        self.document += data
        for tag, names in self.open:
            for name in names.split() if tag == "mark" else ():
                self.marked[name] += data
        self.folded += data if any(tag == "details" for tag, _ in self.open) else ""


def page_of(shown: ShownAnswer) -> Page:
    return Page(answer_page("a run", {"f1": 0.5}, [shown], 1))


OURS = {"html", "head", "meta", "title", "style", "body", "header", "h1", "p", "mark", "article",
        "h2", "dl", "dt", "dd", "small", "details", "summary", "ol", "li", "div", "i", "b",
        "span", "bdi"}  # fmt: skip
NASTY = ["<script>alert(1)</script>", "</article>", "<!--", "&amp;", "&#60;", '"', "'", "]]>",
         "<b>", "\x00", "\x1b", "\u202e", "e\u0301", "👩🏽", "שלום", "word "]  # fmt: skip
TEXTS = st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=5)), min_size=1).map("".join)


def as_shown(text: str) -> str:
    """Control characters as their pictures; what HTML says of line ends is left to it."""
    return "".join(
        chr(0x2421 if ord(c) == 127 else 0x2400 + ord(c))
        if (ord(c) < 32 and c not in "\t\n\r") or ord(c) == 127
        else c
        for c in text
    )


@given(TEXTS, st.data())
def test_a_document_stays_text_and_is_there_whole(text: str, data: st.DataObject) -> None:
    places = st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).map(sorted)
    spans = [(a, b) for a, b in data.draw(st.lists(places, max_size=4)) if a < b]
    predicted, gold = (spans[0], spans[1:]) if spans else (None, [])
    row = prediction(text, predicted, [text], question=text, id=text)
    page = page_of(ShownAnswer(row, text, gold))
    assert page.tags <= OURS
    assert page.document == as_shown(text)
    assert page.open == []
    of_gold = sorted({i for a, b in gold for i in range(a, b)})
    assert page.marked["gold"] == as_shown("".join(text[i] for i in of_gold))
    assert page.marked["predicted"] == as_shown(row.predicted)


def test_a_long_document_is_open_around_its_spans_and_folded_elsewhere() -> None:
    text = "".join(f"word{i:05d} " for i in range(3000))  # 10 characters each
    row = prediction(text, (10_000, 10_009), ["x"])
    page = page_of(ShownAnswer(row, text, [(25_000, 25_009)]))
    assert page.document == text
    shown = [slice(10_000 - CONTEXT, 10_009 + CONTEXT), slice(25_000 - CONTEXT, 25_009 + CONTEXT)]
    for part in shown:
        assert text[part] not in page.folded
    assert len(page.folded) == len(text) - sum(part.stop - part.start for part in shown)


def test_what_no_reader_would_read_is_left_out_and_counted() -> None:
    text = "a" * 10 + "b" * 3 * FOLDED
    page = answer_page("a run", {}, [ShownAnswer(prediction(text, (0, 10), ["x"]), text, [])], 1)
    assert len(page) < 2 * FOLDED
    left_out = len(text) - 10 - CONTEXT - FOLDED
    assert f"[{left_out:,} characters are left out here]" in page


def test_a_document_without_any_span_shows_its_beginning() -> None:
    assert windows([], "x" * 1000) == [(0, CONTEXT)]
    assert windows([], "short") == [(0, 5)]


def test_windows_begin_and_end_with_words() -> None:
    text = "lo rem " * 1000
    ((start, end),) = windows([(3500, 3506)], text)
    assert text[start - 1] == text[end] == " "
    assert 0 <= 3500 - start <= CONTEXT
    assert 0 <= end - 3506 <= CONTEXT


def test_windows_that_touch_are_one() -> None:
    text = "x" * 5000
    assert windows([(2000, 2010), (2100, 2110)], text) == [(2000 - CONTEXT, 2110 + CONTEXT)]
    assert pieces((0, 10), [(2, 6)], [(4, 8)]) == [
        (0, 2, False, False),
        (2, 4, True, False),
        (4, 6, True, True),
        (6, 8, False, True),
        (8, 10, False, False),
    ]


def test_the_worst_come_first_and_the_surest_of_them() -> None:
    text = "Ann Smith met Bob"
    rows = [
        prediction(text, (0, 9), ["Ann Smith"], id="right"),
        prediction(text, (0, 3), ["Ann Smith"], id="half"),
        prediction(text, (14, 17), ["Ann Smith"], id="wrong", probability=0.2),
        prediction(text, (14, 17), [], id="sure", probability=0.9),
        prediction(text, None, ["Bob"], id="silent", probability=0.6),
        prediction(text, None, [], id="rightly silent"),
        prediction(text, (0, 3), None, id="unknown"),
    ]
    assert [row.id for row in worst_first(rows)] == [
        "sure", "silent", "wrong", "half", "right", "rightly silent", "unknown",
    ]  # fmt: skip


def test_right_is_what_the_runs_scorer_takes_for_right() -> None:
    rows = [
        prediction("Ann", None, ["Ann", "Unanswerable"], id="silent"),
        prediction("rock and roll", (0, 13), ["rock-and-roll"], id="hyphens"),
    ]
    assert [row.id for row in worst_first(rows, "qasper")] == ["hyphens", "silent"]
    assert [row.id for row in worst_first(rows, "triviaqa")] == ["silent", "hyphens"]
    shown = ShownAnswer(rows[0], "Ann", [], "qasper")
    assert "<span class=right>" in answer_page("a run", {}, [shown], 1)
    assert "<span class=wrong>" in answer_page("a run", {}, [ShownAnswer(rows[0], "Ann", [])], 1)


def test_a_page_needs_no_network() -> None:
    page = answer_page("a run", {"f1": 1.0}, [], 0)
    for reference in ("src=", "href=", "url(", "@import", "http"):
        assert reference not in page
