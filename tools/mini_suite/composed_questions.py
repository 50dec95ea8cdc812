"""Questions of our own, with answers that follow from how a picture was made.

VQA-RAD alone asks little that a small model can learn from a hundred pictures; these questions make sure that looking
at the picture pays.
"""

from collections.abc import Sequence

import numpy as np

from tools.mini_suite.colin27 import View
from tools.mini_suite.part import Source
from tools.mini_suite.phantom import Phantom, pick
from tools.mini_suite.question import Question

SOURCE = Source(
    name="composed-questions",
    title="Questions composed from the atlas or from the drawing",
    origin="phantom",
    licence="Apache-2.0",
    attribution="medbench authors",
    retrieved_from="tools/mini_suite/composed_questions.py",
    changes="none",
)

_CLEARLY_ASIDE = 0.04


def about_slice(view: View, random: np.random.Generator) -> list[Question]:
    """Return two or three questions on an axial brain slice: its level, a structure, its place in the picture."""
    level = Question(
        text=pick(("At which level of the brain is this slice?", "What level of the brain is shown?"), random),
        answer=_level(view),
        closed=False,
        kind="PLANE",
        phrase="composed",
    )
    return [level, _presence(view, random), *_half(view, random)]


def _level(view: View) -> str:
    if not {"Left Thalamus", "Right Thalamus"} <= set(view.absent):
        return "Basal Ganglia"
    return "Upper Cerebrum" if "Cerebellum" in view.absent else "Cerebellum"


def _presence(view: View, random: np.random.Generator) -> Question:
    present = bool(random.integers(2)) or not view.absent
    names: Sequence[str] = [region.name for region in view.regions] if present else view.absent
    words = pick(("Does the picture contain the {}?", "Is the {} visible in this picture?"), random)
    answer = "Yes" if present else "No"
    return Question(text=words.format(pick(names, random)), answer=answer, closed=True, kind="PRES", phrase="composed")


def _half(view: View, random: np.random.Generator) -> list[Question]:
    """Ask for the half of the picture that the brain is in, unless it is in the middle."""
    axis = int(np.argmax(np.abs(np.array(view.middle) - 0.5)))
    offset = view.middle[axis] - 0.5
    if abs(offset) < _CLEARLY_ASIDE:
        return []
    low, high = (("left", "right"), ("upper", "lower"))[axis]
    words = pick(
        ("Is the brain in the {} or the {} half of the picture?", "Which half holds the brain, the {} or the {} one?"),
        random,
    )
    answer = (high if offset > 0 else low).capitalize()
    return [Question(text=words.format(low, high), answer=answer, closed=True, kind="POS", phrase="composed")]


def about_phantom(body: str, phantom: Phantom, random: np.random.Generator) -> list[Question]:
    """Return four or five questions on a drawn scan of `body`, in lower case as PathVQA asks."""
    modality = {"CT": "ct", "MR": "mri", "XR": "x-ray"}[phantom.modality[:2]]
    normal = phantom.finding == "none"
    asked: list[tuple[tuple[str, ...], str, bool, str]] = [
        (("what part of the body is shown?", "which body part does this image show?"), body, False, "ORGAN"),
        (("what imaging method was used?", "how was this image taken?"), modality, False, "MODALITY"),
        (("what is the main finding?", "what abnormality is seen?"), phantom.finding, False, "ABN"),
        (("is this image normal?", "is the image free of disease?"), "yes" if normal else "no", True, "ABN"),
    ]
    if phantom.side:
        of_lesion = ("on which side is the lesion?", "which side is affected?")
        asked.append((("which knee is shown?",) if body == "knee" else of_lesion, phantom.side, False, "POS"))
    return [
        Question(text=pick(words, random), answer=answer, closed=closed, kind=kind, phrase="composed")
        for words, answer, closed, kind in asked
    ]
