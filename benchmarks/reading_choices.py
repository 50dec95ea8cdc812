"""What models write where they are to take a letter, a yes or no, or a class: forms with known answers.

In a template `{k}` and `{t}` are the key and the text that are taken, `{w}` and `{v}` those of another option.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from adapters.base import Parser, plain_answer
from tasks.catalog import get_task
from tasks.sample import Box, Sample
from tasks.spec import TaskSpec

First = TypeVar("First")
Second = TypeVar("Second")


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A model's output whose reading is known.

    Attributes:
        form: What it is an example of.
        text: What the model wrote.
        truth: The choice or the box that it takes; None if it takes none.
        sample: The question.
        task: Its task.
        parse: The parser of the model's adapter.
        answers: What a closed question without choices may be answered with.
    """

    form: str
    text: str
    truth: str | Box | None
    sample: Sample
    task: TaskSpec
    parse: Parser = plain_answer
    answers: tuple[str, ...] = ()


OPTIONS: tuple[Mapping[str, str], ...] = (
    {"A": "Warfarin", "B": "Heparin", "C": "Aspirin", "D": "Clopidogrel"},
    {"A": "Escherichia coli", "B": "Staphylococcus aureus", "C": "Klebsiella pneumoniae", "D": "Pseudomonas aeruginosa",
     "E": "Proteus mirabilis"},
    {"A": "Hepatitis B", "B": "Hepatitis C", "C": "Vitamin A deficiency", "D": "Hemophilia A"},
    {"A": "A beta blocker", "B": "An ACE inhibitor", "C": "A calcium channel blocker", "D": "A loop diuretic"},
    {"A": "Reassurance and follow-up in 6 months", "B": "Immediate surgery", "C": "CT scan of the abdomen",
     "D": "Intravenous fluids and antibiotics"},
    {"A": "5 mg", "B": "10 mg", "C": "20 mg", "D": "40 mg"},
    {"A": "IgA nephropathy", "B": "Minimal change disease", "C": "Membranous nephropathy", "D": "Type I diabetes"},
    {"A": "D-dimer", "B": "B-type natriuretic peptide", "C": "C-reactive protein", "D": "Troponin I"},
    {"A": "Left anterior descending artery", "B": "Right coronary artery", "C": "Left circumflex artery",
     "D": "Left main coronary artery"},
    {"A": "Tell the attending that he cannot fail to disclose this mistake", "B": "Report the physician",
     "C": "Do not disclose the error", "D": "Refuse to dictate the report"},
    {"A": "Decreased sodium, increased potassium", "B": "Increased sodium, decreased potassium",
     "C": "Decreased sodium, decreased potassium", "D": "Increased sodium, increased potassium"},
    {"A": "Melanoma", "B": "Basal cell carcinoma", "C": "Squamous cell carcinoma", "D": "Melanocytic nevus"},
)  # fmt: skip

