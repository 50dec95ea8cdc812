"""Which box an answer tells: names, points, sizes, percents, boxes taken back, and what tells none."""

from random import Random

import pytest

from medbench.tasks.answers.box_space import BOX_SPACES
from medbench.tasks.answers.box_tokens import NAME, box_of, names_in
from medbench.tasks.sample import Box

SIZE = (1000, 1000)
PERMILLE = BOX_SPACES["permille"]
WANTED = Box(100, 200, 300, 400)


@pytest.mark.parametrize(
    "text",
    [
        '{"y_min": 200, "x_min": 100, "y_max": 400, "x_max": 300}',
        '{"xMin": 100, "yMin": 200, "xMax": 300, "yMax": 400}',
        '{"x-min": 100, "y-min": 200, "x-max": 300, "y-max": 400}',
        "x min: 100, y min: 200, x max: 300, y max: 400",
        "X Min = 100; Y Min = 200; X Max = 300; Y Max = 400",
        '{"top_left_x": 100, "top_left_y": 200, "bottom_right_x": 300, "bottom_right_y": 400}',
        '{"topLeftX": 100, "topLeftY": 200, "bottomRightX": 300, "bottomRightY": 400}',
        '{"x_top_left": 100, "y_top_left": 200, "x_bottom_right": 300, "y_bottom_right": 400}',
        '{"bbox_left": 100, "bbox_top": 200, "bbox_right": 300, "bbox_bottom": 400}',
        '{"x0": 100, "y0": 200, "x1": 300, "y1": 400}',
        "x0=100, y0=200, x1=300, y1=400",
        "x_1: 100, y_1: 200, x_2: 300, y_2: 400",
        "left: 10%, top: 20%, right: 30%, bottom: 40%",
        '{"left": "10%", "top": "20%", "right": "30%", "bottom": "40%"}',
        "[10%, 20%, 30%, 40%]",
        "[10, 20, 30, 40]%",
        "[10, 20, 30, 40] (in percent)",
        "Image width: 512, height: 512. Box: [100, 200, 300, 400]",
        "The image is 512x512. [100, 200, 300, 400]",
        "The image is 512x512. 100 200 300 400",
        "The image is 512 x 512 pixels. The box is 100, 200, 300, 400.",
        "Image size: (512, 512). Box: (100, 200), (300, 400)",
        '{"image_size": [512, 512], "bbox": [100, 200, 300, 400]}',
        '{"width": 512, "height": 512, "bbox": [100, 200, 300, 400]}',
        '{"width": 512, "height": 512, "bbox": {"x": 100, "y": 200, "width": 200, "height": 200}}',
        '{"image": {"width": 512, "height": 512}, "bbox": {"x1": 100, "y1": 200, "x2": 300, "y2": 400}}',
        "The image has a width of 512 and a height of 512. x: 100, y: 200, width: 200, height: 200",
        '{"image_width": 512, "image_height": 512, "x": 100, "y": 200, "w": 200, "h": 200}',
        "The picture is 512 pixels wide and 512 pixels high. 100, 200, 300, 400",
        "top-left corner (100, 200), bottom-right corner (300, 400)",
        "Top-left: (100, 200), bottom-right: (300, 400)",
        "(100, 200) to (300, 400)",
        "from (100,200) to (300,400)",
        "x from 100 to 300, y from 200 to 400",
        "x: 100-300, y: 200-400",
        "x: 100\u2013300, y: 200\u2013400",
        "x: [100, 300], y: [200, 400]",
        "x ranges from 100 to 300 and y ranges from 200 to 400",
        "x between 100 and 300, y between 200 and 400",
        "The box spans x=100 to x=300 and y=200 to y=400",
        "horizontally from 100 to 300, vertically from 200 to 400",
        "The lesion lies around (200, 300). Box: [100, 200, 300, 400]",
        "<|box_start|>(100,200),(300,400)<|box_end|>",
        "<|object_ref_start|>left lung<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|><|im_end|>",
        "<ref>left lung</ref><box>[[100, 200, 300, 400]]</box>",
        '```json\n[\n  {"bbox_2d": [100, 200, 300, 400], "label": "left lung"}\n]\n```',
        "**[100, 200, 300, 400]**",
        "The **bounding box** is: `[100, 200, 300, 400]`.",
        "\uff3b100\uff0c200\uff0c300\uff0c400\uff3d",
        "\uff3b\uff11\uff10\uff10\uff0c\uff12\uff10\uff10\uff0c\uff13\uff10\uff10\uff0c\uff14\uff10\uff10\uff3d",
        "\u3010100\uff0c200\uff0c300\uff0c400\u3011",
        "\uff08100\uff0c200\uff09\uff0c\uff08300\uff0c400\uff09",
        "\u5de6\u4e0a\u89d2(100, 200)\uff0c\u53f3\u4e0b\u89d2(300, 400)",
        "center (200, 300), width 200, height 200",
        "width: 200, height: 200, center: (200, 300)",
        '{"center": {"x": 200, "y": 300}, "size": {"width": 200, "height": 200}}',
        "cx: 200, cy: 300, w: 200, h: 200",
        '{"height": 200, "width": 200, "x_center": 200, "y_center": 300}',
        '{"top_left": [100, 200], "bottom_right": [300, 400]}',
        '{"top_left": {"x": 100, "y": 200}, "bottom_right": {"x": 300, "y": 400}}',
        "bottom-right (300, 400), top-left (100, 200)",
        "top-right (300, 200), bottom-left (100, 400)",
        "The upper left corner is at x = 100, y = 200 and the lower right corner is at x = 300, y = 400.",
        "(x1, y1) = (100, 200), (x2, y2) = (300, 400)",
        "[x1, y1, x2, y2] = [100, 200, 300, 400]",
        "x1, y1, x2, y2: 100, 200, 300, 400",
        "[ymin, xmin, ymax, xmax] = [200, 100, 400, 300]",
        "[100, 200, 200, 200] (xywh)",
        "[100, 200, 300, 400] (x1, y1, x2, y2)",
        "(x, y, w, h) = (100, 200, 200, 200)",
        "| x1 | y1 | x2 | y2 |\n|---|---|---|---|\n| 100 | 200 | 300 | 400 |",
        "[100. 200. 300. 400.]",
        "array([100., 200., 300., 400.])",
        '["100", "200", "300", "400"]',
        '{"bbox": "100, 200, 300, 400"}',
        "[100; 200; 300; 400]",
        "\\boxed{[100, 200, 300, 400]}",
        "\\boxed{100, 200, 300, 400}",
        "<answer>[100, 200, 300, 400]</answer>",
        "\\left[100, 200, 300, 400\\right]",
        "not [1, 2, 3, 4] but [100, 200, 300, 400]",
        "[1, 2, 3, 4]. No, wait, it is [100, 200, 300, 400].",
        "First guess: [1, 2, 3, 4]. Final answer: [100, 200, 300, 400]",
        "[1, 2, 3, 4]... Correction: [100, 200, 300, 400]",
        "The liver is not at [1, 2, 3, 4]. It is at [100, 200, 300, 400].",
        "The whole image is [0, 0, 1000, 1000]. The liver: [100, 200, 300, 400]",
        "x_min=100,y_min=200,x_max=300,y_max=400",
        "left edge: 100, top edge: 200, right edge: 300, bottom edge: 400",
        "left 100 top 200 right 300 bottom 400",
        "The left edge is at 100, the top edge at 200, the right edge at 300 and the bottom edge at 400.",
        '{"x": 100, "y": 200, "x2": 300, "y2": 400}',
        "xmin 100 ymin 200 xmax 300 ymax 400",
        "[100, 200, 300, 400], confidence 0.93",
        "[x_min: 100, y_min: 200, x_max: 300, y_max: 400]",
        "[100, 200, 300, 400] [100, 200, 300, 400]",
        "starts at (100, 200) and ends at (300, 400)",
        "between (100, 200) and (300, 400)",
        "from 100,200 to 300,400",
        "from x=100, y=200 to x=300, y=400",
        '{"min": [100, 200], "max": [300, 400]}',
        '{"minX": 100, "minY": 200, "maxX": 300, "maxY": 400}',
        "(100, 200)-(300, 400)",
        "(100, 200) \u2192 (300, 400)",
        "<p>liver</p> {<100><200><300><400>}",
        "[[100, 200], [300, 400]]",
        "Center x: 200, center y: 300, width: 200, height: 200",
        "The box is centered at (200, 300) with a width of 200 and a height of 200.",
        '{"label": "left lung", "x_min": 100, "y_min": 200, "x_max": 300, "y_max": 400, "confidence": 0.9}',
        '{"bounding_box": {"left": 100, "top": 200, "width": 200, "height": 200}}',
        "first corner (100, 200), second corner (300, 400)",
        "corners: (100, 200) and (300, 400)",
        "top left corner and bottom right corner are (100, 200) and (300, 400)",
        "x\\_min: 100, y\\_min: 200, x\\_max: 300, y\\_max: 400",
        "Box: 100,200,300,400",
        "[100,200,300,400]<|im_end|>",
        "100\n200\n300\n400",
        "[0.1e3, 2e2, 300, 400]",
        "Bounding box coordinates (normalized to 0-1000): [100, 200, 300, 400]",
        "left=100 | top=200 | right=300 | bottom=400",
        "- x_min: 100\n- y_min: 200\n- x_max: 300\n- y_max: 400",
        "1. x_min: 100\n2. y_min: 200\n3. x_max: 300\n4. y_max: 400",
        "* **x_min**: 100\n* **y_min**: 200\n* **x_max**: 300\n* **y_max**: 400",
        "[100, 200, 300, 400] is the bounding box of the liver in the 512x512 image.",
        "Slice 12 of 30: [100, 200, 300, 400]",
        "xyxy: 100 200 300 400",
        '{"box": {"xmin": 100, "ymin": 200, "xmax": 300, "ymax": 400}, "score": 0.98}',
        '[{"box": {"xmin": 100, "ymin": 200, "xmax": 300, "ymax": 400}}, {"box": {"xmin": 1, "ymin": 2, "xmax": 3}}]',
        '[{"height": 200, "width": 200, "x": 100, "y": 200}, {"height": 2, "width": 2, "x": 1, "y": 2}]',
        "The coordinates of the top-left corner are (100, 200), those of the bottom-right corner are (300, 400).",
        "Point 1: (100, 200)\nPoint 2: (300, 400)",
        "x = 100, y = 200, width = 200, height = 200",
        "(100,200,300,400)",
        "[100 200 300 400]",
        "It is roughly at [~100, ~200, ~300, ~400].",
        "[[100, 200, 300, 400], [10, 20, 30, 40]]",
        "bbox: x: 100; y: 200; w: 200; h: 200",
        "x=100px? No: [100, 200, 300, 400]",
        "top: 200, left: 100, height: 200, width: 200",
        "upper-left (100, 200); lower-right (300, 400)",
        "Rows 200 to 400, columns 100 to 300",
        "The region from left=100 to right=300 and from top=200 to bottom=400",
        "x\u2081=100, y\u2081=200, x\u2082=300, y\u2082=400",
        "x_{min}=100, y_{min}=200, x_{max}=300, y_{max}=400",
        "$x_{\\min} = 100, y_{\\min} = 200, x_{\\max} = 300, y_{\\max} = 400$",
        "$(x_1, y_1, x_2, y_2) = (100, 200, 300, 400)$",
        "\u27e8100, 200, 300, 400\u27e9",
        "\uff1cbox\uff1e\uff08100\uff0c200\uff09\uff0c\uff08300\uff0c400\uff09\uff1c/box\uff1e",
        "\u5de6\uff1a100\uff0c\u4e0a\uff1a200\uff0c\u53f3\uff1a300\uff0c\u4e0b\uff1a400",
        "Step 1: look. Step 2: find. Step 3: box [100, 200, 300, 400]",
        "width 200 height 200 x 100 y 200",
        "The heart is at [100, 200, 300, 400]. The liver is at [1, 2, 3, 4].",
        "left lung [100, 200, 300, 400], right lung [1, 2, 3, 4]",
        "left: [100, 200, 300, 400]",
        "Left lung: 100, 200, 300, 400",
        '{"x1": 100, "y1": 200, "x2": 300, "y2": 400, "width": 512, "height": 512}',
        '{"bbox": [100, 200, 300, 400], "center": [200, 300]}',
        '{"bbox": [100, 200, 300, 400], "x_min": 5}',
        "The lesion's center is (200, 300). Its box is [100, 200, 300, 400].",
        "top-left corner (100, 200) with width 200 and height 200",
        "top-left corner (100, 200), size 200x200",
        "center (200, 300), size 200 x 200",
        "[100,200,300,400] (values in range 0-1000)",
        "from (100, 200) to (300, 400) and from (1, 2) to (3, 4)",
        "<box>(100,200),(300,400)</box><box>(1,2),(3,4)</box>",
        "Box 1: [100, 200, 300, 400]\nBox 2: [1, 2, 3, 4]",
        '{"boxes": [[100, 200, 300, 400]], "scores": [0.9]}',
        "x1=100 y1=200 x2=300 y2=400",
        "x1y1=(100,200), x2y2=(300,400)",
        "[x=100, y=200, w=200, h=200]",
        "<bbox>100 200 300 400</bbox>",
        "<bounding_box>[100, 200, 300, 400]</bounding_box>",
        "<x1>100</x1><y1>200</y1><x2>300</x2><y2>400</y2>",
        "<xmin>100</xmin><ymin>200</ymin><xmax>300</xmax><ymax>400</ymax>",
        "Answer: ((100, 200), (300, 400))",
        "{(100, 200), (300, 400)}",
        "top left: 100, 200; bottom right: 300, 400",
        "top left x 100 y 200 bottom right x 300 y 400",
        "top: 20%, left: 10%, width: 20%, height: 20%",
        "10%, 20%, 30%, 40%",
        "(10%, 20%) to (30%, 40%)",
        "10% 20% 30% 40% of the image",
        "x: 10%-30%, y: 20%-40%",
        "left=10 percent, top=20 percent, right=30 percent, bottom=40 percent",
        "in percent: [10, 20, 30, 40]",
        "Percent coordinates: left 10, top 20, right 30, bottom 40",
        "I am not sure, but [100, 200, 300, 400]",
        "There is no doubt: [100, 200, 300, 400]",
        "I cannot be certain; the box is [100, 200, 300, 400]",
        "The nodule, which is not calcified, is at [100, 200, 300, 400].",
        "The mass is not in the left lung but at [100, 200, 300, 400].",
        "The mass is not malignant: [100, 200, 300, 400]",
        "No tumor in the liver. [100, 200, 300, 400]",
        "y1: 200, x1: 100, y2: 400, x2: 300",
        "Bounding Box: x=100, y=200, width=200, height=200 (x=100, y=200 is the top left corner)",
        "[100,200][300,400]",
        "[100, 200, 300, 400",
        "100, 200, 300, 400]",
        "(100, 200, 300, 400",
        "I see 3 boxes: [100, 200, 300, 400], [1,2,3,4], [5,6,7,8]",
        "Sure! The answer is:\n\n**Bounding box:** (x_min=100, y_min=200, x_max=300, y_max=400)",
        "`x_min`: `100`, `y_min`: `200`, `x_max`: `300`, `y_max`: `400`",
        "The image is 1000 pixels wide and 1000 pixels tall. The box is x1=100, y1=200, x2=300, y2=400",
        "For an image of size 512x512, left=100, top=200, right=300, bottom=400",
        "Given the image dimensions of 512 by 512, [100, 200, 300, 400].",
        "Image dimensions: width=512, height=512\nx=100, y=200, width=200, height=200",
        "image: 512 x 512; bbox: 100 200 300 400",
        "upper_left: (100, 200), lower_right: (300, 400)",
        "ul: (100, 200), lr: (300, 400)",
        "NW corner (100,200) SE corner (300,400)",
        "left-top (100, 200), right-bottom (300, 400)",
        "x_left=100, x_right=300, y_top=200, y_bottom=400",
        "xl=100, xr=300, yt=200, yb=400",
        "l=100, t=200, r=300, b=400",
        "x_lo=100 x_hi=300 y_lo=200 y_hi=400",
        "startX: 100, startY: 200, endX: 300, endY: 400",
        "minimum x 100, minimum y 200, maximum x 300, maximum y 400",
        "xmin, ymin, xmax, ymax: 100, 200, 300, 400",
        "Top Left: (100, 200) Top Right: (300, 200) Bottom Left: (100, 400) Bottom Right: (300, 400)",
        "Left = 100, Upper = 200, Right = 300, Lower = 400",
        "\u5de6\u4e0a\u89d2\u5750\u6807\u4e3a(100, 200)\uff0c\u53f3\u4e0b\u89d2\u5750\u6807\u4e3a(300, 400)\u3002",
        "\u809d\u810f\u7684\u8fb9\u754c\u6846\uff1a[100, 200, 300, 400]",
        "x\u5750\u6807\u4ece100\u5230300\uff0cy\u5750\u6807\u4ece200\u5230400",
        "oben links (100, 200), unten rechts (300, 400)",
        "x of the top left corner: 100, y of the top left corner: 200, right: 300, bottom: 400",
        "Values from 0 to 1000. x1 = 100 (left), y1 = 200 (top), x2 = 300 (right), y2 = 400 (bottom)",
        "as [left, top, right, bottom] in whole numbers from 0 to 1000: [100, 200, 300, 400]",
    ],
)
def test_a_box_that_is_told_is_read(text: str) -> None:
    assert PERMILLE.read(text, SIZE) == pytest.approx(WANTED)


