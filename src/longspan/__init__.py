"""Train hybrid encoders, sliding-window attention plus global tokens, on long documents.

After `import longspan`, `transformers.AutoModel` and its kin load the model folders that training
writes.
"""

from os import PathLike
from typing import TYPE_CHECKING

from longspan.registration import register_with_transformers

if TYPE_CHECKING:
    from longspan.predict import Predictor

__version__ = "0.1.0"

register_with_transformers()


def load(folder: str | PathLike[str]) -> "Predictor":
    """A trained model, ready for `.predict(...)`: see `longspan.predict`.

    Args:
        folder: a run folder, the model folder in it, or a Hugging Face model's folder.
    """
    from longspan.predict import load_predictor  # torch takes seconds to load

    return load_predictor(folder)
