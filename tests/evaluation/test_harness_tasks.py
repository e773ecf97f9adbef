"""Tasks of local files on tiny models: the scores against a count by hand, settings, and what is refused."""

import importlib.util
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from peft import LoraConfig, get_peft_model
from pydantic import ValidationError

from secateur.errors import DataError, InputError, SecateurError
from secateur.evaluation import EvaluateConfig, TaskScore, compare_models, evaluate, load_tasks, measure_tasks
from secateur.evaluation.task_files import read_task_files
from secateur.models import attach_adapter, save
from secateur.pruning import prune

Add = Callable[..., Path]


@pytest.fixture
def add_task(task_directory: Path) -> Callable[..., Path]:
    """Write another task that includes `sums`, with lines of its own."""

    def add(name: str, *lines: str, include: str = "include: sums.yaml\n") -> Path:
        file = task_directory / f"{name}.yaml"
        file.write_text(f"task: {name}\n{include}" + "".join(f"{line}\n" for line in lines))
        return file

    return add


def config(directory: Path, *tasks: str, **options: Any) -> EvaluateConfig:
    return EvaluateConfig(
        tasks=tasks or ["sums"], include_path=str(directory), perplexity=False, speed=False, **options
    )


def scores(model: Any, tokenizer: Any, wanted: EvaluateConfig) -> dict[str, TaskScore]:
    return measure_tasks(model, tokenizer, load_tasks(wanted), "tiny")


