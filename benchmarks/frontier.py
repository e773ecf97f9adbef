"""What a model is worth at its size: quantised alone, cut and quantised, and cut, trained and quantised.

    python benchmarks/frontier.py --directory frontier
    python benchmarks/frontier.py --directory small --ratios 0.2 --uncut f16,q4_k_m --cut q4_k_m \\
        --minutes 0.2 --samples 8 --windows 2 --new-tokens 8 --no-sparse

Every model becomes a GGUF file in each format, inputs weighed by the text that cuts are fitted to: the first 80 % of
`--data`, which training sees too. Measured in llama.cpp on one machine: perplexity on the last 20 % and on `pydocs`, of
which nothing was seen, bytes on disk, and tokens per second of decoding, at the end and in turns. What is in
`--directory` already is not made again, perplexities included. The last line is one JSON object, whose `points` are
sorted by bytes.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

import common
import secateur
from secateur.data import load_corpus, token_windows
from secateur.evaluation.llama_cpp import LlamaCpp
from secateur.exporting.config import WHOLE

CUT, SPARSE = "q8_0,q5_k_m,q4_k_m", "q4_k_m"
UNCUT = "f16,q8_0,q6_k,q5_k_m,q4_k_m,q3_k_m"
# Of each kind the mark and the colour, which are told apart without colour vision too.
MARKS = {
    "uncut": ("o", "#0072B2"),
    "cut": ("x", "#D55E00"),
    "cut, trained": ("^", "#009E73"),
    "sparse": ("s", "#CC79A7"),
}
AMOUNTS = (("bytes", 1e6, "MB"), ("decode", 1, "tokens/s decoded"))


def main() -> None:
    options = parse_options()
    options.directory.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    _, tokenizer = secateur.load(options.model, dtype="float32", device="cpu")
    texts = dict(zip(common.TEXTS, (f"{options.data}[80%:]", "pydocs"), strict=True))
    windows = {
        name: token_windows(tokenizer, load_corpus(text, "test"), 512, limit=options.windows)
        for name, text in texts.items()
    }
    points = []
    print(f"{'':24} {'':8} {'MB':>7} " + " ".join(f"{name:>10}" for name in windows))
    for kind, ratio, source, dtypes in models(options):
        for dtype in dtypes.split(","):
            points.append({"kind": kind, "ratio": ratio, "dtype": dtype, **measured(source, dtype, windows, options)})
            point = points[-1]
            figures = " ".join(f"{point['perplexity'][name]:10.3f}" for name in windows)
            print(f"{label(point):24} {dtype:8} {point['bytes'] / 1e6:7.1f} {figures}", flush=True)
    time_decoding(points, next(iter(windows.values()))[0][:128].tolist(), options)
    print(f"{'':24} {'':8} {'tokens/s':>9}")
    for point in points:
        print(f"{label(point):24} {point['dtype']:8} {point['decode']:9.1f}")
    points.sort(key=lambda point: point["bytes"])
    for text in windows:
        for amount, better in (("bytes", -1), ("decode", 1)):
            for point in points:
                point.setdefault("pareto", {})[f"{amount}, {text}"] = not is_beaten(point, points, text, amount, better)
    draw(points, list(windows), options.directory / "frontier.png")
    print(json.dumps({"model": options.model, "threads": options.threads, "points": points}))


def parse_options() -> argparse.Namespace:
    parser = common.parser(__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="models, files, points and the plot")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--ratios", default="0.1,0.2,0.3", help="shares of all parameters to remove")
    parser.add_argument("--uncut", default=UNCUT, help="formats of the uncut model")
    parser.add_argument("--cut", default=CUT, help="formats of cut models")
    parser.add_argument(
        "--sparse", action=argparse.BooleanOptionalAction, default=True, help="half of all weights zero"
    )
    parser.add_argument("--minutes", type=float, default=6.0, help="of training each cut model; 0: none")
    parser.add_argument("--samples", type=int, default=64, help="calibration windows")
    parser.add_argument("--windows", type=int, default=16, help="of 512 tokens to measure on, of each text")
    parser.add_argument("--new-tokens", type=int, default=64, help="decoded when speed is measured")
    parser.add_argument("--repeats", type=int, default=5, help="speed is their median")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def models(options: argparse.Namespace) -> Iterator[tuple[str, float, str, str]]:
    """Of each model its kind, what was removed of it, where it is, and its formats."""
    yield "uncut", 0.0, options.model, options.uncut
    fitted = {"data": f"{options.data}[:80%]", "windows": options.samples, "seed": options.seed}
    for ratio in (float(text) for text in options.ratios.split(",") if text):
        cut = made(
            options,
            f"cut-{ratio:g}",
            lambda model, tokenizer, ratio=ratio: secateur.prune(model, tokenizer, ratio=ratio, **fitted),
        )
        yield "cut", ratio, str(cut), options.cut
        if options.minutes:
            yield "cut, trained", ratio, str(trained(cut, options)), options.cut
    if options.sparse:
        sparse = made(
            options, "sparse-0.5", lambda model, tokenizer: secateur.sparsify(model, tokenizer, sparsity=0.5, **fitted)
        )
        yield "sparse", 0.5, str(sparse), SPARSE


def made(options: argparse.Namespace, name: str, change: Callable[..., Any]) -> Path:
    """The directory of a changed model, made unless it is there."""
    place = options.directory / name
    if not place.is_dir():
        model, tokenizer = secateur.load(options.model, device="cpu")
        change(model, tokenizer)
        secateur.save(model, tokenizer, place)
    return place


def trained(cut: Path, options: argparse.Namespace) -> Path:
    """The directory of a cut model after training, made unless it is there."""
    place = cut.with_name(f"{cut.name}-trained")
    if not place.is_dir():
        model, tokenizer = secateur.load(cut, device="cpu")
        settings = {"data": f"{options.data}[:80%]", "max_minutes": options.minutes, "seed": options.seed}
        secateur.recover(model, tokenizer, place, merge=True, **settings)
    return place


def label(point: dict[str, Any]) -> str:
    return f"{point['kind']} {point['ratio']:.0%}" if point["ratio"] else point["kind"]


def measured(source: str, dtype: str, windows: dict[str, torch.Tensor], options: argparse.Namespace) -> dict[str, Any]:
    """The file of a model in a format, its bytes and perplexities."""
    stem = f"{Path(source).name}-{dtype}"
    file, kept = options.directory / f"{stem}.gguf", options.directory / f"{stem}.json"
    if kept.is_file() and file.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    model, tokenizer = secateur.load(source, dtype="float32", device="cpu")
    weighed = {"data": f"{options.data}[:80%]", "windows": options.samples, "seed": options.seed}
    given = {} if dtype in WHOLE else weighed
    result = secateur.export(model, tokenizer, file, dtype=dtype, overwrite=True, **given)
    del model
    with LlamaCpp(file, threads=options.threads) as engine:
        perplexity = {name: engine.perplexity(each) for name, each in windows.items()}
    size = file.stat().st_size
    point = {"file": file.name, "parameters": result.parameters, "bytes": size, "perplexity": perplexity}
    kept.write_text(json.dumps(point), encoding="utf-8")
    return point


def time_decoding(points: list[dict[str, Any]], prompt: list[int], options: argparse.Namespace) -> None:
    """Tokens per second of all files, in turns, so that a machine that slows down does so for all."""
    rates: list[list[float]] = [[] for _ in points]
    for _ in range(options.repeats):
        for point, found in zip(points, rates, strict=True):
            file = options.directory / point["file"]
            with LlamaCpp(file, len(prompt) + options.new_tokens, options.threads) as engine:
                list(engine.seconds(prompt, 1, 1))
                found += [options.new_tokens / writing for _, writing in engine.seconds(prompt, options.new_tokens, 1)]
    for point, found in zip(points, rates, strict=True):
        point.update(decode=statistics.median(found), decode_range=[min(found), max(found)])


def is_beaten(point: dict[str, Any], points: list[dict[str, Any]], text: str, amount: str, better: int) -> bool:
    """Whether another point is as good in both figures and better in one."""

    def figures(each: dict[str, Any]) -> tuple[float, float]:
        return better * each[amount], -each["perplexity"][text]

    own = figures(point)
    return any(
        other != own and all(theirs >= mine for theirs, mine in zip(other, own, strict=True))
        for other in map(figures, points)
    )


def draw(points: list[dict[str, Any]], texts: Sequence[str], file: Path) -> None:
    """Perplexity on each text against bytes and against decoding speed, with the line of what nothing beats."""
    figure, axes = plt.subplots(
        len(texts), 2, figsize=(10, 3.8 * len(texts)), sharex="col", sharey="row", layout="constrained", squeeze=False
    )
    for row, text in zip(axes, texts, strict=True):
        for axis, (amount, scale, label) in zip(row, AMOUNTS, strict=True):
            draw_panel(axis, points, text, amount, scale)
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6)))
            axis.yaxis.set_major_formatter(ScalarFormatter())
            axis.yaxis.set_minor_locator(NullLocator())
            axis.margins(x=0.12)
            if text == texts[-1]:
                axis.set_xlabel(label)
        row[0].set_ylabel(f"perplexity on {text}")
    axes[0][0].legend(fontsize=8)
    figure.savefig(file, dpi=130)
    plt.close(figure)


def draw_panel(axis: Axes, points: list[dict[str, Any]], text: str, amount: str, scale: float) -> None:
    for kind, (mark, colour) in MARKS.items():
        those = [point for point in points if point["kind"] == kind]
        found = [(point[amount] / scale, point["perplexity"][text]) for point in those]
        if found:
            axis.scatter(*zip(*found, strict=True), marker=mark, color=colour, label=kind)
    best = sorted((point for point in points if point["pareto"][f"{amount}, {text}"]), key=lambda each: each[amount])
    line = [(point[amount] / scale, point["perplexity"][text]) for point in best]
    axis.plot(*zip(*line, strict=True), color="grey", linewidth=1, label="nothing is better in both", zorder=0)
    for point, place in zip(best, line, strict=True):
        removed = f" −{point['ratio']:.0%}" if point["ratio"] else ""
        side = {"ha": "right", "xytext": (-4, 4)} if amount == "decode" else {"ha": "left", "xytext": (4, 4)}
        axis.annotate(f"{point['dtype']}{removed}", place, fontsize=7, textcoords="offset points", **side)


if __name__ == "__main__":
    main()
