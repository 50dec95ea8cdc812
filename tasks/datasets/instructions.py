"""The instruction pools of Uni-Med (paper appendix C; official dataset classes), one per kind of question.

The official texts start with an identifier such as `[vqa]`, which belongs to Uni-Med's own prompt and is
added by its adapter. Fields in braces are filled from the sample; `{box}` is written in the asked model's
own form. Evaluation uses the second entry for questions and boxes, the first one for reports.
"""

VQA = (
    "{question}",
    "Based on the image, respond to this question with a short answer: {question}",
)

REC = (
    "{object}",
    "give me the location of {object}",
    "where is {object} ?",
    "from this image, tell me the location of {object}",
    "the location of {object} is",
    "could you tell me the location for {object} ?",
    "where can I locate the {object} ?",
)

REG = (
    "{box}",
    "what object is in this location {box}",
    "identify the object present at this location {box}",
    "what is it in {box}",
    "describe this object in {box}",
    "this {box} is",
    "the object in {box} is",
)

CHEST_REPORT = (
    "Describe the given chest x-ray image in detail.",
    "Take a look at this chest x-ray and describe the findings and impression.",
    "Could you provide a detailed description of the given x-ray image?",
    "Describe the given chest x-ray image as detailed as possible.",
    "What are the key findings in this chest x-ray image?",
)

# "inflected" is the official wording.
SCAN_CAPTION = (
    "Describe this input image.",
    "Help captioning the image.",
    "What can be inflected from the scan?",
    "Can you give a caption for this image?",
    "Can you provide a brief summary of the radiology image?",
    "Please write a report about the image?",
    "Can you provide an analysis of this image?",
    "Can you explain what is shown in this image?",
    "What can be indicated from the radiologic scans?",
    "What can you infer from this photograph?",
)

CLS = ("Which category does this {subject} belong to: {classes}?",)

MEDQA = (
    "{question}",
    "If you are a doctor, please answer the following question briefly: {question}",
)

PUBMEDQA = (
    "{question}",
    "If you are a doctor, please answer the following question using 'yes', 'no' or 'maybe': {question}",
)

# Not of the official pools: Uni-Med shows neither options nor abstracts, and is not asked for an impression alone.
MEDQA_OPTIONS = ("{question}\n{options}\nAnswer with the letter of the right option.",)

PUBMEDQA_CONTEXT = ("{context}\n\nBy this abstract, answer the question using 'yes', 'no' or 'maybe': {question}",)

CHEST_IMPRESSION = ("Give the impression of this chest x-ray.",)
