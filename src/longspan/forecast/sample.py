"""The documents of a configuration: a sample of its training split, or an assumption."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from longspan.config import Config
from longspan.cost.documents import Documents, assumed_documents, depends_on_text
from longspan.data.features import FeatureSet
from longspan.data.sources import is_local
from longspan.known_tasks import known_task
from longspan.pretrained.tokenizer import load_tokenizer, vocabulary_size
from longspan.training.budget import sample_documents
from longspan.training.build import EMBEDDED_TOKENIZER, complete, draw_of, prepare
from longspan.training.module import Task

DOCUMENTS = 256  # of the training split that are tokenised

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """What is known of the data before a training.

    Attributes:
        config: the run's, with what only the data tells filled in.
        task: with its labels.
        documents: lengths and global tokens.
        features: of those documents; None where they are assumed.
        special_ids: of the tokenizer.
        total: features of the whole training split, estimated from the sample; None where unknown.
    """

    config: Config
    task: Task
    documents: Documents
    features: FeatureSet | None
    special_ids: tuple[int, ...]
    total: int | None


def read_sample(config: Config, count: int | None = None) -> Sample:
    """Tokenise some documents, or assume that all are of `data.max_length`.

    Args:
        config: the run.
        count: documents; 0 = assume; None = `DOCUMENTS` of data on this machine, 0 of the hub's,
            which would have to be fetched first, and of a stream.

    Raises:
        UserError: as training would on the same data.
    """
    if count is None:
        count = DOCUMENTS if is_local(config.data) else 0
    if count == 0 or config.data.streaming:
        return _assumed(config)
    prepared = prepare(config, sample=count)
    features = prepared.splits["train"]
    read = len(set(features.table["row"][:]))  # a document may become several features
    draw = draw_of(prepared.task)
    if draw is not None:  # as every epoch does
        features = features.select(draw(features.labels(), (config.seed, 0)))
    documents = sample_documents(features, len(features)).with_edges(prepared.config.model.pattern)
    total = round(prepared.train_rows * len(features) / read)
    special_ids = tuple(prepared.tokenizer.all_special_ids)
    return Sample(prepared.config, prepared.task, documents, features, special_ids, total)


def read_samples(configs: Sequence[Config], count: int | None = None) -> list[Sample]:
    """Of each configuration, with what those of the same data share read once."""
    read: dict[str, Sample] = {}
    samples = []
    for config in configs:
        data = replace(config.data, tokens_per_batch=config.data.max_length)
        key = repr((data, config.globals, config.task, config.model.type_vocab_size))
        if key not in read:
            read[key] = read_sample(config, count)
        decided = read[key].config.model
        model = replace(
            config.model,
            vocab_size=config.model.vocab_size or decided.vocab_size,
            max_positions=config.model.max_positions or decided.max_positions,
        )
        samples.append(replace(read[key], config=replace(config, model=model)))
    return samples


def _assumed(config: Config) -> Sample:
    tokenizer = load_tokenizer(config.data.tokenizer or EMBEDDED_TOKENIZER)
    config = complete(config, vocabulary_size(tokenizer))
    if depends_on_text(config.globals):
        log.warning("globals.regex and globals.column choose nothing where no document is read")
    task = known_task(config, ["0", "1"], None, tokenizer)
    return Sample(config, task, assumed_documents(config), None, (), None)
