"""What secateur needs to know of Brook: where its parts are, by the names of attributes."""

from secateur.models import Adapter, HalfNames

ATTENTION = HalfNames(
    part="attention",
    mixer="attn",
    inputs={"wq": ("query",), "wk": ("key",), "wv": ("value",)},
    output="wo",
    norm="attn_norm",
    norm_after="attn_out_norm",
)
FEED_FORWARD = HalfNames(
    part="mlp",
    mixer="ffn",
    inputs={"w1": ("channel",), "w3": ("channel",)},
    output="w2",
    norm="ffn_norm",
)
ADAPTER = Adapter(
    "brook",
    (ATTENTION, FEED_FORWARD),
    body_name="decoder",
    layers_name="blocks",
    final_norm_name="final_norm",
    rotary_name="rotary",
)
