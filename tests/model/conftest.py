"""What the tests of the model share: small encoders and packed batches."""

import numpy as np
import pytest
import torch

from longspan.batch import Feature, pack
from longspan.config import ModelConfig
from longspan.model.encoder import Encoder

VOCAB_SIZE = 50
BASE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_layers": 3,
    "num_heads": 4,
    "window": 3,
    "initializer_range": 0.3,  # large, so that attention matters to the hidden states
}


@pytest.fixture(scope="session")
def make_encoder():
    """An encoder in evaluation mode: `BASE`, changed by keywords."""

    def make(seed=0, **changes):
        torch.manual_seed(seed)
        return Encoder(ModelConfig(**{**BASE, **changes})).eval()

    return make


@pytest.fixture(scope="session")
def make_features():
    """Documents of random tokens of two types, global at these positions as far as they go."""

    def make(lengths, global_positions=(0,)):
        random = np.random.default_rng(0)
        return [
            Feature(
                id=f"document-{length}",
                input_ids=random.integers(VOCAB_SIZE, size=length),
                token_type_ids=random.integers(2, size=length),
                global_positions=np.array([p for p in global_positions if p < length], int),
            )
            for length in lengths
        ]

    return make


@pytest.fixture(scope="session")
def make_batch(make_features):
    def make(lengths, global_positions=(0,)):
        return pack(make_features(lengths, global_positions))

    return make
