"""How to use an exported folder: what a model card says beside its facts, and code that runs."""

from longspan.config import (
    ChoiceConfig,
    Config,
    MaskedLMConfig,
    MultiHopConfig,
    QAConfig,
    TaskConfig,
)
from longspan.pretrained.markdown import code, plain
from longspan.terminal import on_one_line

WITHOUT_CLASS = (ChoiceConfig, MultiHopConfig)  # no class of transformers has their heads


def notes(config: Config, architecture: str) -> list[str]:
    """What the code cannot say, as paragraphs."""
    data, policies = config.data, config.globals
    if isinstance(config.task, WITHOUT_CLASS):
        return ["`longspan.load` reads all of it; `AutoModel` reads the encoder alone."]
    notes = []
    if _takes_globals(architecture):
        notes.append(
            "Global tokens attend to, and are attended by, the whole document. They are those of "
            f"the training: {', '.join(_places(config)) or 'none'}. `global_attention_mask` is 1 "
            "there"
            + (", and need not be given." if not _must_say_globals(config, architecture) else ".")
        )
    if not isinstance(data.text_column, str):
        columns, separator = ", ".join(data.text_column), repr(data.section_separator)
        notes.append(f"A text is the columns {plain(columns)}, joined by {plain(separator)}.")
    if data.truncate == "head+tail":
        notes.append(
            "Of longer documents, training kept the beginning and the end; this code keeps the "
            "beginning."
        )
    elif data.truncate == "tail" and (policies.first_k or policies.every_k):
        notes.append("Training counted tokens from the start of the text, before it was cut.")
    return [line for note in notes for line in (note, "")][:-1]


def _places(config: Config) -> list[str]:
    """The global tokens in words."""
    policies = config.globals
    words = {
        "the [CLS] token": policies.cls,
        "the [SEP] tokens": policies.separators,
        "the tokens of the question, or second text": policies.question,
        f"the first {policies.first_k} tokens of the text": policies.first_k,
        f"one of every {policies.every_k} tokens of the text, the first included": policies.every_k,
        f"the tokens that overlap a match of {code(policies.regex or '')}": policies.regex,
        f"the tokens that the column {plain(policies.column or '')} marks": policies.column,
    }
    return [place for place, is_on in words.items() if is_on]


def _takes_globals(architecture: str) -> bool:
    return architecture.startswith(("Longspan", "Longformer"))


def _must_say_globals(config: Config, architecture: str) -> bool:
    """Whether the class, left alone, would choose other tokens or none."""
    only_cls = {name for name, value in vars(config.globals).items() if value} == {"cls"}
    is_ours = architecture.startswith("Longspan")
    return _takes_globals(architecture) and not only_cls and not (is_ours and not _places(config))


def usage(config: Config, architecture: str) -> list[str]:
    """Python that runs inside the folder."""
    if isinstance(config.task, WITHOUT_CLASS):
        return _usage_of_longspan(config.task)
    data, is_qa = config.data, isinstance(config.task, QAConfig)
    auto_class = f"AutoModel{architecture[architecture.index('For') :]}"
    is_ours, asks = architecture.startswith("Longspan"), _must_say_globals(config, architecture)
    lines = ["import re", ""] if asks and config.globals.regex else []
    lines += ["import longspan  # lets transformers know the model"] if is_ours else []
    lines += [
        "import torch",
        f"from transformers import {auto_class}, AutoTokenizer",
        "",
        'folder = "."  # this folder, or its name on the hub',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        f"model = {auto_class}.from_pretrained(folder).eval()",
        *_texts(config),
    ]
    arguments, truncation = "texts, padding=True", "True"
    if is_qa:
        arguments, truncation = "questions, texts, padding=True", '"only_second"'
    elif data.text_pair_column is not None:
        arguments, truncation = "texts, pairs, padding=True", '"only_first"'
    if data.truncate == "tail":
        lines.append('tokenizer.truncation_side = "left"  # the end of longer texts is kept')
    arguments += f', truncation={truncation}, max_length={data.max_length}, return_tensors="pt"'
    if asks and config.globals.regex:
        arguments += ", return_offsets_mapping=True"
    lines.append(f"inputs = tokenizer({arguments})")
    lines += _mask_code(config) if asks else []
    return [*lines, "with torch.no_grad():", "    outputs = model(**inputs)", *_answer(config.task)]


