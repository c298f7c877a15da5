"""Batches of given documents, and configurations of a few dimensions."""

import numpy as np
import pytest

from longspan.config import Config, DataConfig, ModelConfig
from longspan.cost.documents import Documents


@pytest.fixture
def make_documents():
    """Documents of these lengths, each with its first tokens global."""

    def make(lengths, num_globals=1):
        return Documents(lengths, [np.arange(min(num_globals, length)) for length in lengths])

    return make


@pytest.fixture
def make_small():
    """A run with a small model, with some of the model's fields changed."""

    def make(**model):
        sizes = {"vocab_size": 100, "hidden_size": 64, "num_heads": 4, "num_layers": 2}
        data = DataConfig(max_length=model.get("max_positions", 512))
        return Config(model=ModelConfig(**{**sizes, "window": 16, **model}), data=data)

    return make
