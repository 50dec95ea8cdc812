"""`python -m tools.mini_suite`: builds the mini suite from the folder with the real data."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click

from medbench.tasks.foundation.console import meter, say, show_error
from medbench.tasks.foundation.errors import DataError, MedbenchError, RunError
from tools.mini_suite import manifest, medmnist, medpix, mimic_cxr, path_vqa, sa_med2d, slake, text_qa
from tools.mini_suite.part import Part

BUILDERS: Mapping[str, Callable[[Path], Part]] = {
    "medqa": text_qa.build_medqa,
    "pubmedqa": text_qa.build_pubmedqa,
    "medmnist": medmnist.build,
    "slake": slake.build,
    "path-vqa": path_vqa.build,
    "sa-med2d": sa_med2d.build,
    "mimic-cxr": mimic_cxr.build,
    "medpix": medpix.build,
}

BYTE_BUDGET = 9_000_000


@click.command()
@click.option(
    "--realdata", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder with the real data."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder to write the suite to; it is replaced.",
)
@click.option(
    "--part",
    "parts",
    type=click.Choice(tuple(BUILDERS)),
    multiple=True,
    help="Build only this part (repeatable), without manifest.",
)
@click.option(
    "--licences", type=click.Path(path_type=Path, dir_okay=False), help="Also write LICENSES.md to this file."
)
def main(realdata: Path, output: Path, parts: Sequence[str], licences: Path | None) -> None:
    """Build the mini suite: the same input gives the same bytes."""
    try:
        _build(realdata, output, parts, licences)
    except MedbenchError as error:
        show_error(error)
        raise SystemExit(error.exit_code) from error


def _build(realdata: Path, output: Path, names: Sequence[str], licences: Path | None) -> None:
    if not realdata.is_dir():
        raise DataError(f"{realdata} is no folder.", "Give the folder that holds vqa_rad, colin27_aal and the others.")
    if output.exists() and any(output.iterdir()) and not (output / "suite.json").is_file():
        raise RunError(f"{output} is not empty and holds no suite.json.", "Give a new folder, or one with a suite.")
    built = []
    with meter("Building", len(names or BUILDERS)) as progress:
        for name in names or BUILDERS:
            built.append(BUILDERS[name](realdata))
            progress.advance(label=name)
    files = manifest.all_files(built)
    if not names:
        files["suite.json"] = manifest.compose(built)
    _write(output, files)
    if licences is not None:
        licences.write_text(manifest.licences_text(built), encoding="utf-8", newline="\n")
    total = sum(map(len, files.values()))
    say(f"{len(files)} files, {total / 1e6:.2f} MB of {BYTE_BUDGET / 1e6:.0f} MB, in {output}")
    if total > BYTE_BUDGET:
        raise RunError(f"The suite has {total} bytes, more than {BYTE_BUDGET}.", "Draw fewer or smaller pictures.")


def _write(output: Path, files: Mapping[str, bytes]) -> None:
    if output.exists():
        shutil.rmtree(output)
    for path, content in files.items():
        target = output / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


if __name__ == "__main__":
    main()
