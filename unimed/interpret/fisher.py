"""The spectrum of the Fisher information over the connector, of per-sample gradients g_1 … g_n [P].

F = Σ g gᵀ / n [P, P] is the empirical one, at the right answers. Its eigenvalues but zeros are those of the Gram matrix
K = G Gᵀ / n [n, n] of G [n, P]. With p_k = λ_k / Σ λ: spectral entropy SE = -Σ p_k ln p_k, at most ln n, and the share
of the largest eigenvalue, rho = λ_1 / Σ λ. IMAX (arXiv 2504.09967) reports a lower SE and a higher rho than DMAX; over
which parameters and samples is not published, so the definitions here are the usual ones.

Two readings: of the gradients as they are, where a few long ones decide, and of their directions, each made of length
one. Everything is float64; a number that there is not is NaN.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from pydantic import model_validator

from medbench.tasks.validation import parse_json_file
from medbench.unimed.interpret.document import ALL, Number, Record, csv_text
from medbench.unimed.interpret.interference import LEVEL, Array

Reading = Literal["gradients", "directions"]
READINGS: tuple[Reading, ...] = ("gradients", "directions")
FILE = "fisher.json"
DRAWS = 200
_ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


class Estimate(Record):
    """A number with the ends of its 95 % interval."""

    value: Number
    low: Number
    high: Number


class Spectrum(Record):
    """What one group of parameters gives in one reading."""

    shares: tuple[float, ...]  # p_k, the largest first; n of them, or none if every gradient is zero.
    entropy: Estimate  # SE, in nats.
    ratio: Estimate  # rho.


class Part(Record):
    """A group of parameters."""

    parameters: int
    spectra: dict[Reading, Spectrum]


class FisherModel(Record):
    """One model; the samples of each task have the same weight."""

    label: str
    connector: str
    fingerprint: str  # Of the weights.
    tasks: tuple[str, ...]
    data: dict[str, str]  # Fingerprints of the prepared tasks.
    samples: int  # Of each task.
    seed: int
    precision: str
    draws: str  # How its training drew its batches, `official` or `image_centric`; empty where that is not known.
    groups: dict[str, Part]  # `all` and the parts of the connector.


class Change(Record):
    """A difference of two models, and what it would be if every sample's gradient had one of both at random."""

    difference: Estimate  # The other model minus the first.
    chance_low: Number  # 95 % of differences by chance lie between; None where the parameters are not the same.
    chance_high: Number
    p: Number  # Share of differences by chance that are as large.


class Changes(Record):
    """The differences in one group of parameters and one reading."""

    entropy: Change
    ratio: Change


class Comparison(Record):
    """A model against the first, on the same samples; the groups are those that both have."""

    first: str
    other: str
    groups: dict[str, dict[Reading, Changes]]


class FisherDocument(Record):
    """`fisher.json`."""

    schema_version: int = 1
    models: tuple[FisherModel, ...]
    comparisons: tuple[Comparison, ...]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """Refuse comparisons of models that are not there, and numbers that the page would miss."""
        named = {name for pair in self.comparisons for name in (pair.first, pair.other)}
        if not named <= {one.label for one in self.models}:
            raise ValueError("a comparison names a model that is not there")
        if not self.models or not all(one.tasks and one.samples > 0 for one in self.models):
            raise ValueError("there are no samples")
        found = [{name: set(part.spectra) for name, part in one.groups.items()} for one in self.models]
        found += [{name: set(both) for name, both in pair.groups.items()} for pair in self.comparisons]
        if any(ALL not in groups or any(of != set(READINGS) for of in groups.values()) for groups in found):
            raise ValueError("a group of parameters has not both readings, or there is none of all")
        return self


def read_fisher(path: Path) -> FisherDocument:
    """Return what `fisher.json` says; DataError if it is not there or says something else."""
    return parse_json_file(FisherDocument, path)


class Measures(NamedTuple):
    """SE and rho."""

    entropy: float
    ratio: float


def measures(gram: Array) -> Measures:
    """Return SE and rho of a Gram matrix [n, n], whatever its scale; NaN if it is zero."""
    shares = shares_of(gram)
    if not shares.size:
        return Measures(float("nan"), float("nan"))
    there = shares[shares > 0]
    return Measures(float(-(there * np.log(there)).sum()), float(shares.max()))


def shares_of(gram: Array) -> Array:
    """Return the shares p [n] of the eigenvalues of a Gram matrix [n, n], the largest first; none if it is zero."""
    values: Array = np.clip(np.linalg.eigvalsh(gram), 0.0, None)[::-1]
    return values / values.sum() if values.any() else values[:0]


def readings(gram: Array) -> dict[Reading, Array]:
    """Return the Gram matrix [n, n] of gradients and of their directions; one of length zero adds nothing to either."""
    lengths = np.sqrt(np.diagonal(gram))
    turned = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return {"gradients": gram, "directions": gram * turned[:, None] * turned}


def resampled(tasks: int, samples: int, *, seed: int, draws: int = DRAWS) -> Array:
    """Return weights [draws, tasks · samples] of a bootstrap that takes the samples of each task anew."""
    dice = np.random.default_rng(seed)
    counts = dice.multinomial(samples, [1 / samples] * samples, size=(draws, tasks))
    weights: Array = counts.reshape(draws, -1) / (tasks * samples)
    return weights


def bootstrapped(gram: Array, weights: Array) -> Array:
    """Return SE and rho [draws, 2] of a Gram matrix [n, n] under each draw's weights [draws, n]."""
    return np.array([measures(gram * np.sqrt(one)[:, None] * np.sqrt(one)) for one in weights])


