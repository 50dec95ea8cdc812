"""Images of several tasks before and after the connector (Fig. 5): how far tasks lie apart there, and maps of it.

What lies apart is counted in the space of the features; a map only draws it, and t-SNE also parts what is one cloud.
Before the connector an image that two tasks share is the same point in both: what parts them behind it is the task.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from medbench.tasks.foundation.console import meter, warn
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.files import canonical_json, write_atomically
from medbench.tasks.prepared import Prepared, load_prepared
from medbench.tasks.sample import Sample
from medbench.tasks.validation import parse_json_file
from medbench.unimed.checkpoint import LoadedCheckpoint, load_checkpoint
from medbench.unimed.configuration import CONNECTOR_TASKS
from medbench.unimed.interpret.document import Number, Record
from medbench.unimed.prompts import CONNECTOR_TASK

FloatArray = npt.NDArray[np.float64]
Place = Literal["before", "after"]
PLACES: tuple[Place, ...] = ("before", "after")
FILE = "maps.json"
NEIGHBOURS = 10
FEWEST = 3 * NEIGHBOURS
"""Points below which a map says nothing."""
_COMPONENTS, _PERPLEXITY, _MOST_EXACT = 50, 30, 10_000
_DIGITS = 5


class Apart(Record):
    """How far tasks lie apart in one space."""

    silhouette: Number  # Mean over points, from -1 to 1; 0 for one cloud.
    purity: Number  # Share of the ten nearest neighbours that are of the same task.
    chance: float  # Purity of points that were dealt out at random.
    by_task: dict[str, Number]  # Purity by task.


class Map(Record):
    """One space of one model: where its points lie, and how far apart tasks are."""

    width: int  # Numbers of a point's features.
    apart: Apart
    plane: tuple[tuple[float, float], ...]  # By t-SNE, a point each.
    room: tuple[tuple[float, float, float], ...]


class Maps(Record):
    """The maps of one model; points are named by task alone, in an order of theirs."""

    label: str
    tasks: tuple[str, ...]  # Of each point.
    pictures: int  # Different images among the points.
    seed: int
    before: Map
    after: Map


class MapsDocument(Record):
    """`maps.json`."""

    schema_version: int = 1
    models: tuple[Maps, ...]


def read_maps(output: Path) -> tuple[Maps, ...]:
    """Return the maps in a folder, none if none were made; DataError if the file is malformed."""
    file = output / FILE
    return parse_json_file(MapsDocument, file).models if file.exists() else ()


def write_maps(models: Sequence[Maps], output: Path) -> None:
    """Write the maps of models into a folder."""
    document = MapsDocument(models=tuple(models)).model_dump(mode="json")
    write_atomically(output / FILE, canonical_json(document) + "\n")


def map_model(folder: Path, label: str, tasks: Sequence[str], data_dir: Path, *, count: int, seed: int,
              device: str = "auto") -> Maps | None:  # fmt: skip
    """Return maps of `count` test images of each task; the mean over a picture's tokens is its point.

    None, with a warning, if there are fewer than `FEWEST`. UsageError if scikit-learn is not installed; errors of
    `load_checkpoint`.
    """
    _scikit_learn()
    loaded = load_checkpoint(folder, device=device, dtype="float32")
    found = [(task, *_features(loaded, load_prepared(data_dir, task), count)) for task in tasks]
    labels = [task for task, _, before, _ in found for _ in before]
    if len(labels) < FEWEST:
        warn(f"{label} has no map: {len(labels)} test images are too few for one, {FEWEST} are needed.")
        return None
    pictures = {picture for _, names, _, _ in found for picture in names}
    spaces = {"before": np.concatenate([one[2] for one in found]), "after": np.concatenate([one[3] for one in found])}
    made = {place: map_of(space, labels, seed=seed) for place, space in spaces.items()}
    return Maps(label=label, tasks=tuple(labels), pictures=len(pictures), seed=seed, **made)


def _features(loaded: LoadedCheckpoint, prepared: Prepared, count: int) -> tuple[list[str], FloatArray, FloatArray]:
    """Return the names of a task's images, and their points before and after the connector, [N, C] and [N, H]."""
    model = loaded.model
    device, dtype = next(model.parameters()).device, model.vision_tower.vit.dtype
    number = CONNECTOR_TASKS.index(CONNECTOR_TASK[prepared.spec.kind])
    names, points = list[str](), list[tuple[FloatArray, FloatArray]]()
    with torch.inference_mode(), meter(f"Features of {prepared.task}", count) as progress:
        for sample in spread(prepared.samples("test"), count):
            pixels = loaded.processor.pixels(prepared.images(sample)[0])[None].to(device, dtype)
            tokens = model.encode_images(pixels)
            behind = model.project(tokens, [number])
            points.append((_mean(tokens), _mean(behind)))
            names.append(str(sample.images[0]))
            progress.advance(1)
    before, after = (np.stack(some) for some in zip(*points, strict=True))
    return names, before, after