@pytest.mark.parametrize(
    "text",
    [
        "(512, 512), (100, 200), (300, 400)",
        "[100, 200, 300, 400, 500]",
        '{"x_min": 300, "y_min": 200, "x_max": 100, "y_max": 400}',
        "left: 300, top: 200, right: 100, bottom: 400",
        "top-left (300, 400), bottom-right (100, 200)",
        "left: 10%, top: 20, right: 30%, bottom: 40",
        "[10%, 20, 30, 40]",
        "[1200, 34, 56, 78]",
        "[110%, 34%, 56%, 78%]",
        "[100, 200, 300, 400] or [10, 20, 30, 40]",
        "[100, 200, 300, 400] or maybe [10, 20, 30, 40]",
        "The lesion is not at [100, 200, 300, 400].",
        "There is no liver in [100, 200, 300, 400].",
        "[100, 200, 300, 400] is not the liver.",
        "e.g. [100, 200, 300, 400]",
        "The lesion is about 4 cm in 2 of 3 slices, 1 nodule",
        "two lesions at (200, 300) and (500, 500)",
        "x_min: 100, x_min: 120, y_min: 200, x_max: 300, y_max: 400",
        '{"x1": 12, "y1": 34, "x2": 56, "conf": 78}',
        "x: 100, y: 200 (center), width: 200, height: 200 is what I see",
        "[100px, 200px, 300px, 400px]",
        "100 px, 200 px, 300 px, 400 px",
        "[10mm, 20mm, 30mm, 40mm]",
        "(100, 200)",
        "center: (200, 300)",
        "width: 200, height: 200",
        "The image is 512x512.",
        "100x200, 300x400",
        "12-34-56-78",
        "Slices 1, 2, 3 and 4 of 30",
        "[100, 200, 300, 400]. No, wait, that is wrong.",
        "[x1, y1, x2, y2]",
        "[x1, x1, y1, y2] = [100, 200, 300, 400]",
        "x: 100, y: 200, width: -20, height: 30",
        "[100, 200], [300, 400], [500, 600], [700, 800]",
        "1. 100 200 300",
        "In the lower right lobe, x: 100, y: 200",
        "100\u2030 200\u2030 300\u2030 400\u2030",
        "2024-11-28 10:20:30",
        "IP 10.20.30.40",
        "The lesion measures 3 x 4 x 5 cm at 10 o'clock",
        "T1, T2, 3, 4",
        "1, 2, 3, 4",
        "Findings: 1, 2, 3, 4 are normal",
        "Segments 5, 6, 7, 8",
        "In 2019, 3 patients, 4 men",
        "x: 100, y: 200",
        '{"point_2d": [200, 300], "label": "lung"}',
    ],
)
def test_no_box_is_made_of_what_tells_none(text: str) -> None:
    assert PERMILLE.read(text, SIZE) is None


