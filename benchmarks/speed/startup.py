"""Startup time and memory of `sdclr`, in this checkout and optionally in another one.

    python benchmarks/speed/startup.py
    python benchmarks/speed/startup.py --before ../before --repeats 5

`--version`, `--help`, every command's `--help` and `import sdclr` each run in a separate process. A first run, which
may compile bytecode, does not count. Runs of both checkouts alternate, so that other load affects both. CPU time is
user and system time. The minimum of the repeats counts, because other load can only increase it. Memory is the peak
resident set, and never less than that of this process, which starts the others. Prints a Markdown table.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parents[2]


def measured(checkout: Path, arguments: list[str]) -> tuple[float, float]:
    """CPU seconds and peak memory in MB of a Python process that uses a checkout."""
    env = os.environ | {"PYTHONPATH": str(checkout / "src"), "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *arguments], env=env, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{checkout}: python {' '.join(arguments)} ended with {process.returncode}")
    scale = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, otherwise kilobytes
    return used.ru_utime + used.ru_stime, used.ru_maxrss * scale / 1e6


def commands(checkout: Path) -> list[str]:
    """The commands of this checkout."""
    code = "from sdclr.cli.catalog import CATALOG; print(*CATALOG)"
    env = os.environ | {"PYTHONPATH": str(checkout / "src")}
    return subprocess.check_output([sys.executable, "-c", code], env=env, text=True).split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--commands", nargs="*", help="commands whose --help is timed; by default all")
    options = parser.parse_args()
    program = ["-m", "sdclr"]
    names = commands(HERE) if options.commands is None else options.commands
    lines = {"`sdclr --version`": [*program, "--version"], "`sdclr --help`": [*program, "--help"]}
    lines |= {f"`sdclr {name} --help`": [*program, name, "--help"] for name in names}
    lines["`import sdclr`"] = ["-c", "import sdclr"]
    lines["`python -c pass`, for comparison"] = ["-c", "pass"]
    checkouts = [HERE] if options.before is None else [options.before.resolve(), HERE]
    labels = ["now"] if options.before is None else ["before", "now"]
    print(f"| | {' | '.join(f'{label}, CPU s | {label}, MB' for label in labels)} |")
    print(f"|---|{'---:|---:|' * len(checkouts)}")
    for title, arguments in lines.items():
        for checkout in checkouts:
            measured(checkout, arguments)
        runs = [[measured(checkout, arguments) for checkout in checkouts] for _ in range(options.repeats)]
        best = [tuple(map(min, zip(*of, strict=True))) for of in zip(*runs, strict=True)]
        cells = " | ".join(f"{seconds:.2f} | {memory:.0f}" for seconds, memory in best)
        print(f"| {title} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
