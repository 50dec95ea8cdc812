"""Which images tasks share: image-centric data against decentralised, as IMAX and DMAX (arXiv 2504.09967) put it."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from medbench.tasks.download.sources import source_of
from medbench.tasks.prepared import Prepared
from medbench.tasks.sample import Split

# What the authors say of IMAX: more than 354,000 entries of seven tasks, on average per image.
IMAX: Mapping[str, float] = {"tasks_per_image": 4.10, "entries_per_image": 7.46}
IMAX_SOURCE = "IMAX, arXiv 2504.09967"
_SEVERAL = 2
_HALF = 0.5

# An image: the digest of its file (without one, source folder and path), and its place inside of the file.
_Key = tuple[str, str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """How tasks share images; an entry (question) counts for each of its images."""

    images_by_tasks: Mapping[int, int]  # Number of images by their number of tasks.
    images_by_entries: Mapping[int, int]  # And by their number of entries.
    shared_entries: int  # Entries of the images with two tasks or more.

    @classmethod
    def of(cls, images: Iterable[Mapping[str, int]]) -> "Sharing":
        """Return the sharing of images, each its entries by task."""
        known = list(images)
        return cls(
            images_by_tasks=_counted(map(len, known)), images_by_entries=_counted(sum(one.values()) for one in known),
            shared_entries=sum(sum(one.values()) for one in known if len(one) >= _SEVERAL),
        )  # fmt: skip

    @property
    def images(self) -> int:
        """Number of different images."""
        return sum(self.images_by_tasks.values())

    @property
    def entries(self) -> int:
        """Number of entries."""
        return _total(self.images_by_entries)

    @property
    def shared(self) -> int:
        """Number of images with two tasks or more."""
        return sum(count for tasks, count in self.images_by_tasks.items() if tasks >= _SEVERAL)

    def table(self) -> dict[str, object]:
        """Return the numbers for JSON; a mean is None where there is no image."""
        return {
            "images": self.images, "entries": self.entries, "shared_images": self.shared,
            "shared_entries": self.shared_entries, "tasks_per_image": _mean(self.images_by_tasks),
            "entries_per_image": _mean(self.images_by_entries),
            "images_by_tasks": {str(tasks): count for tasks, count in self.images_by_tasks.items()},
            "images_by_entries": {str(entries): count for entries, count in self.images_by_entries.items()},
        }  # fmt: skip

    def row(self) -> tuple[str, ...]:
        """Return the cells of `COLUMNS`."""
        means = (
            "-" if one is None else f"{one:.2f}" for one in map(_mean, (self.images_by_tasks, self.images_by_entries))
        )
        most = str(max(self.images_by_entries, default=0))
        return (f"{self.images:,}", f"{self.entries:,}", *means, most, _percent(self.shared, self.images))


COLUMNS = ("images", "entries", "tasks per image", "entries per image", "most entries", "with two tasks or more")
IMAX_ROW = ("-", "-", *(f"{mean:.2f}" for mean in IMAX.values()), "-", "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The images of prepared tasks."""

    together: Sharing
    data_sets: Mapping[str, tuple[tuple[str, ...], Sharing]]  # By name, tasks and the images that they share.
    text_only: Mapping[str, int]  # Entries without an image, by task.
    unhashed: tuple[str, ...]  # Tasks whose images are known by their path alone.

    def table(self) -> dict[str, object]:
        """Return the numbers for JSON, with those of IMAX's authors."""
        sets = [{"data": name, "tasks": of, **one.table()} for name, (of, one) in self.data_sets.items()]
        return {
            "together": self.together.table(), "data_sets": sets, "text_only": dict(self.text_only),
            "unhashed": self.unhashed, "published": {"source": IMAX_SOURCE, **IMAX}, "meaning": self.meaning(),
        }  # fmt: skip

    def sentences(self) -> list[str]:
        """Return the distribution, what has no image, and what it means."""
        spread = ", ".join(f"{count:,} of {tasks}" for tasks, count in self.together.images_by_tasks.items())
        without = ", ".join(f"{task} {count:,}" for task, count in self.text_only.items())
        told = (("Images by number of tasks", spread), ("Entries without an image", without))
        return [*(f"{name}: {text}." for name, text in told if text), self.meaning()]

    def meaning(self) -> str:
        """Return what the numbers mean, in words."""
        found = self.together
        if not found.images:
            return "None of the entries has an image, so there is none to share."
        centred = "image-centric" if found.shared >= _HALF * found.images else "decentralised"
        here = (_mean(found.images_by_tasks), _mean(found.images_by_entries))
        return (
            f"{_percent(found.shared, found.images)} of the images are asked about by two tasks or more, so the data "
            f"are {centred} (the line is at half). {_percent(found.shared_entries, found.entries)} of the entries are "
            f"about these images: what a mixture that draws image by image can bring together. There are {here[0]:.2f} "
            f"tasks and {here[1]:.2f} entries per image; {IMAX_SOURCE}, has {IMAX['tasks_per_image']:.2f} and "
            f"{IMAX['entries_per_image']:.2f} by its authors' count."
        )


def profile(tasks: Sequence[Prepared], split: Split) -> Profile:
    """Count the images of a split and who asks about them; raises like `Prepared.samples` and `image_hashes`.

    Images are the same if their files have the same bytes; a copy that was encoded again is another image. Where a task
    was prepared without hashes, those of another task with the same source folder are taken, else the path.
    """
    digests = {(one.source, path): of for one in tasks for path, of in (one.image_hashes() or {}).items()}
    images: dict[_Key, Counter[str]] = {}
    text_only: dict[str, int] = {}
    unhashed: dict[str, None] = {}
    for one in tasks:
        samples = one.samples(split)
        for ref in (ref for sample in samples for ref in sample.images):
            file = digests.get((one.source, ref.path))
            if file is None:
                file, unhashed[one.task] = str(one.source / ref.path), None
            images.setdefault((file, ref.member, ref.index), Counter())[one.task] += 1
        if without := sum(not sample.images for sample in samples):
            text_only[one.task] = without
    families: dict[str, list[str]] = {}
    for one in tasks:
        families.setdefault(source_of(one.spec).family, []).append(one.task)
    return Profile(
        together=Sharing.of(images.values()), text_only=text_only,
        data_sets={name: (tuple(of), Sharing.of(_within(images.values(), of))) for name, of in families.items()},
        unhashed=tuple(unhashed),
    )  # fmt: skip


def _within(images: Iterable[Mapping[str, int]], tasks: Collection[str]) -> Iterable[Mapping[str, int]]:
    found = ({task: count for task, count in one.items() if task in tasks} for one in images)
    return filter(None, found)


def _counted(numbers: Iterable[int]) -> dict[int, int]:
    return dict(sorted(Counter(numbers).items()))


def _total(counts: Mapping[int, int]) -> int:
    return sum(number * count for number, count in counts.items())


def _mean(counts: Mapping[int, int]) -> float | None:
    return _total(counts) / sum(counts.values()) if counts else None


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"
