"""The Hugging Face architectures that an exported model can take, and what keeps it from each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import (
    BertConfig,
    DistilBertConfig,
    LongformerConfig,
    ModernBertConfig,
    PreTrainedConfig,
)

from longspan.config import (
    ClassificationConfig,
    Config,
    MaskedLMConfig,
    ModelConfig,
    QAConfig,
    TaskConfig,
)
from longspan.errors import UserError
from longspan.pretrained import bert, distilbert, longformer, modernbert
from longspan.pretrained.family import Family

CLASS_SUFFIXES = {
    "classification": "ForSequenceClassification",
    "qa": "ForQuestionAnswering",
    "mlm": "ForMaskedLM",
}


@dataclass(frozen=True)
class Target:
    """One Hugging Face architecture.

    Attributes:
        family: its weight map.
        class_prefix: of its classes' names, which end as in CLASS_SUFFIXES.
        obstacles: what of a config it cannot express, each as `field=value`.
        hf_config: our config to theirs.
    """

    family: Family
    class_prefix: str
    obstacles: Callable[[Config], list[str]]
    hf_config: Callable[[Config], PreTrainedConfig]


def choose_target(config: Config) -> Target:
    """The first architecture that can express the model exactly.

    Raises:
        UserError: for the nearest one, what is in the way.
    """
    if config.task.name not in CLASS_SUFFIXES:
        raise UserError(
            f"no Hugging Face class expresses task={config.task.name}; export with --to longspan, "
            "which longspan.load reads"
        )
    found = {target.class_prefix: target.obstacles(config) for target in TARGETS}
    for target in TARGETS:
        if not found[target.class_prefix]:
            return target
    nearest = min(found, key=lambda name: len(found[name]))
    raise UserError(
        f"no Hugging Face class expresses this model; for {nearest} these are in the way: "
        f"{', '.join(found[nearest])}"
    )


def _missing(model: ModelConfig, **needed: Any) -> list[str]:
    """`model.field=value` for every field that is not as the architecture needs it."""
    return [f"model.{name}={getattr(model, name)}" for name, value in needed.items()
            if getattr(model, name) != value]  # fmt: skip


def _bert_shape(config: Config, activation: str = "tanh") -> list[str]:
    model = config.model
    obstacles = _missing(
        model, positions="learned", norm="layernorm", norm_position="post", embedding_norm=True,
        first_norm=True, mlp="gelu", attention_bias=True, mlp_bias=True, norm_bias=True,
    )  # fmt: skip
    return obstacles + _heads(config, pooling="cls", activation=activation, norm=False)


def _heads(config: Config, pooling: str | None, activation: str, norm: bool) -> list[str]:
    model = config.model
    obstacles = [] if model.pattern.is_plain else [model.pattern.said()]
    if model.kv_heads != model.num_heads:
        obstacles.append(f"model.num_kv_heads={model.num_kv_heads}")
    if model.head_size * model.num_heads != model.hidden_size:
        obstacles.append(f"model.head_dim={model.head_dim}")
    if isinstance(config.task, MaskedLMConfig):
        return obstacles + _bias_obstacle(config.task.head_bias, not norm)
    if isinstance(config.task, QAConfig):
        return obstacles + _span_head(config.task, activation if norm else None, norm)
    assert isinstance(config.task, ClassificationConfig), "choose_target lets no other pass"
    return obstacles + _classification_head(config.task, pooling, activation, norm)


def _span_head(task: QAConfig, activation: str | None, norm: bool) -> list[str]:
    """Their span heads have no dense layer, or one with a norm and no bias."""
    needed = {"head_activation": activation, "head_norm": norm, "head_bias": activation is None}
    given = {
        "head_activation": task.head_activation,
        "head_norm": bool(task.head_norm),
        "head_bias": task.head_bias is not False,
    }
    obstacles = [f"task.{n}={getattr(task, n)}" for n in needed if needed[n] != given[n]]
    if task.answerability == "head":
        obstacles.append("task.answerability=head")
    return obstacles


def _classification_head(
    task: ClassificationConfig, pooling: str | None, activation: str, norm: bool
) -> list[str]:
    obstacles = []
    if pooling is not None and task.pooling != pooling:
        obstacles.append(f"task.pooling={task.pooling}")
    if (task.head_activation or "tanh") != activation:
        obstacles.append(f"task.head_activation={task.head_activation or 'tanh'}")
    if bool(task.head_norm) != norm:
        obstacles.append(f"task.head_norm={task.head_norm}")
    return obstacles + _bias_obstacle(task.head_bias, not norm)


def _bias_obstacle(head_bias: bool | None, needed: bool) -> list[str]:
    return [] if (head_bias is not False) == needed else [f"task.head_bias={head_bias}"]


def _dense_obstacles(config: Config) -> list[str]:
    obstacles = _missing(config.model, global_projections="shared")
    dense = all(window is None for window in config.model.windows)
    return obstacles + ([] if dense else [f"model.window={config.model.window}"])


def _bert_obstacles(config: Config) -> list[str]:
    return _bert_shape(config) + _dense_obstacles(config)


def _distilbert_obstacles(config: Config) -> list[str]:
    # norm_eps is a constant of their code
    own = _missing(config.model, type_vocab_size=0, norm_eps=1e-12)
    return _bert_shape(config, activation="relu") + _dense_obstacles(config) + own


def _longformer_obstacles(config: Config) -> list[str]:
    # their code cannot leave a layer full, nor a token without a neighbour
    bad = [window for window in config.model.windows if not window]
    types = [f"model.type_vocab_size={config.model.type_vocab_size}"] * (
        config.model.type_vocab_size > 2
    )
    return _bert_shape(config) + types + [f"a layer with window={window}" for window in bad[:1]]


def _modernbert_obstacles(config: Config) -> list[str]:
    model = config.model
    obstacles = _missing(
        model, positions="rotary", norm="layernorm", norm_position="pre", embedding_norm=True,
        first_norm=False, mlp="geglu", type_vocab_size=0,
    )  # fmt: skip
    local = {window for window in model.windows if window is not None}
    if len(local) > 1 or 0 in local:
        obstacles.append(f"model.window={model.window}")
    bases = {(w is None, theta) for w, theta in zip(model.windows, model.rope_thetas, strict=True)}
    if len(bases) > len({is_full for is_full, _ in bases}):
        obstacles.append(f"model.rope_theta={model.rope_theta}")
    policies = [f"globals.{name}={value}" for name, value in vars(config.globals).items() if value]
    return obstacles + (policies if local else []) + _heads(config, None, "gelu", norm=True)


def _classifier_fields(task: TaskConfig) -> dict[str, Any]:
    if isinstance(task, ClassificationConfig):
        return {"classifier_dropout": task.head_dropout}
    return {}


def _bert_fields(config: Config) -> dict[str, Any]:
    model = config.model
    return _classifier_fields(config.task) | {
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "intermediate_size": model.mlp_size,
        "hidden_dropout_prob": model.hidden_dropout,
        "attention_probs_dropout_prob": model.attention_dropout,
        "layer_norm_eps": model.norm_eps,
        "initializer_range": model.initializer_range,
        "type_vocab_size": max(1, model.type_vocab_size),
        "max_position_embeddings": model.max_positions,
    }


def _bert_config(config: Config) -> PreTrainedConfig:
    return BertConfig(**_bert_fields(config))


def _distilbert_config(config: Config) -> PreTrainedConfig:
    model, task = config.model, config.task
    # the checker reads their annotations more strictly than they mean them
    arguments: dict[str, Any] = {
        "vocab_size": model.vocab_size,
        "dim": model.hidden_size,
        "n_layers": model.num_layers,
        "n_heads": model.num_heads,
        "hidden_dim": model.mlp_size,
        "dropout": model.hidden_dropout,
        "attention_dropout": model.attention_dropout,
        "initializer_range": model.initializer_range,
        "max_position_embeddings": model.max_positions,
    }
    if isinstance(task, ClassificationConfig):
        arguments["seq_classif_dropout"] = task.head_dropout
    return DistilBertConfig(**arguments)


def _longformer_config(config: Config) -> PreTrainedConfig:
    return LongformerConfig(
        **_bert_fields(config),
        attention_window=[2 * window for window in config.model.windows if window],
    )


def _modernbert_config(config: Config) -> PreTrainedConfig:
    model = config.model
    kinds = ["full_attention" if w is None else "sliding_attention" for w in model.windows]
    bases = dict(zip(kinds, model.rope_thetas, strict=True))
    local = next((window for window in model.windows if window is not None), 64)
    default = {"full_attention": 160_000.0, "sliding_attention": 10_000.0}
    # the checker reads their annotations more strictly than they mean them
    arguments: dict[str, Any] = dict(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_heads,
        intermediate_size=model.mlp_size,
        max_position_embeddings=config.data.max_length,
        norm_eps=model.norm_eps,
        norm_bias=model.norm_bias,
        attention_bias=model.attention_bias,
        attention_dropout=model.attention_dropout,
        mlp_bias=model.mlp_bias,
        mlp_dropout=model.hidden_dropout,
        embedding_dropout=model.hidden_dropout,
        initializer_range=model.initializer_range,
        layer_types=kinds,
        local_attention=2 * local,
        rope_parameters={
            kind: {"rope_type": "default", "rope_theta": bases.get(kind, theta)}
            for kind, theta in default.items()
        },
        **dict.fromkeys(f"{name}_token_id" for name in ("pad", "bos", "eos", "cls", "sep")),
    )
    if isinstance(config.task, ClassificationConfig):
        arguments["classifier_pooling"] = config.task.pooling
    return ModernBertConfig(**arguments, **_classifier_fields(config.task))


TARGETS = (
    Target(bert.FAMILY, "Bert", _bert_obstacles, _bert_config),
    Target(longformer.FAMILY, "Longformer", _longformer_obstacles, _longformer_config),
    Target(modernbert.FAMILY, "ModernBert", _modernbert_obstacles, _modernbert_config),
    Target(distilbert.FAMILY, "DistilBert", _distilbert_obstacles, _distilbert_config),
)
