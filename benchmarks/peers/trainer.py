"""What a user would write with transformers' Trainer: fine-tune a BERT on labelled sentences, and print how it went.

python benchmarks/peers/trainer.py MODEL FOLDER --train full|head|last_layers --epochs N --lr RATE [--seed N]
python benchmarks/peers/trainer.py MODEL FOLDER --steps N [--precision bfloat16]

FOLDER holds train.jsonl and, but for `--steps`, dev.jsonl, lines of {"text", "label"}. The second form prints how many
examples a second it sees. Runs in an environment of its own (`make bench`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

LOGGED = 4  # steps from one line of the log to the next, as many as ours has of 200


class Sentences(Dataset):
    """Encoded once, padded by batch."""

    def __init__(self, file: Path, tokenizer) -> None:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        encoded = tokenizer([line["text"] for line in lines], truncation=True, max_length=256)
        self.rows = [
            {**{key: encoded[key][i] for key in encoded}, "labels": line["label"]} for i, line in enumerate(lines)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict:
        return self.rows[i]


class Pace(TrainerCallback):
    """Examples a second between the lines of the log, each of which waits for the device."""

    def __init__(self) -> None:
        self.mark = time.monotonic()
        self.paces: list[float] = []

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if "loss" in (logs or {}):
            now = time.monotonic()
            self.paces.append(LOGGED * args.per_device_train_batch_size / (now - self.mark))
            self.mark = now


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", choices=["full", "head", "last_layers"], default="full")
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--steps", type=int, default=-1)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=2)
    top = ("bert.encoder.layer.4.", "bert.encoder.layer.5.", "bert.pooler.", "classifier.")
    trained = {"full": ("",), "head": ("classifier.",), "last_layers": top}
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith(trained[args.train])

    def accuracy(outputs) -> dict:
        return {"accuracy": float((np.argmax(outputs.predictions, axis=-1) == outputs.label_ids).mean())}

    with tempfile.TemporaryDirectory() as out:
        settings = TrainingArguments(
            output_dir=out,
            num_train_epochs=args.epochs,
            max_steps=args.steps,
            bf16=args.precision == "bfloat16",
            per_device_train_batch_size=32,
            per_device_eval_batch_size=32,
            learning_rate=args.lr,
            eval_strategy="epoch" if args.steps < 0 else "no",
            logging_steps=LOGGED if args.steps > 0 else 500,
            save_strategy="no",
            report_to=[],
            seed=args.seed,
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=False,
        )
        trainer = Trainer(
            model=model,
            args=settings,
            train_dataset=Sentences(args.folder / "train.jsonl", tokenizer),
            eval_dataset=Sentences(args.folder / "dev.jsonl", tokenizer) if args.steps < 0 else None,
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=accuracy,
        )
        pace = Pace()
        if args.steps > 0:
            trainer.add_callback(pace)
        trainer.train()
        if args.steps > 0:
            used = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
            half = pace.paces[len(pace.paces) // 2 :]
            print(json.dumps({"examples_per_second": float(np.median(half)), "device_bytes": used}))
            return
        scored = [entry["eval_accuracy"] for entry in trainer.state.log_history if "eval_accuracy" in entry]
        print(json.dumps({"accuracy": scored[-1]}))


if __name__ == "__main__":
    main()
