"""Checks and measurements for eleven minutes on one GPU, the most important first.

    benchmarks/gpu/lease --data runs/cifar10 --out docs/results/gpu --runs runs/gpu
    benchmarks/gpu/lease --data runs/cifar10 --out runs/lease --runs runs/gpu --device cpu --rehearse

There are three parts, each in a separate process with a time limit, so that a part that fails or hangs does not affect
the others:

- smoke (60 s): code that the tests do not run on a GPU: renderer, masks, number formats, compilation, SyncBN.
- speed (90 s): pairs per second and memory of ResNet-18 at 32 px, SDCLR and SimCLR (`speed.py`).
- learning (500 s): CIFAR-10-LT at full width, SimCLR and SDCLR with equal heads and as many epochs as fit into the
  time, then linear and few-shot probes. The paper trains 2,000 epochs and reports 75.55 and 82.00 % (All).

`lease.json` in OUT is written after each part and each check; `speed.json` has the speed. RUNS gets the runs, with
checkpoints of some 100 MB. Finished parts are not repeated. --rehearse does everything at about a hundredth of the
size, in minutes on a CPU.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

sys.path.append(str(Path(__file__).parents[1] / "speed"))

import numpy as np
import torch

from sdclr.data.sources import SubsetSource, digits
from sdclr.encoders import EncoderConfig
from sdclr.evaluation.config import EvaluateConfig, ProbeConfig
from sdclr.evaluation.evaluate import evaluate
from sdclr.files import write_json
from sdclr.longtail.published import paper_split
from sdclr.method import magnitude_masks
from sdclr.recipes import cifar_lt
from sdclr.training.config import PretrainConfig, Runtime
from sdclr.training.pretrain import pretrain
from sdclr.views.config import ViewConfig
from sdclr.views.parameters import draw_views
from sdclr.views.render import render

SECONDS: Final = {"smoke": 60, "speed": 90, "learning": 500}
"""Time limit of each part in seconds."""
PROBES: Final = 60
"""Seconds of the learning part that are reserved for the probes of both runs."""
SIMCLR_SHARE: Final = 0.47
"""SimCLR's share of the training time. SDCLR trains as many epochs, which take slightly longer."""


@dataclass(frozen=True)
class Lease:
    """The arguments of the command."""

    data: Path
    out: Path
    runs: Path
    device: torch.device
    rehearse: bool

    def note(self, **entries: Any) -> None:
        """Add to `lease.json`."""
        write_json(self.out / "lease.json", self.noted() | entries)

    def noted(self) -> dict[str, Any]:
        file = self.out / "lease.json"
        return json.loads(file.read_text()) if file.is_file() else {}


def smoke(lease: Lease) -> None:
    """Run each check, and record whether it passed or the error."""
    results: dict[str, str] = {}
    for name, check in checks(lease):
        begun = time.monotonic()
        try:
            check()
            results[name] = f"passed in {time.monotonic() - begun:.1f} s"
        except Exception as error:  # noqa: BLE001  # the other checks continue
            results[name] = f"failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        lease.note(smoke=results)


def checks(lease: Lease) -> Iterator[tuple[str, Callable[[], None]]]:
    """Names and functions of the checks, the fastest first."""
    device = lease.device
    yield "renderer: as on the CPU", lambda: compare_renderer(device)
    yield "masks: as on the CPU", lambda: compare_masks(device)
    formats = ("none", "bf16", "fp16") if device.type == "cuda" else ("none", "bf16")
    for amp in formats:
        yield f"training, amp {amp}", lambda amp=amp: train_some_steps(lease, amp, amp=amp)
    if device.type == "cuda":
        yield "SyncBN: as batch norm in one process", compare_sync_batch_norm
        yield "training, compiled", lambda: train_some_steps(lease, "compiled", compile=True)
        yield "training, CUDA graphs", lambda: train_some_steps(lease, "graphs", compile=True, cuda_graphs=True)


def compare_renderer(device: torch.device) -> None:
    """Check that views on the device differ by at most two of 255 levels from those on the CPU."""
    images = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    config = ViewConfig(image_size=32, blur=0.5)
    views = draw_views(config, seed=0, epoch=0, indices=np.arange(64), view=0, height=32, width=32)
    here, there = render(images, views, 32), render(images.to(device), views, 32).cpu()
    difference = float((here - there).abs().max())
    if difference > 2 / 255:
        raise ValueError(f"views differ by {255 * difference:.2f} levels")


def compare_masks(device: torch.device) -> None:
    """Check that masks are the same as on the CPU."""
    generator = torch.Generator().manual_seed(0)
    weights = {str(n): torch.randn(256, 256, generator=generator) for n in range(3)}
    here = magnitude_masks(weights, 0.9)
    there = magnitude_masks({name: weight.to(device) for name, weight in weights.items()}, 0.9)
    if not all(torch.equal(here[name], there[name].cpu()) for name in here):
        raise ValueError("masks differ")


def compare_sync_batch_norm() -> None:
    """Check that SyncBN in one process with NCCL equals plain batch norm."""
    plain = torch.nn.BatchNorm2d(8).cuda()
    x = torch.randn(16, 8, 4, 4, device="cuda")
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("nccl", store=store, rank=0, world_size=1)
    try:
        synchronized = torch.nn.SyncBatchNorm.convert_sync_batchnorm(torch.nn.BatchNorm2d(8)).cuda()
        torch.testing.assert_close(synchronized(x), plain(x), atol=1e-5, rtol=1e-5)
    finally:
        torch.distributed.destroy_process_group()


