"""What models write where they are to draw a box, in every space: forms with known answers.

In a template `{l}`, `{t}`, `{r}`, `{b}` are the edges as the space counts them, `{x}`, `{y}`, `{w}`, `{h}` centre and
size, `{o}` the four numbers in the order of the space, `{p}` and `{q}` the two corners as points of the space, `{L}`
and so on percents; `{o2}` and `{p2}`, `{q2}` belong to another box, `{W}` and `{H}` are the image's width and height.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from random import Random

from benchmarks.reading_choices import Output
from medbench.adapters.base import Parser, answer_with_box
from medbench.adapters.uni_med import ENTRY as UNI_MED_ENTRY
from medbench.tasks.answers.box_space import BOX_SPACES, BoxSpace
from medbench.tasks.catalog import get_task
from medbench.tasks.sample import Box, Sample

SIZES = ((640, 480), (512, 512), (1024, 768), (333, 500))

BOXES: Mapping[str, tuple[str, ...]] = {
    "brackets": (
        "[{o}]", "({o})", "[[{o}]]", "{{{o}}}", "The box is [{o}].", "[{o}]\n", "Bounding box: [{o}]", "**[{o}]**",
        "`[{o}]`", "```json\n[{o}]\n```", "<box>[[{o}]]</box>", "<box>{o}</box>", "Sure! Here it is:\n\n[{o}]",
        "[{o}]</s>",
        "[{o}]<|im_end|>", "<answer>[{o}]</answer>", "\\boxed{{[{o}]}}", "The **bounding box** is `[{o}]`.",
        "[{o}], confidence 0.93", "\uff3b{o}\uff3d", "\u3010{o}\u3011", "Slice 12 of 30: [{o}]", "array([{o}])",
    ),
    "points": (
        "({p}), ({q})", "<|box_start|>({p}),({q})<|box_end|>", "<box>({p}),({q})</box>", "[[{p}], [{q}]]",
        "<|object_ref_start|>left lung<|object_ref_end|><|box_start|>({p}),({q})<|box_end|><|im_end|>",
        "<|ref|>liver<|/ref|><|det|>[[{p}], [{q}]]<|/det|>", "<ref>the liver</ref><box>({p}),({q})</box>",
        "\uff08{p}\uff09\uff0c\uff08{q}\uff09", "({p})\n({q})",
    ),
    "JSON lists": (
        '{{"bbox_2d": [{o}], "label": "left lung"}}', '```json\n[\n  {{"bbox_2d": [{o}], "label": "liver"}}\n]\n```',
        '{{"box": [{o}]}}', '{{"bbox": [{o}], "score": 0.9}}', '[{{"box_2d": [{o}], "label": "x"}}]',
        '{{"boxes": [[{o}]]}}', '{{"label": "lung", "coordinates": [{o}]}}', '{{"bbox": "{o}"}}',
    ),
    "bare numbers": ("{o}", "The box is {o}.", "{o}\n", "Box: {o}", "**{o}**", "\\boxed{{{o}}}"),
    "names": (
        '{{"x_min": {l}, "y_min": {t}, "x_max": {r}, "y_max": {b}}}',
        '{{"y_min": {t}, "x_min": {l}, "y_max": {b}, "x_max": {r}}}',
        '{{"xMin": {l}, "yMin": {t}, "xMax": {r}, "yMax": {b}}}', "x-min: {l}, y-min: {t}, x-max: {r}, y-max: {b}",
        "x min = {l}, y min = {t}, x max = {r}, y max = {b}", '{{"xmin": {l}, "ymin": {t}, "xmax": {r}, "ymax": {b}}}',
        '{{"x1": {l}, "y1": {t}, "x2": {r}, "y2": {b}}}', '{{"x0": {l}, "y0": {t}, "x1": {r}, "y1": {b}}}',
        "x_1: {l}, y_1: {t}, x_2: {r}, y_2: {b}", '{{"left": {l}, "top": {t}, "right": {r}, "bottom": {b}}}',
        "top: {t}, left: {l}, bottom: {b}, right: {r}",
        '{{"bbox_left": {l}, "bbox_top": {t}, "bbox_right": {r}, "bbox_bottom": {b}}}',
        '{{"top_left_x": {l}, "top_left_y": {t}, "bottom_right_x": {r}, "bottom_right_y": {b}}}',
        '{{"topLeftX": {l}, "topLeftY": {t}, "bottomRightX": {r}, "bottomRightY": {b}}}',
        '{{"minX": {l}, "minY": {t}, "maxX": {r}, "maxY": {b}}}',
        "- **x_min**: {l}\n- **y_min**: {t}\n- **x_max**: {r}\n- **y_max**: {b}",
        "x_min={l}\ny_min={t}\nx_max={r}\ny_max={b}",
        "left edge: {l}, top edge: {t}, right edge: {r}, bottom edge: {b}",
        "1. x_min: {l}\n2. y_min: {t}\n3. x_max: {r}\n4. y_max: {b}", "x1={l} y1={t} x2={r} y2={b}",
        '{{"x": {l}, "y": {t}, "width": {w}, "height": {h}}}', "left: {l}, top: {t}, width: {w}, height: {h}",
        "width: {w}, height: {h}, top: {t}, left: {l}",
        '{{"center_x": {x}, "center_y": {y}, "width": {w}, "height": {h}}}',
        "cx: {x}, cy: {y}, w: {w}, h: {h}", "h: {h}, w: {w}, cy: {y}, cx: {x}",
        '{{"center": {{"x": {x}, "y": {y}}}, "size": {{"width": {w}, "height": {h}}}}}',
        '{{"top_left": {{"x": {l}, "y": {t}}}, "bottom_right": {{"x": {r}, "y": {b}}}}}',
        "[x_min, y_min, x_max, y_max] = [{l}, {t}, {r}, {b}]", "[ymin, xmin, ymax, xmax]: [{t}, {l}, {b}, {r}]",
        "(x, y, w, h) = ({l}, {t}, {w}, {h})", "[{l}, {t}, {r}, {b}] (x1, y1, x2, y2)",
        "x1, y1, x2, y2: {l}, {t}, {r}, {b}",
        "In [x1, y1, x2, y2] format, the box is [{l}, {t}, {r}, {b}].",
        "The coordinates [x_min, y_min, x_max, y_max] of the left lung are [{l}, {t}, {r}, {b}].",
        "<xmin>{l}</xmin><ymin>{t}</ymin><xmax>{r}</xmax><ymax>{b}</ymax>", "{{'x': [{l}, {r}], 'y': [{t}, {b}]}}",
        "[{l}, {t}, {w}, {h}] (xywh)", "$x_{{\\min}} = {l}, y_{{\\min}} = {t}, x_{{\\max}} = {r}, y_{{\\max}} = {b}$",
        "| x1 | y1 | x2 | y2 |\n|---|---|---|---|\n| {l} | {t} | {r} | {b} |",
        '{{"box": {{"xmin": {l}, "ymin": {t}, "xmax": {r}, "ymax": {b}}}, "score": 0.98}}',
        "\u5de6\uff1a{l}\uff0c\u4e0a\uff1a{t}\uff0c\u53f3\uff1a{r}\uff0c\u4e0b\uff1a{b}",
    ),
    "corners in words": (
        "top-left corner ({p}), bottom-right corner ({q})", "Top-left: ({p}), bottom-right: ({q})", "({p}) to ({q})",
        "from ({p}) to ({q})", "bottom-right ({q}), top-left ({p})", "({p}) - ({q})", "({p}) \u2192 ({q})",
        "The upper left corner is ({p}) and the lower right corner is ({q}).", "top left: {p}; bottom right: {q}",
        "The upper left corner is at x = {l}, y = {t} and the lower right corner is at x = {r}, y = {b}.",
        "x from {l} to {r}, y from {t} to {b}", "x: {l}-{r}, y: {t}-{b}", "x: [{l}, {r}], y: [{t}, {b}]",
        "x ranges from {l} to {r} and y ranges from {t} to {b}", "between ({p}) and ({q})",
        '{{"top_left": [{p}], "bottom_right": [{q}]}}',
        "horizontally from {l} to {r}, vertically from {t} to {b}", "It spans x={l} to x={r} and y={t} to y={b}.",
        "(x1, y1) = ({l}, {t}), (x2, y2) = ({r}, {b})", "starts at ({p}) and ends at ({q})",
        "\u5de6\u4e0a\u89d2({p})\uff0c\u53f3\u4e0b\u89d2({q})", "from x={l}, y={t} to x={r}, y={b}",
        "The lesion lies around ({p}). Box: [{o}]", "x between {l} and {r}, y between {t} and {b}",
    ),
    "percent": (
        "left: {L}%, top: {T}%, right: {R}%, bottom: {B}%", "x: {L}%-{R}%, y: {T}%-{B}%",
        '{{"left": "{L}%", "top": "{T}%", "right": "{R}%", "bottom": "{B}%"}}',
        "x_min = {L} %, y_min = {T} %, x_max = {R} %, y_max = {B} %",
    ),
    "the image's size beside it": (
        "Image width: {W}, height: {H}. Box: [{o}]", "The image is {W}x{H}. [{o}]", "The image is {W}x{H}. {o}",
        "Image size: ({W}, {H}). Box: ({p}), ({q})", '{{"image_size": [{W}, {H}], "bbox": [{o}]}}',
        '{{"width": {W}, "height": {H}, "bbox": [{o}]}}', "The image is {W} pixels wide and {H} pixels high: {o}",
        '{{"image": {{"width": {W}, "height": {H}}}, "box": {{"x1": {l}, "y1": {t}, "x2": {r}, "y2": {b}}}}}',
        "Image dimensions: {W} x {H}. x: {l}, y: {t}, width: {w}, height: {h}",
        "The image has a width of {W} and a height of {H}. x1: {l}, y1: {t}, x2: {r}, y2: {b}",
        '{{"image_width": {W}, "image_height": {H}, "x": {l}, "y": {t}, "width": {w}, "height": {h}}}',
        "[{o}] in the {W}x{H} image.",
    ),
    "several or taken back": (
        "[{o}], [{o2}]", '[{{"bbox_2d": [{o}]}}, {{"bbox_2d": [{o2}]}}]', "[{o}] and the heart [{o2}]", "[{o}] [{o}]",
        "[{o2}]. No, wait, it is [{o}].", "[{o2}] is wrong. Correct: [{o}]", "not [{o2}] but [{o}]",
        "First guess: [{o2}]. Final answer: [{o}]", "It is not at [{o2}]. It is at [{o}].",
        "[{o2}]... Correction: [{o}]",
        "1. liver: [{o}]\n2. heart: [{o2}]", "<box>({p}),({q})</box><box>({p2}),({q2})</box>",
    ),
}  # fmt: skip

NO_BOX: tuple[str, ...] = (
    "", "I cannot see it.", "I'm sorry, I can't help with that.", "[]", "{{}}", "null", "({p})", "({p}), ({q}), ({p2})",
    "[{o}, {l}]", "x1: {l}, y1: {t}, x2: {r}", "[{o}] or [{o2}]", "The lesion is not at [{o}].",
    "[{o}] is not the liver.",
    "left: {r}, top: {t}, right: {l}, bottom: {b}", "top-left ({q}), bottom-right ({p})",
    "left: {L}%, top: {t}, right: {R}%, bottom: {b}",
    "There are 2 lesions in 3 slices, 4 cm and 5 cm.", "In 2 of 3 slices: {o}", "[{l}, {t}, {r}]", "e.g. [{o}]",
    "x_min: {l}, x_min: {r}, y_min: {t}, x_max: {r}, y_max: {b}", "The image is {W}x{H}.", "width: {w}, height: {h}",
    "center: ({p})", "two lesions at ({p}) and ({q})", "Segments 5, 6, 7 and 8", "[x1, y1, x2, y2]", "v1.2.3.4",
    "[{o}]. No, wait, that is wrong.", "[100mm, 200mm, 300mm, 400mm]", "upper left", "The left lung.",
    "[-{o}]", "[nan, nan, nan, nan]", "[1e999, {t}, {r}, {b}]", "[x1, x1, y1, y2] = [{o}]",
    "Findings: 1, 2, 3, 4 are normal.",
    "No liver in [{o}].", "3 x 4 x 5 cm at 10 o'clock", "x: {l}, y: {t}",
    "width: -{w}, height: {h}, left: {l}, top: {t}",
)  # fmt: skip

LOCATIONS: tuple[str, ...] = ("{a}", "{a} liver", "{a} liver ; {a2} heart", "detect: {a}")
OFFICIAL: tuple[str, ...] = ("{o}", "{o} is the liver", " {o}", "{o}\n", "<unk>{o}", "{o}{o2}")
NOT_OFFICIAL: tuple[str, ...] = (
    "", "[10, 20, 30, 40]", "The liver is at {o}", "<10><20><30><40>", "10 20 30 40", "I cannot tell.",
    "{{10, 20, 30, 40}}", "{{<10><20><30>}}", "left: 10, top: 20, right: 30, bottom: 40",
)  # fmt: skip


def boxes(random: Random, share: float) -> Iterator[Output]:
    """Yield answers with boxes in every space, and answers with none."""
    for space in BOX_SPACES.values():
        if space.notation == "official":
            yield from _official(random, space)
            continue
        parse = partial(answer_with_box, space)
        for form, templates in BOXES.items():
            for template in templates:
                if random.random() < share and _can_be_told(space, template):
                    yield _output(random, space, f"boxes: {form}", template, parse, taken=True)
        for template in NO_BOX:
            if random.random() < share and not (template.startswith("[-") and space.units is None):
                yield _output(random, space, "boxes: none", template, parse, taken=False)
        if space.order == "yxyx" and space.highest:
            for template in LOCATIONS * 8:
                yield _output(random, space, "boxes: location tokens", template, parse, taken=True)


def _official(random: Random, space: BoxSpace) -> Iterator[Output]:
    for templates, taken in ((OFFICIAL, True), (NOT_OFFICIAL, False)):
        for template in templates * 8:
            form = f"boxes: official, {'in' if taken else 'not in'} its notation"
            yield _output(random, space, form, template, UNI_MED_ENTRY.parse, taken=taken)


def _can_be_told(space: BoxSpace, template: str) -> bool:
    # In a space of sizes, two points side by side are a corner and a size.
    side_by_side = template in BOXES["points"] or "({p}),({q})" in template or "({p}), ({q})" in template
    return not (space.order == "xywh" and side_by_side)


def _output(random: Random, space: BoxSpace, form: str, template: str, parse: Parser, *, taken: bool) -> Output:
    size = random.choice(SIZES)
    percents, others = _edges(random), _edges(random)
    box, other = (_in_pixels(edges, size) for edges in (percents, others))
    text = template.format(**_numbers(space, box, size), **_second(space, other, size), **_whole(percents, size))
    spec = get_task("slake-rec")
    in_percent = "{L}" in template
    truth = box if in_percent else (space if space.notation == "official" else _plain(space)).as_written(box, size)
    sample = Sample(
        sample_id="1",
        task=spec.name,
        split="test",
        inputs={"object": "liver"},
        reference="liver",
        box=box,
        image_size=size,
    )
    return Output(form=form, text=text, truth=truth if taken else None, sample=sample, task=spec, parse=parse)


def _edges(random: Random) -> tuple[int, int, int, int]:
    """Return edges in whole percents, left and top apart from each other so that swapped axes are seen."""
    left, top = random.sample(range(6, 45), 2)
    return left, top, left + random.randint(10, 45), top + random.randint(10, 45)


def _in_pixels(edges: tuple[int, int, int, int], size: tuple[int, int]) -> Box:
    return Box(*(edge / 100 * side for edge, side in zip(edges, size * 2, strict=True)))


def _whole(percents: tuple[int, int, int, int], size: tuple[int, int]) -> dict[str, str]:
    return dict(zip("LTRBWH", map(str, (*percents, *size)), strict=True))


def _numbers(space: BoxSpace, box: Box, size: tuple[int, int]) -> dict[str, str]:
    left, top, right, bottom = _as_corners(space, box, size)
    first, second = ((top, left), (bottom, right)) if space.order == "yxyx" else ((left, top), (right, bottom))
    edges = {"l": left, "t": top, "r": right, "b": bottom}
    sizes = {"x": (left + right) / 2, "y": (top + bottom) / 2, "w": right - left, "h": bottom - top}
    return {
        **{name: _said(number) for name, number in {**edges, **sizes}.items()},
        "o": _bare(space, box, size),
        "p": ", ".join(map(_said, first)),
        "q": ", ".join(map(_said, second)),
        "a": space.write(box, size),
    }


def _second(space: BoxSpace, box: Box, size: tuple[int, int]) -> dict[str, str]:
    numbers = _numbers(space, box, size)
    return {f"{name}2": numbers[name] for name in ("o", "p", "q", "a")}


def _bare(space: BoxSpace, box: Box, size: tuple[int, int]) -> str:
    if space.notation == "official":
        return space.write(box, size)
    left, top, right, bottom = _as_corners(space, box, size)
    ordered = {
        "xyxy": (left, top, right, bottom), "yxyx": (top, left, bottom, right),
        "xywh": (left, top, right - left, bottom - top),
        "cxcywh": ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top),
    }  # fmt: skip
    return ", ".join(map(_said, ordered[space.order]))


def _as_corners(space: BoxSpace, box: Box, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the corners as numbers of the space, rounded as it writes them."""
    left, top, right, bottom = map(float, _plain(space).write(box, size).strip("[]").split(","))
    return left, top, right, bottom


def _plain(space: BoxSpace) -> BoxSpace:
    """Return a space that counts as another one does, and writes corners in brackets."""
    return BoxSpace(
        name="plain", units=space.units, digits=space.digits, rounding=space.rounding, highest=space.highest,
        multiple=space.multiple,
    )  # fmt: skip


def _said(number: float) -> str:
    return f"{round(number, 6):g}"
