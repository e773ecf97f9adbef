"""The model card of a run of learned sparse attention: `README.md` beside its weights."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from secateur.files import add_to_mark, is_marked, write_text
from secateur.files.result_files import CARD
from secateur.handover.lineage import version
from secateur.handover.plain import markdown, shared_command

logger = logging.getLogger(__name__)

TASK = "text-classification"


def write_card(directory: Path, results: Mapping[str, Any], command: str) -> None:
    """Write a run's card, unless another one stands there.

    Args:
        directory: of the run.
        results: the content of `results.json`.
        command: that repeats it.

    Raises:
        OutputError: it cannot be written.
    """
    file = directory / CARD
    if (file.exists() or file.is_symlink()) and not is_marked(directory, CARD):
        logger.info("%s is left as it is: secateur did not write it", file)
        return
    add_to_mark(directory, [CARD])
    write_text(file, card_text(results, command))


def card_text(results: Mapping[str, Any], command: str) -> str:
    """The card. Arguments as `write_card`."""
    accuracy, examples, task = results["accuracy"], results["test_examples"], results["task"]
    tested = f"{task} (Long Range Arena), test split, {examples:,} examples"
    title = f"{task}, learned sparse attention"
    data = ModelCardData(
        library_name="secateur",
        pipeline_tag=TASK,
        tags=["secateur", "sparse-attention", "long-range-arena"],
        model_name=title,
        eval_results=[
            EvalResult(
                task_type=TASK,
                dataset_type=task,
                dataset_name=tested,
                metric_type="accuracy",
                metric_value=round(accuracy, 4),
            )
        ],
    )
    text = f"""# {markdown(title)}

A classifier of long sequences, trained from nothing with secateur {version()}. {_attention(results)}

## Figures

| figure | value | measured on |
|---|---|---|
| accuracy | {accuracy:.2%} | {markdown(tested)} |
| always the commonest answer | {results["majority"]:.2%} | the same |

Trained for {results["steps"]:,} steps, seed {results["seed"]}. Nothing else was measured.

## How to load it

```python
from pathlib import Path

from secateur.longrange.evaluate import load_model

model, settings = load_model(Path("DIR"), "{task}")  # DIR: the directory of this card
```

## How to make it again

Files and directories are named without where they were.

```sh
{shared_command(command)}
```

## Licence

No licence is stated: it was trained from nothing, and is its maker's to license.
"""
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}"))


def _attention(results: Mapping[str, Any]) -> str:
    density = results["density"]
    if density is None:
        return "Its attention is dense."
    size, step = results["block_size"], results["switched"]
    switched = "" if step is None else f" It was dense before step {step:,}."
    return f"Its attention is sparse: {density:.1%} of the blocks of {size} tokens are computed.{switched}"