@pytest.mark.parametrize(
    "text",
    [
        "[200, 100, 400, 300]",
        "(200, 100), (400, 300)",
        "(200, 100) to (400, 300)",
        "top-left (200, 100), bottom-right (400, 300)",
        "top-left (x, y): (100, 200), bottom-right (x, y): (300, 400)",
        '{"box_2d": [200, 100, 400, 300], "label": "lung"}',
        '{"x_min": 100, "y_min": 200, "x_max": 300, "y_max": 400}',
        "x from 100 to 300, y from 200 to 400",
        "[x1, y1, x2, y2] = [100, 200, 300, 400]",
        "[100, 200, 300, 400] (xyxy)",
        "bbox: 100 200 300 400 (x1 y1 x2 y2)",
        "(x, y): (100, 200), (300, 400)",
        "In [x1, y1, x2, y2] format, the box is [100, 200, 300, 400].",
        "The box is [100, 200, 300, 400] in the format [x_min, y_min, x_max, y_max].",
        "The coordinates [x_min, y_min, x_max, y_max] of the left lung are [100, 200, 300, 400].",
        "The format is [left, top, width, height]. The liver: [100, 200, 200, 200]",
    ],
)
def test_names_go_before_the_order_of_the_space(text: str) -> None:
    assert BOX_SPACES["permille-yxyx"].read(text, SIZE) == WANTED


