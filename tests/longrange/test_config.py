"""The YAML files of the tasks, and what is said about bad ones."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from secateur.errors import InputError
from secateur.longrange.config import TASK_NAMES, LongRangeConfig, ModelOptions, TrainingOptions, towers


def written(directory: Path, values: Any) -> Path:
    file = directory / "my.yaml"
    file.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
    return file


def of_image(**blocks: dict[str, Any]) -> dict[str, Any]:
    """The image task's values with others over them."""
    values = LongRangeConfig.of_task("image").model_dump()
    return {name: block | blocks.get(name, {}) for name, block in values.items()}


@pytest.mark.parametrize("task", TASK_NAMES)
def test_every_task_has_a_file_that_names_every_option(task: str) -> None:
    config = LongRangeConfig.of_task(task)
    assert config.model.model_fields_set == set(ModelOptions.model_fields)
    assert config.training.model_fields_set == set(TrainingOptions.model_fields)
    assert config.dataset.model_fields_set == {"train", "dev", "test"}


def test_the_tasks_have_the_published_sizes() -> None:
    listops, text, retrieval, image, pathfinder = (LongRangeConfig.of_task(task) for task in TASK_NAMES)
    assert (image.model.num_layers, image.model.num_head, image.model.head_dim) == (2, 2, 32)
    assert (image.model.transformer_dim, image.model.transformer_hidden_dim) == (64, 128)
    assert (image.model.block_size, image.model.density, image.model.num_blocks) == (32, 0.05, 32)
    assert (image.training.batch_size, image.training.learning_rate, image.training.warmup) == (256, 0.002, 175)
    assert (image.training.num_train_steps, image.training.skewness, image.training.distance) == (10000, 1.7, 1.3)
    assert (listops.model.num_layers, listops.model.max_seq_len) == (4, 2000)
    assert (listops.model.block_size, listops.model.density) == (64, 0.04)
    assert (retrieval.model.max_seq_len, retrieval.model.block_size, retrieval.model.density) == (4000, 64, 0.021)
    assert (text.model.max_seq_len, pathfinder.model.max_seq_len) == (4000, 1024)
    assert [towers(task) for task in TASK_NAMES] == [1, 1, 2, 1, 1]


def test_blocks_cover_a_length_that_they_do_not_divide() -> None:
    model = LongRangeConfig.of_task("listops").model
    assert model.num_blocks == 32
    cls = model.model_copy(update={"pooling_mode": "CLS", "max_seq_len": 2048})
    assert cls.num_blocks == 33


def test_a_file_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    config = LongRangeConfig.of_task("retrieval")
    assert LongRangeConfig.load(written(tmp_path, config.model_dump())) == config


def test_a_file_may_lie_over_a_task(tmp_path: Path) -> None:
    image = LongRangeConfig.of_task("image")
    config = LongRangeConfig.load(written(tmp_path, "model: {density: 0.1}\ndataset:\n"), over=image)
    assert config == image.overlaid({"model": {"density": 0.1}})
    assert config.model.density == 0.1
    assert config.training == image.training


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    file = written(tmp_path, "training: {learning_rate: 2e-4}\n")
    assert LongRangeConfig.load(file, over=LongRangeConfig.of_task("image")).training.learning_rate == 2e-4


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"model": {"densty": 0.1}}, "model.densty: unknown key; did you mean density?"),
        ({"training": {"banana": 1}}, "training.banana: unknown key; known are batch_size, learning_rate"),
        ({"model": {"density": 0}}, "model.density: Input should be greater than 0, not 0"),
        ({"model": {"density": 1.5}}, "model.density: Input should be less than or equal to 1, not 1.5"),
        ({"model": {"density": float("nan")}}, "model.density: "),
        ({"model": {"block_size": 4}}, "model.block_size: Input should be greater than or equal to 8, not 4"),
        ({"model": {"num_head": "two"}}, "model.num_head: Input should be a valid integer"),
        ({"model": {"num_head": True}}, "model.num_head: Input should be a number, not True"),
        ({"model": {"pooling_mode": "mean"}}, "model.pooling_mode: Input should be 'MEAN' or 'CLS', not 'mean'"),
        ({"model": {"dropout_prob": 1}}, "model.dropout_prob: Input should be less than 1, not 1"),
        ({"training": {"lr_decay": "step"}}, "training.lr_decay: Input should be 'linear', 'cosine' or 'none'"),
        ({"training": {"num_init_steps": 6000}}, "num_init_steps is 6000 and num_dense_train_steps 5000"),
        (
            {"training": {"num_init_steps": 20000, "num_dense_train_steps": 0}},
            "num_init_steps is 20000 and num_train_steps 10000",
        ),
        ({"training": {"num_dense_train_steps": 10001}}, "num_dense_train_steps is 10001 and num_train_steps 10000"),
        ({"dataset": {"train": 0}}, "dataset.train: Input should be greater than or equal to 1, not 0"),
    ],
)
def test_a_bad_value_is_one_line_that_names_file_and_key(
    tmp_path: Path, blocks: dict[str, dict[str, Any]], message: str
) -> None:
    file = written(tmp_path, of_image(**blocks))
    with pytest.raises(InputError) as caught:
        LongRangeConfig.load(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [1, 2\n", "line 2: not valid YAML"),
        ("a: b: c\n", "line 1: not valid YAML"),
        ("\x07", "not valid YAML"),
        ("when: 2026-99-99\n", "not valid YAML"),
        ("- 1\n", "is not a configuration: it must hold keys such as dataset, model, training"),
        ("", "is not a configuration"),
        ("model: {}\nmodel: {}\n", "line 2: model is given twice"),
        ("modell: {}\n", "modell: unknown key; did you mean model?"),
        ("model: 3\n", "model: Input should be a valid dictionary"),
        ("training: {batch_size: 1}\n", "model: Field required"),
    ],
)
def test_what_is_no_configuration_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        LongRangeConfig.load(written(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml cannot be read: No such file or directory; give a YAML file"):
        LongRangeConfig.load(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        LongRangeConfig.load(tmp_path)
    file = tmp_path / "latin.yaml"
    file.write_bytes("é: 1".encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8 text"):
        LongRangeConfig.load(file)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(InputError, match=r"there is no task imag; did you mean image\?"):
        LongRangeConfig.of_task("imag")


def test_bad_overrides_are_refused() -> None:
    image = LongRangeConfig.of_task("image")
    with pytest.raises(InputError, match=r"options: training\.skew: unknown key; did you mean skewness\?"):
        image.overlaid({"training": {"skew": 1}})
    with pytest.raises(InputError, match=r"options: training\.batch_size: .* not 0"):
        image.overlaid({"training": {"batch_size": 0}})
