"""Makes the list of fingerprints that ships with the manifest, from the three published files of Slake 1.0.

`python -m tools.slake_fingerprints SLAKE_FOLDER` writes `leaderboard/audit/slake-official.json`.
"""

import sys
from collections import defaultdict
from pathlib import Path

from medbench.leaderboard.audit.data.declared import SOURCES_FILE, image_prints
from medbench.leaderboard.audit.data.items import training_rows
from medbench.tasks.foundation.console import say
from medbench.tasks.foundation.files import canonical_json, write_atomically

SHIPPED = SOURCES_FILE.with_name("slake-official.json")


def slake_prints(folder: Path) -> str:
    """Return the JSON of the images' fingerprints by language and split; it holds no text of the dataset.

    Raises:
        DataError: If one of the three files is missing or broken.
    """
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for split in ("train", "validate", "test"):
        for row in training_rows(folder / f"{split}.json", folder):
            found[row.language][split] |= image_prints(row)
    pictures = {
        language: {split: sorted(prints) for split, prints in splits.items()} for language, splits in found.items()
    }
    return f"{canonical_json({'pictures': pictures}, indent=0)}\n"


if __name__ == "__main__":
    write_atomically(SHIPPED, slake_prints(Path(sys.argv[1])))
    say(f"Wrote {SHIPPED.name}.")
