"""A hub's cache and a user's cache of their own; import this before any library that looks where its own are."""

import os
import sys
from pathlib import Path
from tempfile import mkdtemp

if any(name in sys.modules for name in ("huggingface_hub", "appdirs")):
    raise RuntimeError("A library already knows another cache: give tests/in_clinical to a pytest of its own.")
PLACE = Path(mkdtemp(prefix="medbench-clinical-"))
HUB, CACHES = PLACE / "hub" / "hub", PLACE / "caches"
os.environ |= {"HF_HOME": str(HUB.parent), "XDG_CACHE_HOME": str(CACHES), "HF_HUB_OFFLINE": "1"}
