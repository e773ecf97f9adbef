#!/usr/bin/env bash
# gguf 0.19.0: how many weights of a dense matrix are exactly zero once it has been quantised depends on the format by
# three orders of magnitude, and not on its bits.
#
# Expected: few exact zeros after quantising and dequantising normally distributed weights, fewer with more bits.
# What happens: formats with a scale alone have a level at zero, which takes all weights near it: 12 % in Q4_0, 0.7 % still
# in Q8_0. Those with a scale and a minimum (Q4_1, Q5_1) miss zero by a little nearly always. Whoever tells sparse from
# dense by a share of zeros, at 1 % say, takes a dense model from a Q5_0 file for a sparse one, and from Q4_1 not.
#
# Seen:
#   Q4_0   11.607 % zeros
#   Q4_1    0.024 % zeros
#   Q5_0    5.813 % zeros
#   Q5_1    0.013 % zeros
#   Q8_0    0.735 % zeros
#   MXFP4   8.108 % zeros
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq gguf==0.19.0
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
from gguf import GGMLQuantizationType, quants

SEEN = {"Q4_0": 0.116, "Q4_1": 0.00024, "Q5_0": 0.058, "Q5_1": 0.00013, "Q8_0": 0.0074, "MXFP4": 0.081}
weights = np.random.default_rng(0).normal(0, 0.02, (1024, 4096)).astype(np.float32)
assert (weights != 0).all()
for name, seen in SEEN.items():
    kind = GGMLQuantizationType[name]
    share = (quants.dequantize(quants.quantize(weights, kind), kind) == 0).mean()
    print(f"{name:6} {share:7.3%} zeros".replace("%", " %"))
    assert 0.7 * seen < share < 1.4 * seen
PYTHON
