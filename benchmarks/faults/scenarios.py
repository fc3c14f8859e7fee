"""Commands to kill, with their input and output, and comparison of results."""

import csv
import hashlib
import json
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from scene import pretraining, write_pictures

VARIES: Final = {"seconds", "sdclr", "torch", "created", "images_per_second"}
"""Keys of JSON files that differ between runs."""
REPRODUCED: Final = ["--epochs", "1", "--splits", "1", "--device", "cpu", "--amp", "none", "--workers", "0"]
"""Options with which `reproduce` takes seconds, together with `shrink_the_paper`."""
Reader = Callable[[Path], Any]


@dataclass(frozen=True)
class Scenario:
    """A command in one or several processes.

    Attributes:
        name: Name in the results.
        arguments: The command, for a separate folder with a copy of the prepared files.
        results: Patterns of the files to compare, relative to the folder.
        processes: Number of processes, as `torchrun` starts them.
        weight: Relative frequency of the scenario.
    """

    name: str
    arguments: Callable[[Path], list[str]]
    results: tuple[str, ...]
    processes: int = 1
    weight: int = 1
    needs: tuple[str, ...] = field(default=("images", "test", "run"))


def scenarios(data: Path | None) -> list[Scenario]:
    """All scenarios; `reproduce` only if there is CIFAR-10."""
    machine = ["--device", "cpu", "--workers", "1"]
    labels = ("images", "test")
    tuned = ["--method", "ce", "--epochs", "2", "--batch-size", "16", "--checkpoint-minutes", "0"]

    def embedding(place: Path) -> list[str]:
        where = ["--encoder", str(place / "run"), "--out", str(place / "features"), "--batch-size", "8"]
        return ["embed", str(place / "images"), *where, *machine]

    def tuning(place: Path) -> list[str]:
        images = ["--train", str(place / "images"), "--test", str(place / "test")]
        out = ["--out", str(place / "tuned"), "--start", str(place / "run")]
        return ["finetune", *images, *out, *tuned, *machine]

    def judging(place: Path) -> list[str]:
        images = ["--train", str(place / "images"), "--test", str(place / "test")]
        return ["evaluate", "--encoder", str(place / "run"), *images, "--out", str(place / "judged"), *machine]

    def choosing(place: Path) -> list[str]:
        where = ["--encoder", str(place / "run"), "--folder", str(place / "mined"), "--out", str(place / "next.csv")]
        return ["select", str(place / "images"), "--budget", "7", *where, *machine]

    def applying(place: Path) -> list[str]:
        out = ["--manifest", str(place / "kept.csv"), "--classes", str(place / "classes"), "--copy"]
        return ["apply", str(place / "marks.csv"), str(place / "images"), *out, "--drop-list", str(place / "drop.txt")]

    def moving(place: Path) -> list[str]:
        return ["apply", str(place / "marks.csv"), str(place / "images"), "--move-dropped", str(place / "dropped")]

    trained = (
        "new/encoder.safetensors",
        "new/config.json",
        "new/metrics.jsonl",
        "new/source.json",
        "new/bad_images.csv",
    )
    made = [
        Scenario(
            "pretrain", lambda place: pretraining(place / "images", place / "new", workers=1), trained, 1, 2, labels
        ),
        Scenario(
            "pretrain, 2 processes",
            lambda place: pretraining(place / "images", place / "new", workers=0),
            trained,
            2,
            2,
            labels,
        ),
        Scenario(
            "mine",
            lambda place: [
                "mine",
                str(place / "images"),
                "--encoder",
                str(place / "run"),
                "--out",
                str(place / "mined"),
                *machine,
            ],
            ("mined/*.parquet", "mined/*.json", "mined/reading/*", "mined/rarest.html", "mined/rarest_files/*"),
            weight=2,
        ),
        Scenario("embed", embedding, ("features/*.parquet",), weight=2),
        Scenario("embed, 2 processes", embedding, ("features/*.parquet",), 2, 2),
        Scenario("export", lambda place: ["export", str(place / "run"), str(place / "exported")], ("exported/*",)),
        Scenario("evaluate", judging, ("judged/*.json",), weight=2),
        Scenario("finetune", tuning, ("tuned/result.json", "tuned/config.json"), weight=2),
        Scenario("select", choosing, ("next.csv", "mined/scores.parquet"), weight=2),
        Scenario(
            "report",
            lambda place: ["report", str(place / "run"), "--figures", str(place / "figures")],
            ("run/report.html", "figures/*"),
            weight=2,
        ),
        Scenario("apply", applying, ("kept.csv", "drop.txt", "classes/**/*"), 1, 3, ("images", "marks.csv")),
        Scenario("apply --move-dropped", moving, ("images/*/*", "dropped/**/*.jpg"), 1, 3, ("images", "marks.csv")),
    ]
    if data is not None:
        made.append(
            Scenario(
                "reproduce",
                lambda place: [
                    "reproduce",
                    "table4",
                    "--data",
                    str(data),
                    "--folder",
                    str(place / "paper"),
                    *REPRODUCED,
                ],
                ("paper/results/*", "paper/*/encoder.safetensors"),
                needs=(),
            )
        )
    return made


