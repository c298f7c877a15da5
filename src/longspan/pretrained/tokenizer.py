"""The tokenizer: an embedded one, a folder, or a hub id; always a fast one, never remote code."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from longspan.config import Config, ModelConfig
from longspan.embedded import embedded_path
from longspan.encoding import DocumentEncoder
from longspan.errors import UserError
from longspan.hub import unreachable
from longspan.pretrained.folder import pretrained_folder

MOST_HOLES = 100_000  # numbers that a vocabulary may leave out


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer with offsets.

    Args:
        name: `embedded:<name>`, `package:<name>`, a folder, or a hub id.

    Raises:
        UserError: nothing there, a tokenizer without offsets, or without a vocabulary.
    """
    source = name
    if name.startswith("embedded:"):
        source = str(embedded_path(name, "data.tokenizer") / "tokenizer")
        if not Path(source).is_dir():
            raise UserError(f"data.tokenizer={name}: {source} is missing from this checkout")
    elif name.startswith("package:"):
        source = str(pretrained_folder(name, "data.tokenizer"))
    _check_numbers(name, Path(source) / "tokenizer.json")
    down = None if Path(source).is_dir() else unreachable()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        # `tokenizers` raises a bare Exception for a tokenizer.json that it cannot read, and
        # `transformers` what its own code meets in a config of other types
        known = (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
        if type(error) is not Exception and not isinstance(error, known):
            raise
        reason = down or (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"data.tokenizer={name} cannot be loaded ({reason}); give a folder with a "
            "tokenizer.json, or a hub id that can be reached"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(
            f"data.tokenizer={name} is a slow tokenizer without character offsets; "
            "use one with a tokenizer.json"
        )
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        # `transformers` makes an empty one where the folder has none: all would be [UNK]
        raise UserError(
            f"data.tokenizer={name} has no vocabulary; give a folder with a tokenizer.json"
        )
    # documents are cut by data.max_length; the tokenizer's own limit would only print warnings
    tokenizer.model_max_length = 10**9
    # programs that nothing here runs, under names that would become files of our model folders
    tokenizer.chat_template = None
    return tokenizer


def vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """Rows of an embedding for all its tokens: some leave numbers out."""
    return max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1)


def _check_numbers(name: str, file: Path) -> None:
    """Refuse a vocabulary with numbers far beyond its size, before `tokenizers` reads it.

    It keeps a list of all numbers that are left out, whose length is bounded by nothing else.
    """
    try:
        vocabulary = json.loads(file.read_bytes())["model"]["vocab"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return  # no folder, or no vocabulary: `transformers` will say what it misses
    numbers = vocabulary.values() if isinstance(vocabulary, dict) else []
    highest = max((number for number in numbers if isinstance(number, int)), default=0)
    if highest > 10 * len(numbers) + MOST_HOLES:
        raise UserError(
            f"data.tokenizer={name} numbers its {len(numbers)} tokens up to {highest}; number them "
            "from 0 on without large gaps"
        )


def give_token_types(tokenizer: PreTrainedTokenizerFast, model: ModelConfig) -> None:
    """Let the tokenizer, and what is saved of it, give token types where the model reads them.

    Many fast tokenizers know the segments of a pair and give them to those who ask alone.
    """
    names = tokenizer.model_input_names
    if model.type_vocab_size > 1 and "token_type_ids" not in names:
        tokenizer.model_input_names = [*names, "token_type_ids"]
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # what is saved


def document_encoder(config: Config, tokenizer: PreTrainedTokenizerFast) -> DocumentEncoder:
    """What turns documents into features as the run's config says."""
    return DocumentEncoder(
        tokenizer.backend_tokenizer,
        cls_id=_token_id(tokenizer, tokenizer.cls_token),
        sep_id=_token_id(tokenizer, tokenizer.sep_token),
        max_length=config.data.max_length,
        truncate=config.data.truncate,
        policies=config.globals,
        stride=config.data.stride,
    )


def _token_id(tokenizer: PreTrainedTokenizerFast, token: Any) -> int | None:
    return None if token is None else tokenizer.backend_tokenizer.token_to_id(str(token))
