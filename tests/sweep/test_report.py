"""The report: drawn of anything, nothing in it runs, and a browser shows and sorts it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure
from PIL import Image
from typer.testing import CliRunner

from longspan.cli import app
from longspan.errors import UserError
from longspan.sweep.cell import record_failure
from longspan.sweep.page import as_html
from longspan.sweep.paths import CellPaths
from longspan.sweep.report import OF_ALL, OF_WINDOWS, draw, figures_of
from longspan.sweep.results import read_sweep
from longspan.sweep.sketch import Sketch
from longspan.sweep.table import rows_of, verdict

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
VOID = {"meta", "img", "br", "wbr"}
EVIL = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Tags that close, and what the page would fetch."""

    def __init__(self, html):
        super().__init__()
        self.open, self.sources, self.scripts = [], [], 0
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script"
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def drawn(write_sweep, tmp_path_factory):
    """The report of a whole sweep."""
    return draw(write_sweep(tmp_path_factory.mktemp("sweeps") / "whole"))


def test_a_report_is_three_files_that_need_nothing_else(drawn):
    folder = drawn.results.folder
    assert [file.name for file in drawn.files] == ["report.csv", "report.png", "report.html"]
    assert drawn.summary == ""
    html = (folder / "report.html").read_text()
    page = Page(html)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)
    assert len(page.sources) == 6
    assert page.scripts == 1
    assert drawn.verdict in html
    with Image.open(folder / "report.png") as sheet:
        assert sheet.width > 1000


def test_the_same_sweep_draws_the_same_bytes(make_sweep):
    folder = make_sweep((16, 64), (1,), (0, 1))
    files = draw(folder).files
    before = [file.read_bytes() for file in files]
    draw(folder)
    assert [file.read_bytes() for file in files] == before


@pytest.mark.parametrize(
    "shape",
    [
        {"windows": (64,), "layers": (1,), "seeds": (0,)},
        {"windows": (None,), "layers": (1,), "seeds": (0,)},
        {"windows": ([16, None], 8), "layers": (2,), "seeds": (0,)},
        {"windows": (16, 64), "layers": (1,), "seeds": (0,), "without": [(16, 1, 0)]},
        {"windows": (16,), "layers": (1,), "seeds": (0,), "without": [(16, 1, 0)]},
        {"windows": (16,), "layers": (1,), "seeds": (0,), "tokens_per_second": None},
        {"windows": (16,), "layers": (1,), "seeds": (0,), "metrics": {"loss": float("nan")}},
        {"windows": (16,), "layers": (1,), "seeds": (0,), "predicted": {"peak_memory_bytes": 1}},
        {"windows": (16, 64), "layers": range(1, 12), "seeds": (0,)},
    ],
    ids=["one", "full", "schedule", "half", "nothing", "no speed", "nan", "predicted", "many"],
)
def test_a_sweep_of_any_shape_is_drawn(make_sweep, shape):
    results = read_sweep(make_sweep(**shape))
    rows = rows_of(results)
    sketch = Sketch.of(results, rows, "time", None)
    for figure in [*OF_ALL.values(), *OF_WINDOWS.values()]:
        figure[0](Figure().subplots(), sketch)
    said = verdict(rows, "time", None, results.monitor[1])
    assert said.endswith(".")
    Page(as_html(results, rows, said, [], [], None))


@pytest.mark.parametrize("layers", [(2,), (1, 2)])
@pytest.mark.parametrize("without", [(), ("equal/sinks",), ("equal/window", "equal/sinks")])
def test_a_sweep_over_a_group_has_a_line_for_each_option(make_pattern_sweep, layers, without):
    folder = make_pattern_sweep(("equal/window", "equal/sinks"), layers=layers, without=without)
    results = read_sweep(folder)
    sketch = Sketch.of(results, rows_of(results), "time", None)
    assert sketch.series == ["equal/window", "equal/sinks"]
    assert list(figures_of(sketch)) == [
        "quality",
        "pareto",
        "time",
        "memory",
        "by_length",
        "curves",
    ]
    axes = Figure().subplots()
    figures_of(sketch)["quality"][0](axes, sketch)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["window", "sinks"]
    assert sketch.layers == (list(layers) if len(without) < 2 or len(layers) > 1 else [None])
    drawn = [line for line in axes.lines if len(line.get_xdata())]
    assert bool(drawn) == (len(without) < 2)

    html = (draw(folder).results.folder / "report.html").read_text()
    assert Page(html).sources
    assert ("a token</small>" in html and ">129<" in html) == (len(without) < 2)


def test_cells_without_a_result_are_listed_with_their_reasons(make_sweep):
    folder = make_sweep((16, 64), (1,), (0, 1), without=[(16, 1, 0), (64, 1, 1)])
    failed = "window=64,num_layers=1,seed=1"
    record_failure(CellPaths(folder, failed), "the training loss is nan at step 3")
    drawn = draw(folder)
    html = (folder / "report.html").read_text()
    assert "the training loss is nan at step 3" in html
    assert "window=16,<wbr>num_layers=1,<wbr>seed=0" in html
    assert drawn.summary == (
        "2 of 4 cells have no result: window=16,num_layers=1,seed=0 (missing: not started) "
        "and 1 more"
    )


