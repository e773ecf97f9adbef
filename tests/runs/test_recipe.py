"""Recipes: what is accepted, what is handed down, and how a mistake is named."""

from pathlib import Path

import pytest

from secateur.errors import InputError
from secateur.longrange.recipe import LongRangeRecipe
from secateur.pruning import PruneConfig
from secateur.pruning.search import SearchConfig
from secateur.recovery import RecoverConfig
from secateur.runs.recipe import Recipe, load_recipe, parse_recipe

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def test_defaults_are_those_of_the_commands() -> None:
    recipe = parse_recipe("model: m\nprune:\nrecover: {}\n")
    assert recipe.prune == PruneConfig()
    assert recipe.recover == RecoverConfig()
    assert recipe.evaluate.data == ["pydocs"]
    assert recipe.directory == Path("runs/run")


def test_a_stage_is_left_out_with_its_section() -> None:
    recipe = parse_recipe("model: m\n")
    assert recipe.prune is None
    assert recipe.recover is None


def test_what_stands_once_goes_into_all_sections() -> None:
    text = "model: m\nseed: 7\ndtype: float32\ndevice: cpu\nprune: {ratio: 0.3}\nrecover: {seed: 8}\n"
    recipe = parse_recipe(text)
    assert recipe.prune is not None and recipe.recover is not None
    assert (recipe.prune.seed, recipe.recover.seed, recipe.evaluate.seed) == (7, 8, 7)
    for section in (recipe.prune, recipe.recover, recipe.evaluate):
        assert (section.dtype, section.device) == ("float32", "cpu")


def test_python_may_build_a_recipe() -> None:
    recipe = Recipe(model="m", seed=7, prune={"ratio": 0.3})
    assert recipe.prune is not None
    assert (recipe.prune.ratio, recipe.prune.seed) == (0.3, 7)


def test_a_cut_follows_the_search_on_its_text() -> None:
    recipe = parse_recipe("model: m\nseed: 4\nsearch: {ratio: 0.3, calibration: notes.txt, samples: 8}\n")
    assert recipe.prune is not None
    assert (recipe.prune.data, recipe.prune.windows, recipe.prune.seed) == ("notes.txt", 8, 4)
    python = Recipe(model="m", search=SearchConfig(samples=8), prune={"importance": "taylor"})
    assert python.prune is not None
    assert (python.prune.windows, python.prune.importance) == (8, "taylor")


