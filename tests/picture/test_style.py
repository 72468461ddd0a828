"""Colours: apart in grey print, apart for colour-blind eyes, one family per microbatch."""

from itertools import pairwise

import numpy as np
import pytest

from seq1f1b_jax.picture.style import HUES, OP_STYLES, WAITING, fill, lch_colour
from seq1f1b_jax.schedule import Op

# What red-green and blue-yellow blind eyes make of linear sRGB (Machado and others, 2009).
EYES = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def channels(colour):
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def lab(colour, eye="normal"):
    srgb = channels(colour)
    linear = np.where(srgb > 0.04045, ((srgb + 0.055) / 1.055) ** 2.4, srgb / 12.92)
    xyz = XYZ @ np.clip(EYES[eye] @ linear, 0, 1) / XYZ.sum(axis=1)
    roots = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * roots[1] - 16, 500 * (roots[0] - roots[1]), 200 * (roots[1] - roots[2])])


def distance(one, other, eye="normal"):
    return float(np.linalg.norm(lab(one, eye) - lab(other, eye)))


def greys(op, num_chunks=4):
    """Lightness of all boxes of an operation, 0 to 100."""
    families = range(len(HUES))
    return [lab(fill(op, m, c, num_chunks))[0] for m in families for c in range(num_chunks)]


def test_the_tones_of_the_operations_do_not_touch_in_grey():
    bands = [(min(greys(op)), max(greys(op))) for op in (Op.B, Op.I, Op.F, Op.W)]
    gaps = [lighter[0] - darker[1] for darker, lighter in pairwise(bands)]
    assert min(gaps) > 6, bands
    # B and I never stand in one plan; those that do are further apart
    assert gaps[1] > 12
    assert [op for op, style in OP_STYLES.items() if style.hatched] == [Op.W]


def test_waiting_is_lighter_than_every_box_that_is_not_hatched():
    assert lab(WAITING)[0] > max(greys(Op.F)) + 7


@pytest.mark.parametrize("op", Op)
def test_later_chunks_are_darker_and_of_the_same_hue(op):
    for microbatch in range(len(HUES)):
        boxes = [lab(fill(op, microbatch, chunk, 4)) for chunk in range(4)]
        assert all(later[0] < earlier[0] - 1 for earlier, later in pairwise(boxes))
        hues = [np.degrees(np.arctan2(b, a)) % 360 for _, a, b in boxes]
        assert all(abs((hue - HUES[microbatch] + 180) % 360 - 180) < 8 for hue in hues), hues


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("op", [Op.F, Op.B, Op.I])
def test_neighbouring_microbatches_are_distinguishable(op, eye):
    smallest = min(
        distance(fill(op, first, chunk, 2), fill(op, first + 1, chunk, 2), eye)
        for first in range(len(HUES))
        for chunk in range(2)
    )
    # 2.3 is just noticeable side by side; blue-yellow blindness is rare and gets less
    assert smallest > (11 if eye == "tritanopia" else 29)


def test_hues_repeat_after_the_last():
    assert fill(Op.F, len(HUES) + 1, 0, 2) == fill(Op.F, 1, 0, 2)
    assert len({fill(Op.F, microbatch, 0, 2) for microbatch in range(len(HUES))}) == len(HUES)


@pytest.mark.parametrize("op", Op)
def test_labels_can_be_read_on_their_boxes(op):
    ink = luminance(OP_STYLES[op].ink)
    for microbatch in range(len(HUES)):
        for chunk in range(4):
            box = luminance(fill(op, microbatch, chunk, 4))
            contrast = (max(ink, box) + 0.05) / (min(ink, box) + 0.05)
            assert contrast > 4.5  # WCAG AA


def luminance(colour):
    lightness = lab(colour)[0]
    return ((lightness + 16) / 116) ** 3 if lightness > 8 else lightness / 903.3


@pytest.mark.parametrize(
    ("lch", "colour"),
    [((100, 0, 0), "#ffffff"), ((0, 0, 0), "#000000"), ((53.585, 0, 90), "#808080")],
)
def test_colours_are_those_of_the_standard(lch, colour):
    assert lch_colour(*lch) == colour


def test_a_colour_that_no_screen_shows_keeps_its_lightness():
    # Eight bits per channel: a step of one is up to 0.4 in lightness, half of it is lost.
    assert lab(lch_colour(50, 500, 40))[0] == pytest.approx(50, abs=0.2)
