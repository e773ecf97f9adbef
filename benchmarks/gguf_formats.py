"""Perplexity in llama.cpp of a model in its number formats, with and without an importance matrix.

    python benchmarks/gguf_formats.py --data wikitext2-valid.txt

Each format is exported twice, all inputs weighing the same and weighed by a calibration text, and measured on the last
20 % of `--data`. The last line is one JSON object.
"""

import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import secateur
from secateur.data import load_corpus, token_windows
from secateur.evaluation.llama_cpp import LlamaCpp
from secateur.exporting.config import WHOLE

FORMATS = "f16,q8_0,q6_k,q5_k_m,q4_k_m,q3_k_m"


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtypes", default=FORMATS, help="separated by commas")
    parser.add_argument("--calibration", default="pydocs", help="text by which inputs are weighed")
    parser.add_argument("--calibration-windows", type=int, default=64)
    parser.add_argument("--windows", type=int, default=16, help="of 512 tokens to measure on")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    model, tokenizer = secateur.load(options.model, dtype="float32", device="cpu")
    windows = token_windows(tokenizer, load_corpus(f"{options.data}[80%:]", "test"), 512, limit=options.windows)
    weighed = {"calibration": options.calibration, "windows": options.calibration_windows, "seed": options.seed}
    rows: list[dict[str, Any]] = []
    print(f"{'':8} {'calibration':>12} {'MB':>7} {'perplexity':>11} {'log rise':>9} {'seconds':>8}")
    for dtype in options.dtypes.split(","):
        for given in ({},) if dtype in WHOLE else ({}, weighed):
            with tempfile.TemporaryDirectory() as directory:
                file, begun = Path(directory) / "model.gguf", time.perf_counter()
                result = secateur.export(model, tokenizer, file, dtype=dtype, **given)
                seconds = time.perf_counter() - begun
                with LlamaCpp(file, threads=options.threads) as engine:
                    perplexity = engine.perplexity(windows)
            rows.append(
                {
                    "dtype": dtype,
                    "calibration": given.get("calibration"),
                    "bytes": result.bytes,
                    "perplexity": perplexity,
                    "rise": math.log(perplexity / rows[0]["perplexity"]) if rows else 0.0,
                    "export_seconds": seconds,
                }
            )
            row = rows[-1]
            print(
                f"{dtype:8} {row['calibration'] or '':>12} {row['bytes'] / 1e6:7.1f} {row['perplexity']:11.3f} "
                f"{row['rise']:9.4f} {seconds:8.1f}",
                flush=True,
            )
    print(json.dumps({"model": options.model, "windows": len(windows), "formats": rows}))


if __name__ == "__main__":
    main()
