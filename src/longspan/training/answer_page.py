"""Documents with gold and predicted answers marked, worst first: one HTML page, no network.

Everything that comes from data goes through `_escaped`: a document of tags stays text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

from longspan.tasks.qa_decoding import Prediction
from longspan.tasks.qa_scoring import SCORES

CONTEXT = 300  # characters that are shown on each side of a marked span, up to a part of a word
WORD = 40  # characters that such a part has at most
FOLDED = 20_000  # characters of a folded part that the page holds at most
CANDIDATES = 5  # of each question that are listed
# control characters that HTML has no place for, as their pictures
PICTURES = {c: 0x2400 + c for c in range(32) if chr(c) not in "\t\n\r"} | {127: 0x2421}

Span = tuple[int, int]


@dataclass(frozen=True)
class ShownAnswer:
    """A prediction beside its document.

    Attributes:
        prediction: of a question.
        text: the document, whole.
        gold: [start, end) characters where right answers stand; none where there is no answer.
        scoring: `task.scoring`, by which the answer is right or wrong.
    """

    prediction: Prediction
    text: str
    gold: Sequence[Span]
    scoring: str = "squad"


def worst_first(predictions: Sequence[Prediction], scoring: str = "squad") -> list[Prediction]:
    """The lowest F1 (of `task.scoring`) first, among equals the surest; what has no gold answers
    last, unsure first."""
    score = SCORES[scoring]

    def badness(prediction: Prediction) -> tuple[bool, float, float, float, str]:
        if prediction.gold is None:
            return True, 0.0, 0.0, prediction.probability, prediction.id
        exact, f1 = score(prediction.predicted, prediction.gold)
        return False, f1, exact, -prediction.probability, prediction.id

    return sorted(predictions, key=badness)


def answer_page(
    title: str, metrics: dict[str, float], shown: Sequence[ShownAnswer], total: int
) -> str:
    """The page.

    Args:
        title: what was evaluated.
        metrics: over all questions.
        shown: the questions on the page, in its order.
        total: questions that there are.
    """
    measured = " · ".join(f"{_escaped(name)} {value:.4f}" for name, value in metrics.items())
    body = "\n".join(_article(rank, answer) for rank, answer in enumerate(shown, start=1))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_escaped(title)}</title>\n<style>{STYLE}</style></head><body>\n"
        f"<header><h1>{_escaped(title)}</h1>\n<p>{measured}</p>\n"
        f"<p>{len(shown):,} of {total:,} questions, worst first. "
        f"<mark class=gold>gold</mark> <mark class=predicted>predicted</mark> "
        f'<mark class="gold predicted">both</mark></p></header>\n{body}\n</body></html>\n'
    )


def _article(rank: int, shown: ShownAnswer) -> str:
    prediction = shown.prediction
    said = _isolated(prediction.predicted)
    if prediction.gold is None:
        measured, right = "", "<i>unknown</i>"
    else:
        exact, f1 = SCORES[shown.scoring](prediction.predicted, prediction.gold)
        kind = "right" if exact else "partly" if f1 else "wrong"
        measured = f"<span class={kind}>F1 {f1:.2f}</span> "
        right = " <b>|</b> ".join(map(_isolated, prediction.gold or [""]))
    facts = f"{prediction.length:,} tokens read"
    if prediction.tokens_cut:
        facts += f", {prediction.tokens_cut:,} cut"
    return (
        f"<article><h2 dir=auto>{rank}. {_escaped(prediction.question)}</h2>\n"
        f"<p class=facts>{measured}{_escaped(prediction.id)} · {facts}</p>\n"
        f"<dl><dt>predicted</dt><dd>{said} <small>{prediction.probability:.3f}</small></dd>"
        f"<dt>gold</dt><dd>{right}</dd></dl>\n"
        f"{_candidates(prediction.nbest[:CANDIDATES])}\n"
        f"<div class=document dir=auto>{_document(shown)}</div></article>"
    )


def _candidates(candidates: Sequence[dict[str, Any]]) -> str:
    rows = "".join(
        f"<li>{_isolated(c['text'])} <small>{c['probability']:.3f}</small></li>" for c in candidates
    )
    return f"<details><summary>candidates</summary><ol>{rows}</ol></details>"


def _document(shown: ShownAnswer) -> str:
    """The text around what is marked, the rest folded."""
    prediction = shown.prediction
    predicted: list[Span] = []
    if prediction.start is not None and prediction.end is not None:
        predicted = [(prediction.start, prediction.end)]
    parts, place = [], 0
    for start, end in windows([*shown.gold, *predicted], shown.text):
        parts.append(_folded(shown.text[place:start]))
        parts += [
            _marked(shown.text[a:b], is_gold, is_predicted)
            for a, b, is_gold, is_predicted in pieces((start, end), shown.gold, predicted)
        ]
        place = end
    return "".join([*parts, _folded(shown.text[place:])])


def windows(spans: Sequence[Span], text: str) -> list[Span]:
    """What is shown unfolded: `CONTEXT` characters around each span, or the text's beginning."""
    merged: list[list[int]] = []
    for start, end in sorted(spans) or [(0, 0)]:
        start, end = _open_from(text, start - CONTEXT), _open_up_to(text, end + CONTEXT)
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return [(start, end) for start, end in merged]


