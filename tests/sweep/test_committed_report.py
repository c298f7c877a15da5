"""The committed sweep over windows and layers, and what the first page says of it."""

from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks/results/window_layers"


@pytest.fixture(scope="module")
def cells() -> pd.DataFrame:
    return pd.read_csv(FOLDER / "report.csv", keep_default_na=False)


@pytest.fixture(scope="module")
def rows(cells: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, by window and layers."""
    numbers = cells.assign(
        microseconds=1e6 / cells["tokens_per_second"],
        memory_off=cells["predicted_peak_memory_bytes"] / cells["peak_memory_bytes"] - 1,
        time_off=cells["tokens_per_second"] / cells["predicted_tokens_per_second"] - 1,
    )
    return numbers.groupby(["model.window", "model.num_layers"]).mean(numeric_only=True)


def test_every_cell_of_the_default_sweep_finished(cells: pd.DataFrame) -> None:
    assert set(cells["status"]) == {"finished"}
    swept = cells.groupby(["model.window", "model.num_layers", "seed"]).size()
    assert len(swept) == len(cells) == 4 * 3 * 3


def test_predictions_are_within_a_quarter(rows: pd.DataFrame) -> None:
    assert rows["memory_off"].abs().max() < 0.25
    assert rows["time_off"].abs().max() < 0.25


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_a_token_costs_less_where_the_window_is_smaller(rows: pd.DataFrame, layers: int) -> None:
    times = [rows.loc[(window, layers), "microseconds"] for window in ("16", "64", "256", "null")]
    assert times == sorted(times)
    assert times[-1] > 2.5 * times[0]


def test_the_first_page_says_what_was_measured(cells: pd.DataFrame, rows: pd.DataFrame) -> None:
    page = (ROOT / "README.md").read_text()
    assert "benchmarks/results/window_layers/report.png" in page
    for window, layers in (("16", 1), ("null", 2)):
        chosen = cells[(cells["model.window"] == window) & (cells["model.num_layers"] == layers)]
        accuracy = f"{chosen['accuracy'].mean():.3f} ± {chosen['accuracy'].std():.3f}"
        assert f"{accuracy} at {rows.loc[(window, layers), 'microseconds']:.1f} µs" in page
    assert cells["seconds"].sum() / 2 < 1800  # two at a time: within half an hour


def test_the_page_needs_no_network() -> None:
    html = (FOLDER / "report.html").read_text()
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "https://" not in html
    assert (FOLDER / "report.png").read_bytes().startswith(b"\x89PNG")