@pytest.mark.parametrize(
    "text",
    [
        "[100, 200, 200, 200]",
        "[100px, 200px, 200px, 200px]",
        "[100, 200, 200, 200] pixels",
        "[10%, 20%, 20%, 20%]",
        "(100, 200) to (300, 400)",
        "top-left (100, 200), bottom-right (300, 400)",
        "x1: 100, y1: 200, x2: 300, y2: 400",
        "left: 100, top: 200, width: 200, height: 200",
    ],
)
def test_two_corners_are_corners_in_a_space_of_sizes(text: str) -> None:
    assert BOX_SPACES["pixels-xywh"].read(text, SIZE) == pytest.approx(WANTED)


@pytest.mark.parametrize("space", [name for name in BOX_SPACES if name not in {"uni-med", "pixels-xywh"}])
@pytest.mark.parametrize("text", ["left: 10%, top: 20%, right: 30%, bottom: 40%", "x: 10%-30%, y: 20%-40%"])
def test_a_percent_is_one_in_every_space(space: str, text: str) -> None:
    assert BOX_SPACES[space].read(text, (640, 480)) == pytest.approx((64, 96, 192, 192))


def test_pixels_are_no_box_where_none_are_counted() -> None:
    text = "[64px, 96px, 192px, 192px]"
    assert BOX_SPACES["pixels"].read(text, (640, 480)) == Box(64, 96, 192, 192)
    assert BOX_SPACES["fraction"].read("[0.1px, 0.2px, 0.3px, 0.4px]", (640, 480)) is None