def train_some_steps(lease: Lease, name: str, **how: Any) -> None:
    """Check that six steps with three mask refreshes finish with finite losses."""
    config = PretrainConfig(
        encoder=EncoderConfig(name="resnet18", width=16), views=ViewConfig(image_size=16), epochs=3, batch_size=64
    )
    source = SubsetSource(digits(), np.arange(128), name="digits")
    runtime = Runtime(device=str(lease.device), workers=0, progress=False, log_steps=1, **how)
    run = pretrain(source, config, run=lease.runs / f"smoke-{name}", runtime=runtime)
    losses = [row["loss"] for row in run.metrics()]
    if not run.finished or not all(map(math.isfinite, losses)):
        raise ValueError(f"losses {losses}")


def speed(lease: Lease) -> None:
    """Run the sections of `speed.py` that compare SDCLR and SimCLR."""
    options = ["--device", str(lease.device), "--data", str(lease.data), "--out", str(lease.out / "speed.json")]
    options += ["--quick"] if lease.rehearse else ["--minutes", str(SECONDS["speed"] / 60)]
    command = [sys.executable, str(Path(__file__).with_name("speed.py")), *options, "--only", "steps", "memory"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def learning(lease: Lease) -> None:
    """Train SimCLR for its share of the time and SDCLR for as many epochs, and probe both."""
    small = {"max_count": 100} if lease.rehearse else {}
    split = paper_split("cifar10_lt", lease.data, split=1, **small)
    images, full, test = split.long_tail, split.full, split.test
    if lease.rehearse:
        full, test = (SubsetSource(each, np.arange(0, len(each), 50)) for each in (full, test))
    runtime = Runtime(device=str(lease.device), progress=False, checkpoint_minutes=1, log_steps=10**6)
    minutes = SIMCLR_SHARE * (SECONDS["learning"] - PROBES) / 60
    simclr = pretrain(
        images,
        sized("simclr", lease),
        run=lease.runs / "simclr",
        runtime=runtime,
        minutes=0.25 if lease.rehearse else minutes,
    )
    longest = replace(sized("sdclr", lease), epochs=simclr.config.epochs, steps=simclr.config.steps)
    sdclr = pretrain(images, longest, run=lease.runs / "sdclr", runtime=runtime)
    probe = ProbeConfig(epochs=3, milestones=(2,)) if lease.rehearse else ProbeConfig()
    config = EvaluateConfig(linear=probe, few_shot=replace(probe, epochs=5 if lease.rehearse else 100), k=20)
    found: dict[str, Any] = {"epochs": simclr.config.epochs, "images": len(images)}
    for name, run in (("simclr", simclr), ("sdclr", sdclr)):
        score = evaluate(
            full,
            test,
            config,
            encoder=run,
            class_counts=split.counts,
            validation=split.validation,
            few_shot=split.few_shot,
            device=lease.device,
            amp="auto",
        ).to_json()
        found[name] = {kind: score[kind]["balance"] for kind in ("linear", "few_shot", "knn")}
        found[name]["loss"] = list(run.metrics())[-1]["loss"]
        lease.note(learning=found)


def sized(method: Any, lease: Lease) -> PretrainConfig:
    """The paper's configuration; narrow and with small images in a rehearsal."""
    config = cifar_lt(method)
    if not lease.rehearse:
        return config
    small, views = replace(config.encoder, width=8), replace(config.views, image_size=16)
    return replace(config, encoder=small, views=views, batch_size=32)


PARTS: Final[dict[str, Callable[[Lease], None]]] = {"smoke": smoke, "speed": speed, "learning": learning}


def carry_out(arguments: Sequence[str], lease: Lease) -> None:
    """Run each missing part in a separate process."""
    for name, seconds in SECONDS.items():
        if lease.noted().get(f"{name}_ended") == "whole":
            continue
        begun, ended = time.monotonic(), "whole"
        command = [sys.executable, __file__, *arguments, "--part", name]
        process = subprocess.Popen(command)
        try:
            code = process.wait(timeout=seconds * (20 if lease.rehearse else 1))
            ended = "whole" if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            process.terminate()  # a training saves its state
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            ended = f"stopped after {seconds} s"
        lease.note(**{f"{name}_ended": ended, f"{name}_seconds": round(time.monotonic() - begun, 1)})


def main(arguments: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10 as Parquet files")
    parser.add_argument("--out", type=Path, required=True, help="folder for results")
    parser.add_argument("--runs", type=Path, required=True, help="folder for runs")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rehearse", action="store_true", help="at a hundredth of the size")
    parser.add_argument("--part", choices=PARTS, help="this part alone, in this process")
    options = parser.parse_args(given)
    lease = Lease(options.data, options.out, options.runs, torch.device(options.device), options.rehearse)
    lease.out.mkdir(parents=True, exist_ok=True)
    if options.part:
        PARTS[options.part](lease)
        return
    if lease.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is available: --device cpu --rehearse needs none")
    name = torch.cuda.get_device_name() if lease.device.type == "cuda" else "CPU, a rehearsal"
    lease.note(device=name, torch=torch.__version__)
    carry_out(given, lease)
    print((lease.out / "lease.json").read_text())


if __name__ == "__main__":
    main()
