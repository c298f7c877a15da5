"""`longspan <command>`: everything that is not train or eval."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from longspan.command import set_up_logging, user_errors
from longspan.errors import UserError

app = typer.Typer(
    help="Longspan: hybrid encoders on long documents.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
def predict(
    model: Annotated[Path, typer.Argument(help="run folder, or the model folder in it")],
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
    from longspan.predict import load_predictor
    from longspan.predict_files import read_rows, read_text, write_rows

    if document is not None:
        given = iter([{"id": str(document), "text": read_text(document), "question": question}])
    else:
        assert rows is not None
        given = read_rows(rows)
    count = write_rows(load_predictor(model).predict_all(given), output)
    if output is not None:
        typer.echo(f"{output}: {count} predictions")


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
