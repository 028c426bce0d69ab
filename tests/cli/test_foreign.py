"""Names from elsewhere are answered with ours; misspelt ones with the nearest."""

from __future__ import annotations

import dataclasses
import re

import pytest

from tl_jax import methods
from tl_jax.cli import compare, finetune, predict
from tl_jax.cli.flags import FLAGS
from tl_jax.cli.foreign import RENAMED, UNNEEDED, refusal


def answer(*arguments: str) -> str | None:
    return refusal(arguments, "finetune", finetune.TAKES)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--learning_rate", "--learning_rate is --lr here"),
        ("--learning-rate=3e-5", "--learning-rate is --lr here"),
        ("--num_train_epochs", "--num_train_epochs is --epochs here"),
        ("--output_dir", "--output_dir is --out here"),
        ("--per_device_train_batch_size", "is --batch-size (of a whole step, on all devices together) here"),
        ("--model_name_or_path", "is --model here"),
        ("--train_file", "is --data here"),
        ("--validation_file", "is --eval-data (scored once, at the end) here"),
        ("--gradient_accumulation_steps", "is --accumulate (it cuts --batch-size into parts) here"),
        ("--warmup_ratio", "is --warmup (100 is steps, 6% a share of them) here"),
        ("--bf16", "--bf16 is --precision bfloat16 here"),
        ("--lr_scheduler_type", "is --schedule here"),
        ("--max_grad_norm", "is --clip here"),
        ("--max_steps", "is --steps here"),
        ("--max_seq_length", "is --max-length here"),
        ("--opt", "--opt is --optimizer here"),
        ("--sched", "--sched is --schedule here"),
        ("--lr-base", "--lr-base is --lr here"),
        ("--clip-grad", "--clip-grad is --clip here"),
        ("-b", "-b is --batch-size (of a whole step, on all devices together) here"),
        ("-lr", "-lr is --lr here"),
        ("--batch_size", "--batch_size is --batch-size here"),
        ("--LR", "--LR is --lr here"),
        ("--do_train", "--do_train is not needed: the command says what is done"),
        ("--epoch", "--epoch is not an option of finetune; did you mean '--epochs'"),
        ("--qqqq", "--qqqq is not an option of finetune; `tl-jax finetune --help` lists them"),
        ("--format", "--format is not an option of finetune"),
        ("--methods", "--methods is not an option of finetune"),
    ],
)
def test_answer(given: str, said: str) -> None:
    found = answer("--model", "x", given, "3")
    assert found is not None
    assert said in found


def test_an_option_of_another_command() -> None:
    assert refusal(["run", "--lr", "3"], "predict", predict.TAKES) == "--lr is not an option of predict"
    said = refusal(["run", "--output_dir", "3"], "predict", predict.TAKES)
    assert said == "--output_dir is not an option of predict (--out is what other commands call it)"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--lr", "3", "--batch-size=16", "-h", "--help"],
        ["--patience", "-1"],
        ["-", "a text - with a dash", "- and another"],
        ["--", "--learning_rate"],
        [],
    ],
)
def test_what_is_ours_or_no_option_passes(arguments: list[str]) -> None:
    assert answer(*arguments) is None


def test_the_tables_are_sound() -> None:
    names = [name for table in (RENAMED, UNNEEDED) for words in table.values() for name in words.split()]
    assert len(set(names)) == len(names)
    # What `convert` stores, and what people ask `finetune` to compute in: that is --precision.
    assert {f"--{name}" for name in names} & set(FLAGS) == {"--dtype"}, "a foreign name is one of ours"
    assert refusal(["--dtype", "bf16"], "finetune", finetune.TAKES) == "--dtype is --precision bfloat16 here"
    for ours in RENAMED:
        assert ours.partition(" ")[0].rstrip(",") in FLAGS


def test_parameters_of_methods_exist() -> None:
    named = [ours.removeprefix("--method ") for ours in RENAMED if ours.startswith("--method ")]
    assert named
    for name, parameter in (re.match(r"(\w+):(\w+)=", method).groups() for method in named):
        assert parameter in {field.name for field in dataclasses.fields(getattr(methods, name))}


def test_one_of_something_where_several_are_taken() -> None:
    said = refusal(["--method", "probe"], "compare", compare.TAKES)
    assert said == "--method is not an option of compare; did you mean '--methods'?"
    assert refusal(["--seed", "1"], "compare", compare.TAKES) == (
        "--seed is not an option of compare; did you mean '--seeds'?"
    )
