#!/usr/bin/env bash
# gguf 0.19.0: a model that was stored in Q4_1 loses more when it is stored anew in Q5_1 than in Q5_0, and in Q4_1 nothing.
#
# Expected: more bits, less error. Of normally distributed weights that is so: Q5_1, with a scale and a minimum for each
# block, is better than Q5_0 with a scale alone, and Q4_1 than Q4_0.
# What happens: of weights that come from a Q4_1 file Q5_1 has 5 % more error than Q5_0. Both formats put 16 and 32 levels
# from a block's smallest to its largest weight, so that the old levels stand at 31/15 of a step of the new ones, between two
# of them again and again. Q4_1 finds its own levels. llama.cpp takes Q5_1 where Q5_K does not divide the rows, as in all but
# the MLP's outputs of SmolLM2-135M, which some publish in Q4_1.
#
# Seen (root mean square of the error over that of the weights):
#   normally distributed   Q4_1 0.0783   Q5_0 0.0428   Q5_1 0.0379
#   the same out of Q4_1   Q4_1 0.0000   Q5_0 0.0426   Q5_1 0.0449
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq gguf==0.19.0
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
from gguf import GGMLQuantizationType, quants


def through(weights, name):
    kind = GGMLQuantizationType[name]
    return quants.dequantize(quants.quantize(weights, kind), kind)


weights = np.random.default_rng(0).standard_normal((256, 1024)).astype(np.float32)
error = {}
for source, given in (("normally distributed", weights), ("the same out of Q4_1", through(weights, "Q4_1"))):
    for name in ("Q4_1", "Q5_0", "Q5_1"):
        off = through(given, name) - given
        error[source, name] = float(np.sqrt(np.square(off).mean()) / given.std())
    print(f"{source:22} " + "   ".join(f"{name} {error[source, name]:.4f}" for name in ("Q4_1", "Q5_0", "Q5_1")))
assert error["normally distributed", "Q5_1"] < 0.92 * error["normally distributed", "Q5_0"]
assert error["the same out of Q4_1", "Q5_1"] > 1.03 * error["the same out of Q4_1", "Q5_0"]
assert error["the same out of Q4_1", "Q4_1"] < 1e-4
PYTHON
