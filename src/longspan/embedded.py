"""The data that comes with the repository: `embedded:<name>` is the folder `data/<name>`."""

from pathlib import Path

from longspan.errors import UserError

FOLDER = Path(__file__).parents[2] / "data"


def embedded_path(name: str, field: str = "data.path") -> Path:
    """The folder of `embedded:<name>`, which `field` names.

    Raises:
        UserError: no such folder, with those that exist.
    """
    folder = FOLDER / name.removeprefix("embedded:")
    if folder not in FOLDER.glob("*/"):  # `..` is not
        known = ", ".join(f"embedded:{p.name}" for p in sorted(FOLDER.glob("*/"))) or "none here"
        raise UserError(f"{field}={name} does not exist; embedded data: {known}")
    return folder
