"""`longspan <command>`: everything that is not train or eval."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longspan.command import quiet_lightning, set_up_logging, user_errors
from longspan.errors import UserError
from longspan.terminal import on_one_line

if TYPE_CHECKING:
    from longspan.compose.cells import Cell

app = typer.Typer(
    help="Longspan: hybrid encoders on long documents.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


Overrides = Annotated[
    list[str] | None, typer.Argument(help="as of train.py; values with commas are cells")
]
Documents = Annotated[
    int | None, typer.Option(help="of train, to be read; 0 = all are of data.max_length")
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


class Format(StrEnum):
    hf = "hf"
    longspan = "longspan"


@app.callback()
def root() -> None:
    """Longspan: hybrid encoders on long documents."""


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="run folder, as training printed it")],
    output: Annotated[Path, typer.Option(help="new folder to write")],
    to: Annotated[Format, typer.Option(help="hf: plain transformers loads it")] = Format.hf,
) -> None:
    """Write a trained model as a folder of its own, with a model card."""
    # loading transformers takes seconds: --help and wrong arguments are answered before that
    from longspan.pretrained.card import read_results
    from longspan.pretrained.export import export_to_hf, export_to_longspan

    folder = run / "model" if (run / "model").is_dir() else run
    write = export_to_hf if to is Format.hf else export_to_longspan
    what = write(folder, output, read_results(run))
    typer.echo(f"{output}: {what}")


@app.command()
def cost(
    overrides: Overrides = None,
    documents: Documents = None,
    seconds: Annotated[float, typer.Option(help="of calibration; 0 = none, no times")] = 20.0,
    as_json: AsJson = False,
) -> None:
    """What configurations cost, before any training: operations, memory, time, largest batch."""
    cells = _cells(overrides)
    import json

    from rich.console import Console

    from longspan.forecast.forecast import forecast
    from longspan.forecast.table import show

    quiet_lightning()
    forecasts, rates = forecast(cells, documents, seconds)
    if as_json:
        typer.echo(json.dumps([f.to_dict() for f in forecasts], indent=2))
    else:
        show(forecasts, rates, Console())


@app.command()
def reach(
    overrides: Overrides = None,
    documents: Documents = None,
    output: Annotated[Path | None, typer.Option(help="PNG to draw")] = None,
    as_json: AsJson = False,
) -> None:
    """How far information travels through windows, layers and global tokens; what it connects."""
    cells = _cells(overrides)
    import json

    from rich.console import Console

    from longspan.forecast.connected import measure_reach
    from longspan.forecast.reach_picture import draw_reach, show_reach

    found = measure_reach(cells, documents)
    if as_json:
        typer.echo(json.dumps([cell.to_dict() for cell in found], indent=2))
    else:
        show_reach(found, Console())
    if output is not None:
        draw_reach(found, output)
        typer.echo(f"picture: {output}", err=True)


def _cells(overrides: list[str] | None) -> "list[Cell]":
    # loading torch takes seconds: a wrong command line is answered before that
    from longspan.compose.cells import compose_cells

    return compose_cells(overrides or [])


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="run folder, model folder, or one of Hugging Face")],
    document: Annotated[Path | None, typer.Option(help="a text file")] = None,
    question: Annotated[str | None, typer.Option(help="asked about the document")] = None,
    rows: Annotated[
        Path | None, typer.Option(help="jsonl: text, question, pair, candidates, id")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="jsonl to write; without, printed")] = None,
) -> None:
    """Label documents, or answer questions about them; JSON lines come out."""
    if (document is None) == (rows is None):
        raise UserError("predict needs either --document file.txt or --rows file.jsonl")
    if question is not None and document is None:
        raise UserError("--question goes with --document; rows bring questions of their own")
    if question is not None and not question.strip():
        raise UserError("--question is empty; ask something")
    from longspan.cost.heap import bound_primitive_cache, keep_pages
    from longspan.predict import load_predictor
    from longspan.predict_files import read_rows, read_text, write_rows

    if document is not None:
        given = iter([{"id": str(document), "text": read_text(document), "question": question}])
    else:
        assert rows is not None
        given = read_rows(rows)
    keep_pages()
    bound_primitive_cache()
    count = write_rows(load_predictor(model).predict_all(given), output)
    if output is not None:
        typer.echo(f"{output}: {count} predictions")


@app.command()
def replay(
    run: Annotated[Path, typer.Argument(help="run folder, as training printed it")],
    step: Annotated[int | None, typer.Option(help="a bad step; the last one if not given")] = None,
) -> None:
    """Compute a step that was skipped again: where its first number that is not finite comes from."""
    from longspan.training.replay import replay as replayed  # loads torch

    for line in replayed(run, step):
        typer.echo(line)


class CostKind(StrEnum):
    time = "time"
    memory = "memory"
    flops = "flops"


@app.command()
def report(
    sweep: Annotated[Path, typer.Argument(help="folder of a sweep, finished or not")],
    cost: Annotated[
        CostKind | None, typer.Option(help="what quality is weighed against; as swept if not given")
    ] = None,
    ceiling: Annotated[
        float | None, typer.Option(help="the most it may be: µs a token, GiB, MFLOPs a token")
    ] = None,
) -> None:
    """Draw report.html, report.png and report.csv of a sweep."""
    from longspan.sweep.report import draw  # loads matplotlib

    drawn = draw(sweep, None if cost is None else cost.value, ceiling)
    for line in filter(None, [drawn.verdict, drawn.summary, str(drawn.files[-1])]):
        typer.echo(on_one_line(line))  # names and reasons are those of the folder


def main() -> int | None:
    """Run a command; what the command line gets wrong ends in one line and code 1, as in train.py."""
    set_up_logging()
    with user_errors():
        try:
            return app(sys.argv[1:] or ["--help"], standalone_mode=False)
        except Exception as error:
            # click's usage errors, or those of the copy that newer releases of typer carry
            format_message = getattr(error, "format_message", None)
            if format_message is None:
                raise
            raise UserError(f"{format_message().rstrip('.')}; see longspan --help") from error
