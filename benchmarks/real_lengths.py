"""Documents as they come: real texts, tokenised with the repository's tokenizer, lengths as found.

Of the data sets that lie beside the repository the first one serves. Where there is none, the
embedded speeches are cut to lengths of the same distribution.
"""

import json
from pathlib import Path

import numpy as np
from training_runs import ROOT

from longspan.pretrained.tokenizer import load_tokenizer

DATA = ROOT / "../shared/data"
DATA_SETS = ("hyperpartisan", "movie_reviews")
LONGEST = 4096
# tokens at these shares of hyperpartisan's training documents: for where it is missing
QUANTILES = {0.0: 24, 0.1: 256, 0.25: 433, 0.5: 770, 0.75: 1290, 0.9: 1989, 0.95: 2734, 0.99: 4555}


def real_documents(number: int, folder: Path = DATA, seed: int = 0) -> tuple[str, list[np.ndarray]]:
    """Token ids of random documents, each (L,) int64 with special tokens, L <= 4,096.

    Returns:
        where they are from, and the documents.
    """
    generator = np.random.default_rng(seed)
    for name in DATA_SETS:
        file = folder / name / "train.jsonl"
        if file.is_file():
            lines = file.read_text(encoding="utf-8").splitlines()
            rows = generator.permutation(len(lines))[:number]
            return name, tokenised([json.loads(lines[row])["text"] for row in rows])
    import pandas as pd

    texts = pd.read_parquet(ROOT / "data/sotu/sotu.parquet")["text"]
    documents = tokenised([texts[row] for row in generator.permutation(len(texts))[:number]])
    shares, tokens = zip(*QUANTILES.items())
    wanted = np.interp(generator.random(number), shares, tokens).astype(int)
    return "sotu, cut", [x[:n] for x, n in zip(documents, wanted)]


def full_document(length: int) -> np.ndarray:
    """(length,) token ids: real documents end to end, behind one [CLS]."""
    _, documents = real_documents(2 + length // 64, seed=1)
    cls = documents[0][:1]
    parts = [document[1:] for document in documents]
    return np.concatenate([cls, *parts])[:length]


def tokenised(texts: list[str]) -> list[np.ndarray]:
    tokenizer = load_tokenizer("embedded:sotu")
    return [np.array(ids[:LONGEST]) for ids in tokenizer(texts)["input_ids"]]
