"""Tables of the comparison of rarity scores in Markdown, and the result of its rule."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]

ORDER = (
    "kinds",
    "distance",
    "lof",
    "hdbscan",
    "kmeans_sqrt",
    "kmeans_10",
    "isolation_forest",
    "walk",
    "forgetting",
    "random",
)
TOLERANCE = 0.02
"""Maximum loss in AUROC of kinds compared with distance."""

GAIN, PERFECT = 0.05, 0.99
"""Required mean gain of kinds on separated collections; and the AUROC from which two scores count as equal."""


_TWO = ("kinds", "distance")


def setting(collection: str) -> str:
    """The group over which results are averaged: the name without class order or letter."""
    return re.sub(r"-(order\d+|[ab])$", "", collection)


def all_tables(rows: Sequence[Row]) -> str:
    """All tables except the one on sensitivity."""
    parts = [overall_table(rows), auroc_table(rows)]
    if any(row["score"] == "kinds" for row in rows):
        parts += [verdict(rows), met_table(rows), spoiled_table(rows), extremes_table(rows)]
    return "\n".join(parts)


def overall_table(rows: Sequence[Row]) -> str:
    """Means of each score over all settings in plain form; each setting counts once."""
    chosen = [row for row in rows if row["form"] == "plain"]
    names = ("auroc", "lift", "met_50", "met_100", "met_200")
    lines = [
        "### All scores, plain form\n",
        "| score | AUROC | average precision / base rate | rare classes met in 50 | in 100 | in 200 | lowest AUROC |",
        "| --- |" + " ---: |" * 6,
    ]
    for score in _present(rows):
        own = [row for row in chosen if row["score"] == score]
        means = [np.mean([np.mean([row[name] for row in group]) for _, group in _grouped(own)]) for name in names]
        shown = [f"{means[0]:.3f}", f"{means[1]:.2f}", *(f"{100 * mean:.0f} %" for mean in means[2:])]
        lines.append(f"| {score} | " + " | ".join(shown) + f" | {min(row['auroc'] for row in own):.3f} |")
    return "\n".join(lines) + "\n"


def auroc_table(rows: Sequence[Row]) -> str:
    """AUROC by setting and encoder, plain form: mean and standard deviation over class orders."""
    names = _present(rows)
    lines = [
        "### AUROC by collection, plain form\n",
        "| collection | encoder | n | base rate | " + " | ".join(names) + " |",
        "| --- | --- |" + " ---: |" * (len(names) + 2),
    ]
    for (name, encoder), group in _grouped([row for row in rows if row["form"] == "plain"]):
        cells = []
        for score in names:
            values = [row["auroc"] for row in group if row["score"] == score]
            cells.append(_mean_std(values) if values else "-")
        orders = len({row["collection"] for row in group})
        base = np.mean([row["base_rate"] for row in group])
        lines.append(f"| {name} | {encoder} | {orders} | {base:.3f} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def differences(rows: Sequence[Row]) -> list[tuple[float, Row, Row]]:
    """Difference in AUROC between kinds and distance in each case, with both rows."""
    by_case: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        key = (row["collection"], row["form"], row["encoder"])
        by_case.setdefault(key, {})[row["score"]] = row
    pairs = [(found["kinds"], found["distance"]) for found in by_case.values()]
    return [(kinds["auroc"] - distance["auroc"], kinds, distance) for kinds, distance in pairs]


def verdict(rows: Sequence[Row]) -> str:
    """Result of the rule on open and held-out collections."""
    lines = ["### The rule\n", "| cases | number | 1. lowest difference | lost by more than 0.02 | 2. separated |"]
    lines.append("| --- | ---: | --- | ---: | --- |")
    groups: list[tuple[str, Callable[[Row], bool]]] = [
        ("open", lambda row: not row["held_out"]),
        ("held out", lambda row: bool(row["held_out"])),
        ("all", lambda _: True),
    ]
    passed = False
    for name, belongs in groups:
        found = differences([row for row in rows if belongs(row)])
        if not found:
            continue
        lost = [each for each in found if each[0] < -TOLERANCE]
        lowest = min(found, key=lambda each: each[0])
        separated = [each for each in found if setting(each[1]["collection"]).startswith("separated") and _plain(each)]
        won = [each for each in separated if each[0] > 0 or min(each[1]["auroc"], each[2]["auroc"]) >= PERFECT]
        mean = float(np.mean([each[0] for each in separated])) if separated else float("nan")
        passed = not lost and len(won) == len(separated) > 0 and mean >= GAIN
        lines.append(
            f"| {name} | {len(found)} | {lowest[0]:+.3f} ({_case(lowest[1])}) | {len(lost)} | "
            f"{len(won)} of {len(separated)} won, {mean:+.3f} on average |"
        )
    lines.append(f"\nBoth parts of the rule hold over all cases: **{'yes' if passed else 'no'}**.")
    return "\n".join(lines) + "\n"


def met_table(rows: Sequence[Row]) -> str:
    """Share of the rare classes found in each setting, for kinds, distance, k-means and chance."""
    scores = ("kinds", "distance", "kmeans_sqrt", "random")
    lines = [
        "### Rare classes met in the first 50 / 100 / 200 images, plain form (%)\n",
        "| collection | encoder | " + " | ".join(scores) + " |",
        "| --- | --- |" + " ---: |" * len(scores),
    ]
    for (name, encoder), group in _grouped([row for row in rows if row["form"] == "plain"]):
        cells = []
        for score in scores:
            own = [row for row in group if row["score"] == score]
            means = [np.mean([row[f"met_{count}"] for row in own]) for count in (50, 100, 200)]
            cells.append(" / ".join(f"{100 * mean:.0f}" for mean in means))
        lines.append(f"| {name} | {encoder} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def spoiled_table(rows: Sequence[Row]) -> str:
    """Collections with junk and with near-duplicates: AUROC, and their number among the first 100 images."""
    names = [
        f"{what}: {score}" for what in ("junk", "junk in first 100", "copies", "copies in first 100") for score in _TWO
    ]
    lines = [
        "### With junk, and with near-duplicates\n",
        "| collection | encoder | " + " | ".join(names) + " |",
        "| --- | --- |" + " ---: |" * 8,
    ]
    for (name, encoder), group in _grouped([row for row in rows if row["form"] != "plain"]):
        cells = []
        for form, count in (("junk", "junk_100"), ("copies", "copies_100")):
            for measure in ("auroc", count):
                for score in _TWO:
                    values = [row[measure] for row in group if row["form"] == form and row["score"] == score]
                    digits = 3 if measure == "auroc" else 0
                    cells.append(f"{np.mean(values):.{digits}f}" if values else "-")
        lines.append(f"| {name} | {encoder} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def extremes_table(rows: Sequence[Row], count: int = 10) -> str:
    """The cases with the largest losses and gains of kinds compared with distance."""
    found = sorted(differences(rows), key=lambda each: each[0])
    lines = [
        "### Largest losses and gains against distance\n",
        "| case | kinds | distance | difference | kinds found |",
    ]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for difference, kinds, distance in [*found[:count], *found[-count:]]:
        lines.append(
            f"| {_case(kinds)} | {kinds['auroc']:.3f} | {distance['auroc']:.3f} | {difference:+.3f} | "
            f"{kinds['kinds_found']} |"
        )
    return "\n".join(lines) + "\n"


def sensitivity_table(rows: Sequence[Row]) -> str:
    """Number of kinds and AUROC at several k."""
    ks = sorted({row["k"] for row in rows})
    lines = [
        "\n### Kinds at several k: AUROC (kinds found)\n",
        "| collection | encoder | distance | " + " | ".join(f"k = {k}" for k in ks) + " |",
        "| --- | --- |" + " ---: |" * (len(ks) + 1),
    ]
    for (collection, encoder), group in _grouped(rows, whole_name=True):
        cells = {row["k"]: f"{row['auroc']:.3f} ({row['kinds_found']})" for row in group}
        shown = " | ".join(cells.get(k, "-") for k in ks)
        lines.append(f"| {collection} | {encoder} | {group[0]['distance']:.3f} | {shown} |")
    return "\n".join(lines) + "\n"


def _present(rows: Sequence[Row]) -> list[str]:
    there = {row["score"] for row in rows}
    return [name for name in ORDER if name in there]


def _grouped(rows: Iterable[Row], *, whole_name: bool = False) -> list[tuple[tuple[str, str], list[Row]]]:
    """Rows grouped by setting (or collection) and encoder, sorted."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        name = row["collection"] if whole_name else setting(row["collection"])
        groups.setdefault((name, row["encoder"]), []).append(row)
    return sorted(groups.items())


def _plain(each: tuple[float, Row, Row]) -> bool:
    return bool(each[1]["form"] == "plain")


def _case(row: Row) -> str:
    form = "" if row["form"] == "plain" else f"+{row['form']}"
    return f"{row['collection']}{form}@{row['encoder']}"


def _mean_std(values: Sequence[float]) -> str:
    deviation = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{deviation}"
