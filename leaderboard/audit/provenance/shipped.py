"""Makes the list of fingerprints that ships with the manifest, from the three published files of Slake 1.0.

`python -m medbench.leaderboard.audit.provenance.shipped SLAKE_FOLDER` writes `leaderboard/audit/slake-official.json`.
"""

import sys
from collections import defaultdict
from pathlib import Path

from medbench.leaderboard.audit.overlap.training_files import training_rows
from medbench.leaderboard.audit.provenance.fingerprints import prints_of
from medbench.leaderboard.audit.provenance.sources import SOURCES_FILE
from medbench.tasks.foundation.console import say
from medbench.tasks.foundation.files import canonical_json, write_atomically

SHIPPED = SOURCES_FILE.with_name("slake-official.json")
SPLITS = ("train", "validate", "test")


def slake_prints(folder: Path) -> str:
    """Return the JSON of the pictures' fingerprints by language and split; it holds no text of the dataset.

    Raises:
        DataError: If one of the three files is missing or broken.
    """
    pictures: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for split in SPLITS:
        path = folder / f"{split}.json"
        for row in training_rows(path, folder):
            pictures[row.language][split] |= prints_of(row).pictures
    sorted_pictures = {
        language: {split: sorted(found) for split, found in splits.items()} for language, splits in pictures.items()
    }
    return f"{canonical_json({'pictures': sorted_pictures}, indent=0)}\n"


if __name__ == "__main__":
    write_atomically(SHIPPED, slake_prints(Path(sys.argv[1])))
    say(f"Wrote {SHIPPED.name}.")