def test_the_teacher_may_be_the_original() -> None:
    recipe = parse_recipe("model: some/model\nrecover: {teacher: original}\n")
    assert recipe.recover is not None
    assert recipe.recover.teacher == "some/model"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: m\nprun:\n  ratio: 0.2\n", "r.yaml, line 2: prun: unknown key; did you mean prune?"),
        ("model: m\nsearch:\nprune: {ratio: 0.3}\n", "the search decides prune.ratio; leave it out"),
        ("model: m\nsearch:\nprune: {compensate: false}\n", "leave out prune.compensate"),
        ("model: m\nprune:\n  ratoi: 0.2\n", "r.yaml, line 3: prune.ratoi: unknown key; did you mean ratio?"),
        ("model: m\nevaluate:\n  - pydocs\n", "r.yaml, line 2: evaluate: "),
        ("model: m\nxyz: 1\n", "r.yaml, line 2: xyz: unknown key; known are dtype, "),
        ("model: m\nprune:\n  ratio: 1.5\n", "r.yaml, line 3: prune.ratio: Input should be less than 1, not 1.5"),
        ("model: m\nprune:\n  freeze: [0, x]\n", "r.yaml, line 3: prune.freeze.1: Input should be a valid integer"),
        ("prune:\n  ratio: 0.5\n", "r.yaml: model: Field required"),
        ("model: m\nprune: {ratio: 0.2\n", "r.yaml, line 3: not valid YAML"),
        ("model: m\nprune:\n  ratio: 0.2\n  ratio: 0.3\n", "r.yaml, line 4: prune.ratio is given twice"),
        ("just text", "r.yaml is not a recipe"),
        ("[1, 2]: x\n", "r.yaml, line 1: not valid YAML"),
        ("", "r.yaml: model: Field required"),
        ("model: m\nevaluate: {adapter: x}\n", "r.yaml: evaluate.adapter is for the command; a run measures"),
        ("model: m\nevaluate: {perplexity: false}\n", "evaluate.perplexity is for the command; the report of a run"),
        ("model: m\nevaluate: {limit: 3}\n", "limit is about tasks and none is named"),
        ("model: m\nsparsify:\nrecover: {method: full}\n", "method full would fill the model's zeros"),
        ("model: m\nname: a/b\n", "r.yaml, line 2: name: "),
        ("model: m\nname: ..\n", "r.yaml, line 2: name: "),
        ("model: 2020-13-45\n", "r.yaml: not valid YAML, "),
        ("model: \x01\n", "r.yaml: not valid YAML, "),
        (
            "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 'x'}]\n" for n in range(6)),
            "r.yaml, line 6: not valid YAML, it stands for more than 20,000 values",
        ),
    ],
)
def test_a_mistake_is_one_line_that_says_where(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_recipe(text, "r.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: m\nseed: true\n", "r.yaml, line 2: seed: Input should be a number, not True"),
        ("model: m\nprune:\n  ratio: off\n", "r.yaml, line 3: prune.ratio: Input should be a number, not False"),
        ("model: m\nprune:\n  freeze: [0, yes]\n", "r.yaml, line 3: prune.freeze.1: Input should be a number"),
        ("model: m\nsearch:\n  samples: true\n", "r.yaml, line 3: search.windows: Input should be a number"),
        ("model: m\nsparsify: {seed: true}\n", "r.yaml, line 2: sparsify.seed: Input should be a number"),
        ("model: m\nrecover:\n  lr: true\n", "r.yaml, line 3: recover.lr: Input should be a number"),
        ("model: m\nevaluate: {limit: true}\n", "r.yaml, line 2: evaluate.limit: Input should be a number"),
        ("model: m\nsamples: {max_new_tokens: true}\n", "samples.max_new_tokens: Input should be a number"),
        ("longrange: {task: listops, prepare: {train: true}}\n", "longrange.prepare.train: Input should be a number"),
        (
            "longrange:\n  task: listops\n  options:\n    training: {batch_size: true}\n",
            "r.yaml, line 4: longrange.options.training.batch_size: Input should be a number",
        ),
        (
            "longrange:\n  task: listops\n  train:\n    seed: true\n",
            "r.yaml, line 4: longrange.train.seed: Input should be a number",
        ),
    ],
)
def test_true_and_false_are_no_numbers(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_recipe(text, "r.yaml")
    assert str(caught.value).startswith("r.yaml") and message in str(caught.value)
    parse_recipe("model: m\ntrust_remote_code: true\nevaluate: {speed: false}\n")


def test_all_refused_values_are_named() -> None:
    with pytest.raises(InputError, match=r"prune.ratio.*; .*recover.lr"):
        parse_recipe("model: m\nprune: {ratio: 2}\nrecover: {lr: -1}\n")


def test_a_refused_value_that_is_handed_down_is_named_once() -> None:
    with pytest.raises(InputError) as caught:
        parse_recipe("model: m\nprune:\nseed: x\n", "r.yaml")
    assert str(caught.value).count("seed") == 1
    assert str(caught.value).startswith("r.yaml, line 3: seed: ")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml does not exist"):
        load_recipe(tmp_path / "none.yaml")


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.name)
def test_the_examples_are_valid(file: Path) -> None:
    recipe = load_recipe(file)
    assert recipe.longrange.settled if isinstance(recipe, LongRangeRecipe) else recipe.model


def test_how_rows_are_read_is_said_once() -> None:
    recipe = parse_recipe(
        "model: smollm2-135m\nchat_template: alpaca\n"
        "search: {text_column: body}\nprune: {}\nrecover: {data: 'a.jsonl:0.7,b.txt:0.3', chat_template: model}\n"
        "evaluate: {data: [pydocs, 'a.jsonl:0.7', 'b.txt:0.3']}\n"
    )
    assert isinstance(recipe, Recipe) and recipe.search and recipe.prune and recipe.recover
    assert (recipe.prune.chat_template, recipe.recover.chat_template) == ("alpaca", "model")
    assert recipe.prune.text_column == "body" and recipe.recover.text_column is None
    assert recipe.evaluate.data == ["pydocs", "a.jsonl:0.7,b.txt:0.3"]
    assert {"a.jsonl", "b.txt"} <= {*recipe.inputs}
