"""The models of the training-step benchmark: Hugging Face's as they come, and ours of their weights.

All classify documents by the hidden state of the first token, with the same head, loss and AdamW,
and without dropout. Theirs take padded batches, as their collators make them, ours packed ones.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from longspan.batch import Feature, pack
from longspan.config import ModelConfig, OptimConfig
from longspan.model.encoder import Encoder
from longspan.pretrained.load import complete_model, load_encoder
from longspan.training.optim import build_optimizer
from longspan.typed import from_dict

CLASSES = 2
PADDING = 1
FAMILIES = ("longformer", "modernbert", "roberta")  # whose weights ours can take
OURS = "longspan-longformer"  # windows and separate projections of the global token
NAMES = {
    OURS: "Longspan",
    "longformer": "HF Longformer",
    "longformer-kept": "HF Longformer, pages kept",
    "bigbird": "HF BigBird, block sparse",
    "bigbird-float32": "HF BigBird, block sparse, in float32",
    "longspan-modernbert": "Longspan, as ModernBERT",
    "modernbert": "HF ModernBERT, sdpa",
    "modernbert-kept": "HF ModernBERT, sdpa, pages kept",
    "longspan-roberta": "Longspan, as RoBERTa",
    "roberta": "HF RoBERTa, full attention, sdpa",
}


@dataclass(frozen=True)
class Sizes:
    """Of all models.

    Attributes:
        window: one-sided reach W.
        positions: of the learned tables.
    """

    layers: int = 4
    hidden: int = 768
    heads: int = 12
    mlp: int = 3072
    vocabulary: int = 50_265  # RoBERTa's and Longformer's
    window: int = 256
    positions: int = 4096


def theirs_config(family: str, sizes: Sizes) -> Any:
    """A family's own configuration of these sizes."""
    common = {
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.mlp,
        "pad_token_id": PADDING,
    }
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    like_roberta = {"type_vocab_size": 1, "max_position_embeddings": sizes.positions + PADDING + 1}
    if family == "longformer":
        both_sides = 2 * sizes.window
        return transformers.LongformerConfig(
            **common, **no_dropout, **like_roberta, attention_window=both_sides
        )
    if family == "bigbird":
        # a query sees 3 blocks around it, 3 random and 2 global ones: 8 * W/4 = 2W keys
        return transformers.BigBirdConfig(
            **common, **no_dropout, type_vocab_size=1, max_position_embeddings=sizes.positions,
            attention_type="block_sparse", block_size=sizes.window // 4, num_random_blocks=3,
        )  # fmt: skip
    if family == "modernbert":
        # its MLP has three matrices: as many weights as the others' with two
        common["intermediate_size"] = 2 * sizes.mlp // 3
        return transformers.ModernBertConfig(
            **common, local_attention=2 * sizes.window, max_position_embeddings=sizes.positions,
            bos_token_id=2, cls_token_id=2, eos_token_id=3, sep_token_id=3,
            attn_implementation="sdpa",
        )  # fmt: skip
    return transformers.RobertaConfig(
        **common, **no_dropout, **like_roberta, attn_implementation="sdpa"
    )


def theirs_body(family: str, sizes: Sizes) -> Any:
    """The model without a head, its weights as it initialises them from seed 0."""
    torch.manual_seed(0)
    pooler = {} if family == "modernbert" else {"add_pooling_layer": False}
    classes = {
        "longformer": transformers.LongformerModel,
        "bigbird": transformers.BigBirdModel,
        "modernbert": transformers.ModernBertModel,
        "roberta": transformers.RobertaModel,
    }
    return classes[family](theirs_config(family, sizes), **pooler)


def our_encoder(family: str, sizes: Sizes) -> Encoder:
    """Our encoder with the family's weights, taken from a folder as any pretrained model is."""
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="longspan-contender-") as folder:
        theirs_body(family, sizes).save_pretrained(folder)
        model = complete_model({"pretrained": str(Path(folder))})
        encoder = Encoder(from_dict(ModelConfig, model))
        load_encoder(encoder)
    return encoder


class Theirs(nn.Module):
    """A Hugging Face model with our head."""

    def __init__(self, family: str, sizes: Sizes) -> None:
        super().__init__()
        self.family, self.sizes = family, sizes
        self.encoder = theirs_body(family, sizes)
        self.head = nn.Linear(sizes.hidden, CLASSES)

    def collate(self, documents: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """(B, N) tensors, N the longest document, of Longformer the next multiple of its window."""
        multiple = 2 * self.sizes.window if self.family == "longformer" else 1
        length = -(-max(map(len, documents)) // multiple) * multiple
        input_ids = torch.full((len(documents), length), PADDING)
        for row, document in zip(input_ids, documents):
            row[: len(document)] = torch.from_numpy(document)
        lengths = torch.tensor([len(document) for document in documents])
        mask = (torch.arange(length) < lengths[:, None]).long()
        batch = {"input_ids": input_ids, "attention_mask": mask}
        if self.family == "longformer":
            batch["global_attention_mask"] = torch.zeros_like(mask).index_fill(
                1, torch.tensor([0]), 1
            )
        return batch

    def hidden(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, N, C)."""
        return self.encoder(**batch).last_hidden_state

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, classes)."""
        return self.head(self.hidden(batch)[:, 0])

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-5, fused=True)  # the Trainer's default


class Ours(nn.Module):
    """Our encoder with the same head."""

    def __init__(self, family: str, sizes: Sizes) -> None:
        super().__init__()
        self.family = family
        self.encoder = our_encoder(family, sizes)
        self.head = nn.Linear(sizes.hidden, CLASSES)

    def collate(self, documents: Sequence[np.ndarray]) -> Any:
        """The packed batch."""
        chosen = np.array([0] if self.family == "longformer" else [], np.int32)
        return pack([Feature(str(i), x, chosen) for i, x in enumerate(documents)])

    def hidden(self, batch: Any) -> Tensor:
        """(T, C)."""
        return self.encoder(batch)

    def forward(self, batch: Any) -> Tensor:
        """(D, classes)."""
        return self.head(self.encoder(batch, batch.cu_seqlens[:-1].long()))

    def optimizer(self) -> torch.optim.Optimizer:
        return build_optimizer(self, self.encoder.config.num_layers, OptimConfig())


def make_contender(name: str, sizes: Sizes) -> Theirs | Ours:
    family = name.removeprefix("longspan-").removesuffix("-float32").removesuffix("-kept")
    contender = (Ours if name.startswith("longspan-") else Theirs)(family, sizes)
    return contender.train()


def training_step(contender: Theirs | Ours, dtype: str) -> Callable[[Any, Tensor], None]:
    """The whole step: forward, loss, backward, AdamW; in bfloat16 under autocast."""
    optimizer = contender.optimizer()

    def step(batch: Any, labels: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = contender(batch)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def largest_difference(family: str, sizes: Sizes, documents: Sequence[np.ndarray]) -> float:
    """Between the hidden states of both sides, of the same weights and documents."""
    theirs, ours = (make_contender(name, sizes).eval() for name in (family, f"longspan-{family}"))
    with torch.no_grad():
        batch = theirs.collate(documents)
        expected = theirs.hidden(batch)[batch["attention_mask"].bool()]  # (T, C)
        return float((ours.hidden(ours.collate(documents)) - expected).abs().max())