LETTERS: Mapping[str, tuple[str, ...]] = {
    "letter alone": (
        "{k}", "({k})", "{k}.", "{k})", "[{k}]", " {k}\n", "{k}!", "Option {k}", "option {k}.", "Choice {k}",
        "Letter {k}", "Answer {k}", "{k}\n\n", "\n{k}", '"{k}"', "'{k}'", "{k}:", "{k} ",
    ),
    "letter and text": (
        "{k}. {t}", "{k}) {t}", "({k}) {t}", "{k}: {t}", "{k} - {t}", "{k} {t}", "Option {k}: {t}", "Option {k}. {t}.",
        "{k}. {t}\n\nExplanation: the others are less likely.", "[{k}] {t}", "{t} ({k})", "{t} (option {k})",
        "{k} ({t})", "{k} \u2014 {t}", "{k}, {t}.",
    ),
    "text alone": (
        "{t}", "{t}.", '"{t}"', "The answer is {t}.", "The correct answer is {t}.", "Answer: {t}", "It is {t}.",
        "The best choice is {t}.", "The most likely diagnosis is {t}.",
    ),
    "declared": (
        "The answer is {k}", "The answer is {k}.", "The answer is ({k}).", "The correct answer is {k}.",
        "The correct option is {k}", "The best answer is {k}.", "The best answer here would be {k}.",
        "The right answer would be {k}", "Answer: {k}", "Answer:{k}", "Answer: ({k})", "ANSWER: {k}", "answer is {k}",
        "Final answer: {k}", "Final Answer: {k}.", "My answer is {k}.", "My final answer is {k}.", "I think {k}",
        "I think {k}.", "I think it's {k}.", "I think the answer is {k}.", "I believe the answer is {k}.",
        "I would choose {k}.", "I would go with {k}.", "I choose option {k}.", "I'd pick {k}", "I select {k}.",
        "Option {k} is correct.", "Option {k} is the correct answer.", "({k}) is correct", "{k} is correct.",
        "{k} is the correct answer.", "{k} is the best answer because of the history.", "It is {k}.", "It's {k}.",
        "Therefore, the answer is {k}.", "Thus, {k}.", "So the answer is {k}.", "Hence the correct option is ({k}).",
        "The correct answer is {k}. {t}.", "The answer is {k}: {t}", "The answer is option {k}, {t}.",
        "Based on the findings, the answer is {k}.", "The patient has a fever. The answer is {k}.",
        "Answer: The answer is {k}.", "Answer: the answer is ({k})", "Ans: {k}", "Ans. {k}", "Correct answer: {k}",
        "Correct option: {k}", "The correct choice is {k}", "The answer to this question is {k}.",
        "Let us think step by step. The drug acts fast.\n\nAnswer: {k}", "Reasoning: the others do not fit.\n{k}",
        "Question: which one? Answer: The answer is {k}.", "The answer should be {k}.", "The answer must be {k}.",
        "The most appropriate answer is {k}.", "The most likely answer is {k}", "Among these, {k} is the best choice.",
        "The answer is {k} because the others do not fit.", "The answer is {k}, not {w}.", "{k}, not {w}.",
    ),
    "JSON": (
        '{{"answer": "{k}"}}', '{{"answer": "{k}. {t}"}}', '{{"answer_choice": "{k}"}}', '{{"choice": "{k}"}}',
        '```json\n{{"answer": "{k}"}}\n```', '{{"reasoning": "{w} or {k}", "answer": "{k}"}}', "{{'answer': '{k}'}}",
        '{{"step_by_step_thinking": "It is not {v}.", "answer_choice": "{k}"}}', '{{"Answer": "{k}"}}',
        '{{"correct_answer": "{k}"}}', '{{"final_answer": "({k})"}}', '{{"answer": "{t}"}}',
        'Here it is: {{"answer": "{k}"}}', '{{"explanation": "cut off", "answer": "{k}"',
    ),
    "tags and boxed": (
        "<answer>{k}</answer>", "<answer>{k}. {t}</answer>", "<answer> {k} </answer>", "\\boxed{{{k}}}",
        "$\\boxed{{{k}}}$", "\\boxed{{\\text{{{k}}}}}", "The answer is \\boxed{{{k}}}.", "\\boxed{{{k}. {t}}}",
        "\\boxed{{\\textbf{{{k}}}}}", "So {w} is out.\n<answer>{k}</answer>", "\\(\\boxed{{{k}}}\\)",
        "<answer>\n{k}\n</answer>",
    ),
    "markdown and end tokens": (
        "**{k}**", "**Answer: {k}**", "**Answer:** {k}", "*{k}*", "**{k}. {t}**", "The answer is **{k}**.",
        "### Answer\n{k}", "## Final answer: {k}", "`{k}`", "__{k}__", "> {k}", "- {k}", "**{k})** {t}", "***{k}***",
        "The answer is **{k}. {t}**.", "{k}</s>", "{k}<|im_end|>", "{k}<|eot_id|>", "{k}<end_of_turn>",
        "Answer: {k}<|endoftext|>", "**Final Answer:** **({k})**",
    ),
    "other scripts and marks": (
        "\uff08{k}\uff09", "{k}\u3002", "{k}\uff0e", "\u7b54\u6848\uff1a{k}", "\u7b54\u6848\u662f{k}\u3002",
        "\u201c{k}\u201d", "\u2018{k}\u2019", "\u300c{k}\u300d", "{k}\u3001{t}",
        "Answer\uff1a{k}", "\u3010{k}\u3011", "Respuesta: {k}", "R\u00e9ponse : {k}", "Antwort: {k}", "\u200b{k}",
        "{k}\u00a0",
        "The answer is\u00a0{k}.", "\u2022 {k}",
    ),
    "hedged": (
        "Probably {k}.", "The answer is probably {k}.", "Most likely {k}.", "I'm not sure, but I would say {k}.",
        "The answer is most likely {k}.", "I would say {k}.", "The answer is likely {k}", "My best guess is {k}.",
    ),
    "taken back": (
        "The answer is {w}. Wait, no, the answer is {k}.", "{w}. No, wait: {k}.",
        "At first the answer is {w}. Wait, that is wrong.\nAnswer: The answer is {k}.",
        "Most people choose {w}. The right one is {k}.", "Not {w}. The answer is {k}.",
        "I first thought {w}, but the answer is {k}.", "({w}) is wrong; the correct choice is ({k})",
        "The answer is not {w} but {k}.", "{w} is incorrect. {k} is correct.", "Initially {w}. Final answer: {k}",
    ),
}  # fmt: skip

