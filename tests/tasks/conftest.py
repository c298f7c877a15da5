"""What the tests of question answering share: a question over a document of words."""

import pytest

from longspan.config import GlobalsConfig, QAConfig
from longspan.document import RawDocument
from longspan.encoding import DocumentEncoder
from longspan.tasks.qa import QuestionAnswering

QUESTION, TEXT = "w1 w2 w3", " ".join(f"w{i}" for i in range(4, 24))  # 20 tokens
POLICIES = GlobalsConfig(question=True)


@pytest.fixture(scope="session")
def make_slices(tokenizers):
    """Encode one question and prepare its slices."""

    def make(text=TEXT, answers=None, question=QUESTION, kind="bert", length=15, stride=0,
             policies=POLICIES, truncate="head", **task):  # fmt: skip
        tokenizer = tokenizers[kind]
        encoder = DocumentEncoder(
            tokenizer.backend_tokenizer, cls_id=tokenizer.cls_token_id,
            sep_id=tokenizer.sep_token_id, max_length=length, truncate=truncate,
            policies=policies, stride=stride,
        )  # fmt: skip
        document = RawDocument("q", text, question, None, answers, "answers of train row 0")
        qa = QuestionAnswering(QAConfig(**task))
        (features,) = qa.encode([document], encoder)
        return qa, [qa.prepare(feature, (0,)) for feature in features]

    return make
