from __future__ import annotations

import pytest
import torch

from wsseg import console
from wsseg.errors import RecipeError
from wsseg.training import precision
from wsseg.training.precision import accelerate_name, cpu_has_bfloat16, resolve_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(("has", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_cpu_gets_bfloat16_only_where_the_processor_has_it(monkeypatch, has, expected):
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: has)
    assert resolve_precision("auto", CPU) == expected


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float16")])
def test_gpu_gets_what_it_computes_natively(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert resolve_precision("auto", torch.device("cuda")) == expected


def test_other_devices_compute_in_float32():
    assert resolve_precision("auto", torch.device("mps")) == "float32"


def test_processor_is_asked_through_torch(monkeypatch):
    for flags, expected in [({"avx512_bf16": True}, True), ({"avx2": True}, False)]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flags=flags: flags, raising=False)
        for question in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            monkeypatch.setattr(torch.cpu, question, lambda: False, raising=False)
        assert cpu_has_bfloat16() is expected


def test_older_torch_is_asked_in_its_own_way(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert cpu_has_bfloat16()


def test_float16_on_a_cpu_is_refused():
    with pytest.raises(RecipeError, match="Allowed there: auto, float32, bfloat16"):
        resolve_precision("float16", CPU)


def test_emulated_bfloat16_is_honoured_with_a_warning(monkeypatch):
    warnings = []
    monkeypatch.setattr(console, "warning", warnings.append)
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    assert resolve_precision("bfloat16", CPU) == "bfloat16"
    assert "no bfloat16 instructions" in warnings[0]


def test_accelerate_is_told_in_its_own_words():
    assert [accelerate_name(p) for p in ("float32", "bfloat16", "float16")] == [
        "no",
        "bf16",
        "fp16",
    ]
