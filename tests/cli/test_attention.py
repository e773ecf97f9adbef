"""`secateur attention` on a tiny model."""

import json
from pathlib import Path

import pytest
from test_commands import done, failed, secateur

BLOCKS = ["--query-block", "16", "--key-block", "16"]
QUICK_TUNE = ["--samples", "2", "--seqlen", "256", "--l1", "0.3", "--pv-l1", "0.4", "--device", "cpu", *BLOCKS]
RULE = ["--topk", "0.5", "--device", "cpu", *BLOCKS]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(" ".join(f"{number} squared is {number * number}." for number in range(300)))
    return tmp_path / "text.txt"


@pytest.fixture
def tiny(tiny_model, tiny_tokenizer, tmp_path: Path, private_cache: Path) -> Path:
    tiny_model().save_pretrained(tmp_path / "tiny")
    tiny_tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def profile(tiny: Path, text: Path, tmp_path: Path) -> Path:
    done(secateur("attention", "tune", tiny, "-o", tmp_path / "profile.safetensors", "--data", text, *QUICK_TUNE))
    return tmp_path / "profile.safetensors"


def test_tune_writes_a_profile_figures_and_a_plot(tiny: Path, text: Path, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "profile.safetensors"
    more = ["--json", tmp_path / "tuned.json", "--plot", tmp_path / "tuned.png", "--layers", "1:3"]
    result = done(secateur("attention", "tune", tiny, "-o", output, "--data", text, *QUICK_TUNE, *more))
    assert "% of the blocks left out, mean over 2 layers' heads" in result.output
    figures = json.loads((tmp_path / "tuned.json").read_text())
    assert [layer["layer"] for layer in figures["layers"]] == [1, 2]
    assert all(0 <= layer["mean_sparsity"] <= 1 for layer in figures["layers"])
    assert (tmp_path / "tuned.png").read_bytes().startswith(b"\x89PNG")
    assert failed(secateur("attention", "tune", tiny, "-o", output, "--data", text, *QUICK_TUNE)) == (
        f"Error: {output} is there already; name another file or pass --overwrite"
    )


def test_compare_prints_a_table(tiny: Path, text: Path, profile: Path, tmp_path: Path) -> None:
    arguments = ["--data", text, "--seqlen", "256", "--windows", "2", "--repeats", "1", "--device", "cpu"]
    result = done(
        secateur("attention", "compare", tiny, "--profile", profile, *arguments, "--json", tmp_path / "figures.json")
    )
    last = result.stdout.splitlines()[-1]
    assert last == f"measured on 2 windows of 256 tokens of {text}"
    for name in ("perplexity", "seconds to the first token", "cosine of logits", "same greedy token"):
        assert name in result.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert 0 < figures["sparsity"] < 1
    assert figures["density"] == pytest.approx(1 - figures["sparsity"], abs=0.2)
    assert 0.5 < figures["logits_cosine"] <= 1
    dense, sparse = figures["perplexity"][str(text)], figures["sparse_perplexity"][str(text)]
    assert figures["ppl_ratio"] == pytest.approx(sparse / dense)


@pytest.mark.slow
def test_generate_writes_on(tiny: Path, text: Path, tmp_path: Path) -> None:
    arguments = ["--prompt-file", text, "--max-new-tokens", "5", "--json", tmp_path / "written.json"]
    done(secateur("attention", "generate", tiny, *arguments, *RULE))
    written = json.loads((tmp_path / "written.json").read_text())
    assert written["new_tokens"] == 5
    assert written["sparsity"] > 0.1
    done(secateur("attention", "generate", tiny, "--prompt", "a short one", "--max-new-tokens", "2", *RULE))


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ["--prompt", "text"],
            2,
            "nothing says which blocks to leave out: give --profile FILE, --topk or --cdfthreshd",
        ),
        (["--prompt", "text", "--topk", "2"], 2, "--topk 2: input should be less than or equal to 1"),
        (["--topk", "0.5"], 2, "give --prompt TEXT or --prompt-file FILE"),
        (["--topk", "0.5", "--prompt", " "], 1, "the prompt is empty"),
        (["--topk", "0.5", "--prompt-file", "/nowhere"], 1, "/nowhere cannot be read as text"),
        (["--prompt", "text", "--profile", "/nowhere"], 1, "/nowhere is not there; secateur attention tune"),
        (["--prompt", "text", "--profile", "/"], 1, "/ is a directory; name the profile's file"),
        (
            ["--prompt", "text", "--profile", "p", "--topk", "0.5"],
            2,
            "the profile says how blocks are chosen; leave out",
        ),
        (
            ["--prompt", "word " * 2000, "--topk", "0.5"],
            1,
            "the prompt has 10,000 tokens, and the model in TINY takes 8,192 with the answer, by its config; give a "
            "shorter prompt, or a model that was made for more",
        ),
        (["--prompt", "text", "--topk", "0.5", "--chat"], 1, "this model's tokenizer has no chat template"),
        (["--prompt", "text", "--topk", "0.5", "--backend", "cuda"], 2, "--backend cuda: input should be"),
    ],
)
def test_bad_use(tiny: Path, arguments: list[str], status: int, message: str) -> None:
    assert message.replace("TINY", str(tiny)) in failed(secateur("attention", "generate", tiny, *arguments), status)


