"""What `quantize` can be told, for the command line, recipes and Python alike."""

from pydantic import Field

from secateur.calibration.windows import StreamedConfig
from secateur.files.shares import Ratio
from secateur.rounding.config import DAMPING, GROUP_HELP, Bits, Group


class QuantizeConfig(StreamedConfig):
    """Weights of few bits: each projection's on a grid of its own."""

    bits: Bits = Field(default=4, description="Bits of a weight: 4 or 8.")
    group: Group = Field(default="auto", description=GROUP_HELP)
    quantize_head: bool = Field(
        default=False, description="The output embeddings (lm_head) too, where they are not tied to the input's."
    )
    damping: Ratio = Field(
        default=DAMPING, gt=0, description="Ridge of the re-fit, as a share of each input's second moment."
    )
    own_text: Ratio = Field(default=0.0, ge=0, le=0.9, description="Share of windows that the model writes itself.")
