"""The number format of each tensor of a GGUF file, as llama.cpp chooses it for a format of the whole file.

A file of Q4_K_M is not all Q4_K: what follows on the values, the output of the MLP and the matrix at the end get more
bits, in some layers or in all. The rules are those of `llama-quantize` in llama.cpp 0.5.0. What they say of Falcon and
of models with experts is left out, since no architecture of `graphs` is one.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import gguf

from secateur.exporting.config import NumberFormat
from secateur.exporting.layout import Layout
from secateur.exporting.tensors import TENSOR, Entry, name_of

QUANT = gguf.GGMLQuantizationType
Kind = gguf.GGMLQuantizationType
FILE = gguf.LlamaFileType


@dataclass(frozen=True)
class FileFormat:
    """A format of a whole file.

    Attributes:
        base: of most matrices.
        file_type: its number in the file.
    """

    base: Kind
    file_type: gguf.LlamaFileType


FORMATS: Mapping[NumberFormat, FileFormat] = {
    "f32": FileFormat(QUANT.F32, FILE.ALL_F32),
    "f16": FileFormat(QUANT.F16, FILE.MOSTLY_F16),
    "bf16": FileFormat(QUANT.BF16, FILE.MOSTLY_BF16),
    "q8_0": FileFormat(QUANT.Q8_0, FILE.MOSTLY_Q8_0),
    "q6_k": FileFormat(QUANT.Q6_K, FILE.MOSTLY_Q6_K),
    "q5_k_m": FileFormat(QUANT.Q5_K, FILE.MOSTLY_Q5_K_M),
    "q5_k_s": FileFormat(QUANT.Q5_K, FILE.MOSTLY_Q5_K_S),
    "q5_0": FileFormat(QUANT.Q5_0, FILE.MOSTLY_Q5_0),
    "q4_k_m": FileFormat(QUANT.Q4_K, FILE.MOSTLY_Q4_K_M),
    "q4_k_s": FileFormat(QUANT.Q4_K, FILE.MOSTLY_Q4_K_S),
    "q4_0": FileFormat(QUANT.Q4_0, FILE.MOSTLY_Q4_0),
    "q3_k_l": FileFormat(QUANT.Q3_K, FILE.MOSTLY_Q3_K_L),
    "q3_k_m": FileFormat(QUANT.Q3_K, FILE.MOSTLY_Q3_K_M),
    "q2_k": FileFormat(QUANT.Q2_K, FILE.MOSTLY_Q2_K),
}
# Of formats with blocks of 256, one with blocks of 32.
FALLBACKS: Mapping[Kind, Kind] = {
    QUANT.Q2_K: QUANT.Q4_0,
    QUANT.Q3_K: QUANT.Q4_0,
    QUANT.Q4_K: QUANT.Q5_0,
    QUANT.Q5_K: QUANT.Q5_1,
    QUANT.Q6_K: QUANT.Q8_0,
}
FEW_VALUES = 4  # query heads to a key/value head from which on the values' matrix is small beside the others
# Llama 2 and Qwen2 of 70 billion parameters are known by their number of layers.
LARGEST, LAYERS_OF_LARGEST = ("llama", "qwen2", "deci"), 80
VALUES, OUTPUTS = re.compile(r"attn_(v|qkv)\.weight"), re.compile(r"attn_output\.weight")
DOWN = re.compile(r"ffn_down\.weight")


class Chosen(NamedTuple):
    """The number format of a tensor.

    Attributes:
        kind: it.
        wanted: what it would be if the format's blocks divided its rows.
    """

    kind: Kind
    wanted: Kind


def formats_of(parts: Sequence[Entry], layout: Layout, dtype: NumberFormat, weighed: bool = False) -> list[Chosen]:
    """The number format of each tensor.

    Args:
        parts: all tensors of the file.
        layout: how the model stands in the file.
        dtype: the format of the file.
        weighed: whether there is an importance of the inputs, with which llama.cpp trusts Q4_0 and Q5_0 less.
    """
    rules = _Rules(layout, dtype, weighed, parts)
    # llama.cpp counts tensors of a sort layer by layer.
    order = sorted(range(len(parts)), key=lambda index: (layer_of(parts[index].name), parts[index].name))
    chosen = {index: _fitting(parts[index], rules) for index in order}
    return [chosen[index] for index in range(len(parts))]


def layer_of(name: str) -> int:
    """The layer that a tensor stands in; -1 where in none."""
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else -1


def size_in(part: Entry, kind: Kind) -> float:
    """Bytes of a tensor in a format, as if it were possible."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return part.elements * size / block


