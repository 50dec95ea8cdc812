"""What models write where they are to take a letter, a yes or no, or a class: forms with known answers.

In a template `{k}` and `{t}` are the key and the text that are taken, `{w}` and `{v}` those of another option.
"""

import re
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
        "{t} is the answer.", "{t} is correct.", "{t} is the most likely answer.", "I think {t}.",
        "I believe it is {t}.", "The patient most likely has {t}.", "The treatment is {t}.", "Answer: {t} ({k})",
        "The answer is {t} (option {k}).", "{k}: {t}.", "The best answer is {t}, not {v}.",
        "{t}, because the others do not fit.", "**{t}**", "<answer>{t}</answer>", "\\boxed{{{t}}}",
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
        "The answer is {k}){t}", "Answer is: {k}", "The correct answer is: {k}) {t}",
        "The correct answer is option ({k}) {t}.", "Correct Answer: ({k}) {t}",
        "I am confident that {k} is the answer.", "{k} is the most appropriate choice.", "The best option is {k}.",
        "Of the options, {k} fits best.", "Choose {k}.", "Select {k}", "Pick {k}.", "We choose {k}.",
        "Let's go with {k}.", "I'd go with {k}", "I would select option {k}.", "the answer would be {k}",
        "The answer has to be {k}.", "The answer seems to be {k}.", "In conclusion, the answer is {k}.",
        "In conclusion, {k}.", "Overall, {k} is correct.", "Answer choice {k}", "Answer choice: {k}", "answer = {k}",
        "Answer -> {k}", "Answer - {k}", "A: {k}", "ANSWER IS {k}", "The answer is thus {k}.", "The answer: {k}",
        "The answer, therefore, is {k}.", "My choice: {k}", "My pick is {k}.", "Solution: {k}", "Result: {k}",
        "Output: {k}", "Prediction: {k}", "The option is {k}.", "Option ({k})", "({k}).", "{k}.)",
        "**{k}** is correct.", "the correct one is {k}", "The right choice: {k}", "{k} - this fits the history.",
        "{k} because of the fever", "{k}; {w} is wrong", "{k}. The others are wrong.", "{k}. {w} is less likely.",
        "{k} since {w} does not fit.", "{k} rather than {w}", "{k} over {w}.", "The answer is {k} rather than {w}.",
        "The answer is {k}, since {w} would cause a rash.",
        "The answer is {k}. Option {w} is wrong because it is slow.", "The answer is {k}. {w} is incorrect.",
        "{w} is tempting, but the answer is {k}.", "While {w} is possible, {k} is the best answer.",
        "Although {w} is common, the answer is {k}.", "Unlike {w}, {k} is correct.",
        "{k} is correct and {w} is wrong.", "The answer isn't {w}, it's {k}.", "It is not {w}; it is {k}.",
        "Rather than {w}, choose {k}.", "Eliminating {w}, the answer is {k}.",
        "{w} can be ruled out. The answer is {k}.", "Options {w} is wrong. Answer: {k}", "{k} (not {w})",
    ),
    "JSON": (
        '{{"answer": "{k}"}}', '{{"answer": "{k}. {t}"}}', '{{"answer_choice": "{k}"}}', '{{"choice": "{k}"}}',
        '```json\n{{"answer": "{k}"}}\n```', '{{"reasoning": "{w} or {k}", "answer": "{k}"}}', "{{'answer': '{k}'}}",
        '{{"step_by_step_thinking": "It is not {v}.", "answer_choice": "{k}"}}', '{{"Answer": "{k}"}}',
        '{{"correct_answer": "{k}"}}', '{{"final_answer": "({k})"}}', '{{"answer": "{t}"}}',
        'Here it is: {{"answer": "{k}"}}', '{{"explanation": "cut off", "answer": "{k}"',
        '{{"answer":"{k}","confidence":0.9}}', '{{"answer": ["{k}"]}}', '[{{"answer": "{k}"}}]',
        '{{"answer": {{"choice": "{k}"}}}}', '{{"response": "{k}"}}', '{{"result": "{k}"}}',
        '{{"Answer Choice": "{k}"}}', '{{"selected_option": "{k}"}}', '{{"option": "{k}"}}', '{{"letter": "{k}"}}',
        'answer: "{k}"', "{{answer: {k}}}", '{{"answer": "Option {k}"}}', '{{"answer": "({k}) {t}"}}',
        '{{"answer": "{k}", "other": "{w}"}}', '{{"analysis": "The answer is {w}?", "answer": "{k}"}}',
    ),
    "tags and boxed": (
        "<answer>{k}</answer>", "<answer>{k}. {t}</answer>", "<answer> {k} </answer>", "\\boxed{{{k}}}",
        "$\\boxed{{{k}}}$", "\\boxed{{\\text{{{k}}}}}", "The answer is \\boxed{{{k}}}.", "\\boxed{{{k}. {t}}}",
        "\\boxed{{\\textbf{{{k}}}}}", "So {w} is out.\n<answer>{k}</answer>", "\\(\\boxed{{{k}}}\\)",
        "<answer>\n{k}\n</answer>",
        "<response>{k}</response>", "<final>{k}</final>", "<final_answer>{k}</final_answer>", "[[{k}]]",
        "[ANSWER]{k}[/ANSWER]", "<ans>{k}</ans>", "```\n{k}\n```", "```{k}```", "\\text{{{k}}}", "$${k}$$",
        "\\textbf{{{k}}}", "\\boxed{{Option {k}}}", "\\boxed{{({k})}}", "\\fbox{{{k}}}",
        "Final Answer: The final answer is {k}. I hope it is correct.",
        "The final answer is $\\boxed{{{k}}}$. I hope it is correct.", "#### {k}", "---\n{k}\n---",
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
        "{w}... actually {k}.", "{w}, sorry, {k}.", "{w}\n\nCorrection: {k}",
        "I said {w}, but I was wrong: it is {k}.", "The answer is {w}. Actually, it is {k}.",
        "The answer is {w}. Hmm, let me reconsider. The answer is {k}.", "Answer: {w}\nRevised answer: {k}",
        "Answer: {w}. Scratch that. Answer: {k}.", "Initially I thought {w}. Now I think the answer is {k}.",
        "My first answer was {w}; my final answer is {k}.", "Previous answer: {w}. New answer: {k}",
    ),
}  # fmt: skip

