"""What a run is taken out as: classes of transformers, modules of sentence-transformers, a model to start from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tl_jax as tl
from tests import tiny as files
from tests.answers import TEXTS, close, probabilities
from tests.tiny import HEAD, Tiny


def test_a_pooler_classifier_is_exported_to_transformers(tiny: Tiny, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    settings = files.settings(HEAD, epochs=1)
    run = tl.finetune(tiny.pooler, tiny.train, out=tmp_path / "run", quiet=True, **settings)
    folder = run.export(tmp_path / "exported")
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert list(theirs.config.id2label.values()) == ["account", "billing", "delivery"]
    texts = [text for text, _ in files.messages(8, seed=2)]
    inputs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        shares = torch.softmax(theirs(**inputs).logits, -1).numpy()
    ours = [list(answer["probabilities"].values()) for answer in run.predict(texts)]
    np.testing.assert_allclose(ours, shares, atol=2e-5)
    with pytest.raises(tl.InputError, match="has something in it"):
        run.export(folder)
    with pytest.raises(
        tl.InputError, match="over the model's own pooler: --format hf holds it, or fine-tune with --po"
    ):
        run.export(tmp_path / "other", format="sentence-transformers")
    with pytest.raises(tl.InputError, match="unknown format 'hff'; did you mean 'hf'"):
        run.export(tmp_path / "other", format="hff")
    assert not (tmp_path / "other").exists()
    run.export(folder, format="hf", overwrite=True)


@pytest.mark.parametrize("method", ["lora:rank=4", "probe"])
def test_a_mean_pooled_classifier_is_exported_to_sentence_transformers(
    method: str, tuned: Callable[[str], Any], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    run = tuned(method)
    with pytest.raises(
        tl.InputError, match="classifier over mean pooling: --format sentence-transformers holds it, or fi"
    ):
        run.export(tmp_path / "exported", format="hf")
    folder = run.export(tmp_path / "exported", format="sentence-transformers")
    modules = json.loads((folder / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Dense"]
    assert json.loads((folder / "1_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"] is True
    texts = [text for text, _ in files.messages(8, seed=2)]
    inputs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    dense = load_file(folder / "2_Dense" / "model.safetensors")
    with torch.no_grad():  # what sentence-transformers does with these modules
        hidden = AutoModel.from_pretrained(folder).eval()(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        pooled = (hidden * mask).sum(1) / mask.sum(1)
        shares = torch.softmax(pooled @ dense["linear.weight"].T + dense["linear.bias"], -1).numpy()
    ours = [list(answer["probabilities"].values()) for answer in run.predict(texts)]
    np.testing.assert_allclose(ours, shares, atol=2e-5)
    model, variables = tl.load(folder)
    assert model.info.labels == run.labels
    np.testing.assert_allclose(probabilities(model, variables, texts), shares, atol=2e-5)


def test_a_fine_tuned_model_is_a_model_to_start_from(tuned: Callable[[str], Any], tiny: Tiny, tmp_path: Path) -> None:
    """Exported, its head comes along where the labels are the same, and is replaced where they are not."""
    run = tuned("probe")
    folder = run.export(tmp_path / "exported")
    # A step that moves nothing: the run answers as the one it came from.
    same = tl.finetune(folder, tiny.train, method=HEAD, steps=1, lr=1e-12, out=tmp_path / "same", quiet=True)
    assert close(same.predict(TEXTS), run.predict(TEXTS), 1e-5)
    other = [(text, label.upper()) for text, label in files.messages(60)]
    fresh = tl.finetune(folder, other, method=HEAD, steps=1, out=tmp_path / "other", quiet=True)
    assert fresh.labels == ("ACCOUNT", "BILLING", "DELIVERY")
