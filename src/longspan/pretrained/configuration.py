"""A model folder's `config.json` as a transformers config. Importing this registers it."""

from dataclasses import replace
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from longspan.checkpoint import FORMAT, MODEL_TYPE
from longspan.config import Config
from longspan.errors import UserError
from longspan.typed import from_dict, to_dict

PROBLEM_TYPES = {  # ours to theirs
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


class LongspanConfig(PreTrainedConfig):
    """What `longspan.checkpoint` writes, with the attributes that users of transformers look for.

    Args:
        format: of the folder.
        labels: label names by class index; `id2label` wins where both are given.
        config: the run's configuration, as `typed.to_dict` writes it.
        **kwargs: of every transformers config.

    Raises:
        UserError: another format, or a configuration that is damaged.
    """

    model_type = MODEL_TYPE

    def __init__(
        self,
        format: str = FORMAT,
        labels: list[str] | None = None,
        config: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if format != FORMAT:
            raise UserError(f"config.json: format={format!r} is not {FORMAT}; update longspan")
        self.format = format
        self.config = to_dict(from_dict(Config, {} if config is None else config))
        wanted = kwargs.get("num_labels")  # another number than the folder's: a new head
        if labels is not None and kwargs.get("id2label") is None and wanted in (None, len(labels)):
            kwargs["id2label"] = dict(enumerate(labels))
            kwargs["label2id"] = {label: i for i, label in enumerate(labels)}
        problem = self.config["task"].get("problem")
        kwargs["problem_type"] = kwargs.get("problem_type") or PROBLEM_TYPES.get(problem)
        super().__init__(**kwargs)
        # only now that somebody has a model of ours: to load transformers' models takes its time
        import longspan.pretrained.modeling  # noqa: F401  it registers its classes

    def run_config(self) -> Config:
        """The run's configuration; its problem is that of `problem_type`, which users may set."""
        config = from_dict(Config, self.config)
        ours = {theirs: problem for problem, theirs in PROBLEM_TYPES.items()}
        problem = ours.get(self.problem_type or "")
        if problem is None or self.config["task"].get("problem") in (None, problem):
            return config
        return replace(config, task=replace(config.task, problem=problem))

    @property
    def labels(self) -> list[str]:
        """Label names by class index."""
        return [name for _, name in sorted((self.id2label or {}).items())]

    @property
    def vocab_size(self) -> int:
        return self.config["model"]["vocab_size"]

    @vocab_size.setter
    def vocab_size(self, value: int) -> None:  # by resize_token_embeddings
        self.config["model"]["vocab_size"] = value

    @property
    def hidden_size(self) -> int:
        return self.config["model"]["hidden_size"]

    @property
    def num_hidden_layers(self) -> int:
        return self.config["model"]["num_layers"]

    @property
    def num_attention_heads(self) -> int:
        return self.config["model"]["num_heads"]

    @property
    def initializer_range(self) -> float:
        return self.config["model"]["initializer_range"]

    def to_dict(self) -> dict[str, Any]:
        """As transformers writes it, so that `longspan.checkpoint` reads it."""
        plain = super().to_dict()
        return plain | {"labels": self.labels, "config": to_dict(self.run_config())}


AutoConfig.register(MODEL_TYPE, LongspanConfig, exist_ok=True)
