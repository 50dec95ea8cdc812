"""Composes `suite.json`, the manifest of the suite, and `LICENSES.md` from the records of its parts."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from medbench.tasks.foundation.errors import DataError
from tools.mini_suite.part import Part, Source

SCHEMA = 1

_LICENCE_LINKS = {
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "Apache-2.0 AND CC-BY-4.0": "https://www.apache.org/licenses/LICENSE-2.0, https://creativecommons.org/licenses/by/4.0/",
    "BSD-3-Clause": "https://opensource.org/license/bsd-3-clause",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "MIT": "https://opensource.org/license/mit",
}

_ABOUT = (
    "12 small tasks in the native layout of their datasets. An item is `real` (a row of the dataset that the task is "
    "named after), a `stand-in` (real material of another dataset in that layout) or a `phantom` (drawn by "
    "tools/mini_suite). Scores on this suite say nothing about the datasets and are never shown beside "
    "published numbers. Not for clinical use."
)


def compose(parts: Sequence[Part]) -> bytes:
    """Return the manifest of the parts.

    The object has `schema`, `about`, `notes`, `materials` (by name), `tasks` (by name; `source` is the folder and
    `options` are the reader's, `items` maps an item, or a pattern with `*`, to `material` or `material:original id`;
    a picture and its questions may be two materials, joined by `+`)
    and `files` (a tree of folders down to the SHA-256 of each file).

    Raises:
        DataError: If two parts write one file or a licence is unknown.
    """
    sources = _sources(parts)
    tasks = {record.task: _task(asdict(record), sources) for part in parts for record in part.tasks}
    document = {
        "schema": SCHEMA,
        "about": _ABOUT,
        "notes": [note for part in parts for note in part.notes],
        "materials": {name: _without_name(source) for name, source in sorted(sources.items())},
        "tasks": dict(sorted(tasks.items())),
        "files": _hashes(all_files(parts)),
    }
    return _readable(document)


def all_files(parts: Iterable[Part]) -> dict[str, bytes]:
    """Return the files of all parts by path.

    Raises:
        DataError: If two parts write one file.
    """
    files: dict[str, bytes] = {}
    for part in parts:
        if both := files.keys() & part.files.keys():
            raise DataError(f"Two parts write {min(both)}.", "Give one of them another folder.")
        files |= part.files
    return files


def licences_text(parts: Sequence[Part]) -> str:
    """Return `LICENSES.md`: one section per source, with the tasks and the folders in which it is."""
    users: dict[str, list[str]] = {}
    for part in parts:
        for record in part.tasks:
            for name in _materials(record.items):
                users.setdefault(name, []).append(f"{record.task} (`data/{record.folder}`)")
    sections = [_section(source, users[name]) for name, source in sorted(_sources(parts).items())]
    return "\n".join([_HEADING, *sections, _BSD_TEXT, _MIT_TEXT])


_HEADING = """# Licences of the mini suite

Made by `python -m tasks.mini_suite.build`; do not edit by hand. `data/suite.json` says for every item which of these
sources it comes from. Code of this repository is under Apache-2.0.
"""

_BSD_TEXT = """## Text of BSD-3-Clause as it comes with Colin27 and AAL

Copyright 2006-2010, Chris Rorden

Redistribution and use in source and binary forms, with or without modification, are permitted provided that the
following conditions are met:

Redistributions of source code must retain the above copyright notice, this list of conditions and the following
disclaimer.

Redistributions in binary form must reproduce the above copyright notice, this list of conditions and the following
disclaimer in the documentation and/or other materials provided with the distribution. Neither the names of the
copyright owners nor the names of this project (MRIcron) may be used to endorse or promote products derived from this
software without specific prior written permission.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR IMPLIED WARRANTIES,
INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE
DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT OWNER OR CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR
SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY,
WHETHER IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE OF
THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.
"""

_MIT_TEXT = """## Text of MIT as it comes with MedQA, PubMedQA and the re-keyed VQA-RAD JSON

Copyright (c) Di Jin (MedQA); Copyright (c) 2019 pubmedqa (PubMedQA); Copyright (c) 2025 bvyih (VQA-RAD JSON)

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def _section(source: Source, users: Sequence[str]) -> str:
    return "\n".join(
        [
            f"## {source.title}",
            "",
            f"- Used as: {source.origin}, in {', '.join(users)}",
            f"- Licence: {source.licence} ({_link(source)})",
            f"- Attribution: {source.attribution}",
            f"- From: {source.retrieved_from}",
            f"- Changes: {source.changes}",
            "",
        ]
    )


def _link(source: Source) -> str:
    try:
        return _LICENCE_LINKS[source.licence]
    except KeyError as error:
        raise DataError(
            f"The source {source.name!r} has the licence {source.licence!r}, which the suite does not know.",
            f"Known: {', '.join(sorted(_LICENCE_LINKS))}. Add it only if it allows redistribution.",
        ) from error


def _sources(parts: Iterable[Part]) -> dict[str, Source]:
    sources = {source.name: source for part in parts for source in part.sources}
    for source in sources.values():
        _link(source)
    return sources


def _materials(items: Mapping[str, str]) -> list[str]:
    return sorted({name for value in items.values() for name in value.split(":")[0].split("+")})


def _without_name(source: Source) -> dict[str, Any]:
    return {key: value for key, value in asdict(source).items() if key != "name"}


def _task(record: dict[str, Any], sources: Mapping[str, Source]) -> dict[str, Any]:
    used = _materials(record["items"])
    origins = sorted({sources[name].origin for name in used})
    licences = sorted({sources[name].licence for name in used})
    kept = {key: record[key] for key in ("options", "split", "counts", "items")}
    account = {"origin": " and ".join(origins), "licence": " and ".join(licences), "materials": used}
    return {"source": record["folder"], **account, **kept}


def _hashes(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the SHA-256 of each file in a tree of folders."""
    tree: dict[str, Any] = {}
    for path in sorted(files):
        *folders, name = path.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = hashlib.sha256(files[path]).hexdigest()
    return tree


def _readable(document: Mapping[str, Any]) -> bytes:
    """One line per leaf table, so that the file is small and its differences can be read."""
    return (json.dumps(document, ensure_ascii=False, indent=0, separators=(",", ":")) + "\n").encode()