def prepare(place: Path) -> list[str]:
    """Write the pictures and marks for the scenarios. Returns the command that trains the run for them."""
    write_pictures(place / "images", 48)
    write_pictures(place / "test", 24, seed=1)
    ids = sorted(path.relative_to(place / "images").as_posix() for path in (place / "images").rglob("*.jpg"))
    kinds = ("rare", "common", "")
    rows = [f"{name},{kinds[n % 3]},{'drop' if n % 3 == 2 else ''}" for n, name in enumerate(ids)]
    (place / "marks.csv").write_text("\n".join(["id,label,mark", *rows]) + "\n")
    return pretraining(place / "images", place / "run", epochs=1, workers=0)


def copy_needs(scenario: Scenario, ready: Path, place: Path) -> None:
    """Copy a scenario's input into a folder, with the times of files."""
    place.mkdir()
    for name in scenario.needs:
        source = ready / name
        if source.is_dir():
            shutil.copytree(source, place / name)
        else:
            shutil.copy2(source, place / name)


def environments(processes: int) -> list[dict[str, str]]:
    """Variables of `torchrun` for each process; none for a single process."""
    if processes == 1:
        return [{}]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def results(scenario: Scenario, place: Path) -> dict[str, str]:
    """A digest of the contents of each result file, by name."""
    files = sorted({path for pattern in scenario.results for path in place.glob(pattern) if path.is_file()})
    return {path.relative_to(place).as_posix(): digest(path) for path in files}


def digest(path: Path) -> str:
    """Digest of a file's contents, without times."""
    readers: Mapping[str, Reader] = {
        ".json": lambda file: _steady(json.loads(file.read_text())),
        ".jsonl": _by_step,
        ".parquet": _rows,
        ".npz": _arrays,
        ".csv": _table,
    }
    value = readers.get(path.suffix, Path.read_bytes)(path)
    data = value if isinstance(value, bytes) else repr(value).encode()
    return hashlib.sha256(data).hexdigest()


def torn(place: Path) -> list[str]:
    """Unreadable files under final names, with their errors."""
    from safetensors.numpy import load_file  # noqa: PLC0415  # slow to load

    checks: Mapping[str, Reader] = {
        ".json": lambda file: json.loads(file.read_text()),
        ".parquet": _rows,
        ".safetensors": load_file,
        ".npz": _arrays,
        ".html": _whole_page,
    }
    found = []
    for path in place.rglob("*"):
        check = checks.get(path.suffix)
        if check is None or path.name.startswith(".") or not path.is_file():
            continue
        try:
            check(path)
        except Exception as error:  # noqa: BLE001  # a torn file may cause any error
            found.append(f"{path.relative_to(place)}: {type(error).__name__}: {str(error)[:120]}")
    return found


def _whole_page(path: Path) -> None:
    if "</html>" not in path.read_text()[-200:]:
        raise ValueError("the page ends early")


def _steady(value: Any) -> Any:
    """JSON without keys that vary."""
    if isinstance(value, dict):
        return {key: _steady(item) for key, item in value.items() if key not in VARIES}
    return [_steady(item) for item in value] if isinstance(value, list) else value


def _by_step(path: Path) -> list[Any]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows]


def _rows(path: Path) -> list[Any]:
    from sdclr.files.parquet import read_table  # noqa: PLC0415  # slow to load

    table = read_table(path)
    about = {key.decode(): value for key, value in (table.schema.metadata or {}).items()}
    for name in ("ARROW:schema", "sdclr-checksum"):  # they depend on times; the reader has checked the checksum
        about.pop(name, None)
    return [_steady({key: json.loads(value) for key, value in about.items()}), _steady(table.to_pydict())]


def _table(path: Path) -> list[Any]:
    with path.open(newline="") as file:
        return [_steady(row) for row in csv.DictReader(file)]


def _arrays(path: Path) -> list[Any]:
    with np.load(path) as arrays:
        return [(name, arrays[name].tolist()) for name in arrays.files]


def shrink_the_paper() -> None:
    """Make `reproduce` train a tiny network on a few images."""
    from sdclr.data.sources import Source, SubsetSource  # noqa: PLC0415  # slow to load
    from sdclr.encoders import EncoderConfig  # noqa: PLC0415  # slow to load
    from sdclr.paper import experiments, runner  # noqa: PLC0415  # slow to load

    def few(source: Source, number: int) -> SubsetSource:
        return SubsetSource(source, np.arange(0, len(source), max(1, len(source) // number))[:number])

    opened, small = runner._opened, experiments._small  # noqa: SLF001
    parts = {"long_tail": 128, "balanced": 128, "full": 200, "validation": 100, "test": 100, "few_shot": 50}

    def open_few(*args: Any) -> Any:
        split = opened(*args)
        return replace(split, **{name: few(getattr(split, name), number) for name, number in parts.items()})

    runner._opened = open_few  # noqa: SLF001
    experiments._small = lambda config: replace(small(config), encoder=EncoderConfig(width=4), batch_size=64)  # noqa: SLF001