def test_of_several_boxes_the_first_counts_unless_it_is_taken_back() -> None:
    first, second = "[100, 200, 300, 400]", "[1, 2, 3, 4]"
    assert PERMILLE.read(f"heart {first}, liver {second}", SIZE) == WANTED
    assert PERMILLE.read(f"{second}? No, {first}", SIZE) == WANTED
    assert PERMILLE.read(f"{second}. Wait, it is {first}, and the heart {second}", SIZE) == WANTED
    assert PERMILLE.read(f"{first} or {second}", SIZE) is None
    assert PERMILLE.read(f"{first} or {first}", SIZE) == WANTED


@pytest.mark.parametrize(
    ("phrase", "edges"),
    [
        ("x_min", ["left"]),
        ("min y", ["top"]),
        ("top left x", ["left"]),
        ("bottom_right_y", ["bottom"]),
        ("x0", ["x0"]),
        ("upper left corner", ["left", "top"]),
        ("centre", ["cx", "cy"]),
        ("center_x", ["cx"]),
        ("size", ["width", "height"]),
        ("left top right bottom", ["left", "top", "right", "bottom"]),
    ],
)
def test_names_of_edges(phrase: str, edges: list[str]) -> None:
    assert [edge for name in names_in(phrase) for edge in name.edges(y_first=False)] == edges
    assert NAME


