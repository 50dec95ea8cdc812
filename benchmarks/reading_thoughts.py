"""Answers of models that think first: the thought names other answers, and some thoughts never end.

In a template `{said}` is the answer and `{thought}` what was thought before.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from random import Random

from benchmarks.reading_choices import Output
from medbench.tasks.sample import Box

FINISHED: tuple[str, ...] = (
    "<think>{thought}</think>{said}", "<think>\n{thought}\n</think>\n\n{said}", "<thinking>{thought}</thinking>{said}",
    "<reasoning>{thought}</reasoning>\n{said}", "[THINK]{thought}[/THINK]{said}",
    "\u25c1think\u25b7{thought}\u25c1/think\u25b7{said}",
    "{thought}</think>{said}", "{thought}\n</think>\n\n{said}", "<think></think>{said}",
    "<think>{thought}</think><answer>{said}</answer>", "<unused94>thought\n{thought}<unused95>{said}",
    "<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant<|channel|>final<|message|>{said}<|return|>",
    "<think>{thought}</think>\n**{said}**", "<think>{thought}</think>{said}<|im_end|>",
)  # fmt: skip
UNFINISHED: tuple[str, ...] = (
    "<think>{thought}", "<think>\n{thought}\n", "<thinking>{thought} {said}", "<reasoning>{thought}",
    "[THINK]{thought}",
    "\u25c1think\u25b7{thought}", "<|channel|>analysis<|message|>{thought}", "<unused94>thought\n{thought}",
    "<think>{thought} So it must be {said}", "<think>{said}",
)  # fmt: skip
THOUGHTS = {
    "qa": ("Let me see. The answer is {other}. Wait, that does not fit.", "Is it {other}? The answer is {other}."),
    "vqa": ("Let me see. Is the answer {other}? Probably.", "The answer is {other}. Hmm."),
    "cls": ("It may be {other}. The answer is {other}.", "This is {other}, I think."),
    "rec": ("maybe [1, 2, 3, 4]?", "The whole image is [0, 0, 9, 9], so (1, 2), (3, 4)."),
}


def thoughts(random: Random, share: float, plain: Iterable[Output]) -> Iterator[Output]:
    """Yield outputs with a thought before the answer, made of some that have none."""
    answered = [output for output in plain if output.truth is not None and _is_plain(output)]
    for kind in THOUGHTS:
        group = [output for output in answered if output.task.kind == kind]
        for templates, finished in ((FINISHED, True), (UNFINISHED, False)):
            for template in templates:
                for output in random.sample(group, max(1, round(12 * share))):
                    yield _thought(random, output, template, finished=finished)


def _is_plain(output: Output) -> bool:
    forms = ("letter alone", "letter and text", "declared", "said", "one side", "named", "brackets", "names")
    return output.form.endswith(forms) and not any(mark in output.text for mark in "*`\\<")


def _thought(random: Random, output: Output, template: str, *, finished: bool) -> Output:
    said = random.choice(THOUGHTS[output.task.kind]).format(other=_other(random, output))
    return replace(
        output,
        form=f"thoughts: {'before the answer' if finished else 'never ended'}",
        text=template.format(thought=said, said=output.text),
        truth=output.truth if finished else None,
    )


def _other(random: Random, output: Output) -> str:
    if isinstance(output.truth, Box):
        return ""
    allowed = output.answers or tuple(output.sample.choices)
    return random.choice([choice for choice in allowed if choice != output.truth])