NO_LETTER: Mapping[str, tuple[str, ...]] = {
    "several options": (
        "{k} or {w}", "{k}, {w}", "{k} and {w}", "{k}/{w}", "The answer is {k} or {w}.", "The answer is {k} and {w}.",
        "Both {k} and {w}", "Either {k} or {w}", "The answer is {k} (or {w})", "It could be {k} or {w}.",
        "I am torn between {k} and {w}.", '{{"answer": "{k} or {w}"}}', "\\boxed{{{k}}} or \\boxed{{{w}}}",
        "{t} or {v}", "Between {k} and {w}, it is hard to say.", "{k} {w}", "<answer>{k}, {w}</answer>",
        "The answer is {k}. The answer is {w}.",
    ),
    "options listed": (
        "{all}", "The options are:\n{all}", "{all}\n\nWhich one?", "Options: {inline}", "Let me look at each.\n{all}",
    ),
    "refused or empty": (
        "", " ", "I cannot answer.", "I'm sorry, but I can't help with that.", "I cannot determine the answer.",
        "As an AI, I cannot give medical advice.", "None of the above", "None of these.", "I don't know.",
        "There is not enough information.", "Unable to answer.", "N/A", "Error", "As a language model I can't say.",
        "A patient like this needs a doctor.", "A", "I do not know which.", "All of the above.", "?", "...",
        "Please consult a physician.", "Sorry, the image is missing.", "Insufficient data to choose an answer.",
        "I would need more information.", '{{"answer": "None of the above"}}', '{{"answer": null}}', '{{"answer": ""}}',
    ),
    "denied": (
        "Not {k}.", "The answer is not {k}.", "It is not {k}.", "I don't think the answer is {k}.",
        "{k} is not correct.",
        "{k} is wrong.", "({k}) is incorrect.", "Option {k} is wrong.", "The answer can't be {k}.", "It isn't {k}.",
        "The least likely answer is {k}.", "Incorrect answer: {k}", "Neither {k} nor {w}.", "{k}? No.",
        "I doubt that it is {k}.", "We can rule out {k}.", "Anything but {k}.", "The wrong answer is {k}.",
        "Is it {k}?", "It cannot be {t}.", "Not {t}.", "{t} is unlikely.", "{t} is ruled out.",
    ),
    "articles and abbreviations": (
        "A lesion is seen.", "A (benign) lesion is most likely.", "A 45-year-old man has it.", "A good question.",
        "I see a mass.", "A CT scan should be done first.", "A diagnosis cannot be made.", "A: I do not know.",
        "C. difficile is another cause.", "E. faecalis", "B. cepacia", "Give vitamin K.", "A. fumigatus is seen.",
        "B cells are low.", "T cells and B cells.", "C. albicans", "D. pneumoniae", "Stage B disease.", "Group A strep",
        "The answer is a difficult one.", "The answer is B. fragilis.", "B. henselae", "A rash.", "A. baumannii.",
        "Vitamin D.", "Factor D", "C. perfringens", "Appendix A explains this.",
    ),
}  # fmt: skip

