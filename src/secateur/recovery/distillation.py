"""The uncut model as a teacher."""

from collections.abc import Collection

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.errors import InputError
from secateur.models.adapters import adapter_of, head_of
from secateur.recovery.losses import Teaching

CACHE_BYTES = 2 << 30


class Teacher:
    """A frozen model whose next-token distributions the student follows.

    Args:
        model: any supported causal language model with the student's vocabulary.
        weight: share of the distillation in the loss.
        temperature: softens both distributions.
        remember: the numbers of the windows whose hidden states are kept, since they will be seen again.
    """

    def __init__(
        self, model: PreTrainedModel, weight: float, temperature: float, remember: Collection[int] = ()
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.weight = weight
        self.temperature = temperature
        self.remember = remember
        self._seen: dict[int, Tensor] = {}

    @torch.no_grad()
    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor | None, index: Tensor) -> Tensor:
        """Last hidden states, (batch, seq, hidden_size).

        Args:
            input_ids: tokens, (batch, seq).
            attention_mask: 1 for tokens and 0 for padding, (batch, seq), or None without padding.
            index: the number of each window, (batch,): those to validate on follow on those to train on.
        """
        numbers = index.tolist()
        keep = attention_mask is None and all(number in self.remember for number in numbers)
        if keep and all(number in self._seen for number in numbers):
            return torch.stack([self._seen[number] for number in numbers])
        body = adapter_of(self.model).body(self.model)
        hidden: Tensor = body(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        if keep:
            self._seen.update({number: states.clone() for number, states in zip(numbers, hidden, strict=True)})
        return hidden

    def teaching(self, states: Tensor) -> Teaching:
        """The teacher's side of the loss, from its hidden states before each scored token, (tokens, hidden_size)."""
        head = head_of(self.model)
        return Teaching(states / head.divisor, head.weight, self.weight, self.temperature, head.softcap)


def fits_memory(model: PreTrainedModel, windows: int, seqlen: int) -> bool:
    """Whether a teacher's hidden states of all windows stay below `CACHE_BYTES`."""
    return windows * seqlen * model.config.hidden_size * model.dtype.itemsize <= CACHE_BYTES


def check_vocabulary(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase | None,
) -> None:
    """Raise `InputError` where a teacher's logits are about other tokens than the student's."""
    own, other = head_of(student).weight.shape[0], head_of(teacher).weight.shape[0]
    if own != other:
        raise InputError(
            f"the teacher has a vocabulary of {other:,} tokens and the model one of {own:,}; "
            "use the model it was cut from as teacher"
        )
    if teacher_tokenizer is not None and teacher_tokenizer.get_vocab() != tokenizer.get_vocab():
        raise InputError(
            "the teacher's tokenizer has other tokens than the model's; use the model it was cut from as teacher"
        )