def test_a_profile_of_another_model(tiny_model, tiny_tokenizer, profile: Path, text: Path, tmp_path: Path) -> None:
    tiny_model(seed=5).save_pretrained(tmp_path / "other")
    tiny_tokenizer.save_pretrained(tmp_path / "other")
    result = secateur("attention", "generate", tmp_path / "other", "--profile", profile, "--prompt-file", text)
    assert "the profile was tuned on another model" in failed(result)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--seqlen", "128"], 2, "--seqlen 128: windows below 256 tokens have too few blocks"),
        (["--l1", "0.08"], 2, "pv_l1 is 0.07 and l1 0.08: pv_l1 bounds the error of both and must be larger"),
        (["--seqlen", "256", "--layers", "3:9"], 1, "--layers 3:9 is outside the model"),
        (["--seqlen", "8000"], 1, "give a longer text or a smaller --seqlen"),
        (["--seqlen", "9000"], 1, "takes by its config; pass --seqlen 8192 or less"),
    ],
)
def test_bad_tuning(tiny: Path, text: Path, tmp_path: Path, arguments: list[str], status: int, message: str) -> None:
    result = secateur("attention", "tune", tiny, "-o", tmp_path / "p.safetensors", "--data", text, *arguments)
    assert message in failed(result, status)
    assert not (tmp_path / "p.safetensors").exists()


def test_a_file_that_is_no_profile_is_not_replaced(tiny: Path, text: Path) -> None:
    result = secateur("attention", "tune", tiny, "-o", text, "--overwrite", "--data", text, *QUICK_TUNE)
    assert "is not a profile, and so is not replaced" in failed(result)


def test_files_that_would_lose_something(tiny: Path, text: Path, tmp_path: Path) -> None:
    output = tmp_path / "profile.safetensors"
    result = secateur("attention", "tune", tiny, "-o", output, "--data", text, *QUICK_TUNE, "--json", output)
    assert "is where the result goes; name another file for the figures" in failed(result)
    both = ["--json", tmp_path / "one", "--plot", tmp_path / "one"]
    result = secateur("attention", "tune", tiny, "-o", output, "--data", text, *QUICK_TUNE, *both)
    assert "--output, --json and --plot must be different files" in failed(result, 2)
    result = secateur("attention", "tune", tiny, "-o", "/dev/null", "--overwrite", "--data", text, *QUICK_TUNE)
    assert "/dev/null is no ordinary file" in failed(result)
    result = secateur("attention", "generate", tiny, "--prompt", "text", *RULE, "--json", "/dev/null")
    assert "/dev/null is no ordinary file" in failed(result)
    result = secateur("attention", "generate", tiny, "--prompt-file", text, *RULE, "--backend", "triton")
    assert result.exit_code in (0, 1)