def refused(directory: Path, *tasks: str, kind: type[SecateurError] = InputError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        load_tasks(config(directory, *tasks, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def log_probability(model: Any, tokenizer: Any, context: str, answer: str) -> float:
    """Of an answer's tokens after a context, one by one."""
    start = len(tokenizer(context)["input_ids"])
    ids = torch.tensor([tokenizer(context + answer)["input_ids"]])
    with torch.no_grad():
        log_probabilities = model(ids).logits[0].float().log_softmax(-1)
    return sum(log_probabilities[place - 1, ids[0, place]].item() for place in range(start, ids.shape[1]))


def test_scores_are_those_counted_by_hand(tiny_model, tiny_tokenizer, task_directory: Path) -> None:
    model = tiny_model()
    right = right_by_length = 0
    for question in map(json.loads, (task_directory / "sums.jsonl").read_text().splitlines()):
        context = f"Question: {question['question']}\nAnswer:"
        answers = question["choices"]
        found = [log_probability(model, tiny_tokenizer, context, f" {answer}") for answer in answers]
        by_length = [value / len(answer) for value, answer in zip(found, answers, strict=True)]
        right += found.index(max(found)) == question["answer"]
        right_by_length += by_length.index(max(by_length)) == question["answer"]
    score = scores(model, tiny_tokenizer, config(task_directory))["sums"]
    assert score.metrics == pytest.approx({"acc": right / 12, "acc_norm": right_by_length / 12})
    share = right / 12
    assert score.stderr["acc"] == pytest.approx((share * (1 - share) / 11) ** 0.5)
    assert (score.n, score.n_shot) == (12, 0)


def test_the_same_seed_gives_the_same_questions_and_numbers(tiny_model, tiny_tokenizer, task_directory: Path) -> None:
    model = tiny_model()
    one, again, other = (
        scores(model, tiny_tokenizer, config(task_directory, limit=5, num_fewshot=2, seed=seed))["sums"]
        for seed in (3, 3, 4)
    )
    assert one == again
    assert (one.n, one.n_shot) == (5, 2)
    assert one.prompts != other.prompts


def test_tasks_are_built_once_and_asked_again(tiny_model, tiny_tokenizer, task_directory: Path) -> None:
    tasks = load_tasks(config(task_directory, num_fewshot=1))
    first, second = (measure_tasks(tiny_model(), tiny_tokenizer, tasks, "tiny") for _ in range(2))
    assert first == second


@pytest.mark.slow
def test_an_uneven_model_and_an_adapter(tiny_model, tiny_tokenizer, task_directory: Path, tmp_path: Path) -> None:
    adapted = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=2.0, generator=torch.Generator().manual_seed(0))
    adapted.save_pretrained(tmp_path / "lora")
    uneven = tiny_model()
    prune(uneven, tiny_tokenizer, ratio=0.3, samples=2, seqlen=16, layer_importance_samples=1)
    assert len({layer.mlp.up_proj.out_features for layer in uneven.model.layers}) > 1
    save(uneven, tiny_tokenizer, tmp_path / "uneven")
    save(tiny_model(), tiny_tokenizer, tmp_path / "even")
    names = [str(tmp_path / "uneven"), str(tmp_path / "even")]
    wanted = config(task_directory, adapter=str(tmp_path / "lora"), dtype="float32", device="cpu")
    rows = compare_models(names, wanted)
    assert [row.name for row in rows] == ["uneven", "even", "even + lora"]
    in_memory = (uneven, tiny_model(), attach_adapter(tiny_model(), tmp_path / "lora"))
    assert [row.tasks for row in rows] == [scores(model, tiny_tokenizer, wanted) for model in in_memory]
    assert all(row.perplexity == {} for row in rows)
    json.dumps([row.to_dict() for row in rows], allow_nan=False)


def test_perplexity_beside_tasks_is_what_it_was(tiny_model, tiny_tokenizer, task_directory: Path) -> None:
    quick: dict[str, Any] = {"windows": 2, "seqlen": 32, "speed": False}
    alone = evaluate(tiny_model(), tiny_tokenizer, **quick)
    both = evaluate(tiny_model(), tiny_tokenizer, tasks=["sums"], include_path=str(task_directory), **quick)
    assert both.perplexity == alone.perplexity and alone.tasks == {}
    assert both.tasks["sums"].n == 12


def test_groups_and_tags(tiny_model, tiny_tokenizer, task_directory: Path, add_task: Add) -> None:
    add_task("more", "tag: sums_of_all", 'description: "Add. "')
    add_task("most", "tag: sums_of_all", "num_fewshot: 0")
    (task_directory / "both.yaml").write_text(
        "group: both\ntask: [sums, more]\naggregate_metric_list:\n  - {metric: acc, weight_by_size: true}\n"
    )
    (task_directory / "loose.yaml").write_text("group: loose\ntask: [sums, more]\n")
    found = scores(
        tiny_model(), tiny_tokenizer, config(task_directory, "both", "loose", "sums_of_all", limit=6, num_fewshot=1)
    )
    assert set(found) == {"both", "sums", "more", "most"}
    assert found["both"].n == 12
    mean = (found["sums"].metrics["acc"] + found["more"].metrics["acc"]) / 2
    assert found["both"].metrics == {"acc": pytest.approx(mean)}
    assert (found["most"].n_shot, found["more"].n_shot) == (0, 1)


def test_answers_that_are_written_and_whole_texts(
    tiny_model, tiny_tokenizer, task_directory: Path, add_task: Add
) -> None:
    written = [
        "doc_to_choice: null",
        'doc_to_text: "{{question}}"',
        'doc_to_target: "{{choices[0]}}"',
        "output_type: generate_until",
    ]
    until = 'generation_kwargs: {until: ["?"], max_gen_toks: 3}'
    add_task("write", *written, until, "metric_list: [{metric: exact_match}]")
    add_task(
        "text",
        'doc_to_text: ""',
        'doc_to_target: "{{question}}"',
        "output_type: loglikelihood_rolling",
        "metric_list: [{metric: bits_per_byte}]",
    )
    found = scores(tiny_model(), tiny_tokenizer, config(task_directory, "write", "text", limit=3))
    assert found["write"].metrics.keys() == {"exact_match"} and found["text"].metrics.keys() == {"bits_per_byte"}
    assert found["text"].metrics["bits_per_byte"] > 0
    assert found == scores(tiny_model(), tiny_tokenizer, config(task_directory, "write", "text", limit=3))


def test_lm_eval_keeps_quiet(tiny_model, tiny_tokenizer, task_directory: Path, capfd, caplog) -> None:
    with caplog.at_level(logging.INFO):
        scores(tiny_model(), tiny_tokenizer, config(task_directory))
    assert [record for record in caplog.records if record.name.startswith("lm_eval")] == []
    streams = capfd.readouterr()
    assert "it/s" not in streams.err and "100%" not in streams.err and streams.out == ""


def test_the_config_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValidationError, match="limit is about tasks and none is named"):
        EvaluateConfig(limit=3)
    with pytest.raises(ValidationError, match="the task piqa is named twice"):
        EvaluateConfig(tasks=["piqa", "boolq", "piqa"])


def test_the_extra_is_named_where_it_is_missing(task_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert refused(task_directory) == "tasks need a package; run: pip install 'secateur[tasks]'"


@pytest.mark.slow
def test_names_of_lm_eval(task_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One test, since reading lm-eval's 14,000 tasks takes seconds."""
    (task_directory / "broken.yaml").write_text("task: broken\n  doc: [\n")
    # The fault of a file of one's own, and a name that nothing of lm-eval's has, are found without its index.
    with monkeypatch.context() as without_index:
        without_index.setattr("lm_eval.tasks._index.TaskIndex.build", None)
        message = refused(task_directory, "sums", "helaswag", "broken")
        assert message.startswith(f"{task_directory}/broken.yaml, line 2: not valid YAML")
        message = refused(task_directory, "sums", "helaswag")
        assert message.startswith("there is no task helaswag; did you mean hellaswag?")

    def offline(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    message = refused(task_directory, "hellaswag", kind=DataError)
    assert message == (
        "hellaswag is not in the cache (no network); give a task of local files with include_path= instead, or unset "
        "HF_HUB_OFFLINE"
    )
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", offline)
    monkeypatch.setattr("secateur.evaluation.harness.require_hub", lambda: None)
    message = refused(task_directory, "mmlu", kind=DataError)
    assert message.startswith("cais/mmlu of the task mmlu_")
    assert "cannot be fetched from the Hugging Face hub (no network)" in message


def test_what_is_there_to_be_included_is_no_task(task_directory: Path, add_task: Add) -> None:
    (task_directory / "common.yaml").write_text("num_fewshot: 0\n")
    add_task("next", include="include: [sums.yaml, common.yaml]\n")
    assert set(read_task_files(task_directory).tasks) == {"sums", "next"}
    assert read_task_files(task_directory).tasks["next"].config["num_fewshot"] == 0


CODE = "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\ndef keep(docs): return docs\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("process_docs: !function code.keep", "process_docs would run the Python function code.keep"),
        (
            "metric_list: [{metric: !function code.keep}]",
            "metric_list.0.metric would run the Python function code.keep",
        ),
        ("class: !function code.keep", "class would run the Python function code.keep"),
        ("use_prompt: code.yaml:mine", "use_prompt would run code"),
        ("unsafe_code: true", "unsafe_code would run code"),
        ("metric_list: [{metric: ./code.py, hf_evaluate: true}]", "hf_evaluate would run a program from the hub"),
        ("dataset_kwargs: {trust_remote_code: true}", "dataset_kwargs.trust_remote_code would run code"),
        (
            "generation_kwargs: {custom_generate: some/repository, trust_remote_code: true}",
            "generation_kwargs.custom_generate would run code",
        ),
        ("dataset_path: ./code.py", "dataset_path ./code.py is neither a data set of the hub nor json, csv,"),
        ("dataset_path: pandas", "dataset_path pandas is neither a data set of the hub nor json, csv, parquet or text"),
    ],
)
def test_nothing_in_a_file_runs_code(task_directory: Path, add_task: Add, line: str, message: str) -> None:
    (task_directory / "code.py").write_text(CODE)
    (task_directory / "code.yaml").write_text("prompts: {mine: '{{question}}'}\n")
    file = add_task("sly", line)
    found = refused(task_directory, "sly")
    assert found.startswith(f"{file}: ") and message in found
    assert found.endswith("pass trust_remote_code=True if you trust it")
    assert not (task_directory / "code.ran").exists()
    load_tasks(config(task_directory, "sums"))  # does not mind what is not asked for


def test_code_in_a_group_or_an_include_is_refused_as_well(task_directory: Path, add_task: Add) -> None:
    (task_directory / "code.py").write_text(CODE)
    (task_directory / "base.yaml").write_text("process_docs: !function code.keep\n")
    add_task("sly", include="include: [sums.yaml, base.yaml]\n")
    assert "would run the Python function" in refused(task_directory, "sly")
    (task_directory / "all.yaml").write_text("group: all\ntask: [sums, sly]\n")
    assert "sly.yaml: process_docs would run" in refused(task_directory, "all")
    (task_directory / "inline.yaml").write_text("group: inline\ntask: [{task: sums, dataset_path: ./code.py}]\n")
    assert "dataset_path ./code.py" in refused(task_directory, "inline")
    assert not (task_directory / "code.ran").exists()


def test_trusted_code_runs(tiny_model, tiny_tokenizer, task_directory: Path, add_task: Add) -> None:
    (task_directory / "code.py").write_text(CODE)
    add_task("open", "process_docs: !function code.keep")
    assert scores(tiny_model(), tiny_tokenizer, config(task_directory, "open", trust_remote_code=True))["open"].n == 12
    assert (task_directory / "code.ran").exists()


def test_a_template_does_not_reach_python(tiny_model, tiny_tokenizer, task_directory: Path, add_task: Add) -> None:
    escape = "{{ question.__class__.__mro__[1].__subclasses__() }}"
    add_task("sly", f'doc_to_text: "{escape}"')
    message = refused(task_directory, "sly")
    assert "sly.yaml: the task sly cannot be built: SecurityError" in message


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("doc_to_txt: x",), "doc_to_txt: unknown key; did you mean doc_to_text?"),
        (("metric_list: [{metric: ac}]",), "lm-eval has no metric ac; did you mean acc?"),
        (("metric_list: [{metric: acc, aggregation: meen}]",), "lm-eval has no aggregation meen; did you mean mean?"),
        (("metric_list: [acc]",), "metric_list.0: Input should be a mapping, not 'acc'"),
        (("metric_list: []",), "metric_list: List should have at least 1 item"),
        (("metric_list: [{aggregation: mean}]",), "metric_list.0.metric: Field required"),
        (("metric_list: [{metric: acc, aggregation: [mean]}]",), "lm-eval has no aggregation ['mean']"),
        (("num_fewshot: -3",), "num_fewshot: Input should be greater than or equal to 0, not '-3'"),
        (("num_fewshot: 2000000000",), "num_fewshot: Input should be less than or equal to 1000, not '2000000000'"),
        (("num_fewshot: true",), "num_fewshot: Input should be a valid integer, not 'True'"),
        (("repeats: 0",), "repeats: Input should be greater than or equal to 1"),
        (("filter_list: []",), "filter_list: List should have at least 1 item"),
        (("filter_list: [{name: x, filter: []}]",), "filter_list.0.filter: List should have at least 1 item"),
        (("tag: {a: b}",), "tag.constrained-str: Input should be a valid string"),
        (("test_split: ''",), "test_split: String should have at least 1 character"),
        (("generation_kwargs: {max_gen_toks: 1000000000}",), "generation_kwargs.max_gen_toks: Input should be less"),
        (("generation_kwargs: {tempretaure: 1}",), "generation_kwargs.tempretaure: Extra inputs are not permitted"),
        (("dataset_kwargs: {}",), "dataset_path json needs dataset_kwargs with data_files"),
        (("dataset_kwargs: [x]",), "dataset_kwargs is not a mapping"),
        (("doc_to_text: '{{ question * 100001 }}'",), "doc_to_text: it multiplies by more than 100,000"),
        (("output_type: guess",), "the task odd cannot be built: ValueError, Got invalid output_type 'guess'"),
        (("doc_to_text: '{{ nothing }}'",), "the task odd cannot be built: UndefinedError, 'nothing' is undefined"),
        (("test_split: train",), "the task odd cannot be built: KeyError"),
    ],
)
def test_what_is_not_well_made_is_named(
    task_directory: Path, add_task: Add, lines: tuple[str, ...], message: str
) -> None:
    file = add_task("odd", *lines)
    found = refused(task_directory, "odd")
    assert found.startswith(f"{file}: ") and message in found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("group: odd\ntask: []\n", "task: a group needs a list of tasks"),
        ("group: odd\ntask: [3]\n", "task: a group holds names of tasks"),
        ("group: odd\ntask: [{task: sums, num_fewshot: -1}]\n", "num_fewshot: Input should be greater"),
        ("task: 3\n", "the name of its task is not a text"),
        ("task: odd\ninclude: 3\n", "include: give a file, or a list of files"),
        ("task: odd\ninclude: /dev/zero\n", "/dev/zero is no ordinary file"),
        ("task: odd\nmetadata: &a [*a]\n", "line 2: not valid YAML, an alias stands for the value that it is part of"),
        ("task: odd\nprocess_docs: !function [x]\n", "line 2: not valid YAML, !function is not followed by a name"),
    ],
)
def test_a_file_of_ones_own_is_refused_for_its_own_fault(task_directory: Path, content: str, message: str) -> None:
    file = task_directory / "odd.yaml"
    file.write_text(content)
    found = refused(task_directory, "odd")
    assert message in found and found.count("there is no task") == 0
    load_tasks(config(task_directory, "sums"))  # does not mind what is not asked for


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("[g]", "[sums]", "the group g holds itself"),
        ("[sums, {task: g}]", "[sums]", "the group g holds itself"),
        ("[{group: inner, task: [g]}]", "[sums]", "the group g holds itself"),
        ("[{group: g, task: [sums]}]", "[sums]", "the group g holds itself"),
        ("[h]", "[sums, g]", "the group g holds itself through h"),
        ("[h]", "[h]", "the group h holds itself"),
    ],
)
def test_a_group_that_holds_itself_is_named(task_directory: Path, first: str, second: str, message: str) -> None:
    (task_directory / "g.yaml").write_text(f"group: g\ntask: {first}\n")
    (task_directory / "h.yaml").write_text(f"group: h\ntask: {second}\n")
    found = refused(task_directory, "g")
    assert found == f"{task_directory / message.split()[2]}.yaml: {message}"


