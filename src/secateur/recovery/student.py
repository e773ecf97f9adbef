"""The model that is trained, with its losses as what a forward pass gives."""

from typing import cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.calibration import token_losses
from secateur.data import IGNORED
from secateur.models import adapter_of
from secateur.models.adapters import head_of
from secateur.recovery.datasets import scored_tokens
from secateur.recovery.distillation import Teacher
from secateur.recovery.losses import losses_apart, vocabulary_loss
from secateur.recovery.own_loss import OwnLoss, mean_of


class Student(nn.Module):
    """A language model, with or without adapter, as a map from tokens to their summed loss."""

    def __init__(
        self, model: PreTrainedModel | PeftModel, teacher: Teacher | None, own_loss: OwnLoss | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self._own_loss = (own_loss,)  # in a tuple, as the teacher below
        if hasattr(model, "hf_device_map"):
            self.hf_device_map = model.hf_device_map
        self._teacher = (teacher,)  # in a tuple, so that it is no submodule
        self.parts: Tensor | None = None  # summed cross entropy and divergence of the last batch
        self.hears_teacher = False  # while it is evaluated

    @property
    def base(self) -> PreTrainedModel:
        return cast(PreTrainedModel, self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model)

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Last hidden states, (batch, seq, hidden_size)."""
        body = adapter_of(self.base).body(self.base)
        return body(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state

    def forward(self, input_ids: Tensor, labels: Tensor, index: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The training loss summed over tokens, with the teacher's part where there is a teacher.

        In evaluation mode it is the cross entropy alone. Cross entropy and divergence stand in `parts` afterwards, the
        latter in evaluation mode only with `hears_teacher`.

        Args:
            input_ids: tokens, (batch, seq).
            labels: the tokens again, -100 where they have no loss, (batch, seq).
            index: the number of each window in the training data, (batch,).
            attention_mask: (batch, seq), or None without padding.
        """
        (own_loss,) = self._own_loss
        if self.training and own_loss is not None:
            outputs = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
            batch = {"input_ids": input_ids, "labels": labels, "attention_mask": attention_mask}
            return mean_of(own_loss, outputs, batch) * scored_tokens(labels)
        hidden = self.hidden_states(input_ids, attention_mask)
        (teacher,) = self._teacher
        if not self.training and (teacher is None or not self.hears_teacher):
            return token_losses(self.base, hidden, labels).sum()
        head = head_of(self.base)
        scored, targets = _scored(labels.to(hidden.device))
        place = head.weight.device
        states = hidden[:, :-1].flatten(0, 1)[scored].to(place)  # (tokens, hidden_size)
        teaching = None
        if teacher is not None:
            seen = teacher.hidden_states(input_ids, attention_mask, index)
            teaching = teacher.teaching(seen.to(hidden.device)[:, :-1].flatten(0, 1)[scored].to(place))
        states, targets = states / head.divisor, targets.to(place)
        if teaching is not None and not self.training:
            self.parts = losses_apart(states, head.weight, targets, teaching, head.softcap)
            return self.parts[0]
        self.parts = torch.zeros(2, device=place)
        return vocabulary_loss(states, head.weight, targets, teaching, softcap=head.softcap, parts=self.parts)

    @property
    def has_teacher(self) -> bool:
        return self._teacher != (None,)


def _scored(labels: Tensor) -> tuple[slice | Tensor, Tensor]:
    """Which of the (batch · (seq - 1)) places before a token have a loss, and the tokens after them."""
    targets = labels[:, 1:].flatten()
    scored = targets != IGNORED
    # Indexing with everything would copy it, and add it up one by one in the backward pass.
    return (slice(None), targets) if bool(scored.all()) else (scored.nonzero().flatten(), targets[scored])