NO_LETTER: Mapping[str, tuple[str, ...]] = {
    "several options": (
        "{k} or {w}", "{k}, {w}", "{k} and {w}", "{k}/{w}", "The answer is {k} or {w}.", "The answer is {k} and {w}.",
        "Both {k} and {w}", "Either {k} or {w}", "The answer is {k} (or {w})", "It could be {k} or {w}.",
        "I am torn between {k} and {w}.", '{{"answer": "{k} or {w}"}}', "\\boxed{{{k}}} or \\boxed{{{w}}}",
        "{t} or {v}", "Between {k} and {w}, it is hard to say.", "{k} {w}", "<answer>{k}, {w}</answer>",
        "The answer is {k}. The answer is {w}.",
        "Which is it, {k} or {w}?", "The answer is either {k} or {w}.", "{k} / {w}", "{k} & {w}", "{k}+{w}",
        "{k}, or {w}", "{k}, possibly {w}", "{k} or maybe {w}", "{k} and/or {w}", "{k}; {w}", "{k}\n{w}",
        "{k}. {t}\n{w}. {v}", "Options {k} and {w} are both correct.", "{k} and {w} are equally likely.",
        "The answer is not {k}, nor is it {w}.", "It's neither {k} nor {w}.", "Some would choose {k}, others {w}.",
        "{k} is possible but I can't be certain; {w} is also possible.", "I cannot choose between {k} and {w}.",
        "The correct answer is none of {k} and {w}.", "{k}: false\n{w}: false", "({k}) wrong, ({w}) wrong",
        "{t} or {v}?", "{t} and {v} are both possible.", "Neither {t} nor {v}.",
        '{{"answer": "{k}", "answer": "{w}"}}', "<answer>{k}</answer><answer>{w}</answer>", "The answer is {k}{w}.",
        "{k}{w}",
    ),
    "options listed": (
        "{all}", "The options are:\n{all}", "{all}\n\nWhich one?", "Options: {inline}", "Let me look at each.\n{all}",
        "A through D", "A-D", "(A-D)", "A, B, C, D", "A B C D", "ABCD", "A/B/C/D", "Options: A, B, C, D",
        "Choose from A, B, C or D.", "Answer with the letter A, B, C or D.", "The answer is one of A, B, C, D.",
    ),
    "refused or empty": (
        "", " ", "I cannot answer.", "I'm sorry, but I can't help with that.", "I cannot determine the answer.",
        "As an AI, I cannot give medical advice.", "None of the above", "None of these.", "I don't know.",
        "There is not enough information.", "Unable to answer.", "N/A", "Error", "As a language model I can't say.",
        "A patient like this needs a doctor.", "A", "I do not know which.", "All of the above.", "?", "...",
        "Please consult a physician.", "Sorry, the image is missing.", "Insufficient data to choose an answer.",
        "I would need more information.", '{{"answer": "None of the above"}}', '{{"answer": null}}', '{{"answer": ""}}',
        "Answer?", "Answer:", "The answer is", "The correct option is:", "Option", "<answer></answer>", "\\boxed{{}}",
        '{{"A": false, "B": false}}',
    ),
    "denied": (
        "Not {k}.", "The answer is not {k}.", "It is not {k}.", "I don't think the answer is {k}.",
        "{k} is not correct.",
        "{k} is wrong.", "({k}) is incorrect.", "Option {k} is wrong.", "The answer can't be {k}.", "It isn't {k}.",
        "The least likely answer is {k}.", "Incorrect answer: {k}", "Neither {k} nor {w}.", "{k}? No.",
        "I doubt that it is {k}.", "We can rule out {k}.", "Anything but {k}.", "The wrong answer is {k}.",
        "Is it {k}?", "It cannot be {t}.", "Not {t}.", "{t} is unlikely.", "{t} is ruled out.",
        "If it were {k}, there would be a rash.", "One might say {k}.",
        "{k} would be correct if the patient were older.", "Should I choose {k}?", "I can't say whether it's {k}.",
        "I refuse to pick {k}.", "Don't choose {k}.", "Do not pick {k}.", "Avoid {k}.", "All except {k}.",
        "Every option but {k}.", "The answer is in the {k} list.", "Section {k} of the book.", "Grade {k} evidence.",
        "See figure {k}.", "Type {k} is frequent.", "Group {k} patients", "Vitamin {k} levels", "Ward {k} called.",
        "{k}: not this.", "{k}) no", "{k}. No.", "{k} - false", "{k}: incorrect",
        "{k} is less likely than the others.", "{k}: unlikely", "The answer would have been {k}.",
        "I was going to say {k}.", "You may think {k}.", "People often choose {k}.", "The user asks about {k}.",
        "Question {k}.", "Wrong: {k}", "Not sure about {k}.", "unsure: {k}?", "Could it be {k}?", "{t}?",
        "Is it {t}?", "{t} is not the answer.", "It can't be {t}.", "{t} would be wrong.", "Rule out {t}.",
        "No evidence for {t}.", "{t} is contraindicated.", "Avoid {t}.", "The answer is not {t}.", "Except {t}",
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
    "Yes, the fracture is visible.", "yes there is", "Yes there is a nodule in the left lung.",
    "Yes, but it is small.", "Yes, although no effusion is seen.", "I believe yes.", "I think yes.",
    "Definitely yes.", "Absolutely, yes.", "Probably yes.", "Most likely yes.", "Yes, probably.",
    "The short answer is yes.", "The answer to your question is yes.", "Yes (high confidence)", "Yes [1]",
    "Yes, see slice 3.", "Answer: Yes, there is a mass.", "It is a yes.", "A: yes", "The answer would be yes.",
    "In summary, yes.", "Overall: yes", "yes!!", "Yes. No mass effect.", "Yes,no doubt", "**Answer**: Yes",
    "Yes - the lungs are clear", "- Yes", "1. Yes", "Yes\n\nExplanation: no shift is seen.",
    "The answer is not no; it is yes.", "Not no, yes.", "No. Wait, yes.", "No... actually yes.",
    "The answer is no. Correction: yes.", "Yes (not no)", "I'd say yes", "Sure, yes.", "Why, yes.",
    "YES - there is no reason to doubt.", "The final answer is **yes**.", "Decision: yes", '{{"decision": "yes"}}',
    '{{"final_decision": "yes"}}', "<answer> yes </answer>.", "yes.</s></s>", "Yes, it's not normal.",
    "Yes, not normal", '"answer": "yes"', "Yes, I can see no air.", "Oui, yes",
)  # fmt: skip
NO: tuple[str, ...] = (
    "No, it is not.", "No, there is none.", "No. The lungs are clear.", "No, nothing of the kind.",
    "No \u2014 it is normal.",
    "**No**, there is none.", "No, there is no fracture.", "The answer is no; yes would be wrong",
    "No, the lungs are clear.", "No fracture is visible, so no.", "no there is not", "No, there isn't any.",
    "No, but there is an effusion.", "I think no.", "I believe not; no.", "Definitely no.", "Probably not; no.",
    "Most likely no.", "The short answer is no.", "Answer: No, there is no mass.", "It is a no.",
    "The answer would be no.", "In summary, no.", "No. Yes would be wrong.", "The answer is not yes; it is no.",
    "Not yes but no.", "Yes. Wait, no.", "Yes... actually no.", "The answer is yes. Correction: no.", "No (not yes)",
    "I'd say no", "NO", "No!", "Decision: no", '{{"final_decision": "no"}}', "no.</s></s>", "No, it's not abnormal.",
    "- No", "1. No", "**No.** The heart is normal.", "No, no.", "No no no", "No, I do not see a mass",
    "no, not at all", "The answer is a clear no.",
)  # fmt: skip
NEITHER: tuple[str, ...] = (
    "", "I cannot tell.", "I'm sorry, I cannot answer that.", "yes and no", "yes or no", "yes/no", "Yes or no?",
    "No doubt there is a fracture.", "There is no doubt.", "not yes", "It is not a yes.", "No idea.", "Answer: no idea",
    "No information is given.", "No way to tell.", "The image is normal.", "It is unclear.", "Answer yes or no.",
    "The question cannot be answered with yes or no.", "No clear answer.", "Notable findings.", "Yesterday's scan.",
    "Unknown", "The answer is no longer relevant.", "It depends.", "It could be yes or no.", "normal", "cannot",
    "I am unable to view images.", "Either yes or no", "No answer.", "I don't know whether it is yes or no.",
    "No more than two lobes are involved.", "Please answer yes or no.", "nothing", "non-specific", "No. 3 is marked.",
    "No fracture", "No mass is seen", "There is no mass.", "no evidence of disease", "no abnormality", "No, yes",
    "no yes", "Yes, no", "yes, no, maybe", "I say yes and no.", "If yes, then no.", "not no", "never", "none",
    "It says yes on the label but that may be wrong.", "The question asks yes or no.", "Yes is not the answer.",
    "No is not the answer.", "The answer is neither yes nor no.", "The answer cannot be yes.",
    "The answer is not yes.", "Not yes.", "I won't say yes.", "I can't say yes.", "I can't say yes or no.",
    "Could be yes, could be no.", "yes?", "no?", "Is it yes?", "Would you say yes?", "Say yes or no.",
    "He answered yes.", "The radiologist said no.", "No comment.", "No response.", "No image provided.",
    "No image was given, so I cannot tell.", "No problem!", "No problem, let me look.", "No worries.",
    "No one knows.", "no.1", "Nope-like", "yes-man", "eyes", "Norwegian", "know", "Now", "The nose", "yesterday",
    "no longer", "No significant change", "No acute findings.", "No further questions",
    "The lungs are clear with no effusion", "In no way", "by no means", "no less than 3", "no other",
    "No matter what", "yes if contrast was given, otherwise no", "Depends: yes with contrast, no without", "yes / no",
    "Yes|No", "[yes/no]", "(yes/no)", "yes\nno", "yes. no.", "Answer: yes / no", "Yes or No: ", "Answer (yes/no):",
    "The options are yes and no", "Maybe yes, maybe no", "more yes than no?", "50% yes", "I'm leaning yes or no",
    "Yes and also no", "I cannot answer yes.", "Sorry, no answer possible.", "Sorry, no.1 is missing",
    "Unable to say yes", "Without contrast no conclusion", "No conclusion can be drawn.", "No definite answer.",
    "no data", "No diagnosis can be made from this image.", "There is no way to know.", "No information about that.",
    "No clue", "No opinion",
)  # fmt: skip
ALTERNATIVES: tuple[tuple[str, str, str], ...] = (
    ("left lung", "right lung", "lung"), ("left", "right", "side"), ("T1", "T2", "weighting"),
    ("CT", "MRI", "modality"),
    ("axial", "coronal", "plane"), ("benign", "malignant", "lesion"),
)  # fmt: skip
ONE_SIDE: tuple[str, ...] = (
    "{k}", "{K}.", "**{K}**", "The answer is {k}.", "Answer: {k}", "<answer>{k}</answer>", "\\boxed{{{k}}}",
    "{K}, not {w}.", "Not {w} but {k}.", "\u201c{K}\u201d", "{k}</s>",
    "{K} is affected.", "on the {k}", "It is on the {k} side.", "The {k} one.", "In the {k}",
    "The {k}, rather than the {w}.", "{w}? No, {k}.", "{w}. Wait, {k}.", "It is {k}, since the {w} is normal.",
    "I think {k}", "Definitely {k}.",
)  # fmt: skip
BOTH_SIDES: tuple[str, ...] = (
    "{k} or {w}", "{K} and {w}.", "It could be the {k} or the {w}.", "{k}/{w}", "Neither {k} nor {w}.",
    "Both {k} and {w}",
    "I cannot tell {k} from {w}.",
    "{k} and {w} are both fine", "{k} vs {w}", "{k}, {w}", "not {k}", "It is not {k}.", "Is it {k}?",
    "either {k} or {w}", "{k}? {w}?", "no {k}", "{k} or possibly {w}",
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
    "{T} is seen", "{t} visible", "The {t} is visible.", "I see the {t}.", "I see a {t}.", "It looks like {t}.",
    "looks like a {t}", "consistent with {t}", "suggestive of {t}", "Findings are consistent with {t}.",
    "most likely {t}", "likely {t}", "probably {t}", "{T} (high confidence)", "1. {T}", "class 3: {t}",
    "The correct class is {t}.", "The lesion is {t}.", "The lesion is a {t}.", "{T}, since it is pigmented.",
    "{t} because of its shape", "{T}. It is not {v}.", "{T}; {v} is less likely", "not {v} but {t}",
    "It is not {v}; it is {t}.", "rather than {v}, this is {t}", "{v}? No, {t}.", "{v}. Wait, {t}.",
    "The answer is {v}. Correction: {t}.", "At first I thought {v}, but it is {t}.",
    "The category of this image is {t}", "Label: {t}", "label={t}", "The picture depicts {t}.",
    "This appears to be {t}.", "This appears to be a case of {t}.", "An image of {t}", "a picture of the {t}",
    "It's the {t}", "This must be the {t}.", "It should be classified as {t}.", "classified as {t}",
    "I would classify this as {t}.", "category: '{t}'", "<answer>{T}</answer>", "\\boxed{{\\text{{{t}}}}}",
    '{{"label": "{t}"}}', '{{"category": "{t}"}}', '{{"diagnosis": "{t}"}}', "The most probable is {t}.",
    "diagnosis is consistent with {t}", "My diagnosis: {t}", "{T} - confident", "The organ shown is the {t}",
    "This CT slice shows the {t}.",
)  # fmt: skip
NO_CLASS: tuple[str, ...] = (
    "", "I cannot tell.", "not {t}", "It is not {t}.", "{t} or {v}", "{t} and {v}", "No {t} is seen.", "{t}/{v}",
    "I'm sorry, I cannot diagnose {t}.", "cannot rule out {t}", "{t} is excluded.", "{T}? No.", "non-{t}",
    "It could be {t} or {v}.", "an image", "The possible classes are {t}, {v}.", "{t}, {v}", "neither {t} nor {v}",
    "Unlike {t}, this is something else.", "Is it {t}?", "Without {t}.", "A benign finding", "differential: {t} vs {v}",
    "This is {t}. No, wait, it is not.", "Normal", "I don't think it is {t}.", "The {t} is not shown.",
    "{t}? {v}?", "either {t} or {v}", "{t}, or {v}", "perhaps {t}, perhaps {v}", "{t} vs. {v}",
    "Differential diagnosis: {t}, {v}", "The {t} is not visible.", "no {t}", "absence of {t}", "There is no {t}.",
    "{t} cannot be seen", "It is neither.", "not a {t}", "This is not {t}", "isn't {t}", "rule out {t}",
    "{t} ruled out", "unlikely to be {t}", "{t} is unlikely", "can't be {t}", "{t} can be excluded",
    "Could this be {t}?", "I doubt it is {t}.", "less likely {t}", "adjacent to the {t}", "near the {t}",
    "next to the {t}", "below the {t}", "history of {t}", "The user asks whether it is {t}.",
    "I cannot tell if it is {t}.", "Choose from: {t}, {v}.", "options: {t}; {v}; others", "{t}-like", "pseudo-{t}",
    "{t} and {v} are both seen", "Both {t} and {v}", "{t} / {v}", "{t} & {v}", "mimics {t}",
    "resembles neither {t} nor {v}", "Everything but {t}", "except {t}", "other than {t}", "anything but {t}",
    "if it were {t}, it would be larger", "might be {t} or something else", "The image does not show {t}.",
    "I don't see {t}.", "The lesion lacks features of {t}.", "negative for {t}", "free of {t}",
)  # fmt: skip

_OF_LESIONS = re.compile(r"\b(?:lesion|diagnosis|case)\b", re.IGNORECASE)


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
                if spec.name != "dermamnist" and _OF_LESIONS.search(template):
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