@pytest.mark.parametrize(
    ("told", "corners"),
    [
        ({"x0": 1, "y0": 2, "x1": 3, "y1": 4}, (1, 2, 3, 4)),
        ({"x1": 1, "y1": 2, "x2": 3, "y2": 4}, (1, 2, 3, 4)),
        ({"x1": 1, "y1": 2, "width": 2, "height": 2}, (1, 2, 3, 4)),
        ({"cx": 2, "cy": 3, "width": 2, "height": 2}, (1, 2, 3, 4)),
        ({"right": 3, "bottom": 4, "width": 2, "height": 2}, (1, 2, 3, 4)),
        ({"left": 1, "top": 2, "right": 3, "bottom": 4, "width": 512, "height": 512}, (1, 2, 3, 4)),
        ({"x0": 1, "y0": 2, "x2": 3, "y2": 4}, None),
        ({"left": 3, "top": 2, "right": 1, "bottom": 4}, None),
        ({"left": 1, "x": 2, "top": 2, "right": 3, "bottom": 4}, None),
        ({"left": 1, "top": 2, "width": -2, "height": 2}, None),
        ({"left": float("inf"), "top": 2, "width": 2, "height": 2}, None),
        ({"left": 1, "right": 3}, None),
    ],
)
def test_edges_make_a_box_or_contradict_each_other(
    told: dict[str, float], corners: tuple[float, float, float, float] | None
) -> None:
    assert box_of(told) == corners


