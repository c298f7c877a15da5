"""The truncation ledger: which questions lost their answer on its way to the model."""

import logging
from collections.abc import Mapping, Sequence

from longspan.batch import Feature
from longspan.errors import UserError
from longspan.tasks.qa_answers import GoldAnswers
from longspan.tasks.qa_metrics import normalize
from longspan.tasks.qasper_metrics import UNANSWERABLE

log = logging.getLogger(__name__)

COUNTED = {
    "answers_repaired": "answers repaired: answer_start missed them, the nearest occurrence counts",
    "answers_dropped": "answers dropped: they do not occur in their document",
    "answers_at_a_border": "answers cut by a slice border that no slice holds whole; raise data.stride",
    "answers_too_long": "questions with gold answers of more than task.max_answer_length tokens "
    "alone; raise it",
    "questions_cut": "questions cut to task.max_question_length tokens",
}


def ledger_counts(
    gold: GoldAnswers,
    found: Sequence[tuple[list[list[int]], list[tuple[int, int]]]],
    slices: Sequence[Feature],
    max_answer_length: int,
) -> dict[str, int]:
    """What one question adds to the ledger of its split.

    Args:
        gold: its answers.
        found: of each slice, the first and last tokens of the answers that it holds whole, and
            the characters of those that it holds in part.
        slices: of its document, with `reach` and `text` in `details`.
        max_answer_length: tokens of the longest answer that decoding gives.
    """
    spans = [span for whole, _ in found for span in whole]
    lost = bool(gold.texts) and not spans
    in_part = {span for _, parts in found for span in parts}
    reaches = [piece.details["reach"] for piece in slices]
    cut = [(a, b) for a, b in in_part if not any(x <= a and b <= y for x, y in reaches)]
    return {
        "questions": 1,
        "answerable": int(bool(gold.texts)),
        "answerable_lost": int(lost),
        "answerable_absent": int(lost and not gold.spans),
        # what was cut away may stand elsewhere too, perhaps in capitals
        "unreachable": int(lost and not _stands_somewhere(gold.texts, slices)),
        "answers_repaired": gold.repaired,
        "answers_dropped": gold.dropped,
        "answers_at_a_border": len(cut),
        "answers_too_long": int(
            bool(spans) and all(last - first >= max_answer_length for first, last in spans)
        ),
    }


def _stands_somewhere(answers: Sequence[str], slices: Sequence[Feature]) -> bool:
    """Whether some slice holds text that an official scorer takes for one of the answers, or one
    of them is that there is none."""
    if UNANSWERABLE in answers:
        return True
    texts = [normalize(piece.details["text"]) for piece in slices]
    return any(normalize(answer) in text for answer in answers for text in texts)


def report_losses(split: str, counts: Mapping[str, float]) -> dict[str, float]:
    """Log which questions can no longer be answered, and what that caps.

    Args:
        split: its name.
        counts: of its features, summed.

    Returns:
        `highest_exact_match`, which no model can exceed, where there are questions with answers.

    Raises:
        UserError: a training split in which no question has an answer.
    """
    answerable = counts.get("answerable", 0)
    lost, absent = counts.get("answerable_lost", 0), counts.get("answerable_absent", 0)
    if split == "train" and answerable == lost:
        raise UserError(
            f"data: no question of the train split has an answer in its document ({lost - absent:.0f} "
            f"had one that was cut away, {absent:.0f} one that does not occur); check "
            "data.answers_column, data.text_column and data.max_length"
        )
    for name, what in COUNTED.items():
        if counts.get(name):
            log.warning("%s: %d %s", split, counts[name], what)
    if not answerable:
        return {}
    highest = 1 - counts["unreachable"] / counts["questions"]
    log.info(
        "%s: %d of %d questions have an answer; truncation and slice borders took it from %d, and "
        "%d have one that does not occur: no exact match above %.1f%%",
        split, answerable, counts["questions"], lost - absent, absent, 100 * highest,
    )  # fmt: skip
    return {"highest_exact_match": highest}