def _open_from(text: str, start: int) -> int:
    """The next beginning of a word."""
    if start <= 0:
        return 0
    found = (i for i in range(start, start + WORD) if text[i - 1].isspace())
    return next(found, start)


def _open_up_to(text: str, end: int) -> int:
    """The last end of a word."""
    if end >= len(text):
        return len(text)
    found = (i for i in range(end, end - WORD, -1) if text[i].isspace())
    return next(found, end)


def pieces(
    window: Span, gold: Sequence[Span], predicted: Sequence[Span]
) -> list[tuple[int, int, bool, bool]]:
    """A window cut where a span begins or ends: (start, end, is gold, is predicted)."""
    edges = {edge for span in (*gold, *predicted) for edge in span}
    cuts = sorted({*window, *(edge for edge in edges if window[0] < edge < window[1])})

    def inside(spans: Sequence[Span], start: int) -> bool:
        return any(a <= start < b for a, b in spans)

    return [(a, b, inside(gold, a), inside(predicted, a)) for a, b in pairwise(cuts)]


def _marked(text: str, is_gold: bool, is_predicted: bool) -> str:
    names = [name for name, on in (("gold", is_gold), ("predicted", is_predicted)) if on]
    if not names:
        return _escaped(text)
    return f'<mark class="{" ".join(names)}" title="{" and ".join(names)}">{_escaped(text)}</mark>'


def _folded(text: str) -> str:
    if not text:
        return ""
    inside = _escaped(text)
    if len(text) > FOLDED:
        half = FOLDED // 2
        left_out = f"<i>[{len(text) - 2 * half:,} characters are left out here]</i>"
        inside = f"{_escaped(text[:half])}{left_out}{_escaped(text[-half:])}"
    return f"<details><summary>… {len(text):,} characters …</summary>{inside}</details>"


def _isolated(answer: str) -> str:
    """An answer that does not turn what stands beside it round, whatever its script."""
    return f"<bdi>{_escaped(answer)}</bdi>" if answer else "<i>no answer</i>"


def _escaped(text: str) -> str:
    return escape(text.translate(PICTURES))


STYLE = """
:root { color-scheme: light dark; --gold: #ffe08a; --predicted: #2563eb; --line: #8884; }
@media (prefers-color-scheme: dark) { :root { --gold: #7a5c00; --predicted: #7aa2ff; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 0; overflow-wrap: anywhere; }
article { border-top: 1px solid var(--line); padding: 1rem 0; }
.facts, small, summary { color: GrayText; font-size: .85rem; } summary { cursor: pointer; }
.facts { margin: .2rem 0; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: 6rem 1fr; gap: .1rem .5rem; margin: .5rem 0; }
dt { color: GrayText; } dd { margin: 0; overflow-wrap: anywhere; }
.document { white-space: pre-wrap; overflow-wrap: anywhere; border-inline-start: 3px solid
  var(--line); padding-inline-start: .8rem; margin-top: .6rem; unicode-bidi: plaintext; }
mark { background: none; color: inherit; }
mark.gold { background: var(--gold); }
mark.predicted { border-bottom: 3px solid var(--predicted); }
.right { color: #15803d; } .partly { color: #b45309; } .wrong { color: #b91c1c; }
@media (prefers-color-scheme: dark) {
  .right { color: #4ade80; } .partly { color: #fbbf24; } .wrong { color: #f87171; } }
"""
