"""Raw rows: a hub id, local files, a folder of texts or an embedded corpus, as `datasets` tables.

Every source ends as one `Dataset` a split with the source's own columns; `rows.py` reads them.
"""

import glob
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import datasets.config
from datasets import Dataset
from datasets.exceptions import DatasetGenerationError, DatasetsError

from longspan.config import DataConfig, NeedleConfig
from longspan.data.formats.read import read_table
from longspan.data.needle import make_needles
from longspan.data.splits import cut_missing_splits, split_by_column
from longspan.data.squad import is_squad, read_squad
from longspan.data.unreadable import cause_of, check_utf8, unreadable
from longspan.embedded import embedded_path
from longspan.errors import UserError
from longspan.hub import unreachable

FORMATS = {".csv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
NEEDLE = "embedded:needle"
TEXT_SUFFIXES = (".txt", ".md")
# pandas reads "NA", "None" and "null" as missing, but they are names of classes too
READ_OPTIONS = {"csv": {"keep_default_na": False, "na_values": [""]}}


log = logging.getLogger(__name__)


def load_splits(config: DataConfig, stratify: bool) -> dict[str, Dataset]:
    """The raw rows of train, dev and test.

    Args:
        config: where they are.
        stratify: keep the shares of the label column's values in splits that are cut here.

    Raises:
        UserError: a missing file, an unreadable one, an unknown hub id, an empty split.
    """
    if not config.local_files and not config.path:
        raise UserError(
            "data.path='' names no data; set data.path=<file, folder or hub id> or "
            "data.files.train=<file>"
        )
    check_cache(config)
    if config.path == NEEDLE and not config.local_files:
        splits = _needles(config)
    elif config.split_column is not None:
        if config.local_files:
            raise UserError(
                f"data.split_column={config.split_column} reads the splits of one table, but "
                "data.files names several; set data.path=<file>, or drop data.split_column"
            )
        splits = split_by_column(_load_table(_local(config), config), config)
    elif config.local_files:
        splits = {
            split: _load_table(existing(Path(file), f"data.files.{split}"), config)
            for split, file in config.local_files.items()
        }
    else:
        splits = _load_path(config)
    for split, dataset in splits.items():
        if not len(dataset):
            raise UserError(f"data: the {split} split of {name_of(config)} is empty; give it rows")
    if "train" not in splits:
        field = "data.splits.train" if not config.local_files else "data.files.train"
        raise UserError(f"data: {name_of(config)} has no train split; name it in {field}")
    splits = {split: read_table(table, split, config) for split, table in splits.items()}
    return cut_missing_splits(splits, config, stratify)


def check_cache(config: DataConfig) -> None:
    """Whether the cache's folder can be made, so that no data file is blamed for it."""
    if config.cache_dir is None:
        return
    try:
        os.makedirs(config.cache_dir or ".", exist_ok=True)
    except OSError as error:
        raise UserError(
            f"data.cache_dir={config.cache_dir} cannot be made ({error.strerror}); name a folder "
            "that you may write to"
        ) from error


def load_split(config: DataConfig, split: str, stratify: bool) -> Dataset:
    """The raw rows of one split of the data that a run trained on, cut as they were there."""
    return _chosen(load_splits(config, stratify), split, config)


def load_other(config: DataConfig, split: str) -> Dataset:
    """The raw rows of a split of other data, which may have no training split: one file is it."""
    if split in config.local_files:
        file = existing(Path(config.local_files[split]), f"data.files.{split}")
        return read_table(_load_table(file, config), split, config)
    if not config.local_files and config.split_column is None and os.path.isfile(config.path):
        return read_table(_load_table(Path(config.path), config), split, config)
    return _chosen(load_splits(config, stratify=False), split, config)


def is_local(config: DataConfig) -> bool:
    """Whether the rows lie on this machine, so that nothing is fetched to read them."""
    if config.local_files or config.path.startswith("embedded:"):
        return True
    return os.path.exists(config.path) or _is_file_name(config.path)


def _is_file_name(path: str) -> bool:
    """Whether this can be no hub id."""
    file = Path(path)
    return file.suffix.lower() in FORMATS or file.is_absolute() or path.startswith(".")


def _chosen(splits: dict[str, Dataset], split: str, config: DataConfig) -> Dataset:
    if split not in splits:
        raise UserError(f"split={split} is not there; {name_of(config)} has {', '.join(splits)}")
    return splits[split]


def _needles(config: DataConfig) -> dict[str, Dataset]:
    """Questions made over the embedded addresses; splits without any are left out."""
    table = _load_table(embedded_path("embedded:sotu") / "sotu.parquet", config)
    rows = list(zip(table["split"][:], table["id"][:], table["text"][:], strict=True))
    texts = {
        split: [(id, text) for owner, id, text in rows if owner == split]
        for split in ("train", "dev", "test")
    }
    made = make_needles(texts, config.needle or NeedleConfig())
    return {split: Dataset.from_list(rows) for split, rows in made.items() if rows}


def _load_path(config: DataConfig) -> dict[str, Dataset]:
    path = _local(config) if config.path.startswith("embedded:") else Path(config.path)
    if os.path.isdir(path):
        return _load_folder(path, config)
    if os.path.isfile(path):
        return {"train": _load_table(path, config)}
    if _is_file_name(config.path):
        existing(path, "data.path")
    return load_hub(config)


def _local(config: DataConfig) -> Path:
    if config.path.startswith("embedded:"):
        folder = embedded_path(config.path)
        return folder / f"{folder.name}.parquet"
    return existing(Path(config.path), "data.path")


def existing(path: Path, field: str) -> Path:
    if not os.path.exists(path):  # False, where Path.exists would raise
        raise UserError(f"{field}={path} does not exist; give an existing file, or a hub id")
    return path


def name_of(config: DataConfig) -> str:
    return ", ".join(config.local_files.values()) if config.local_files else config.path


def _load_table(path: Path, config: DataConfig) -> Dataset:
    """One csv, jsonl or parquet file, through the cache of `datasets`."""
    kind = format_of(path)
    try:
        if kind == "json":
            check_utf8(path)
        if is_squad(path):
            return read_squad(path, config)
        loaded = datasets.load_dataset(
            kind,
            data_files=str(path),
            split="train",
            cache_dir=config.cache_dir,
            **READ_OPTIONS.get(kind, {}),
        )
    except UserError:  # with a place in the file
        raise
    except (DatasetGenerationError, OSError, ValueError) as error:
        raise unreadable(path, kind, error) from error
    assert isinstance(loaded, Dataset)
    return loaded


def format_of(path: Path) -> str:
    """What `datasets` calls the file's format.

    Raises:
        UserError: an unknown one, or a file that cannot be read.
    """
    if path.is_dir():
        raise UserError(f"data: {path} is a folder; give a file")
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        known = ", ".join(sorted(FORMATS))
        raise UserError(f"data: {path} has no known format; use a file that ends in {known}")
    if glob.has_magic(str(path)):
        raise UserError(
            f"data: {path} holds one of *?[, which `datasets` takes for a pattern; rename it"
        )
    if path.stat().st_size == 0:
        raise UserError(f"data: {path} is an empty file; give it rows")
    return kind


def load_hub(config: DataConfig, streaming: bool = False) -> dict[str, Any]:
    wanted = {ours: theirs for ours, theirs in config.splits.items() if theirs is not None}
    down = unreachable()
    datasets.config.HF_HUB_OFFLINE |= down is not None
    try:
        return {
            ours: datasets.load_dataset(
                config.path,
                config.name,
                split=theirs,
                revision=config.revision,
                cache_dir=config.cache_dir,
                streaming=streaming,
            )
            for ours, theirs in wanted.items()
        }
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        reason = down or (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"data.path={config.path} is neither a file nor a folder here, and the hub did not "
            f"give it ({reason}); check the path, data.name, data.revision, data.splits and the "
            "network"
        ) from error


def _load_folder(folder: Path, config: DataConfig) -> dict[str, Dataset]:
    """`<folder>/<split>/<label>/*.txt`, or `<folder>/<label>/*.txt` for one split to be cut."""
    named = {
        ours: folder / theirs
        for ours, theirs in config.splits.items()
        if theirs is not None and (folder / theirs).is_dir()
    }
    if not named:
        return {"train": _read_texts(folder, config)}
    unused = sorted({place.name for place in folder.glob("*/")} - {p.name for p in named.values()})
    if unused:
        log.warning(
            "data.path=%s: the folders %s are left out, as data.splits does not name them",
            folder,
            ", ".join(unused),
        )
    return {split: _read_texts(place, config) for split, place in named.items()}


def _read_texts(folder: Path, config: DataConfig) -> Dataset:
    files = sorted(p for p in folder.glob("*/*") if p.suffix.lower() in TEXT_SUFFIXES)
    if not files:
        raise UserError(
            f"data.path: {folder} holds no texts; expected {folder}/<label>/<document>.txt"
        )
    for file in files:
        try:
            check_utf8(file)
        except UnicodeDecodeError as error:
            raise UserError(f"data: {file} cannot be read: {cause_of(error)}") from error
    text_column = config.text_column if isinstance(config.text_column, str) else "text"
    # a generator's table is kept by `datasets`, and with it the features made of it; the stamps
    # are there for its fingerprint: a file that has changed is read anew
    stamps = [(file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    read = Dataset.from_generator(
        _text_rows,
        gen_kwargs={
            "folder": str(folder.resolve()),
            "names": tuple(str(file.relative_to(folder)) for file in files),
            "stamps": tuple(stamps),
            "columns": (text_column, config.label_column),
        },
        cache_dir=config.cache_dir,  # type: ignore[arg-type]  # None = its default
    )
    assert isinstance(read, Dataset)
    return read


def _text_rows(
    folder: str, names: tuple[str, ...], stamps: tuple[Any, ...], columns: tuple[str, str]
) -> Iterator[dict[str, str]]:
    for name in names:
        file = Path(folder, name)
        text = file.read_text(encoding="utf-8")
        yield {"file": name, columns[0]: text, columns[1]: file.parent.name}