def _usage_of_longspan(task: ChoiceConfig | MultiHopConfig) -> list[str]:
    lines = ["import longspan", "", 'model = longspan.load(".")  # this folder']
    if isinstance(task, ChoiceConfig):
        lines.append('candidates = ["the first", "the second"]')
        asked = '"The second letter came late.", question="Which came late?", candidates=candidates'
        return [*lines, f"print(model.predict({asked}))"]
    lines += [
        "paragraphs = [",
        '    {"title": "Ann", "sentences": ["Ann is Bob\'s sister.", "She sings."]},',
        '    {"title": "Bob", "sentences": ["Bob lives in Rome."]},',
        "]",
    ]
    return [*lines, 'print(model.predict(paragraphs, question="Where does Ann\'s brother live?"))']


def _texts(config: Config) -> list[str]:
    documents = 'texts = ["A first document.", "A second one, which may be long."]'
    if isinstance(config.task, MaskedLMConfig):
        hidden = 'f"A {tokenizer.mask_token} document."'
        return [f"texts = [{hidden}, {hidden}]"]
    if isinstance(config.task, QAConfig):
        return ['questions = ["Which document?", "How long?"]', documents]
    if config.data.text_pair_column is not None:
        its = f"Its {config.data.text_pair_column}."
        return [documents, f'pairs = [{its!r}, "The second\'s."]']
    return [documents]


def _mask_code(config: Config) -> list[str]:
    """`inputs["global_attention_mask"]`, as `longspan.globals` chooses it."""
    policies = config.globals
    text = 1 if isinstance(config.task, QAConfig) else 0  # which of the two comes first
    token = 'is_special & (inputs["input_ids"] == tokenizer.{}_token_id)'
    chosen = {
        token.format("cls"): policies.cls,
        token.format("sep"): policies.separators,
        "is_question": policies.question,
        f"is_text & (place < {policies.first_k})": policies.first_k,
        f"is_text & (place % {policies.every_k} == 0)": policies.every_k,
    }
    lines = [
        "parts = [inputs.sequence_ids(row) for row in range(len(texts))]",
        f"is_text = torch.tensor([[part == {text} for part in row] for row in parts])",
        f"is_question = torch.tensor([[part == {1 - text} for part in row] for row in parts])",
        "is_special = torch.tensor([[part is None for part in row] for row in parts])",
        "place = is_text.cumsum(1) - 1  # of a token in its text",
        "is_global = torch.zeros_like(is_text)",
        *(f"is_global |= {tokens}" for tokens, is_on in chosen.items() if is_on),
    ]
    if policies.regex is not None:
        lines += [
            'start, end = inputs.pop("offset_mapping").unbind(2)',
            "for row, text in enumerate(texts):",
            f"    for match in re.finditer({policies.regex!r}, text, re.MULTILINE):",
            "        inside = (start[row] < match.end()) & (end[row] > match.start())",
            "        is_global[row] |= is_text[row] & inside & bool(match.group())",
        ]
    if policies.column is not None:
        column = on_one_line(policies.column)
        lines.append(f"# set is_global where the column {column} marks a token")
    return [*lines, 'inputs["global_attention_mask"] = is_global.long()']


def _answer(task: TaskConfig) -> list[str]:
    assert not isinstance(task, WITHOUT_CLASS)
    names = "model.config.id2label"
    if isinstance(task, QAConfig):
        return [
            "for row in range(len(texts)):",
            "    inside = torch.tensor([part == 1 for part in inputs.sequence_ids(row)])",
            "    start = outputs.start_logits[row].where(inside, -torch.inf).argmax()",
            "    end = start + outputs.end_logits[row].where(inside, -torch.inf)[start:].argmax()",
            '    print(tokenizer.decode(inputs["input_ids"][row, start : end + 1]))',
        ]
    if isinstance(task, MaskedLMConfig):
        hidden = 'inputs["input_ids"] == tokenizer.mask_token_id'
        return [f"print(tokenizer.batch_decode(outputs.logits[{hidden}].argmax(1)))"]
    if task.problem == "regression":
        return ["print(outputs.logits.squeeze(1).tolist())"]
    if task.problem == "single_label":
        return [f"print([{names}[i] for i in outputs.logits.argmax(1).tolist()])"]
    hot = f"outputs.logits.sigmoid() >= {task.threshold}"
    return [f"print([[{names}[i] for i in row.nonzero().flatten().tolist()] for row in {hot}])"]
