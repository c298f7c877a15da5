"""A whole run, and the evaluation of one."""

from dataclasses import dataclass, field
from typing import Any, Literal

from longspan.config.checks import at_least, at_most, file_name, path_name
from longspan.config.data import DataConfig, GlobalsConfig
from longspan.config.model import ModelConfig, Window
from longspan.config.tasks import (
    AskingConfig,
    ChoiceConfig,
    ClassificationConfig,
    MultiHopConfig,
    QAConfig,
    TaskConfig,
)
from longspan.config.training import CheckpointConfig, LoggerConfig, OptimConfig, TrainerConfig
from longspan.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run."""

    experiment: str = "default"  # runs/<experiment>/<name>/ is the run folder
    name: str = "default"  # made from the overrides, so that a command finds its own work
    runs_dir: str = "runs"
    seed: int = 0
    first: tuple[
        str, ...
    ] = ()  # overrides of a run that is made before, whose model this one takes
    overwrite: bool = False  # redo a run whose folder is taken
    model: ModelConfig = field(default_factory=ModelConfig)
    globals: GlobalsConfig = field(default_factory=GlobalsConfig)
    data: DataConfig = field(default_factory=DataConfig)
    task: TaskConfig = field(default_factory=ClassificationConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)

    def __post_init__(self) -> None:
        for name in ("experiment", "name"):
            file_name(name, getattr(self, name))
        path_name("runs_dir", self.runs_dir)
        if not self.runs_dir:
            raise UserError("runs_dir is empty; name the folder that holds the runs")
        at_least(0, "seed", self.seed)
        at_most(2**32 - 1, "seed", self.seed)  # of NumPy's generators, which Lightning seeds
        if self.data.streaming:
            self._check_streaming()
        positions = self.model.max_positions
        if self.model.positions == "learned" and positions and positions < self.data.max_length:
            raise UserError(
                f"data.max_length={self.data.max_length} exceeds "
                f"model.max_positions={positions}; raise the one or lower the other"
            )
        self._check_frozen()
        self._check_question()
        if self.model.pattern.causal:
            self._check_causal()

    def _check_causal(self) -> None:
        if self.globals.is_on:
            raise UserError(
                "model.pattern.causal=true has no global tokens, which see and are seen both ways; "
                "use globals=none, and model.pattern.sinks for keys that all see"
            )
        if isinstance(self.task, ClassificationConfig) and self.task.pooling == "cls":
            raise UserError(
                "task.pooling=cls reads the first token, which sees nothing but itself where "
                "model.pattern.causal=true; use task.pooling=mean"
            )

    def _check_frozen(self) -> None:
        frozen, layers, lora = self.optim.freeze_layers, self.model.num_layers, self.optim.lora
        if frozen > layers:
            raise UserError(
                f"optim.freeze_layers={frozen} exceeds model.num_layers={layers}; "
                f"choose 0 … {layers}"
            )
        if not lora.rank:
            return
        if lora.rank > self.model.hidden_size:
            raise UserError(
                f"optim.lora.rank={lora.rank} exceeds model.hidden_size={self.model.hidden_size}; "
                "it is to be low: lower it"
            )
        if frozen == layers:
            raise UserError(
                f"optim.lora.rank={lora.rank} has no layer to adapt: optim.freeze_layers={frozen} "
                "freezes all; lower it or set optim.lora.rank=0"
            )
        if lora.targets == ("global_qkv",) and not self.trains_global_projections:
            raise UserError(
                "optim.lora.targets=[global_qkv] adapts nothing without global projections in "
                "use; set model.global_projections=separate and a policy of globals.*"
            )

    @property
    def trains_global_projections(self) -> bool:
        """Whether global tokens have projections of their own, and there may be such tokens."""
        return self.model.global_projections == "separate" and self.globals.is_on

    @property
    def keeps_documents_whole(self) -> bool:
        """Whether all slices of a document share a batch."""
        if isinstance(self.task, ChoiceConfig):  # scores are averaged over them
            return True
        return isinstance(self.task, QAConfig) and self.task.normalisation == "document"

    def _check_streaming(self) -> None:
        if self.task.name != "mlm":
            raise UserError(
                f"data.streaming=true needs task=mlm, not {self.task.name}, whose labels are read "
                "off the whole training split; set it to false"
            )
        if self.trainer.max_steps < 1:
            raise UserError(
                "data.streaming=true needs trainer.max_steps=<optimiser steps>, as nobody knows "
                "how long a stream is"
            )

    def _check_question(self) -> None:
        """Fields that have a meaning with, or without, questions only."""
        pair = self.data.text_pair_column
        if not isinstance(self.task, AskingConfig):
            if self.globals.question and pair is None:
                raise UserError(
                    f"globals.question=true, but task={self.task.name} has neither a question nor "
                    "data.text_pair_column; use globals=cls"
                )
            if self.data.stride:
                raise UserError(
                    f"data.stride={self.data.stride} needs task=qa, multihop or choice; set it to 0"
                )
            return
        if pair is not None:
            raise UserError(
                f"data.text_pair_column={pair} has no place in task={self.task.name}, where the "
                "question comes first; name it in data.question_column"
            )
        if self.task.long_documents == "truncate" and self.data.truncate == "head+tail":
            raise UserError(
                "data.truncate=head+tail would tear answers apart; use head or tail with "
                f"task={self.task.name}"
            )
        if isinstance(self.task, MultiHopConfig):
            self._check_paragraphs()

    def _check_paragraphs(self) -> None:
        """Fields that count characters or tokens of a text, which this task makes itself."""
        if not isinstance(self.data.text_column, str):
            raise UserError(
                f"data.text_column={list(self.data.text_column)}: task=multihop reads its "
                "paragraphs from one column; name that one"
            )
        if self.globals.column is not None:
            raise UserError(
                f"globals.column={self.globals.column} has no place in task=multihop, which joins "
                "its paragraphs itself; use task.structure_globals, or globals.regex"
            )


@dataclass(frozen=True, kw_only=True)
class EvalModelConfig:
    """What an evaluation may change of the model: nothing that its weights depend on."""

    window: Window | Literal["keep"] | tuple[Window, ...] = "keep"  # as in ModelConfig


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Evaluation of a finished run."""

    run: str = ""  # the run folder
    split: Literal["train", "dev", "test"] = "test"
    output: str | None = None  # predictions/<output>.jsonl; null = of split, window, other data
    # predictions/<output>.<format>/ beside it, as the official scorer reads them
    format: Literal["squad", "cuad", "hotpot"] | None = None
    page: int = 100  # questions on predictions/<output>.html, worst first; 0 = no page
    model: EvalModelConfig = field(default_factory=EvalModelConfig)
    data: dict[str, Any] = field(default_factory=dict)  # fields of data.*; null = as in the run

    def __post_init__(self) -> None:
        if not self.run:
            raise UserError("run is missing; give the folder of a run: run=runs/…")
        if self.output is not None:
            file_name("output", self.output)
        at_least(0, "page", self.page)
        path_name("run", self.run)