def test_predicted_stands_beside_measured(make_sweep):
    folder = make_sweep(
        (64,), (1,), (0,), peak_memory_bytes=2**30,
        predicted={"peak_memory_bytes": 1.25 * 2**30, "tokens_per_second": 1.0},
    )  # fmt: skip
    draw(folder)
    html = (folder / "report.html").read_text()
    assert "Predicted and measured" in html
    assert "+25%" in html


@pytest.mark.parametrize("kind", ["window", "schedule", "pattern"])
def test_transfer_is_drawn_where_it_was_evaluated(make_sweep, make_pattern_sweep, kind):
    if kind == "pattern":
        folder, name = (
            make_pattern_sweep(("equal/sinks",), seeds=(0,)),
            "pattern=equal_sinks,seed=0",
        )
    else:
        window = 64 if kind == "window" else [16, None]
        folder, name = make_sweep((window,), (2,), (0,)), f"window={window},num_layers=2,seed=0"
    result = {"window": 16, "split": "test", "metrics": {"accuracy": 0.5}}
    (folder / name / "eval-test-window=16.json").write_text(json.dumps(result))
    results = read_sweep(folder)
    axes = Figure().subplots()
    sketch = Sketch.of(results, rows_of(results), "time", None)
    figures_of(sketch)["transfer"][0](axes, sketch)
    (line,) = axes.lines
    assert list(line.get_xdata()) == ([16] if kind == "schedule" else [16, 64])
    draw(folder)
    assert len(Page((folder / "report.html").read_text()).sources) == 7


def test_a_ceiling_is_kept_and_overruled(make_sweep):
    folder = make_sweep((16, 64), (1,), (0,))
    plan = json.loads((folder / "sweep.json").read_text())
    (folder / "sweep.json").write_text(json.dumps(plan | {"cost": "memory", "ceiling": 0.7}))
    assert "below 0.7 GiB" in draw(folder).verdict
    assert "below 50 µs a token" in draw(folder, "time", 50.0).verdict
    assert "below" not in draw(folder, "time").verdict
    with pytest.raises(UserError, match=r"ceiling=-1"):
        draw(folder, "time", -1)


def test_the_command_says_the_winner_and_where_the_report_is(make_sweep):
    folder = make_sweep((16, 64), (1,), (0,), without=[(16, 1, 0)])
    done = CliRunner().invoke(app, ["report", str(folder), "--ceiling", "1000"])
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith(
        "The best below 1000 µs a token is window=64, num_layers=1: accuracy"
    )
    assert lines[1].startswith("1 of 2 cells have no result")
    assert lines[2] == str(folder / "report.html")


@pytest.fixture
def browse(tmp_path):
    """Open a page in headless Chromium: what its document is in the end, or a picture of it."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")

    def browse(file, *options):
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000",
            *options, file.as_uri(),
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout

    return browse


def test_a_browser_sorts_the_table_and_runs_nothing_else(make_sweep, browse):
    folder = make_sweep((16, 64, None), (1,), (0,), without=[(64, 1, 0)], name="<b>sweep")
    record_failure(CellPaths(folder, "window=64,num_layers=1,seed=0"), EVIL)
    draw(folder)
    html = (folder / "report.html").read_text()
    Page(html)
    assert EVIL not in html
    # click as a reader would, once the page's own script has run
    clicks = "<script>for (let i = 0; i < 2; i++) document.querySelector('th button').click()"
    (folder / "clicked.html").write_text(html.replace("</body>", f"{clicks}</script></body>"))
    document = browse(folder / "clicked.html", "--dump-dom")
    assert "<title>&lt;b&gt;sweep · sweep</title>" in document
    body = document.partition("<tbody>")[2].partition("</tbody>")[0]
    first = [re.sub(r"[★● ]", "", m) for m in re.findall(r"<th[^>]*>([^<]*)</th>", body)]
    assert first == ["null", "64", "16"]
    assert 'aria-sort="descending"' in document


@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_is_no_wider_than_its_window(drawn, browse, width):
    folder = drawn.results.folder
    # the browser's own window has a least width: a frame has not
    measure = (
        "<script>onload = () => { const d = frames[0].document.documentElement; "
        "document.title = d.scrollWidth + ' of ' + d.clientWidth }</script>"
    )
    frame = f'<iframe src="report.html" style="width:{width}px;height:900px;border:0"></iframe>'
    (folder / "frame.html").write_text(frame + measure)
    document = browse(folder / "frame.html", "--dump-dom", "--allow-file-access-from-files")
    assert f"<title>{width} of {width}</title>" in document
