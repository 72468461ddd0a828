"""Figures: one box per action as wide as it lasts, labels that fit, the same bytes every time."""

import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from functools import cache

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from seq1f1b_jax.picture import draw_figure, timeline_of
from seq1f1b_jax.picture.figure import build_figure
from seq1f1b_jax.picture.labels import Extent, labels_of, shortened
from seq1f1b_jax.picture.style import fill
from seq1f1b_jax.schedule import Costs, Op, make_plan, simulate
from tests.picture.cases import PLANS, one_box, span, timeline, two_halves


@cache
def drawn(name):
    """A figure of one plan, or of two above each other, with its renderer."""
    figure = build_figure([timeline(part) for part in name.split(" over ")])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return figure, canvas.get_renderer()


def collections(figure, gid):
    return [c for axes in figure.axes for c in axes.collections if c.get_gid() == gid]


def corners(collection):
    return np.array([path.vertices[:4] for path in collection.get_paths()])


@pytest.mark.parametrize("name", PLANS)
def test_there_is_one_box_per_action_as_wide_as_it_lasts(name):
    spans = timeline(name).spans
    counts = Counter(span_.action.op for span_ in spans)
    for op in Op:
        boxes = [corners(c) for c in collections(drawn(name)[0], f"boxes-{op}")]
        assert sum(map(len, boxes)) == counts[op]
        if boxes:
            edges = [(box[0, 0], box[1, 0]) for box in boxes[0]]
            assert edges == [(s.start, s.end) for s in spans if s.action.op is op]


@pytest.mark.parametrize("name", PLANS)
def test_boxes_have_the_colours_of_their_units(name):
    line = timeline(name)
    for op in {span_.action.op for span_ in line.spans}:
        (boxes,) = collections(drawn(name)[0], f"boxes-{op}")
        colours = [to_hex(colour) for colour in boxes.get_facecolors()]
        actions = [span_.action for span_ in line.spans if span_.action.op is op]
        assert colours == [fill(op, *action.unit, line.num_chunks) for action in actions]


def test_two_timelines_share_one_time_axis():
    figure, _ = drawn("whole over small")
    shorter, longer = sorted(timeline(name).end for name in ("whole", "small"))
    assert shorter != longer
    limits = {c.axes.get_xlim() for c in collections(figure, "boxes-F")}
    places = [c.axes.get_position() for c in collections(figure, "boxes-F")]
    assert limits == {(0, longer)}
    assert places[0].x0 == places[1].x0 and places[0].x1 == places[1].x1
    assert places[0].y0 > places[1].y1


def test_waiting_shows_until_the_end_of_each_step():
    figure, _ = drawn("whole over small")
    for name, rows in zip(("whole", "small"), collections(figure, "idle"), strict=True):
        assert corners(rows)[:, :, 0].max() == timeline(name).end


def labels(figure):
    texts = [text for axes in figure.axes for text in axes.texts]
    return [
        text for text in texts if re.fullmatch(r"\d+\.\d+", text.get_text()) and text.zorder == 6
    ]


NAMES = [*PLANS, "small over split", "wide over interleaved"]


