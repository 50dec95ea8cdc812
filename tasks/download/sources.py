"""Where the native files of every task are to be had: the table `sources.yaml`, by task."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Discriminator, TypeAdapter, with_config

from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.files import read_yaml_table
from medbench.tasks.spec import TaskSpec

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """What all kinds declare."""

    family: str  # Name of the folder below --source; tasks of one dataset share it.
    tasks: tuple[str, ...] = ()
    # As this source declares it; `licence_note` says why that is not the licence of the task's declaration.
    licence: str
    licence_note: str = ""
    note: str = ""  # What to know about the data that comes from here, unless there is `note_unless` in the folder.
    note_unless: str = ""
    steps: tuple[str, ...] = ()  # What the user has to do, one after the other.
    # Archives among the files, each with the beginnings of the names that are wanted of it; none means all.
    unpack: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    instead: tuple[str, ...] = ()  # Names in the folder that stand for the files: nothing is fetched then.


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSource(_Source):
    """Files of a dataset repository on the Hub, all of one commit; `paths` become files in the folder."""

    kind: Literal["hub"] = "hub"
    repo: str  # `owner/name`.
    revision: str | None  # 40 hex digits; None where none is known: the newest of `main` is looked up and recorded.
    paths: tuple[str, ...]
    size: int  # Bytes of all files, about, as the Hub shows them.

    @property
    def home(self) -> str:
        """Whose files they are, for people and for `download.json`."""
        return self.repo


@dataclass(frozen=True, slots=True, kw_only=True)
class WebFile:
    """A file at a fixed address: its path in the folder, its bytes, and `md5:` or `sha256:` with the hex digits."""

    path: str
    url: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSource(_Source):
    """Files at fixed addresses outside the Hub; `revision` is the commit or the record number that pins them."""

    kind: Literal["web"] = "web"
    home: str
    revision: str
    files: tuple[WebFile, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """The files in the folder."""
        return tuple(file.path for file in self.files)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManualSource(_Source):
    """A dataset that the user has to get; `reason` says why it is not fetched."""

    kind: Literal["by hand"] = "by hand"
    reason: str


Source = HubSource | WebSource | ManualSource

for _record in (HubSource, WebFile, WebSource, ManualSource):
    with_config(ConfigDict(extra="forbid"))(_record)
_FAMILY: TypeAdapter[Source] = TypeAdapter(Annotated[Source, Discriminator("kind")])


def _read_table() -> dict[str, Source]:
    rows = read_yaml_table(Path(__file__).with_name("sources.yaml")).items()
    families = [_FAMILY.validate_python({"family": family, **row}) for family, row in rows]
    return {task: source for source in families for task in source.tasks}


# By task; exactly one for each built-in task that is no variant.
SOURCES: Mapping[str, Source] = _read_table()


def source_of(spec: TaskSpec) -> Source:
    """Return where the native files of a task are to be had; a variant's are those of its task."""
    found = SOURCES.get(spec.name) or SOURCES.get(spec.variant_of)
    steps = (f"Get it from where its authors say: {spec.source}.", f"Put it into {{folder}}: {spec.layout}")
    return found or ManualSource(
        family=spec.name, licence=spec.licence, reason="medbench knows no place to fetch it from", steps=steps
    )


def check_revision(source: Source, revision: str) -> None:
    """Refuse, by a UsageError, a `--revision` that is no commit or has no effect on a source."""
    if not isinstance(source, HubSource):
        problem = f"--revision has no effect on {source.family}: it does not come from the Hub."
        raise UsageError(problem, "Leave it out.")
    if not COMMIT.fullmatch(revision):
        page = f"https://huggingface.co/datasets/{source.repo}/commits/main"
        raise UsageError(f"--revision {revision!r} is no commit.", f"Give the 40 hex digits, as listed at {page}.")
