"""One process or several."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from sdclr.data.sources import SubsetSource
from sdclr.errors import InputError
from sdclr.training.config import PretrainConfig
from sdclr.training.distributed import Processes, processes, resolve_device
from sdclr.training.opening import open_run


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "unknown device 'gpu': use cpu, cuda, cuda:1, … or auto"),
        ("meta", "runs on cpu and cuda, not on 'meta'"),
        ("cuda:99", "no CUDA device is to be had here for 'cuda:99'.*--device cpu or auto"),
    ],
)
def test_a_device_that_is_not_to_be_had_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_device(name)


def test_auto_takes_a_gpu_if_there_is_one() -> None:
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == torch.device("cpu")


def test_alone_every_question_has_its_own_answer() -> None:
    with processes("cpu") as place:
        assert place == Processes(0, 1, torch.device("cpu"))
        assert place.first
        assert place.broadcast("x") == "x"
        assert place.gather("x") == ["x"]
        assert place.any(3) == 3
        assert place.mean(torch.ones(2)).tolist() == [1, 1]
        place.barrier()
    assert not dist.is_initialized()


def test_a_digest_that_differs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Processes(1, 3, torch.device("cpu"))
    for digests, other in ((["a", "a", "b"], 2), (["b", "a", "a"], 1)):
        monkeypatch.setattr(Processes, "gather", lambda _, __, found=digests: found)
        with pytest.raises(InputError, match=f"the weights differ between process 0 and process {other} of 3: start"):
            place.check_alike("a", "the weights")
    monkeypatch.setattr(Processes, "gather", lambda _, value: [value] * 3)
    place.check_alike("a", "the weights")


def test_a_group_that_the_caller_made_is_used_and_kept(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        with processes("cpu") as place:
            assert (place.rank, place.world) == (0, 1)
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(("world", "accumulate"), [(3, 1), (4, 8), (16, 1), (2, 8)])
def test_a_batch_that_cannot_be_shared_equally_is_refused(
    few_digits: SubsetSource, tmp_path: Path, world: int, accumulate: int
) -> None:
    config = PretrainConfig(batch_size=16, accumulate=accumulate)
    with pytest.raises(InputError, match=f"a batch of 16 cannot be split into {accumulate} .* of {world} processes"):
        open_run(tmp_path, few_digits, config, Processes(0, world, torch.device("cpu")), None)
    open_run(tmp_path, few_digits, PretrainConfig(batch_size=16), Processes(0, 8, torch.device("cpu")), None)