def around(value: float, drawn: Array) -> Estimate:
    """Return a value with the interval of its draws, moved so that their mean is the value.

    A bootstrap draws samples twice, and copies make a spectrum look narrower: that bias is taken out.
    """
    low, high = np.quantile(drawn - drawn.mean() + value, _ENDS)
    return Estimate(value=_number(value), low=_number(low), high=_number(high))


def spectrum(gram: Array, weights: Array) -> Spectrum:
    """Return the spectrum of a Gram matrix [n, n] with the intervals of a bootstrap."""
    found, drawn = measures(gram), bootstrapped(gram, weights)
    shares = tuple(map(float, shares_of(gram)))
    return Spectrum(
        shares=shares, entropy=around(found.entropy, drawn[:, 0]), ratio=around(found.ratio, drawn[:, 1])
    )  # fmt: skip


def part_of(gram: Array, weights: Array, *, parameters: int) -> Part:
    """Return the record of a group of parameters."""
    spectra = {reading: spectrum(one, weights) for reading, one in readings(gram).items()}
    return Part(parameters=parameters, spectra=spectra)


def by_chance(first: Array, cross: Array, other: Array, *, seed: int, draws: int = DRAWS) -> Array:
    """Return differences of SE and rho [draws, 2], other minus first, where each sample's two gradients are dealt anew.

    `first` and `other` are Gram matrices [n, n], `cross` [n, n] has the products of the first's rows with the other's.
    """
    count = len(first)
    pool = np.block([[first, cross], [cross.T, other]])
    swaps = np.random.default_rng(seed).integers(0, 2, size=(draws, count))
    one, two = np.arange(count) + swaps * count, np.arange(count) + (1 - swaps) * count
    pairs = ((measures(pool[np.ix_(b, b)]), measures(pool[np.ix_(a, a)])) for a, b in zip(one, two, strict=True))
    return np.array([np.subtract(*pair) for pair in pairs])


def change(difference: float, drawn: Array, chance: Array | None) -> Change:
    """Return the record of a difference, of its bootstrap [draws] and of what chance gives [draws]."""
    estimate = around(difference, drawn)
    if chance is None or not np.isfinite(chance).all():
        return Change(difference=estimate, chance_low=None, chance_high=None, p=None)
    low, high = np.quantile(chance, _ENDS)
    larger = int((np.abs(chance) >= abs(difference)).sum())
    return Change(
        difference=estimate, chance_low=_number(low), chance_high=_number(high), p=(1 + larger) / (1 + len(chance))
    )


def compare(
    labels: tuple[str, str], first: Mapping[str, Array], other: Mapping[str, Array], cross: Mapping[str, Array],
    weights: Array, *, seed: int
) -> Comparison:  # fmt: skip
    """Compare two models by group; `cross` is empty where their parameters are not the same."""
    groups: dict[str, dict[Reading, Changes]] = {}
    for group in (name for name in first if name in other):
        ones, others = readings(first[group]), readings(other[group])
        for reading in READINGS:
            one, two = ones[reading], others[reading]
            found = np.subtract(measures(two), measures(one))
            drawn = bootstrapped(two, weights) - bootstrapped(one, weights)
            chance = None
            if group in cross:
                products = cross[group] if reading == "gradients" else _turned(cross[group], first[group], other[group])
                chance = by_chance(one, products, two, seed=seed)
            entropy, ratio = (
                change(float(found[place]), drawn[:, place], None if chance is None else chance[:, place])
                for place in range(2)
            )
            groups.setdefault(group, {})[reading] = Changes(entropy=entropy, ratio=ratio)
    return Comparison(first=labels[0], other=labels[1], groups=groups)


def csv_files(found: FisherDocument) -> dict[str, dict[str, str]]:
    """Return the text of each CSV file by its name, by model; `fisher-change.csv` is the model minus the first."""
    files: dict[str, dict[str, str]] = {}
    for model in found.models:
        spectra = {group: part.spectra for group, part in model.groups.items()}
        shares = [
            (group, reading, rank + 1, share)
            for group, of in spectra.items() for reading, one in of.items() for rank, share in enumerate(one.shares)
        ]  # fmt: skip
        spectrum = csv_text([("group", "reading", "rank", "share"), *shares])
        files[model.label] = {"fisher.csv": _csv(spectra), "spectrum.csv": spectrum}
    for pair in found.comparisons:
        files[pair.other]["fisher-change.csv"] = _csv(pair.groups)
    return files


def _csv(groups: Mapping[str, Mapping[Reading, Spectrum | Changes]]) -> str:
    rows = [
        {"group": group, "reading": reading, **dict(_flat(one.model_dump(exclude={"shares"})))}
        for group, of in groups.items() for reading, one in of.items()
    ]  # fmt: skip
    return csv_text([list(rows[0]), *(list(row.values()) for row in rows)])


def _flat(record: Mapping[str, Any], stem: str = "") -> Iterator[tuple[str, Number]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{stem}{name}_")
        else:
            yield stem + name, value


def _turned(cross: Array, first: Array, other: Array) -> Array:
    lengths = np.sqrt(np.outer(np.diagonal(first), np.diagonal(other)))
    turned: Array = np.divide(cross, lengths, out=np.zeros_like(cross), where=lengths > 0)
    return turned


def _number(value: float) -> Number:
    return float(value) if np.isfinite(value) else None
