"""The commands by name. This table does not contain their options, so `sdclr --help` imports none of them."""

from typing import Final, NamedTuple


class Entry(NamedTuple):
    """A command.

    Attributes:
        name: The command's name. Its modules are `commands.NAME` and `actions.NAME`, with `_` for `-`.
        group: The heading under which `sdclr --help` lists it.
        summary: One line for that list.
        resumes: Whether a stopped command resumes when it is run again.
    """

    name: str
    group: str
    summary: str
    resumes: bool = False

    @property
    def module(self) -> str:
        """The name of its two modules."""
        return self.name.replace("-", "_")

    @property
    def kind(self) -> str:
        """The name of the dataclass of its options."""
        return self.name.title().replace("-", "")


CATALOG: Final = {
    entry.name: entry
    for entry in (
        Entry("mine", "find", "Find the rare images of a collection, and show them on a page.", resumes=True),
        Entry("select", "find", "Choose which images to label next.", resumes=True),
        Entry("apply", "find", "Turn marks made on a page into a manifest, folders or lists."),
        Entry("info", "find", "Describe images, and how long commands would take on them."),
        Entry("pack", "find", "Write images as tar shards, for collections of many files.", resumes=True),
        Entry("diagnose", "find", "Describe a collection: kinds, long tail, near-duplicates."),
        Entry("duplicates", "find", "Find near-duplicates, and list which images to drop.", resumes=True),
        Entry("neighbors", "find", "Find the images that are most similar to other images."),
        Entry("demo", "find", "Find the rare kinds among handwritten digits. A first try."),
        Entry("pretrain", "train", "Train an encoder on images without labels.", resumes=True),
        Entry("finetune", "train", "Train a classifier on labeled, long-tailed images.", resumes=True),
        Entry("embed", "train", "Write the features of images to a Parquet file.", resumes=True),
        Entry("export", "train", "Write an encoder for other tools, with a model card."),
        Entry("evaluate", "judge", "Measure how well and how evenly an encoder separates classes."),
        Entry("evaluate-attributes", "judge", "The same for attributes: images with several labels."),
        Entry("report", "judge", "Write a report on a run, or on several side by side."),
        Entry("reproduce", "research", "Repeat a table or figure of the paper.", resumes=True),
        Entry("bench", "research", "Compare methods on the same splits, as a leaderboard.", resumes=True),
        Entry("recipe", "research", "Print the settings of the paper as a settings file."),
    )
}
"""Every command, in the order of the help."""

GROUPS: Final = tuple(dict.fromkeys(entry.group for entry in CATALOG.values()))
"""The headings of the help, in order."""
