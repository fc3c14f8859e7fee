"""Whatever marks say, no source is touched, and nothing is written outside the targets."""

import csv

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sdclr
from sdclr.files import unguarded
from sdclr.marks.apply import apply_marks
from sdclr.marks.rows import Mark, Marks

LETTERS = st.characters(exclude_characters="/\0", exclude_categories=["Cs"])
NAME = st.text(LETTERS, min_size=1, max_size=10).filter(
    lambda name: name not in (".", "..") and not name.startswith(".")
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        NAME, st.tuples(st.sampled_from(["keep", "drop", ""]), st.text(max_size=8)), min_size=1, max_size=4
    ),
    st.sampled_from(["symlink", "hardlink", "copy"]),
)
def test_no_source_is_touched_and_nothing_leaves_the_targets(tmp_path_factory, tree, picture, said, how):
    root = tmp_path_factory.mktemp("any")
    source, out = root / "images", root / "out"
    for number, name in enumerate(said):
        picture(source / f"{name}.png", number)
    out.mkdir()
    rows = [
        Mark(id=f"{name}.png", path=str(source / f"{name}.png"), mark=mark, label=label)
        for name, (mark, label) in said.items()
    ]
    file = sdclr.write_marks(root / "marks.csv", Marks(tuple(rows)))
    before = tree(root)
    kept = {row.id: row.label for row in rows if row.mark != "drop" and (row.mark or row.label)}
    wanted = {"links": out / "links"} if kept else {}
    wanted |= {"classes": out / "classes"} if any(kept.values()) else {}
    apply_marks(sdclr.read_marks(file), **wanted, how=how, drop_list=out / "drop.csv")
    after = tree(root)
    if how == "hardlink":  # the number of names of a file is no part of what `tree` looks at
        assert {path: after[path] for path in before} == before
    assert {path: text for path, text in after.items() if not path.startswith(f"{out}/")} == before
    if kept:
        listed = sdclr.open_source(out / "links" / "manifest.csv")
        assert set(listed.ids) == set(kept)
        assert all(listed.file(index).is_file() for index in range(len(listed)))
    if any(kept.values()):
        with (out / "classes" / "classes.csv").open(newline="", encoding="utf-8") as table_:
            labels = {unguarded(row["label"]) for row in csv.DictReader(table_)}
        assert labels == {label for label in kept.values() if label}
