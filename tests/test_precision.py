import pytest
import torch

from sdclr import precision
from sdclr.precision import autocast_dtype, device_name, multiplies_bfloat16

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.mark.parametrize(("amp", "expected"), [("none", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_what_is_asked_is_given(amp, expected):
    assert autocast_dtype(amp, CPU) == expected


@pytest.mark.parametrize(("fast", "expected"), [(True, torch.bfloat16), (False, None)])
def test_auto_takes_bfloat16_where_it_is_fast(monkeypatch, fast, expected):
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: fast and device == CPU)
    assert autocast_dtype("auto", CPU) == expected


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"amx_bf16": True}, True), ({"amx_bf16": False, "avx512_bf16": True}, False), ({"architecture": "arm"}, False)],
)
def test_a_cpu_needs_tiles(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert multiplies_bfloat16(CPU) is expected


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_needs_tensor_cores_of_ampere(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert multiplies_bfloat16(GPU) is expected


def test_the_processor_has_a_name():
    assert device_name(CPU)
