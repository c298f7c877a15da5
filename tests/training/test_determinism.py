"""The same seed on the same machine gives the same bits."""

import numpy as np
import pytest
import torch

from longspan.attention import native
from longspan.batch import Feature, pack
from longspan.config import ClassificationConfig, Config, ModelConfig
from longspan.tasks.classification import Classification
from longspan.training.module import LongDocumentModule
from longspan.training.run import train

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning",  # Lightning's, with torch 2.13
    "ignore:.*does not have many workers",
    "ignore:This DataLoader will create .* worker processes",  # on a machine of one core
)
FILES = ("metrics.jsonl", "model/model.safetensors", "predictions/test.jsonl")


@pytest.mark.parametrize("task", ["mlm", "classification"])
def test_any_number_of_loader_workers_gives_the_same_bits(task, make_config, tmp_path):
    """With dropout, and with tokens hidden at random by whoever reads them."""
    found = []
    for workers in (0, 1, 2):
        fields = {"task.name": task, "name": str(workers), "data.num_workers": workers}
        train(make_config(tmp_path, **fields, **{"trainer.max_steps": 6}))
        folder = tmp_path / "default" / str(workers)
        found.append([(folder / file).read_bytes() for file in FILES])
    assert found[0] == found[1] == found[2]
    train(make_config(tmp_path, **fields | {"name": "seed", "seed": 1, "trainer.max_steps": 6}))
    assert (tmp_path / "default" / "seed" / FILES[1]).read_bytes() != found[0][1]


SHAPES = {
    "native": {},
    "separate": {"global_projections": "separate"},
    "full": {"window": None},
    "blocked": {"attention_backend": "blocked"},
}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_threads_that_run_as_they_like_give_the_same_bits(shape, precision):
    """Two steps on two threads, three times: sums are not in the order in which threads end."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first, *others = (_weights_after_two_steps(shape, precision) for _ in range(3))
    finally:
        torch.set_num_threads(threads)
    for weights in others:
        for name, weight in first.items():
            assert weight.equal(weights[name]), name
    if native.unavailable() is None and shape == {}:
        assert all(weight.isfinite().all() for weight in first.values())


def _weights_after_two_steps(shape, precision):
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    model = {"vocab_size": 50, "hidden_size": 64, "num_heads": 4, "num_layers": 2, "window": 16,
             "hidden_dropout": 0.1} | shape  # fmt: skip
    config = Config(model=ModelConfig(**model), task=ClassificationConfig(pooling="mean"))
    module = LongDocumentModule(config, Classification(config.task, ["a", "b"]))
    features = [
        Feature(str(n), random.integers(50, size=n), np.arange(0, n, 100), label=n % 2)
        for n in (1500, 700, 301, 3, 1)
    ]
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    for _ in range(2):
        batch = pack(features)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            loss = module.task.loss(module(batch), batch).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module.state_dict()
