"""What messages call an option, by who asked for the work."""

import pytest

import secateur.pruning
import secateur.recovery  # noqa: F401  # their options are known from here on
from secateur.errors import InputError
from secateur.wording import asked_by, worded


@pytest.mark.parametrize(
    ("shell", "python", "recipe"),
    [
        (
            "pass --no-compensate, or --zeros fill",
            'pass compensate=False, or zeros="fill"',
            "pass compensate: false, or zeros: fill",
        ),
        (
            "--ratio 0.3 is more than --max-rate leaves",
            "ratio=0.3 is more than max_rate= leaves",
            "ratio: 0.3 is more than max_rate leaves",
        ),
        ("--layers 0:3 is outside", 'layers="0:3" is outside', "layers: 0:3 is outside"),
        ("leave out --keep-halves", "leave out keep_halves=True", "leave out keep_halves: true"),
        ("use --device cpu, no --device-map", 'use device="cpu", no device_map=', "use device: cpu, no device_map"),
        ("it is full; pass --overwrite", "it is full; pass overwrite=True", "it is full; pass overwrite=True"),
        *[(text, text, text) for text in ("run: pip install --no-deps x", "see secateur merge --help", "--unknown 3")],
    ],
)
def test_options_are_spelt_as_whoever_asked_writes_them(shell: str, python: str, recipe: str) -> None:
    assert (worded(shell), str(InputError(shell))) == (python, python)
    with asked_by("recipe"):
        assert worded(shell) == recipe
    with asked_by("command line"):
        assert str(InputError(shell)) == shell
        with asked_by("recipe"):
            assert worded("pass --overwrite, or --zeros keep") == "pass --overwrite, or zeros: keep"


def test_messages_of_one_call_do_not_change_those_of_the_next() -> None:
    with pytest.raises(ZeroDivisionError), asked_by("command line"):
        1 / 0  # noqa: B018
    assert worded("raise --seqlen") == "raise seqlen="
