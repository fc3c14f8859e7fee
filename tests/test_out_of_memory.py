"""When memory runs out, a line names a batch size that would fit, and that one does fit."""

import errno
import os
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

import sdclr
from sdclr.cli.endings import _explained
from sdclr.encoders import EncoderConfig, save_encoder
from sdclr.encoders.create import create_encoder
from sdclr.errors import OutOfMemoryError
from sdclr.features.extract import encode_batch
from sdclr.out_of_memory import enough_memory, is_out_of_memory

CPU = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes")


@pytest.mark.parametrize(
    ("error", "means"),
    [
        (MemoryError(), True),
        (CPU, True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("not enough memory: you tried to allocate 8 bytes"), True),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), True),
        (OutOfMemoryError("x"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError(errno.ENOSPC, "no space"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_means_it(error, means):
    assert is_out_of_memory(error) is means
    said = _explained(error, ())
    assert ("out of memory" in said and "--batch-size" in said) is means or isinstance(
        error, (OutOfMemoryError, ValueError)
    )
    assert "\n" not in said


@pytest.mark.parametrize("error", [CPU, MemoryError("of 3 GB"), torch.OutOfMemoryError("CUDA out of memory.")])
def test_the_size_that_is_named_was_tried(error):
    class Hungry(nn.Module):
        def __init__(self):
            super().__init__()
            self.tried = []

        def forward(self, images):
            self.tried.append(len(images))
            if len(images) > 20:
                raise error
            return images.flatten(1)

    encoder = Hungry()
    with pytest.raises(OutOfMemoryError, match=r"out of memory with a batch of 100 images .*: give --batch-size 12$"):
        encode_batch(encoder, torch.zeros(100, 3, 2, 2, dtype=torch.uint8), torch.device("cpu"))
    assert encoder.tried == [100, 50, 25, 12]
    assert encode_batch(encoder, torch.zeros(12, 3, 2, 2, dtype=torch.uint8), torch.device("cpu")).shape == (12, 12)


def test_not_even_one_image_fits():
    def fails(_count):
        raise MemoryError

    with pytest.raises(OutOfMemoryError, match="not even one image fits"), enough_memory(8, probe=fails):
        fails(8)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"), enough_memory(8):
        raise RuntimeError("shapes")
    with pytest.raises(OutOfMemoryError, match=r"give --batch-size 4, or less$"), enough_memory(8, remedy="less"):
        raise CPU


SCRIPT = """
import resource, sys
import torch
torch.set_num_threads(1)
torch.backends.mkldnn.enabled = False  # where oneDNN gets no memory, it ends the process (docs/reliability.md)
import sdclr
from sdclr.cli import main
import sdclr.cli.carry_out, timm, pyarrow.parquet, sdclr.training.pretrain, sdclr.evaluation.embed, torch._dynamo
now = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmSize"))) * 1024
resource.setrlimit(resource.RLIMIT_AS, (now + int(sys.argv[1]) * 2**20, resource.RLIM_INFINITY))
main(sys.argv[2:])
"""


def limited(*options, mib):
    """Run the command with so much memory beyond what imports take: its exit code, and its last line."""
    command = [sys.executable, "-c", SCRIPT, str(mib), *options, "--device", "cpu"]
    alone = os.environ | {"MALLOC_ARENA_MAX": "1"}  # each further arena takes 64 MiB of addresses, whatever it holds
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=alone)
    assert "Traceback" not in done.stderr
    return done.returncode, ["", *done.stderr.strip().splitlines()][-1]  # a quick success says nothing


def named(line, batch):
    """The batch size that a line names instead of one that does not fit."""
    found = re.match(rf"error: out of memory with a batch of {batch:,} images .*: give --batch-size (\d+)", line)
    assert found, line
    return int(found[1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
@pytest.mark.parametrize("command", ["embed", "mine"])
def test_a_pass_with_little_memory_names_a_batch_that_fits(tmp_path, command):
    save_encoder(tmp_path, create_encoder(EncoderConfig(name="resnet20", width=8), 64))
    options = [command, "digits", "--encoder", str(tmp_path), "--workers", "0", "--amp", "none"]
    options += ["--out", str(tmp_path / "e.parquet")] if command == "embed" else ["--out", str(tmp_path / "mined")]
    options += ["--no-page", "--no-map"] if command == "mine" else []
    code, line = limited(*options, "--batch-size", "1297", mib=500)
    assert code == 1, line
    fits = named(line, 1297)
    assert fits in {1297 // 2**power for power in range(1, 11)}
    code, line = limited(*options, "--batch-size", str(fits), mib=500)
    assert code == 0, line


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_training_with_little_memory_names_half_of_the_batch(tmp_path):
    options = ["pretrain", "digits", "--views.image-size", "64", "--steps", "1", "--encoder.name", "resnet20"]
    options += ["--encoder.width", "8", "--amp", "none", "--threads", "1"]
    batch, ended = 256, 1
    for attempt in range(4):  # half of what does not fit need not fit, and says so again
        ended, line = limited(*options, "--run", str(tmp_path / str(attempt)), "--batch-size", str(batch), mib=1500)
        if not ended:
            break
        assert ended == 1, line
        assert named(line, batch) == batch // 2
        batch //= 2
    assert ended == 0
    assert batch < 256


def test_the_package_tells_the_error() -> None:
    assert issubclass(OutOfMemoryError, sdclr.InputError)
