"""The uncut model as a teacher."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.errors import InputError
from secateur.models import adapter_of
from secateur.recovery.losses import Teaching

CACHE_BYTES = 2 << 30


class Teacher:
    """A frozen model whose next-token distributions, and hidden states if wanted, the student follows.

    Args:
        model: any supported causal language model with the student's vocabulary.
        weight: share of the distillation in the loss.
        temperature: softens both distributions.
        hidden_weight: factor of `hidden_loss` beside it; with 0 only the last hidden states are looked at.
        remember: keep the hidden states of windows seen before, for a later epoch.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        weight: float,
        temperature: float,
        hidden_weight: float = 0.0,
        remember: bool = False,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.weight = weight
        self.temperature = temperature
        self.hidden_weight = hidden_weight
        self.remember = remember
        self._seen: dict[int, tuple[Tensor, ...]] = {}

    @torch.no_grad()
    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor | None, index: Tensor) -> tuple[Tensor, ...]:
        """Hidden states after each layer if they are followed, and the last ones, each (batch, seq, hidden_size).

        Args:
            input_ids: tokens, (batch, seq).
            attention_mask: 1 for tokens and 0 for padding, (batch, seq), or None without padding.
            index: the number of each window in the training data, (batch,).
        """
        keep = self.remember and attention_mask is None
        numbers = index.tolist()
        if keep and all(number in self._seen for number in numbers):
            return tuple(torch.stack(rows) for rows in zip(*(self._seen[number] for number in numbers), strict=True))
        hidden = hidden_states(self.model, input_ids, attention_mask, every_layer=self.hidden_weight > 0)
        if keep:
            self._seen.update({number: tuple(h[row].clone() for h in hidden) for row, number in enumerate(numbers)})
        return hidden

    def teaching(self, states: Tensor) -> Teaching:
        """The teacher's side of the loss, from its hidden states before each scored token, (tokens, hidden_size)."""
        return Teaching(states, output_embedding(self.model), self.weight, self.temperature)


def hidden_states(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None, every_layer: bool
) -> tuple[Tensor, ...]:
    """The decoder's last hidden states, after those of every layer but the last if wanted.

    Args:
        model: a supported causal language model.
        input_ids: tokens, (batch, seq).
        attention_mask: (batch, seq), or None without padding.
        every_layer: whether those after the other layers come before them.

    Returns:
        Tensors of (batch, seq, hidden_size). The last one has gone through the final norm.
    """
    body = adapter_of(model).body(model)
    outputs = body(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=False, output_hidden_states=every_layer
    )
    return tuple(outputs.hidden_states[1:]) if every_layer else (outputs.last_hidden_state,)


def hidden_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], scored: slice | Tensor) -> Tensor:
    """How far hidden states are from the teacher's: ‖h - h_T‖² / ‖h_T‖², averaged over layers, summed over tokens.

    Source: SquareHead, Kurtic et al. 2023, "Sparse Fine-tuning for Inference Acceleration of Large Language Models".
    Here each token is divided by its own norm: in some models the first one's is a thousand times the others'.

    Args:
        student: hidden states layer by layer, each (batch, seq, hidden_size).
        teacher: the teacher's.
        scored: which of the batch · (seq - 1) places before a token count.
    """
    total = torch.zeros((), dtype=torch.float32, device=student[-1].device)
    for own, other in zip(student, teacher, strict=True):
        states = own[:, :-1].flatten(0, 1)[scored].float()  # (tokens, hidden_size)
        goal = other.to(own.device)[:, :-1].flatten(0, 1)[scored].float()
        error = (states - goal).square().sum(-1) / goal.square().sum(-1)  # (tokens,)
        total = total + error.sum().to(total.device)
    return total / len(student)


def fits_memory(model: PreTrainedModel, windows: int, seqlen: int) -> bool:
    """Whether a teacher's hidden states of all windows stay below `CACHE_BYTES`."""
    return windows * seqlen * model.config.hidden_size * model.dtype.itemsize <= CACHE_BYTES


def output_embedding(model: PreTrainedModel) -> Tensor:
    """The weight of the head, (vocab, hidden_size)."""
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Linear)
    return head.weight


def check_vocabulary(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase | None,
) -> None:
    """Raise `InputError` where a teacher's logits are about other tokens than the student's."""
    own, other = output_embedding(student).shape[0], output_embedding(teacher).shape[0]
    if own != other:
        raise InputError(
            f"the teacher has a vocabulary of {other:,} tokens and the model one of {own:,}; "
            "use the model it was cut from as teacher"
        )
    if teacher_tokenizer is not None and teacher_tokenizer.get_vocab() != tokenizer.get_vocab():
        raise InputError(
            "the teacher's tokenizer has other tokens than the model's; use the model it was cut from as teacher"
        )
