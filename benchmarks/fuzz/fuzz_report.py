"""Write docs/results/fuzz.md and fuzz.json from the results of campaigns.

python benchmarks/fuzz/fuzz_report.py runs/fuzz/results.jsonl
"""

import argparse
import json
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "results" / "fuzz.md"

_HEAD: Final = """# Fuzzing

Hostile variants of valid files, read by every reader of the package. `python benchmarks/fuzz/campaign.py` and
`fuzz_report.py` made this page on a shared, busy machine with two cores. *Engine* is `atheris` if the inputs followed
the coverage of Python code, and `blind` if they are only variants of the valid files. *Refused* counts `InputError`
and its subclasses, *read* counts accepted inputs. *Slowest* is the computing time of the slowest input, *memory* the
peak memory of the process, including torch.

Faults are any other exception, a message of several lines, more than 10 s, more than 1 GiB, the end of the process, a
write outside its folder, a connection, a program, or unpickling. In these runs images of more than 4 million pixels
raise an error where the package uses the limits of `sdclr.limits`, so that inputs take milliseconds.

The faults below are fixed, and the inputs that showed them were read again without a fault. Labels and class numbers
of more than 18 digits are names. Quoted headers are read as CSV. The size of an array is compared with its file. A
Parquet column that ends early counts as damage, and so does a number of rows that contradicts other parts of the file.
Targets that are not in the table have not been read 20,000 times yet.

"""
_COLUMNS: Final = ("target", "engine", "inputs", "read", "refused", "s", "slowest, s", "memory, MiB", "faults")


def page(results: list[dict[str, Any]]) -> str:
    """The page as Markdown."""
    rows = [f"| {' | '.join(_COLUMNS)} |", f"|---|---|{'--:|' * 6}---|"]
    for one in results:
        read, fault = one["outcomes"].get("read", 0), one["outcomes"].get("fault", 0)
        refused = sum(one["outcomes"].values()) - read - fault
        faults = "; ".join(f"{what['what']} ({what['times']:,})" for what in one["faults"]) or "none"
        rows.append(
            f"| {one['target']} | {one['engine']} | {one['inputs']:,} | {read:,} | {refused:,} "
            f"| {one['seconds']:.0f} | {one['slowest_s']:.2f} | {one['memory_mib']} | {faults} |"
        )
    total = sum(one["inputs"] for one in results)
    return f"{_HEAD}" + "\n".join(rows) + f"\n\n{total:,} inputs in all.\n"


def main() -> None:
    """Write the page. If a target was fuzzed twice with the same engine, the last result counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    lines = [json.loads(line) for file in parser.parse_args().results for line in file.read_text().splitlines()]
    results = list({(one["target"], one["engine"]): one for one in lines}.values())
    PAGE.write_text(page(results))
    PAGE.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    print(PAGE)


if __name__ == "__main__":
    main()