YES_NO: tuple[str, ...] = (
    "{k}", "{K}", "{K}.", "{U}", "{K}!", "**{K}**", "**{K}**.", "*{K}*", "({K})", '"{K}"', "\u201c{K}\u201d",
    "'{k}'", " {k}\n",
    "{K}</s>", "{K}<|im_end|>", "Answer: {K}", "Answer: {k}.", "The answer is {k}.", "The answer is: {K}",
    "The correct answer is {k}.", "Final answer: {K}", "**Answer:** {K}", "I would say {k}.", "So the answer is {k}.",
    "Therefore, the answer is {k}.", "<answer>{K}</answer>", "\\boxed{{{K}}}", "\\boxed{{\\text{{{k}}}}}",
    '{{"answer": "{k}"}}', "{K}\u3002", "Conclusion: {k}", "Final decision: {k}.", "My answer: {k}", "`{K}`",
    "The answer to the question is {k}.", "Based on the image, the answer is {k}.", "I think the answer is {k}.",
    "Answer: The answer is {k}.", "{K}<end_of_turn>", "### Answer\n{K}", "\u200b{K}", "Response: {K}",
)  # fmt: skip
YES: tuple[str, ...] = (
    "Yes, there is.", "Yes, there is no doubt.", "Yes \u2014 it does.", "Yes, it is.", "Yes; a fracture is visible.",
    "There is no doubt: yes", "Yes, no other finding is seen.", "Yes. There is no effusion on the other side.",
)  # fmt: skip
NO: tuple[str, ...] = (
    "No, it is not.", "No, there is none.", "No. The lungs are clear.", "No, nothing of the kind.",
    "No \u2014 it is normal.",
    "**No**, there is none.", "No, there is no fracture.", "The answer is no; yes would be wrong",
)  # fmt: skip
NEITHER: tuple[str, ...] = (
    "", "I cannot tell.", "I'm sorry, I cannot answer that.", "yes and no", "yes or no", "yes/no", "Yes or no?",
    "No doubt there is a fracture.", "There is no doubt.", "not yes", "It is not a yes.", "No idea.", "Answer: no idea",
    "No information is given.", "No way to tell.", "The image is normal.", "It is unclear.", "Answer yes or no.",
    "The question cannot be answered with yes or no.", "No clear answer.", "Notable findings.", "Yesterday's scan.",
    "Unknown", "The answer is no longer relevant.", "It depends.", "It could be yes or no.", "normal", "cannot",
    "I am unable to view images.", "Either yes or no", "No answer.", "I don't know whether it is yes or no.",
    "No more than two lobes are involved.", "Please answer yes or no.", "nothing", "non-specific", "No. 3 is marked.",
)  # fmt: skip
ALTERNATIVES: tuple[tuple[str, str, str], ...] = (
    ("left lung", "right lung", "lung"), ("left", "right", "side"), ("T1", "T2", "weighting"),
    ("CT", "MRI", "modality"),
    ("axial", "coronal", "plane"), ("benign", "malignant", "lesion"),
)  # fmt: skip
ONE_SIDE: tuple[str, ...] = (
    "{k}", "{K}.", "**{K}**", "The answer is {k}.", "Answer: {k}", "<answer>{k}</answer>", "\\boxed{{{k}}}",
    "{K}, not {w}.", "Not {w} but {k}.", "\u201c{K}\u201d", "{k}</s>",
)  # fmt: skip
BOTH_SIDES: tuple[str, ...] = (
    "{k} or {w}", "{K} and {w}.", "It could be the {k} or the {w}.", "{k}/{w}", "Neither {k} nor {w}.",
    "Both {k} and {w}",
    "I cannot tell {k} from {w}.",
)  # fmt: skip

CLASSES: tuple[str, ...] = (
    "{t}", "{T}", "{T}.", "**{T}**", "The answer is {t}.", "Answer: {t}", "This is a {t}.", "This is {t}.",
    "It is {t}.",
    "The image shows {t}.", "The image shows the {t}.", "The category is {t}.", "the category is: {t}", "Category: {t}",
    "Class: {t}", "The diagnosis is {t}.", "belongs to the {t} category", "It belongs to the {t} category.",
    "a {t} lesion", "<answer>{t}</answer>", "\\boxed{{{t}}}", '{{"answer": "{t}"}}', '{{"class": "{t}"}}', "{T}</s>",
    "\u201c{T}\u201d", "*{t}*", "I think it is {t}.", "The most likely class is {t}.", "{t}<|im_end|>", "- {t}",
    "This image belongs to {t}.", "The organ is the {t}.", "Diagnosis: {t}", "Final answer: {t}", "{U}",
    "The answer is {t}, not {v}.", "This is {t} rather than {v}.", "`{t}`", "{t}\n\nThe shape is typical.",
)  # fmt: skip
NO_CLASS: tuple[str, ...] = (
    "", "I cannot tell.", "not {t}", "It is not {t}.", "{t} or {v}", "{t} and {v}", "No {t} is seen.", "{t}/{v}",
    "I'm sorry, I cannot diagnose {t}.", "cannot rule out {t}", "{t} is excluded.", "{T}? No.", "non-{t}",
    "It could be {t} or {v}.", "an image", "The possible classes are {t}, {v}.", "{t}, {v}", "neither {t} nor {v}",
    "Unlike {t}, this is something else.", "Is it {t}?", "Without {t}.", "A benign finding", "differential: {t} vs {v}",
    "This is {t}. No, wait, it is not.", "Normal", "I don't think it is {t}.", "The {t} is not shown.",
)  # fmt: skip


