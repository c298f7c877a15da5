"""What every test runs in: no network, nobody's accounts, a data cache of its own."""

import functools
import os
import random
import tempfile
from pathlib import Path

_CACHE = tempfile.TemporaryDirectory(prefix="longspan-tests-", ignore_cleanup_errors=True)

# before anything imports the libraries that read them, and inherited by the processes of tests
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_DATASETS_CACHE": _CACHE.name,
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",  # models are tiny: threads would only wait for each other
    "TOKENIZERS_PARALLELISM": "false",  # tests fork
    "WANDB_MODE": "offline",
}

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers, processors  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

from longspan.attention import native_build  # noqa: E402
from longspan.config import Config, GlobalsConfig  # noqa: E402
from longspan.encoding import DocumentEncoder  # noqa: E402
from longspan.pretrained.tokenizer import load_tokenizer  # noqa: E402
from longspan.typed import from_dict  # noqa: E402

# compiling the kernel takes a minute: once for all, also where a test moves the home folder
os.environ["LONGSPAN_CACHE"] = str(native_build.cache_folder())

# no test asserts a time: machines are shared
settings.register_profile("longspan", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("longspan")
# of tests/fuzz: the same inputs in every run of the suite; thousands of new ones in `make fuzz`
_ANY = settings(suppress_health_check=list(HealthCheck))
settings.register_profile("fuzz", _ANY, max_examples=12, derandomize=True, database=None)
settings.register_profile("fuzz-long", _ANY, max_examples=2000, print_blob=True)

WORDS = 30
TEMPLATES = {
    "roberta": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "bert": ("<s> $A </s>", "<s> $A </s> $B </s>"),
    "plain": None,  # no special tokens at all
}


def pytest_unconfigure():
    _CACHE.cleanup()


@pytest.fixture(scope="session")
def conf():
    """The folder of the configuration."""
    return Path(__file__).resolve().parents[1] / "conf"


@pytest.fixture(scope="session")
def tokenizers():
    """Tokenizers by the template of their special tokens.

    `embedded` is the repository's own. The others know the words w0, w1, … only and differ in
    their special tokens alone.
    """
    return {"embedded": load_tokenizer("embedded:sotu")} | {
        kind: _word_tokenizer(template) for kind, template in TEMPLATES.items()
    }


def _word_tokenizer(template):
    words = ["<s>", "</s>", "<unk>", *(f"w{i}" for i in range(WORDS))]
    vocab = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"unk_token": "<unk>"}
    if template:
        single, pair = template
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
        names |= {"cls_token": "<s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.fixture(scope="session")
def make_encoder(tokenizers):
    """Make an encoder of one of `tokenizers`; without policies no token is global."""

    @functools.cache
    def make(kind="embedded", max_length=4096, truncate="head", policies=None):
        tokenizer = tokenizers[kind]
        return DocumentEncoder(
            tokenizer.backend_tokenizer,
            cls_id=tokenizer.cls_token_id,
            sep_id=tokenizer.sep_token_id,
            max_length=max_length,
            truncate=truncate,
            policies=policies or GlobalsConfig(cls=False),
        )

    return make


@pytest.fixture(scope="session")
def as_document():
    """The document that an encoder makes of a text, and a pair."""

    def document(encoder, text, pair=None):
        def tokens(text):
            return encoder.tokenizer.encode(text, add_special_tokens=False)

        return encoder.document(text, tokens(text), None if pair is None else tokens(pair))

    return document


@pytest.fixture(scope="session")
def tiny_fields(tmp_path_factory):
    """The fields, by dotted name, of a run of a second: 24 documents of up to 32 tokens.

    Which of two labels a document has is the word that it repeats.
    """
    folder = tmp_path_factory.mktemp("tiny")
    shuffle = random.Random(0)
    for split, documents in (("train", 24), ("dev", 8), ("test", 9)):
        rows = ["text,label\n"]
        for row in range(documents):
            label = ("war", "peace")[row % 2]
            words = shuffle.choices([label, "the", "of", "nation"], k=shuffle.randint(4, 40))
            rows.append(f"{' '.join(words)},{label}\n")
        (folder / f"{split}.csv").write_text("".join(rows))
    return {
        "data.files": {split: str(folder / f"{split}.csv") for split in ("train", "dev", "test")},
        "data.tokenizer": "embedded:sotu",
        "data.max_length": 32,
        "data.tokens_per_batch": 128,
        "model.hidden_size": 16,
        "model.intermediate_size": 16,
        "model.num_heads": 2,
        "model.window": 4,
        "optim.learning_rate": 0.01,
        "trainer.accelerator": "cpu",
        "trainer.precision": "32-true",
        "trainer.max_epochs": 2,
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": False,
        "logger.kind": "none",
    }


@pytest.fixture(scope="session")
def make_config(tiny_fields):
    """Make the config of a tiny run, with some fields changed."""

    def make(runs_dir, **changes):
        tree = {"runs_dir": str(runs_dir)}
        for name, value in (tiny_fields | changes).items():
            *parents, leaf = name.split(".")
            node = functools.reduce(lambda node, key: node.setdefault(key, {}), parents, tree)
            node[leaf] = value
        return from_dict(Config, tree)

    return make
