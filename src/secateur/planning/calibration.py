"""The phases that are fitted to a text, `prune`, `search` and `sparsify`: what each computes and holds.

n are the inputs of a half's output projection (o_proj, down_proj), d is the hidden size, T the calibration tokens.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import replace

from secateur.calibration.moments import PANEL, TOKENS_AT_ONCE
from secateur.calibration.own_text import PIECE_TOKENS, PIECES
from secateur.costs.paper import LAYER_LAUNCHES
from secateur.planning.phase import Phase, Setting
from secateur.planning.work import Work
from secateur.pruning.removals import EVERY as COMPARED_EVERY
from secateur.pruning.removals import TOKENS as TOKENS_WITHOUT
from secateur.pruning.scoring import METRIC_WINDOWS, SENSITIVITY_WINDOWS
from secateur.pruning.search.config import SearchConfig
from secateur.pruning.search.rounds import MOST_TRIED
from secateur.sparsity.sparsify import FISHER_WINDOWS

REMOVAL_ROUNDS = 32  # of `pruning.obs.removal_order`
ADMM_GROWING = 15
ADMM_POLISHING = 12
ADMM_PRODUCTS = 2 * (ADMM_GROWING + ADMM_POLISHING) + 2  # FLOPs of `sparsity.admm.admm` in units of out · n²
ADMM_PASSES = 10 * (ADMM_GROWING + ADMM_POLISHING)  # reads and writes of matrices beside the products
SPARSEGPT_COLUMN_LAUNCHES = 8
SPARSEGPT_BLOCK = 128
SEARCH = SearchConfig()


def prune_phases(setting: Setting) -> list[Phase]:
    """Calibration text, scores of units, the cut with its re-fit."""
    written = [own_text(setting)] if int(setting.config.own_text * setting.config.windows) else []
    return [*written, unit_scores(setting), cut_and_refit(setting)]


def own_text(setting: Setting) -> Phase:
    """The windows that the model writes itself: pieces of text, a token at a time."""
    shape, config, width = setting.shape, setting.config, setting.width
    length = min(PIECE_TOKENS, config.seqlen)
    tokens = int(config.own_text * config.windows) * config.seqlen
    blocks = math.ceil(tokens / (PIECES * length))  # which processes share
    steps = math.ceil(blocks / setting.processes) * (length - 1)
    cache = PIECES * shape.cached(length) * width
    one_step = Work(
        products=PIECES * (shape.body_flops(length) + shape.head_flops),
        # All weights, the cache that is written anew, and the distribution over the vocabulary.
        traffic=setting.weights + cache + 6 * 4 * PIECES * shape.vocab_size,
        launches=LAYER_LAUNCHES * len(shape.layers),
    )
    logits = PIECES * shape.vocab_size * (width + 3 * 4)
    return Phase(
        "prune: own text",
        one_step * steps,
        weights=setting.weights,
        workspace=2 * cache + logits,
    )


def unit_scores(setting: Setting) -> Phase:
    """Sensitivity of the residual stream, OBS for every unit, and what the model loses without each half."""
    shape, tokens = setting.shape, setting.calibration_tokens
    few = setting.few_tokens(SENSITIVITY_WINDOWS)
    # Forward, forward again in the backward pass, and the gradient by the stream; weights have none.
    sensitivity = Work(training=3 * few * (shape.body_flops(setting.config.seqlen) + shape.head_flops))
    grams, solves = Work(), Work()
    for n, block, units in setting.halves():
        grams += Work(moments=gram(tokens, n))
        solves += Work(float32=n**3) + removal(n, shape.hidden_size, block, units - 1)
    halves, left_out = 2 * len(shape.layers), setting.few_tokens(max(1, TOKENS_WITHOUT // setting.config.seqlen))
    # A stream for each half, through half of the layers on average, and at its end some tokens' distributions.
    compared = (halves + 1) * shape.head_flops / COMPARED_EVERY
    through = (len(shape.layers) + 1) * shape.body_flops(setting.config.seqlen) + compared
    widest = setting.widest_half
    at_once = max(1, setting.config.batch_size // 4) * setting.config.seqlen
    streams = 2 * (2 * len(shape.layers) + 1) * at_once * shape.hidden_size * setting.width
    measuring = streams + setting.layer_activations(at_once) + setting.scored_logits
    return Phase(
        "prune: scores",
        sensitivity + setting.forward(tokens) + grams + solves + Work(products=left_out * through),
        weights=setting.weights,
        streams=max(tokens * (shape.stream_width + widest), left_out * (halves + 1) * shape.stream_width)
        * setting.width,
        # XᵀX, its factor whose place the inverse takes, what the removals leave of a second one, the projection.
        workspace=max(measuring, 12 * widest**2 + 16 * widest * shape.hidden_size + 4 * TOKENS_AT_ONCE * widest),
    )


def cut_and_refit(setting: Setting) -> Phase:
    """Two streams side by side; in each half the best re-fit, and the removals with what they leave re-fitted."""
    shape, tokens, hidden = setting.shape, setting.calibration_tokens, setting.shape.hidden_size
    rate = min(0.8, setting.config.ratio * shape.parameters / shape.divisible_matrices)
    grams, solves = Work(), Work()
    for n, block, units in setting.halves():
        grams += Work(moments=gram(tokens, n) + 2 * tokens * n * hidden)
        leaving = min(round(rate * units), units - 1)
        solves += Work(float32=n**3 + 2 * n**2 * hidden) + removal(n, hidden, block, leaving)
    widest = setting.widest_half
    return Phase(
        "prune: cut and re-fit",
        setting.forward(2 * tokens) + grams + solves,
        weights=setting.weights,
        streams=tokens * (2 * shape.stream_width + widest) * setting.width,
        workspace=(8 + 4 * rate) * widest**2 + 24 * widest * hidden + 4 * TOKENS_AT_ONCE * (widest + hidden),
    )


def search(setting: Setting) -> Phase:
    """Rounds of cuts that are fitted to half of the windows and measured on others, and the cut of the best."""
    shape, config, hidden = setting.shape, setting.config, setting.shape.hidden_size
    fewer = config.model_copy(update={"windows": -(-config.windows // 2)})
    half = replace(setting, config=fewer)
    few = half.few_tokens(METRIC_WINDOWS)
    body, head = shape.body_flops(config.seqlen), shape.head_flops
    metrics = Work(
        training=3 * few * (body + head),
        moments=2 * few * hidden**2 * 2 * len(shape.layers),
        float64=hidden**3 / 3 * 2 * len(shape.layers),
    )
    scores, cut, last = unit_scores(half), cut_and_refit(half), cut_and_refit(setting)
    measured = math.ceil(SEARCH.measured_windows / setting.processes) * config.seqlen
    # The round's distance; the prices: uncut, forward and twice back; and some halves tried on half of the windows.
    priced = Work(products=measured * (2 * body + 2 * head), training=measured * (2 * body + 2 * head))
    tried = Work(products=measured / 2 * (MOST_TRIED + 2) * (body + 2 * head))
    rounds = (cut.work + Work(products=measured * (body + 2 * head)) + priced + tried) * (SEARCH.rounds - 1)
    at_once = max(1, config.batch_size // 4) * config.seqlen
    graph = len(shape.layers) * setting.layer_activations(at_once) + setting.scored_logits
    graph += 2 * (2 * len(shape.layers) + 1) * at_once * hidden * setting.width
    return Phase(
        "search",
        scores.work + metrics * 2 + rounds + cut.work + last.work,
        weights=setting.weights,
        streams=max(cut.streams, last.streams),
        # What waits on the disk comes one by one: a metric, a narrower projection.
        workspace=4 * hidden**2 + max(scores.workspace, last.workspace, graph),
    )


@functools.cache
def removal(n: int, hidden: int, block: int, units: int) -> Work:
    """What `pruning.obs.removal_order` does to remove `units` blocks of so many inputs."""
    if units < 1:
        return Work()
    products = traffic = 0.0
    for going, done in removal_rounds(block, units):
        present, left = n - done, n - done - going
        products += 2 * present * done * going + 2 * left * going * (hidden + block) + going**2 * (hidden + left)
        traffic += 4 * hidden * (present + 2 * left)
        if block > 1:
            products += present // block * (2 / 3 * block**3 + 2 * block**2 * hidden)
    return Work(float32=products, traffic=traffic)


def removal_rounds(block: int, units: int) -> Iterator[tuple[int, int]]:
    """Of each round of `removal_order` the inputs that leave, and those that have left before."""
    at_once = max(1, units // REMOVAL_ROUNDS)
    for removed in range(0, units, at_once):
        yield min(at_once, units - removed) * block, removed * block


def gram(tokens: int, n: int) -> float:
    """FLOPs of the second moments of n inputs: the panels on and below the diagonal."""
    return float(tokens * n * (n + min(n, PANEL)))


def magnitude(setting: Setting) -> Phase:
    """`sparsify --method magnitude`, which reads no text."""
    largest = max(rows * columns for rows, columns in _matrices(setting))
    return Phase(
        "sparsify: magnitude",
        Work(ranked=setting.shape.matrices),
        weights=setting.weights,
        workspace=12 * largest,
    )


def wanda(setting: Setting) -> Phase:
    """`sparsify --method wanda`: norms of inputs, and a ranking in each row."""
    shape, tokens = setting.shape, setting.calibration_tokens
    inputs = sum(2 * shape.hidden_size + n for n, _, _ in setting.halves()) * tokens
    largest = max(rows * columns for rows, columns in _matrices(setting))
    return Phase(
        "sparsify: wanda",
        setting.forward(tokens) + Work(traffic=6 * inputs, ranked=shape.matrices),
        weights=setting.weights,
        streams=tokens * (shape.stream_width + setting.widest_half) * setting.width,
        workspace=12 * largest + setting.layer_forward(setting.batch_tokens),
        layered=setting.largest_layer,
    )


def sparsegpt(setting: Setting) -> Phase:
    """`sparsify --method sparsegpt`: column by column, the errors handed on."""
    shape, tokens = setting.shape, setting.calibration_tokens
    solves = Work()
    for rows, n in _solved(setting):
        # Errors of a column go to the rest of its block one by one, and to the columns behind the block at once.
        within = 12 * rows * n * SPARSEGPT_BLOCK / 2
        solves += Work(
            float64=4 / 3 * n**3,
            float32=rows * n**2,
            traffic=within,
            ranked=rows * n,
            launches=SPARSEGPT_COLUMN_LAUNCHES * n,
        )
    return Phase(
        "sparsify: sparsegpt",
        setting.forward(tokens) + Work(moments=_grams(setting)) + solves,
        weights=setting.weights,
        streams=tokens * (shape.stream_width + setting.widest_half) * setting.width,
        workspace=max(36 * n**2 + 12 * rows * n for rows, n in _matrices(setting)),
        layered=setting.largest_layer,
    )


def admm(setting: Setting) -> Phase:
    """`sparsify --method admm`, the default: shares by Fisher information, then two streams and ADMM everywhere."""
    shape, tokens, hidden = setting.shape, setting.calibration_tokens, setting.shape.hidden_size
    few = setting.few_tokens(FISHER_WINDOWS)
    fisher = Work(training=few * (2 * shape.body_flops(setting.config.seqlen) + 3 * shape.head_flops))
    # With the inputs of the uncut stream, and with what the output projections should add.
    cross = sum(2 * hidden**2 + n * hidden for n, _, _ in setting.halves())
    solves = Work()
    for rows, n in _solved(setting):
        elementwise = 4 * rows * n * ADMM_PASSES
        ranked = ADMM_GROWING * rows * n
        solves += Work(float32=ADMM_PRODUCTS * rows * n**2, traffic=elementwise, ranked=ranked)
    # Projections with the same inputs share the inverse.
    solves += Work(float64=sum(hidden**3 + n**3 for n, _, _ in setting.halves()))
    at_once = max(1, setting.config.batch_size // 4) * setting.config.seqlen
    measuring = len(shape.layers) * setting.layer_activations(at_once) + setting.scored_logits
    solving = max(20 * n**2 + 24 * rows * n for rows, n in _matrices(setting))
    return Phase(
        "sparsify: admm",
        fisher + setting.forward(2 * tokens) + Work(moments=_grams(setting) + 2 * tokens * cross) + solves,
        weights=setting.weights,
        streams=tokens * (hidden + 2 * shape.stream_width + setting.widest_half) * setting.width,
        workspace=max(measuring, solving),
        layered=setting.largest_layer,
    )


def _grams(setting: Setting) -> float:
    """FLOPs of the second moments of the inputs of all projections; those that read the same inputs share them."""
    hidden, tokens = setting.shape.hidden_size, setting.calibration_tokens
    return sum(gram(tokens, hidden) + gram(tokens, n) for n, _, _ in setting.halves())


def _matrices(setting: Setting) -> Iterator[tuple[int, int]]:
    """(out_features, in_features) of every projection."""
    for layer in setting.shape.layers:
        for half in layer.halves:
            yield from half.projections.values()


def _solved(setting: Setting) -> Iterator[tuple[int, int]]:
    """The projections that a process solves one after another: of those with the same inputs each has its own."""
    for layer in setting.shape.layers:
        for half in layer.halves:
            first, *others, output = half.projections.values()
            yield from (first, output) if setting.processes > 1 else (first, *others, output)
