"""Draws what a chest film shows, and says it in words: a small grammar of our own with several wordings.

No sentence is taken from a report; the order is that of common practice: devices, heart, lungs, pleura.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from tools.mini_suite.chest_films import SIDES, ZONES, Amount, Device, Findings, Side, Size, Zone

Option = TypeVar("Option")

_ABNORMAL = ("heart", "effusion", "consolidation", "nodule", "pneumothorax", "device")
_SHARES = (0.24, 0.24, 0.20, 0.12, 0.10, 0.10)
_BOTH_SIDES = 0.2
_HOW_MANY = (0.10, 0.40, 0.35, 0.15)

_AMOUNTS: tuple[Amount, ...] = ("small", "large")
_SIZES: tuple[Size, ...] = ("mild", "marked")
_DEVICES: tuple[Device, ...] = ("tube", "port", "pacemaker")

_DEVICE_WORDS: dict[Device, tuple[str, ...]] = {
    "tube": ("An endotracheal tube ends above the carina.", "The endotracheal tube is in standard position."),
    "port": ("A right chest port ends in the superior vena cava.", "Right chest port with its tip in the lower SVC."),
    "pacemaker": ("A left chest pacemaker is in place.", "Left pacemaker with a lead in the right ventricle."),
}
_HEART_WORDS: dict[Size, tuple[str, ...]] = {
    "normal": ("The heart size is normal.", "Heart size is within normal limits.", "The heart is not enlarged."),
    "mild": ("The heart is mildly enlarged.", "There is mild cardiomegaly."),
    "marked": ("The heart is markedly enlarged.", "There is marked cardiomegaly."),
}
_CONSOLIDATION_WORDS = (
    "There is consolidation in the {side} {zone} lung zone.",
    "A dense opacity in the {side} {zone} zone suggests pneumonia.",
)
_NODULE_WORDS = (
    "There is a round nodule in the {side} {zone} lung zone.",
    "A solitary nodule projects over the {side} {zone} zone.",
)
_CLEAR_WORDS = (
    "The lungs are clear.",
    "Both lungs are clear without consolidation.",
    "No focal consolidation is seen.",
)
_EFFUSION_WORDS = (
    "There is a {amount} {side} pleural effusion.",
    "A {amount} pleural effusion is present on the {side}.",
)
_PNEUMOTHORAX_WORDS = ("There is a {side} pneumothorax.", "A pneumothorax is present on the {side}.")
_NEGATIVE_WORDS = {
    (False, False): ("There is no pleural effusion or pneumothorax.", "No effusion and no pneumothorax is seen."),
    (True, False): ("There is no pneumothorax.", "No pneumothorax is seen."),
    (False, True): ("There is no pleural effusion.", "No pleural effusion is seen."),
}
_BONE_WORDS = ("The bones are intact.", "No acute bone abnormality is seen.", "The visible ribs are unremarkable.")
_FEWEST_WORDS, _MOST_WORDS = 15, 35


def draw_case(random: np.random.Generator) -> tuple[Findings, str]:
    """Return what a film shows (none to three abnormalities) and a report on it of 15 to 35 words."""
    while True:
        findings = _findings(random)
        report = write_report(findings, random)
        if len(report.split()) <= _MOST_WORDS:
            return findings, report


def _findings(random: np.random.Generator) -> Findings:
    count = int(random.choice(len(_HOW_MANY), p=_HOW_MANY))
    chosen = {str(name) for name in random.choice(_ABNORMAL, size=count, replace=False, p=_SHARES)}
    consolidation = _place(random) if "consolidation" in chosen else None
    nodule = _place(random) if "nodule" in chosen else None
    return Findings(
        heart=_pick(_SIZES, random) if "heart" in chosen else "normal",
        effusions=_effusions(random) if "effusion" in chosen else (),
        consolidation=consolidation,
        nodule=nodule if nodule != consolidation else None,
        pneumothorax=_pick(SIDES, random) if "pneumothorax" in chosen else None,
        device=_pick(_DEVICES, random) if "device" in chosen else None,
    )


def _effusions(random: np.random.Generator) -> tuple[tuple[Side, Amount], ...]:
    sides = SIDES if random.random() < _BOTH_SIDES else (_pick(SIDES, random),)
    return tuple((side, _pick(_AMOUNTS, random)) for side in sides)


def _place(random: np.random.Generator) -> tuple[Side, Zone]:
    return _pick(SIDES, random), _pick(ZONES, random)


def _pick(options: Sequence[Option], random: np.random.Generator) -> Option:
    return options[int(random.integers(len(options)))]


def write_report(findings: Findings, random: np.random.Generator) -> str:
    """Return a report of at least 15 words on `findings`."""
    said = [
        *([_pick(_DEVICE_WORDS[findings.device], random)] if findings.device else []),
        _pick(_HEART_WORDS[findings.heart], random),
        *_lungs(findings, random),
        *_pleura(findings, random),
    ]
    report = " ".join(said)
    return report if len(report.split()) >= _FEWEST_WORDS else f"{report} {_pick(_BONE_WORDS, random)}"


def _lungs(findings: Findings, random: np.random.Generator) -> list[str]:
    said = []
    for place, words in ((findings.consolidation, _CONSOLIDATION_WORDS), (findings.nodule, _NODULE_WORDS)):
        if place is not None:
            said.append(_pick(words, random).format(side=place[0], zone=place[1]))
    return said or [_pick(_CLEAR_WORDS, random)]


def _pleura(findings: Findings, random: np.random.Generator) -> list[str]:
    said = [_pick(_EFFUSION_WORDS, random).format(side=side, amount=amount) for side, amount in findings.effusions]
    if findings.pneumothorax is not None:
        said.append(_pick(_PNEUMOTHORAX_WORDS, random).format(side=findings.pneumothorax))
    absent = _NEGATIVE_WORDS.get((bool(findings.effusions), findings.pneumothorax is not None))
    return [*said, _pick(absent, random)] if absent else said