def letters(random: Random, share: float) -> Iterator[Output]:
    """Yield answers to questions with lettered options."""
    spec = get_task("medqa-options")
    for forms, taken in ((LETTERS, True), (NO_LETTER, False)):
        for form, templates in forms.items():
            for options, template in _some(random, share, OPTIONS, templates):
                yield _letter(random, f"choices: {form}", spec, options, template, taken=taken)


def _letter(
    random: Random, form: str, spec: TaskSpec, options: Mapping[str, str], template: str, *, taken: bool
) -> Output:
    key, wrong = random.sample(sorted(options), 2)
    if template == "A":
        # The letter of an option that this question lacks.
        template = "F"
    listed = [f"{letter}. {text}" for letter, text in options.items()]
    text = template.format(
        k=key, t=options[key], w=wrong, v=options[wrong], all="\n".join(listed), inline="; ".join(listed)
    )
    return Output(
        form=form, text=text, truth=key if taken else None, sample=_sample(spec, key, choices=options), task=spec
    )


def polar(random: Random, share: float) -> Iterator[Output]:
    """Yield answers to PubMedQA's questions and to closed ones about pictures."""
    pubmed, closed = get_task("pubmedqa"), get_task("slake-vqa")
    words = {word: word for word in pubmed.choices}
    for spec, allowed in ((pubmed, ("yes", "no", "maybe")), (closed, ("yes", "no"))):
        said = [(template, word) for word in allowed for template in YES_NO]
        said += [(text, "yes") for text in YES] + [(text, "no") for text in NO]
        name = "yes, no, maybe" if spec is pubmed else "closed questions"
        for truth, texts in ((True, said), (False, [(text, "") for text in NEITHER])):
            for _, (template, word) in _some(random, share, range(2), texts):
                yield Output(
                    form=f"{name}: {'said' if truth else 'neither'}", text=_filled(template, word, ""),
                    truth=word if truth else None, task=spec, answers=() if spec is pubmed else allowed,
                    sample=_sample(spec, "yes", choices=words if spec is pubmed else {}),
                )  # fmt: skip


def sides(random: Random, share: float) -> Iterator[Output]:
    """Yield answers to closed questions that name two things."""
    spec = get_task("slake-vqa")
    for templates, taken in ((ONE_SIDE, True), (BOTH_SIDES, False)):
        for (first, second, _), template in _some(random, share, ALTERNATIVES, templates):
            side, other = random.sample((first, second), 2)
            form = "one side" if taken else "both sides"
            yield Output(
                form=f"closed questions: {form}", text=_filled(template, side, other), truth=side if taken else None,
                sample=_sample(spec, side), task=spec, answers=(first, second),
            )  # fmt: skip


def classes(random: Random, share: float) -> Iterator[Output]:
    """Yield answers to questions for the class of a picture."""
    for spec in (get_task("dermamnist"), get_task("organsmnist")):
        names = {name: name for name in spec.choices}
        for templates, taken in ((CLASSES, True), (NO_CLASS, False)):
            for name, template in _some(random, share, spec.choices, templates):
                if spec.name != "dermamnist" and "lesion" in template:
                    continue
                other = random.choice([choice for choice in spec.choices if choice not in name and name not in choice])
                text = template.format(t=name, T=name.capitalize(), U=name.upper(), v=other)
                yield Output(
                    form=f"classes: {'named' if taken else 'not named'}", text=text, truth=name if taken else None,
                    sample=_sample(spec, name, choices=names), task=spec,
                )  # fmt: skip


def _filled(template: str, word: str, other: str) -> str:
    return template.format(k=word, K=word[:1].upper() + word[1:], U=word.upper(), w=other)


def _sample(spec: TaskSpec, reference: str, *, choices: Mapping[str, str] | None = None) -> Sample:
    return Sample(
        sample_id="1", task=spec.name, split="test", inputs={"question": "What is it?"}, reference=reference,
        choices=choices or {}, labels={} if choices else {"answer_type": "CLOSED"},
    )  # fmt: skip


def _some(
    random: Random, share: float, first: Sequence[First], second: Sequence[Second]
) -> Iterator[tuple[First, Second]]:
    """Yield a share of all pairs, but each of `second` at least once."""
    for item in second:
        count = max(1, round(share * len(first)))
        for other in random.sample(first, count):
            yield other, item