def test_a_task_in_a_group_inside_a_group_is_checked_as_any(task_directory: Path, add_task: Add) -> None:
    add_task("odd", "process_docs: !function odd.change")
    (task_directory / "g.yaml").write_text("group: g\ntask: [{group: inner, task: [sums, odd]}]\n")
    assert "would run the Python function" in refused(task_directory, "g")
    (task_directory / "g.yaml").write_text("group: g\ntask: [{group: inner, task: [sums]}]\n")
    assert load_tasks(config(task_directory, "g")).loaded


def test_what_is_included_is_read_once(task_directory: Path) -> None:
    """Files that include the next one many times would be read more often than anything ends."""
    for number in range(15):
        names = ", ".join([f"level{number + 1}.inc"] * 9)
        (task_directory / f"level{number}.inc").write_text(f"include: [{names}]\n")
    (task_directory / "level15.inc").write_text((task_directory / "sums.yaml").read_text())
    (task_directory / "deep.yaml").write_text("task: deepest\ninclude: level0.inc\n")
    assert read_task_files(task_directory).tasks["deepest"].config["dataset_path"] == "json"


def test_a_missing_data_set_path(task_directory: Path, add_task: Add) -> None:
    add_task("bare", include="")
    assert "bare.yaml: dataset_path is missing; use json, csv, parquet or text" in refused(task_directory, "bare")


