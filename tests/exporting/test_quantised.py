"""Files of less than 8 bits: llama.cpp's choice for each tensor, its bytes, what is said of them, and that they run."""

import copy
import hashlib
import json
import platform
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from exporting_helpers import LlamaCpp, command, done, failed, log_probabilities
from family_models import PROMPT, make_family
from quantised_cases import CASES, WIDE, model_of, summary
from transformers import PreTrainedTokenizerFast

import secateur
from secateur.errors import InputError, OptionError
from secateur.exporting.config import ExportConfig
from secateur.exporting.ggml import library, quantised
from secateur.exporting.importance import Importance
from secateur.exporting.layout import layout_of
from secateur.exporting.number_formats import FORMATS, formats_of
from secateur.exporting.tensors import entries
from uneven import cut_unevenly

RECORDED = json.loads(Path(__file__).with_name("quantised_cases.json").read_text())
QUANT = gguf.GGMLQuantizationType
QUICK = {"calibration": "pydocs", "windows": 4, "seqlen": 32}
Small = PreTrainedTokenizerFast


@pytest.mark.parametrize("case", CASES)
def test_formats_are_those_that_llama_cpp_chooses(case: str) -> None:
    model, recorded = model_of(case), RECORDED[case]
    layout = layout_of(model)
    assert layout.graph.name == recorded["architecture"]
    parts = list(entries(model, layout))
    for weighed, by_dtype in ((False, recorded["formats"]), (True, recorded["weighed"])):
        for dtype, expected in by_dtype.items():
            found = formats_of(parts, layout, dtype, weighed)
            named = zip((part.name for part in parts), (each.kind.name.lower() for each in found), strict=True)
            assert summary(named) == expected, dtype


# Of the matrix below, by llama.cpp 0.5.0's llama_model_quantize: without an importance, and with one.
DIGESTS = {
    QUANT.Q2_K: ("228babc3963e715a", "e60819bdb41219b0"),
    QUANT.Q3_K: ("7b3c9c849c4b2475", "61d722d8d5394828"),
    QUANT.Q4_K: ("42ae503c873a08e6", "073988fbb3b65253"),
    QUANT.Q5_K: ("796c7e554eb36be8", "f266b5a670ba7547"),
    QUANT.Q6_K: ("4cd09e7d06ba0bb5", "630726bb2bd83cd9"),
    QUANT.Q4_0: ("03944fac9e37a569", "fed9f00efcf48409"),
    QUANT.Q5_1: ("b439c5bd733d6d0a", "ea2b9bf60e1ceaf8"),
}


def example() -> tuple[np.ndarray, np.ndarray]:
    """A matrix (70, 512) and the importance of its columns, the same on every machine."""
    numbers = np.arange(70 * 512, dtype=np.int64)
    weights = ((numbers * 7919 + numbers**2 * 31) % 4001 - 2000).astype(np.float32) / 1024
    return weights.reshape(70, 512), ((np.arange(512) * 37) % 101).astype(np.float32)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the digests are of this processor's rounding")
@pytest.mark.parametrize("kind", DIGESTS, ids=lambda kind: kind.name)
def test_bytes_are_those_that_llama_cpp_writes(kind: QUANT) -> None:
    weights, importance = example()
    found = [hashlib.sha256(quantised(weights, kind, each).tobytes()).hexdigest()[:16] for each in (None, importance)]
    assert tuple(found) == DIGESTS[kind]


@pytest.mark.parametrize("kind", [QUANT.Q4_0, QUANT.Q4_1, QUANT.Q5_0, QUANT.Q5_1, QUANT.Q8_0])
def test_bytes_are_those_of_the_package_gguf(kind: QUANT) -> None:
    weights, _ = example()
    assert np.array_equal(quantised(weights, kind, None), gguf.quantize(weights, kind).view(np.uint8))


@pytest.fixture(scope="module")
def wide() -> torch.nn.Module:
    return make_family("llama", **WIDE)


