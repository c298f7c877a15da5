"""The threshold against every threshold, the temperature against what it has to do."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.config import QAConfig
from longspan.tasks.qa_calibration import TEMPERATURES, best_threshold, calibrate, fixed
from longspan.tasks.qa_decoding import Answer
from longspan.tasks.qa_merging import Decision, MergedQuestion, decide

AUTO = QAConfig()


def question(
    gold: list[str] | None, scores: dict[str, float], null: float, id: str = "q"
) -> MergedQuestion:
    answers = sorted(
        (Answer(text, i, i + len(text), score) for i, (text, score) in enumerate(scores.items())),
        key=lambda answer: -answer.score,
    )
    about = {"id": id, "question": "Who?", "answers": gold, "length": 9}
    difference = null - answers[0].score if answers else 1e4
    return MergedQuestion(about, tuple(answers), null, difference, 0, None)


# few values, so that there are ties
SCORES = st.lists(
    st.tuples(
        st.one_of(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 1e4, -1e4]), st.floats(-9, 9)),
        st.sampled_from([0.0, 0.5, 1.0]),
        st.sampled_from([0.0, 1.0]),
    ),
    min_size=1,
    max_size=12,
)


@given(SCORES)
def test_no_threshold_is_better(rows: list[tuple[float, float, float]]) -> None:
    difference, answered, silent = np.array(rows).T

    def mean(threshold: float) -> float:
        return float(np.where(difference > threshold, silent, answered).mean())

    found = best_threshold(difference, answered, silent)
    assert math.isfinite(found)
    others = [*difference, *(difference - 1e-3), difference.min() - 1, 0.0]
    assert mean(found) >= max(map(mean, others)) - 1e-9
    if mean(0.0) >= mean(found) - 1e-9:
        assert found == 0  # it is left alone where nothing is gained


def test_the_threshold_lies_half_way() -> None:
    found = best_threshold(np.array([2.0, 3.0, 6.0]), np.array([1, 1, 0]), np.array([0, 0, 1]))
    assert found == 4.5
    never = best_threshold(np.array([-2.0, -3.0]), np.array([0, 0]), np.array([1, 1]))
    assert never == -4.0


def test_a_biased_model_is_put_right() -> None:
    rows = [question(["Ann"], {"Ann": -1.0}, null) for null in (0.5, 1.5, 2.0)]
    rows += [question([], {"Ann": -1.0}, null) for null in (4.0, 5.0)]
    fitted = calibrate(rows, AUTO)
    assert fitted is not None
    assert fitted.decision.null_threshold == 4.0  # between 3.0 and 5.0
    assert (fitted.f1, fitted.f1_uncalibrated) == (1.0, 0.4)
    assert [decide(row, fitted.decision).predicted for row in rows] == ["Ann"] * 3 + [""] * 2


def test_the_threshold_is_that_of_the_scoring_in_use() -> None:
    # one annotator found no answer: silence is right for Qasper's scorer alone
    rows = [question(["Ann", "Unanswerable"], {"Bob": -1.0}, null) for null in (-3.0, -2.5)]
    rows += [question(["Ann"], {"Ann": -1.0}, -4.0)]
    fitted = {name: calibrate(rows, QAConfig(scoring=name)) for name in ("squad", "qasper")}
    assert fitted["squad"] is not None
    assert fitted["qasper"] is not None
    assert (fitted["squad"].decision.null_threshold, fitted["squad"].f1) == (None, 1 / 3)
    assert (fitted["qasper"].decision.null_threshold, fitted["qasper"].f1) == (-2.5, 1.0)
    # a hyphen is a space for TriviaQA's
    rows = [question(["rock-and-roll"], {"rock and roll": -1.0}, -9.0)]
    f1 = {name: calibrate(rows, QAConfig(scoring=name)) for name in ("squad", "triviaqa")}
    assert [fit.f1 for fit in f1.values() if fit is not None] == [0.0, 1.0]


def test_a_set_without_unanswerable_questions_is_always_answered() -> None:
    rows = [question(["Ann"], {"Ann": -1.0}, 5.0), question(["Bob"], {"Ann": -1.0}, 9.0)]
    fitted = calibrate(rows, AUTO)
    assert fitted is not None
    assert fitted.decision.null_threshold is None


def test_what_the_config_says_stays() -> None:
    rows = [question(["Ann"], {"Ann": -1.0}, 5.0), question([], {"Ann": -1.0}, 9.0)]
    for threshold in (None, 1.25):
        fitted = calibrate(rows, QAConfig(null_threshold=threshold, temperature=2.0))
        assert fitted is not None
        assert (
            fitted.decision
            == Decision(threshold, 2.0)
            == fixed(QAConfig(null_threshold=threshold, temperature=2.0))
        )
    assert fixed(AUTO) == Decision(0.0, 1.0)


def test_questions_whose_answers_nobody_knows_calibrate_nothing() -> None:
    assert calibrate([question(None, {"Ann": -1.0}, 5.0)], AUTO) is None
    assert calibrate([], AUTO) is None


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_answers_is_found(true: float) -> None:
    """Gold is drawn from the model's own softmax at a temperature: that is the calibrated one."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(3000):
        scores = random.normal(size=4) * 3
        weights = np.exp(scores / true)
        gold = random.choice(4, p=weights / weights.sum())
        named = {f"w{i}": float(score) for i, score in enumerate(scores)}
        rows.append(question([f"w{gold}"], named, -99.0, str(number)))
    fitted = calibrate(rows, QAConfig(null_threshold=None))
    assert fitted is not None
    assert fitted.decision.temperature == pytest.approx(true, rel=0.12)
    said = [decide(row, fitted.decision) for row in rows]
    right = np.mean([p.predicted == p.gold[0] for p in said if p.gold])
    assert np.mean([p.probability for p in said]) == pytest.approx(right, abs=0.02)


@pytest.mark.parametrize("gold", ["Ann", "Bob"])
def test_few_questions_do_not_make_a_model_infinitely_sure(gold: str) -> None:
    rows = [question([gold], {"Ann": -0.5, "Bob": -2.5}, -3.0, str(i)) for i in range(4)]
    fitted = calibrate(rows, QAConfig(null_threshold=0.0))
    assert fitted is not None
    assert TEMPERATURES[0] < fitted.decision.temperature <= TEMPERATURES[-1]
    probability = decide(rows[0], fitted.decision).probability
    if gold == "Ann":  # four of four: Platt's target is 5/6
        assert probability == pytest.approx(5 / 6, abs=0.02)
    else:
        assert probability < 0.4
