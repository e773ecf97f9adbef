"""`secateur prune --stream` on a random model of the shape of Llama 3 8B: seconds, and the most memory it takes.

    python benchmarks/large.py --directory /mnt/large                # writes 16 GB there, if they are not there yet
    python benchmarks/large.py --directory /mnt/large --layers 4     # fewer layers of the same widths
    python benchmarks/large.py --directory /mnt/large -- --importance obs --windows 16

What stands after `--` goes to `secateur prune`. The model is written a layer at a time and never held. Memory is what
the process holds itself plus what it has mapped of files (its largest resident set), read every 50 ms. The last line is
one JSON object.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from safetensors.torch import save_file
from transformers import AutoConfig

import common

sys.path.append(str(common.ROOT / "tests"))
from tiny import make_tiny_tokenizer

HIDDEN, WIDE, HEADS, KEY_VALUE_HEADS, VOCABULARY = 4096, 14336, 32, 8, 128256
DEFAULTS = ["--importance", "activation", "--windows", "8", "--batch-size", "2"]


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--directory", type=Path, required=True, help="on a disk: not in memory, as /dev/shm is")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("options", nargs="*", help="of prune")
    options = parser.parse_args()
    model = options.directory / f"model-{options.layers}"
    if not (model / "config.json").is_file():
        write(model, options.layers, options.seed)
    output = options.directory / f"pruned-{options.layers}"
    command = [str(Path(sys.executable).parent / "secateur"), "prune", str(model), "-o", str(output), "--overwrite"]
    command += ["--stream", "--own-text", "0", "--data", str(options.data), *(options.options or DEFAULTS)]
    print(" ".join(command), flush=True)
    start, most = time.perf_counter(), 0
    process = psutil.Popen(command)
    while process.poll() is None:
        try:
            most = max(most, process.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.05)
    figures = {
        "model_bytes": size(model),
        "pruned_bytes": size(output),
        "seconds": time.perf_counter() - start,
        "peak_bytes": most,
        "exit": process.wait(),
    }
    print(json.dumps(figures))


def write(directory: Path, layers: int, seed: int) -> None:
    """A random Llama in bfloat16, one file for each layer and one for the rest."""
    directory.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    weight_map: dict[str, str] = {}
    for name, tensors in files(layers, generator):
        save_file(tensors, directory / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    index = {"metadata": {"total_size": size(directory)}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    make_tiny_tokenizer().save_pretrained(directory)
    config = AutoConfig.for_model(
        "llama",
        architectures=["LlamaForCausalLM"],
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=WIDE,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        bos_token_id=256,
        eos_token_id=257,
        dtype="bfloat16",
    )
    config.save_pretrained(directory)


def files(layers: int, generator: torch.Generator) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """The files of a model by name, with their tensors."""

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.empty(rows, columns, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)

    norm = torch.ones(HIDDEN, dtype=torch.bfloat16)
    key_value = HIDDEN // HEADS * KEY_VALUE_HEADS
    yield (
        "embeddings.safetensors",
        {
            "model.embed_tokens.weight": matrix(VOCABULARY, HIDDEN),
            "lm_head.weight": matrix(VOCABULARY, HIDDEN),
            "model.norm.weight": norm,
        },
    )
    for layer in range(layers):
        shapes = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (key_value, HIDDEN)}
        shapes |= {"self_attn.v_proj": (key_value, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN)}
        shapes |= {"mlp.gate_proj": (WIDE, HIDDEN), "mlp.up_proj": (WIDE, HIDDEN), "mlp.down_proj": (HIDDEN, WIDE)}
        tensors = {f"model.layers.{layer}.{name}.weight": matrix(*shape) for name, shape in shapes.items()}
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{name}.weight"] = norm.clone()
        yield f"layer-{layer:02}.safetensors", tensors


def size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))


if __name__ == "__main__":
    main()