def test_data_files_are_there_and_hold_something(task_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = task_directory / "sums.jsonl"
    content = data.read_text()
    data.write_text("\n \n")
    assert "sums.jsonl is empty" in refused(task_directory, kind=DataError)
    data.unlink()
    message = refused(task_directory, kind=DataError)
    assert f"the data file sums.jsonl is not there; paths are below {task_directory} or" in message
    elsewhere = task_directory.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "sums.jsonl").write_text(content)
    monkeypatch.chdir(elsewhere)
    load_tasks(config(task_directory))


def test_a_question_that_fails_names_the_task(tiny_model, tiny_tokenizer, task_directory: Path) -> None:
    data = task_directory / "sums.jsonl"
    lines = data.read_text().splitlines()[:2]
    data.write_text("\n".join([*lines, json.dumps({"question": "None?", "choices": [], "answer": 0})]))
    tasks = load_tasks(config(task_directory))
    with pytest.raises(InputError, match="the task sums fails: ") as caught:
        measure_tasks(tiny_model(), tiny_tokenizer, tasks, "tiny")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_directory_is_checked(tmp_path: Path, task_directory: Path, add_task: Add) -> None:
    assert "is not a directory" in refused(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "holds no YAML file" in refused(tmp_path / "empty")
    (task_directory / "again.yaml").write_text((task_directory / "sums.yaml").read_text())
    assert "both name the task sums" in refused(task_directory)
    (task_directory / "again.yaml").unlink()
    add_task("round", include="include: round.yaml\n")
    assert "round.yaml includes itself" in refused(task_directory, "nothing_like_it")