def _fitting(part: Entry, rules: "_Rules") -> Chosen:
    if len(part.shape) == 1 or "ssm_conv1d" in part.name:  # llama.cpp convolves in float32 only
        return Chosen(QUANT.F32, QUANT.F32)
    wanted = rules.wanted(part)
    for kind in (wanted, FALLBACKS.get(wanted, QUANT.F16), QUANT.F16):
        if part.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0:
            return Chosen(kind, wanted)
    raise AssertionError("float16 fits all rows")


class _Rules:
    """llama.cpp's rules; they are to be asked for one tensor after the other, in its order."""

    def __init__(self, layout: Layout, dtype: NumberFormat, weighed: bool, parts: Sequence[Entry]) -> None:
        first = layout.widths[0]
        heads, groups = first.num_attention_heads, first.num_key_value_heads
        self.dtype, self.base, self.weighed = dtype, FORMATS[dtype].base, weighed
        self.layers = len(layout.widths)
        self.all_values = sum(bool(VALUES.search(part.name)) for part in parts)
        self.few_values = bool(groups) and heads // groups >= FEW_VALUES
        of_largest = layout.graph.name in LARGEST and self.layers == LAYERS_OF_LARGEST
        self.largest = of_largest and (layout.graph.name != "llama" or heads != groups)
        self.ends = {name_of(TENSOR.OUTPUT)}
        if not any(part.name in self.ends for part in parts):
            self.ends = {name_of(TENSOR.TOKEN_EMBD)}
        self.values = self.downs = 0  # that were met so far

    def wanted(self, part: Entry) -> Kind:
        if self.base in (QUANT.F32, QUANT.F16, QUANT.BF16):
            return self.base
        if part.name in self.ends:
            return self._of_end(part)
        if VALUES.search(part.name):
            self.values += 1
            return self._of_values(self.values - 1)
        if DOWN.search(part.name):
            self.downs += 1
            return self._of_down(self.downs - 1)
        if OUTPUTS.search(part.name):
            return {"q2_k": QUANT.Q3_K, "q3_k_m": QUANT.Q4_K, "q3_k_l": QUANT.Q5_K}.get(self.dtype, self.base)
        return self.base

    def _of_end(self, part: Entry) -> Kind:
        """Of the matrix at the end, which may be the embeddings."""
        divided = part.shape[-1] % gguf.GGML_QUANT_SIZES[self.base][0] == 0
        return QUANT.Q6_K if divided and self.base != QUANT.Q8_0 else QUANT.Q8_0

    def _of_values(self, index: int) -> Kind:
        kind = self.base
        if self.dtype == "q2_k":
            kind = QUANT.Q4_K if self.few_values else QUANT.Q3_K
        elif self.dtype == "q3_k_m":
            kind = QUANT.Q5_K if index < 2 else QUANT.Q4_K
        elif self.dtype == "q3_k_l" or (self.dtype == "q4_k_s" and index < 4):
            kind = QUANT.Q5_K
        elif self.dtype in ("q4_k_m", "q5_k_m") and _gets_more(index, self.all_values):
            kind = QUANT.Q6_K
        return QUANT.Q5_K if self.largest and kind in (QUANT.Q3_K, QUANT.Q4_K) else kind

    def _of_down(self, index: int) -> Kind:
        early = index < self.layers // 8
        if self.dtype == "q2_k":
            return QUANT.Q3_K
        if self.dtype == "q3_k_m":
            return QUANT.Q5_K if index < self.layers // 16 else QUANT.Q4_K
        if self.dtype == "q3_k_l" or (self.dtype == "q4_k_s" and early):
            return QUANT.Q5_K
        if self.dtype in ("q4_k_m", "q5_k_m") and _gets_more(index, self.layers):
            return QUANT.Q6_K
        if self.weighed and early:
            return {QUANT.Q4_0: QUANT.Q4_1, QUANT.Q5_0: QUANT.Q5_1}.get(self.base, self.base)
        return self.base


def _gets_more(index: int, count: int) -> bool:
    """Whether the medium formats give a layer more bits: the first and last eighth, every third between."""
    return index < count // 8 or index >= 7 * count // 8 or (index - count // 8) % 3 == 2