PIECES = (
    "x", "y", "x1", "y2", "x0", "left", "bottom", "width", "h", "center", "size", "top-left", "from", "to", "and",
    "between", "image", "512x512", "5x5x5", "[", "]", "(", ")", "{", "}", ",", ";", ":", "=", "\n", ".", "100", "200",
    "0.5", "10%", "5px", "<", "<loc_5>", "<box>", "</box>", "or", "not", "wait", "xywh", "percent", "the", "-", '"',
)  # fmt: skip


def test_no_words_of_boxes_break_the_reader() -> None:
    random = Random(16)
    for _ in range(4000):
        text = " ".join(random.choices(PIECES, k=random.randint(1, 25)))
        for space in ("permille", "permille-yxyx", "pixels-xywh"):
            found = BOX_SPACES[space].read(text, SIZE)
            assert found is None or len(found) == 4, text


STYLES = (
    ("x_min", "y_min", "x_max", "y_max"),
    ("xMin", "yMin", "xMax", "yMax"),
    ("min x", "min y", "max x", "max y"),
    ("x0", "y0", "x1", "y1"),
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
    ("bbox_left", "bbox_top", "bbox_right", "bbox_bottom"),
    ("top_left_x", "top_left_y", "bottom_right_x", "bottom_right_y"),
    ("x-left", "y-top", "x-right", "y-bottom"),
    ("startX", "startY", "endX", "endY"),
)
BEFORE = (
    "",
    "In this 512x512 image, ",
    "Slice 3: ",
    "The left lung (3 cm) ",
    "Width 512, height 512 image. ",
    "Confidence 95%. ",
    "In the upper left quadrant: ",
    '{"label": "left kidney", "id": 3, ',
)
BEHIND = (
    "",
    ".",
    ", score: 0.9}",
    " (confidence 95%)",
    ". It measures 20 x 30 mm.",
    " The center is at (200, 300).",
    ", width 512, height 512",
    "\nThe image is 512x512.",
)


def test_names_in_any_order_between_other_numbers_are_never_mixed_up() -> None:
    random = Random(16)
    unread = 0
    for _ in range(3000):
        left, top = random.randint(1, 400), random.randint(1, 400)
        edges = (left, top, left + random.randint(5, 500), top + random.randint(5, 500))
        told = list(zip(random.choice(STYLES), edges, strict=True))
        random.shuffle(told)
        equals, gap = random.choice((": ", "=", " is ", " at ", ": ~")), random.choice((", ", "; ", "\n", " ", " | "))
        body = gap.join(f"{name}{equals}{number}" for name, number in told)
        text = random.choice(BEFORE) + body + random.choice(BEHIND)
        found = PERMILLE.read(text, SIZE)
        assert found in {None, Box(*edges)}, text
        unread += found is None
    assert unread < 30