def test_a_file_runs_and_is_read_back(wide, small_tokenizer: Small, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    result = secateur.export(wide, small_tokenizer, file, dtype="Q4_K_M", **QUICK)
    reader = gguf.GGUFReader(file)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    assert keys["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q4_K_M
    assert keys["general.quantization_version"] == gguf.GGML_QUANT_VERSION
    assert keys["quantize.imatrix.entries_count"] == 4 * 7 and keys["quantize.imatrix.chunks_count"] == 4
    assert keys["quantize.imatrix.dataset"] == result.calibration
    assert result.tensors.keys() == {"q4_k", "q6_k", "f32"} and not result.fallbacks
    assert sum(result.bytes_by_format.values()) == sum(tensor.n_bytes for tensor in reader.tensors)
    read, _ = secateur.load(file, dtype="float32", device="cpu")
    expected = log_probabilities(read, PROMPT)
    found = LlamaCpp(file).next_log_probabilities(PROMPT, len(expected))
    # llama.cpp rounds what it multiplies with to 8 bits.
    assert max(abs(float(expected[token]) - value) for token, value in found.items()) < 0.3


def test_an_importance_lessens_the_error_that_it_weighs() -> None:
    weights, importance = example()
    errors = []
    for given in (None, importance):
        error = gguf.dequantize(quantised(weights, QUANT.Q2_K, given), QUANT.Q2_K) - weights
        errors.append(float((error**2 * importance).sum()))
    assert errors[1] < 0.95 * errors[0]


def test_importance_is_the_mean_square_of_the_inputs_in_the_files_order(small_tokenizer: Small) -> None:
    model = make_family("qwen3_5_text", "uneven")
    seen: dict[str, list[torch.Tensor]] = {}
    watched = {"linear": model.model.layers[0].linear_attn.out_proj, "mlp": model.model.layers[1].mlp.down_proj}
    for name, module in watched.items():
        module.register_forward_pre_hook(lambda _, inputs, name=name: seen.setdefault(name, []).append(inputs[0]))
    found = Importance.of(model, small_tokenizer, ExportConfig(dtype="q4_0", **QUICK))
    parts = {part.name: part for part in entries(model, layout_of(model))}
    for name, tensor in (("linear", "blk.0.ssm_out.weight"), ("mlp", "blk.1.ffn_down.weight")):
        part, square = parts[tensor], torch.cat(seen[name]).flatten(0, 1).square().mean(0)
        # A matrix whose rows are the model's inputs is brought into the file's order as weights are.
        row = torch.zeros_like(watched[name].weight)
        row[0] = square
        with torch.no_grad():
            watched[name].weight.copy_(row)
        np.testing.assert_allclose(found.of_part(part), part.make()[0].numpy(), rtol=1e-4)
    assert found.of_part(parts["token_embd.weight"]) is None


def test_what_falls_back_is_said_with_its_cost(small_tokenizer: Small, tmp_path: Path) -> None:
    result = secateur.export(model_of("uneven"), small_tokenizer, tmp_path / "model.gguf", dtype="q4_k_m")
    line = str(result.fallback_line)
    assert line.startswith("Rows that a format's blocks do not divide: 4 attn_q, 4 attn_k")
    assert "1 ffn_down in f16 instead of q6_k (rows of 33)" in line
    assert f"{sum(each.extra_bytes for each in result.fallbacks) / 1e6:,.2f} MB more" in line
    assert result.bytes_by_format.keys() == result.tensors.keys()


def test_channels_in_multiples_of_256_stay_in_their_formats(small_tokenizer: Small, tmp_path: Path) -> None:
    widths = [(2, 256), (2, 512), (2, 256), (2, 512)]  # as --channel-multiple 256 leaves them
    model = cut_unevenly(make_family("llama", **{**WIDE, "intermediate_size": 512}), widths)
    result = secateur.export(model, small_tokenizer, tmp_path / "model.gguf", dtype="q4_k_m")
    assert not result.fallbacks and result.fallback_line is None
    assert result.tensors.keys() == {"q4_k", "q6_k", "f32"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "q4_k_n"}, "did you mean q4_k_"),
        ({"dtype": "eight"}, "there is no such number format; there are f32, f16"),
        ({"calibration": "pydocs"}, "data= has no effect in f16"),
        ({"dtype": "q8_0", "calibration": "pydocs"}, "data= has no effect in q8_0"),
        ({"dtype": "q4_k_m", "format": "nemotron-nas"}, "q4_k_m is for GGUF files"),
        ({"calibration": "pydocs", "format": "nemotron-nas"}, "data= has no effect in a directory"),
    ],
)
def test_options_that_do_not_go(options: dict[str, str], message: str, wide, small_tokenizer, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        secateur.export(wide, small_tokenizer, tmp_path / "model.gguf", **options)
    assert not list(tmp_path.iterdir())


def test_without_llama_cpps_library(wide, small_tokenizer: Small, tmp_path: Path, monkeypatch) -> None:
    library.cache_clear()
    monkeypatch.setitem(sys.modules, "xllamacpp.xllamacpp", None)
    with pytest.raises(InputError, match=r"a package; run: pip install 'secateur\[gguf\]'"):
        secateur.export(wide, small_tokenizer, tmp_path / "model.gguf", dtype="q6_k")
    secateur.export(wide, small_tokenizer, tmp_path / "model.gguf", dtype="q8_0")
    library.cache_clear()


def test_every_format_has_a_base_and_a_number() -> None:
    assert {each.file_type.name.lower().split("_", 1)[1]: name for name, each in FORMATS.items()} == {
        name: name for name in FORMATS
    }


def test_a_file_of_4_bits_is_complete(wide, small_tokenizer: Small, tmp_path: Path, private_cache: Path) -> None:
    """secateur and llama.cpp talk with it by its template, and it says what ends an answer."""
    file, end = tmp_path / "model.gguf", 17
    tokenizer = copy.deepcopy(small_tokenizer)
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '"
        + str(tokenizer.convert_ids_to_tokens(end))
        + "\\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    model = copy.deepcopy(wide)
    model.generation_config.eos_token_id = [1, 30, end]
    secateur.export(model, tokenizer, file, dtype="q4_k_m")
    fields = gguf.GGUFReader(file).fields
    ends = [fields[f"tokenizer.ggml.{role}_token_id"].contents() for role in ("eos", "eot")]
    assert ends == [tokenizer.eos_token_id, end]
    said = [{"role": "user", "content": "Hello"}]
    prompt = tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    assert LlamaCpp(file).templated("Hello") == prompt
    result = command("chat", file, "--prompt", "Hello", "--max-new-tokens", 4, "--device", "cpu")
    done(result)
    assert "has no chat template" not in result.stderr and "tokens/s" in result.stderr


def test_on_the_command_line(wide, small_tokenizer: Small, tmp_path: Path, private_cache: Path) -> None:
    model, file, figures = secateur.save(wide, small_tokenizer, tmp_path / "wide"), tmp_path / "m.gguf", tmp_path / "f"
    quick = ["--calibration", "pydocs", "--samples", 2, "--seqlen", 32]
    said = done(command("export", model, "-o", file, "--dtype", "Q5_0", *quick, "--json", figures))
    assert "parameters in q5_0" in said and "Rounded by what the inputs are on" in said
    assert json.loads(figures.read_text())["bytes_by_format"]["q5_0"] > 0
    assert "did you mean q5_k_m" in failed(command("export", model, "-o", tmp_path / "o.gguf", "--dtype", "q5km"), 2)
    message = failed(command("export", model, "-o", tmp_path / "o.gguf", "--calibration", "pydocs"), 2)
    assert "--data has no effect in f16" in message
