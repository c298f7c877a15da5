"""The typed configuration: every field with its unit and default, every cross-field check.

`conf/` mirrors these classes one group to one class. Hydra composes, `longspan.typed` converts
the result to a frozen `Config`, and nothing below sees anything else.
"""

from longspan.config.data import DataConfig, GlobalsConfig, NeedleConfig
from longspan.config.model import ModelConfig, Window
from longspan.config.pattern import PatternConfig
from longspan.config.run import Config, EvalConfig, EvalModelConfig
from longspan.config.sweep import SweepConfig
from longspan.config.tasks import (
    AskingConfig,
    ChoiceConfig,
    ClassificationConfig,
    MaskedLMConfig,
    MultiHopConfig,
    QAConfig,
    TaskConfig,
)
from longspan.config.training import (
    CheckpointConfig,
    LoggerConfig,
    LoraConfig,
    OptimConfig,
    TrainerConfig,
)

__all__ = [
    "AskingConfig",
    "CheckpointConfig",
    "ChoiceConfig",
    "ClassificationConfig",
    "Config",
    "DataConfig",
    "EvalConfig",
    "EvalModelConfig",
    "GlobalsConfig",
    "LoggerConfig",
    "LoraConfig",
    "MaskedLMConfig",
    "ModelConfig",
    "MultiHopConfig",
    "NeedleConfig",
    "OptimConfig",
    "PatternConfig",
    "QAConfig",
    "SweepConfig",
    "TaskConfig",
    "TrainerConfig",
    "Window",
]