def _mean(tokens: torch.Tensor) -> FloatArray:
    return np.asarray(tokens[0].float().mean(dim=0).cpu().numpy(), dtype=np.float64)


def spread(samples: Sequence[Sample], count: int) -> Iterator[Sample]:
    """Yield so many samples, or all, evenly over their order: neighbours are often of one patient."""
    there = [sample for sample in samples if sample.images]
    for place in np.unique(np.linspace(0, len(there) - 1, min(count, len(there))).round().astype(int)):
        yield there[place]


def map_of(features: FloatArray, labels: Sequence[str], *, seed: int) -> Map:
    """Return the map of `FEWEST` points or more, [N, C] with a label each."""
    scaled = standardised(features)
    plane, room = (embedded(scaled, dimensions=dimensions, seed=seed) for dimensions in (2, 3))
    return Map(width=features.shape[1], apart=apart(scaled, labels), plane=_rows(plane), room=_rows(room))


def standardised(features: FloatArray) -> FloatArray:
    """Return features with mean 0 and deviation 1 in each column that varies: spaces of two widths are compared."""
    deviation = features.std(axis=0)
    return np.asarray((features - features.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0))


def apart(features: FloatArray, labels: Sequence[str]) -> Apart:
    """Return how far points with labels lie apart, by Euclid's distance between their features [N, C]."""
    from sklearn.metrics import silhouette_score
    from sklearn.neighbors import NearestNeighbors

    of = np.asarray(labels)
    nearest = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(features).kneighbors(return_distance=False)
    same = (of[nearest] == of[:, None]).mean(axis=1)
    names = list(dict.fromkeys(labels))
    counts = np.array([(of == name).sum() for name in names])
    return Apart(
        silhouette=float(silhouette_score(features, of)) if len(names) > 1 else None, purity=float(same.mean()),
        chance=float((counts * (counts - 1)).sum() / (len(of) * (len(of) - 1))),
        by_task={name: float(same[of == name].mean()) for name in names},
    )  # fmt: skip


def embedded(features: FloatArray, *, dimensions: Literal[2, 3], seed: int) -> FloatArray:
    """Return points [N, dimensions] by t-SNE from their principal components; the same points give the same map."""
    sklearn = _scikit_learn()
    components = min(_COMPONENTS, *features.shape)
    reduced = sklearn.decomposition.PCA(components, random_state=seed).fit_transform(features)
    perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
    if len(features) > _MOST_EXACT:
        return _embedded_fast(reduced, dimensions, perplexity, seed)
    how: Mapping[str, Any] = {"init": "pca", "random_state": seed, "perplexity": perplexity}
    return np.asarray(sklearn.manifold.TSNE(dimensions, **how).fit_transform(reduced), dtype=np.float64)


def _embedded_fast(reduced: FloatArray, dimensions: int, perplexity: float, seed: int) -> FloatArray:
    try:
        from openTSNE import TSNE
    except ImportError as error:
        problem = f"A map of {len(reduced):,} points takes openTSNE, which is not installed."
        raise UsageError(problem, "pip install openTSNE, or ask for fewer: --images N") from error
    made = TSNE(n_components=dimensions, perplexity=perplexity, initialization="pca", random_state=seed)
    return np.asarray(made.fit(reduced), dtype=np.float64)


def _scikit_learn() -> Any:  # noqa: ANN401 - a library without types
    try:
        import sklearn.decomposition
        import sklearn.manifold
    except ImportError as error:
        way_out = "pip install 'medbench[interpret]', or leave the maps out: --images 0"
        raise UsageError("Maps take scikit-learn, which is not installed.", way_out) from error
    return sklearn


def _rows(points: FloatArray) -> tuple[Any, ...]:
    return tuple(tuple(round(float(value), _DIGITS) for value in point) for point in points)