@pytest.mark.parametrize("name", NAMES)
def test_labels_lie_within_their_boxes(name):
    figure, renderer = drawn(name)
    boxes = np.concatenate([_box_extents(figure, op) for op in Op])
    found = labels(figure)
    assert found
    for label in found:
        extent = label.get_window_extent(renderer)
        x, y = (extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2
        left, bottom, right, top = next(
            box for box in boxes if box[0] < x < box[2] and box[1] < y < box[3]
        )
        assert left <= extent.x0 and extent.x1 <= right, label.get_text()
        assert bottom <= extent.y0 and extent.y1 <= top, label.get_text()


def _box_extents(figure, op):
    """Left, bottom, right and top of all boxes of an operation in pixels."""
    rows = [np.empty((0, 4))]
    for collection in collections(figure, f"boxes-{op}"):
        pixels = collection.axes.transData.transform(corners(collection).reshape(-1, 2))
        pixels = pixels.reshape(-1, 4, 2)
        rows.append(np.concatenate([pixels.min(axis=1), pixels.max(axis=1)], axis=1))
    return np.concatenate(rows)


@pytest.mark.parametrize("name", NAMES)
def test_no_two_texts_overlap_and_none_leaves_the_page(name):
    figure, renderer = drawn(name)
    texts = [text for axes in figure.axes for text in axes.texts]
    extents = [text.get_window_extent(renderer) for text in texts]
    width, height = figure.canvas.get_width_height()
    for text, extent in zip(texts, extents, strict=True):
        assert 0 <= extent.x0 and extent.x1 <= width, text.get_text()
        assert 0 <= extent.y0 and extent.y1 <= height, text.get_text()
    edges = np.array([(e.x0, e.y0, e.x1, e.y1) for e in extents])
    low, high = edges[:, None, :2], edges[:, None, 2:]
    apart = (high <= edges[None, :, :2]).any(-1) | (low >= edges[None, :, 2:]).any(-1)
    overlaps = np.argwhere(np.triu(~apart, k=1))
    assert not len(overlaps), [(texts[i].get_text(), texts[j].get_text()) for i, j in overlaps]


def test_letters_are_readable_at_800_pixels():
    figure, _ = drawn("wide")
    assert figure.canvas.get_width_height()[0] == 800
    sizes = [text.get_fontsize() * 96 / 72 for axes in figure.axes for text in axes.texts]
    assert min(sizes) >= 9


def test_a_label_lies_or_stands_or_is_left_out():
    spans = (span(0, 10), span(10, 15, chunk=1), span(15, 17, chunk=2))
    found = labels_of(
        one_box(spans=spans),
        pixels_per_time=2,
        box_height=20,
        measure=lambda text: Extent(12, 6),
    )
    assert [(label.text, label.upright) for label in found] == [("0.0", False), ("0.1", True)]


def test_memory_curve_is_drawn_to_scale():
    figure, _ = drawn("small")
    (curves,) = collections(figure, "memory")
    heights = [np.ptp(path.vertices[:, 1]) for path in curves.get_paths()]
    np.testing.assert_allclose(np.array(heights) / heights[0], np.array([5, 4, 3, 2]) / 5)
    figure = build_figure([two_halves()])
    (curve,) = collections(figure, "memory")[0].get_paths()
    floor = curve.vertices[:, 1].max()
    held = curve.vertices[curve.vertices[:, 1] < floor]
    assert (held[:, 0].min(), held[:, 0].max()) == (0, 6)


def test_layer_groups_lie_one_below_the_other():
    figure, _ = drawn("interleaved")
    line = timeline("interleaved")
    (boxes,) = collections(figure, "boxes-F")
    tops = corners(boxes)[:, :, 1].min(axis=1)
    forwards = [span_ for span_ in line.spans if span_.action.op is Op.F]
    of_rank_0 = {s.action.stage: top for s, top in zip(forwards, tops, strict=True) if s.rank == 0}
    assert sorted(of_rank_0) == [0, 4] and of_rank_0[0] == 0 and of_rank_0[4] > 5


def test_weight_gradients_are_hatched():
    (hatch,) = collections(drawn("split")[0], "hatch")
    assert len(hatch.get_paths()) == sum(s.action.op is Op.W for s in timeline("split").spans)
    assert not collections(drawn("small")[0], "hatch")


def test_the_legend_names_what_occurs():
    def words(name):
        return " ".join(text.get_text() for text in drawn(name)[0].axes[-1].texts)

    assert "backward" in words("small") and "gradient" not in words("small")
    assert "input gradient" in words("split") and "backward" not in words("split")
    assert "layers of a rank" in words("interleaved") and "layers" not in words("small")
    assert "shade by chunk" in words("small") and "shade" not in words("whole")


def test_svg_is_the_same_every_time_and_keeps_its_text(tmp_path):
    line = one_box(title="a < b & $x_1$ </text>", notes=("50 %",))
    for name in ("one.svg", "two.svg"):
        draw_figure([line, timeline("split")], tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    root = ElementTree.parse(tmp_path / "one.svg").getroot()
    texts = ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a < b & $x_1$ </text>", "50 %", "rank 3", "weight gradient"} <= set(texts)
    assert root.get("width") == "600pt"  # 800 pixels on a web page


def test_a_long_title_is_cut():
    figure = build_figure([one_box(title="long " * 60, notes=("a note",))])
    cut = [text for axes in figure.axes for text in axes.texts if text.get_text().endswith("…")]
    assert len(cut) == 1 and cut[0].get_text().startswith("long long")
    assert shortened("abcdef", width=4, measure=lambda text: Extent(len(text), 1)) == "abc…"
    assert shortened("abcd", width=4, measure=lambda text: Extent(len(text), 1)) == "abcd"


def test_a_large_plan_is_a_handful_of_artists():
    plan = make_plan("seq1f1b", num_ranks=32, num_microbatches=32, num_chunks=4)
    line = timeline_of(simulate(plan, Costs(forward=1, backward=2)), title="large")
    figure = build_figure([line])
    assert len(line.spans) == 32 * 32 * 4 * 2
    assert sum(len(axes.collections) for axes in figure.axes) < 10
    assert not labels(figure)  # a box is narrower than a pixel
