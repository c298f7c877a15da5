"""Our encoder and head as transformers models. Importing this registers them.

Padded (B, N) tensors come in and go out, packed batches are what is computed with: B documents,
N tokens of the longest.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.modeling_outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
)
from transformers.utils.generic import can_return_tuple

from longspan.batch import PackedBatch
from longspan.config import ClassificationConfig, MaskedLMConfig, QAConfig
from longspan.errors import UserError
from longspan.model.encoder import Encoder
from longspan.pretrained.configuration import LongspanConfig
from longspan.pretrained.padded import check_shape, pack_padded, padded
from longspan.tasks.classification import Classification
from longspan.tasks.head import logits_of
from longspan.tasks.masked_lm import MaskedLMHead
from longspan.tasks.qa_head import span_head


class LongspanPreTrainedModel(PreTrainedModel):
    """What all our transformers models share: the encoder, its inputs, its initialisation."""

    config_class = LongspanConfig
    # weights are named encoder.… and head.… with a head or without, as in our own model folders
    base_model_prefix = ""
    _no_split_modules = ["Block"]  # noqa: RUF012

    config: LongspanConfig

    def __init__(self, config: LongspanConfig) -> None:
        super().__init__(config)
        self.run_config = config.run_config()
        self.encoder = Encoder(self.run_config.model)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.encoder.token_embedding

    def set_input_embeddings(self, value: torch.nn.Module) -> None:
        self.encoder.token_embedding = value  # type: ignore[assignment]

    def keep_initialisation(self) -> None:
        """End a constructor: what our own modules initialised stays as it is.

        On the meta device there is nothing to keep. Transformers fills in then what the folder
        does not have, a new head for instance: N(0, initializer_range²), biases at zero.
        """
        for parameter in self.parameters():
            if not parameter.is_meta:
                parameter._is_hf_initialized = True  # type: ignore[attr-defined]
        self.post_init()


class LongspanModel(LongspanPreTrainedModel):
    """The encoder."""

    # of a folder with a task head, which the encoder alone does not need
    _keys_to_ignore_on_load_unexpected = [r"^head\."]  # noqa: RUF012

    def __init__(self, config: LongspanConfig) -> None:
        super().__init__(config)
        self.keep_initialisation()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
    ) -> BaseModelOutput:
        """Hidden states of padded documents.

        Args:
            input_ids: (B, N).
            attention_mask: (B, N), 1 for tokens and 0 for padding, left or right of the document;
                None = no padding.
            token_type_ids: (B, N); None = all 0.
            global_attention_mask: (B, N), 1 for global tokens. None = as in training, where that
                can be told from the ids: the first token of each document if the run's only
                policy was `globals.cls`, no token if it had none.

        Returns:
            last_hidden_state: (B, N, C), zeros at padding.

        Raises:
            UserError: a ValueError; a document without tokens or with a gap, shapes that differ,
                more tokens than positions, or global tokens that were chosen by the text in
                training (`globals.regex` for example) and are not given.
        """
        batch, mask = pack_padded(
            self.run_config, input_ids, attention_mask, token_type_ids, global_attention_mask
        )
        return BaseModelOutput(last_hidden_state=padded(self.encoder(batch), mask))


class LongspanForSequenceClassification(LongspanPreTrainedModel):
    """Encoder and classification head."""

    def __init__(self, config: LongspanConfig) -> None:
        super().__init__(config)
        task = self.run_config.task
        if not isinstance(task, ClassificationConfig):
            raise UserError(
                f"task.name={task.name} has no classification head; load the encoder with AutoModel"
            )
        self.task = Classification(task, config.labels)
        self.head = self.task.head(self.run_config.model, self.encoder.token_embedding)
        self.keep_initialisation()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Logits of padded documents, and the loss where labels are given.

        Args:
            input_ids, attention_mask, token_type_ids, global_attention_mask: as `LongspanModel`'s.
            labels: (B,) class indices, (B, labels) zeros and ones, or (B,) numbers, as
                `config.problem_type` says.

        Returns:
            logits: (B, labels).
            loss: mean over the documents of the loss that the model was trained with, label
                smoothing and the class weights that the configuration lists included.
        """
        batch, _ = pack_padded(
            self.run_config, input_ids, attention_mask, token_type_ids, global_attention_mask
        )
        logits = logits_of(self.encoder, self.head, batch)
        loss = None if labels is None else self._loss(logits, batch, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _loss(self, logits: Tensor, batch: PackedBatch, labels: Tensor) -> Tensor:
        problem = self.task.config.problem
        shape = logits.shape if problem == "multi_label" else logits.shape[:1]
        if labels.numel() != shape.numel():
            raise UserError(
                f"labels of shape {tuple(labels.shape)} do not fit {problem}; give {tuple(shape)}"
            )
        dtype = torch.long if problem == "single_label" else torch.float32
        batch = replace(batch, labels=labels.reshape(shape).to(dtype))
        return self.task.loss(logits, batch).mean()


class LongspanForMaskedLM(LongspanPreTrainedModel):
    """Encoder and the head that guesses hidden tokens."""

    def __init__(self, config: LongspanConfig) -> None:
        super().__init__(config)
        task = self.run_config.task
        if not isinstance(task, MaskedLMConfig):
            raise UserError(
                f"task.name={task.name} has no masked-language-model head; load the encoder with "
                "AutoModel"
            )
        self.head = MaskedLMHead(
            self.run_config.model, self.encoder.token_embedding, task.head_bias is not False
        )
        self.keep_initialisation()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> MaskedLMOutput:
        """Scores of every vocabulary entry for every token.

        Args:
            input_ids, attention_mask, token_type_ids, global_attention_mask: as `LongspanModel`'s.
            labels: (B, N) token ids to be guessed, -100 elsewhere.

        Returns:
            logits: (B, N, V), zeros at padding.
            loss: mean over the tokens to be guessed, in nats.
        """
        check_shape("labels", labels, input_ids)
        batch, mask = pack_padded(
            self.run_config, input_ids, attention_mask, token_type_ids, global_attention_mask
        )
        logits = self.head(self.encoder(batch), batch)  # (T, V)
        loss = None if labels is None else F.cross_entropy(logits.float(), labels[mask].long())
        return MaskedLMOutput(loss=loss, logits=padded(logits, mask))


class LongspanForQuestionAnswering(LongspanPreTrainedModel):
    """Encoder and the head that scores where an answer starts and ends."""

    def __init__(self, config: LongspanConfig) -> None:
        super().__init__(config)
        task = self.run_config.task
        if not isinstance(task, QAConfig):
            raise UserError(
                f"task.name={task.name} has no question-answering head; load the encoder with "
                "AutoModel"
            )
        self.head = span_head(self.run_config.model, task)
        self.keep_initialisation()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
    ) -> QuestionAnsweringModelOutput:
        """Scores of every token as the start and as the end of the answer.

        Args:
            input_ids, attention_mask, token_type_ids, global_attention_mask: as `LongspanModel`'s.
            start_positions, end_positions: (B,) places of one gold answer in (B, N); both or none.

        Returns:
            start_logits, end_logits: (B, N), the dtype's least number at padding.
            loss: mean cross-entropy of start and end.
        """
        batch, mask = pack_padded(
            self.run_config, input_ids, attention_mask, token_type_ids, global_attention_mask
        )
        scores = self.head(self.encoder(batch), batch)[:, :2]  # (T, 2): their output has no third
        least = torch.finfo(scores.dtype).min
        start, end = padded(scores, mask).masked_fill(~mask[..., None], least).unbind(dim=2)
        loss = None
        if start_positions is not None and end_positions is not None:
            both = ((start, start_positions), (end, end_positions))
            loss = torch.stack([F.cross_entropy(x.float(), gold) for x, gold in both]).mean()
        return QuestionAnsweringModelOutput(loss=loss, start_logits=start, end_logits=end)


AutoModel.register(LongspanConfig, LongspanModel, exist_ok=True)
AutoModelForQuestionAnswering.register(LongspanConfig, LongspanForQuestionAnswering, exist_ok=True)
AutoModelForMaskedLM.register(LongspanConfig, LongspanForMaskedLM, exist_ok=True)
AutoModelForSequenceClassification.register(
    LongspanConfig, LongspanForSequenceClassification, exist_ok=True
)
