"""Weights of classes, and precision."""

import pytest
import torch

from histofuse.core.errors import InputError
from histofuse.training.fitting.recipe import (
    compute_class_weights,
    resolve_precision,
)


def test_class_weights_are_inverse_frequency_and_zero_for_an_absent_class():
    labels = torch.tensor([0, 1, 1, 1, 1, 1, 1, 1])
    assert compute_class_weights(labels, 2).tolist() == pytest.approx([4, 4 / 7])
    assert compute_class_weights(labels, 3).tolist() == pytest.approx([8 / 3, 8 / 21, 0])


def test_fp16_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="fp16, but there is no GPU"):
        resolve_precision("fp16")
    assert resolve_precision("auto") in ("fp32", "bf16")


def test_auto_keeps_to_the_instructions_that_pytorch_may_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert resolve_precision("auto") == "bf16"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert resolve_precision("auto") == "fp32"
