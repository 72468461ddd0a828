"""The page: its data, its safety, and what its script computes."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from seq1f1b_jax import picture
from seq1f1b_jax.picture import write_page
from seq1f1b_jax.picture.layout import lay_out
from seq1f1b_jax.picture.page import page_data
from seq1f1b_jax.picture.style import fill
from tests.picture.cases import PLANS, one_box, span, timeline, two_halves

FOLDER = Path(picture.__file__).parent
SCRIPTS = ("page_model.js", "page.js", "page_input.js")
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")


class Page(HTMLParser):
    """Tags, scripts and texts of a page, as a browser would take it apart."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.title, self.open = [], [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.open = ""

    def handle_data(self, data):
        if self.open == "script":
            self.scripts[-1] += data
        if self.open == "title":
            self.title += data


@pytest.fixture
def page(tmp_path):
    def write_and_parse(*timelines):
        write_page(timelines, tmp_path / "page.html")
        return Page((tmp_path / "page.html").read_text("utf-8"))

    return write_and_parse


@pytest.mark.parametrize("name", PLANS)
def test_the_data_hold_every_span(page, name):
    line = timeline(name)
    (drawn,) = json.loads(page(line).scripts[0])["timelines"]
    assert len(drawn["rows"]) == line.num_ranks
    ops = [op["letter"] for op in json.loads(page(line).scripts[0])["ops"]]
    for row, spans in zip(drawn["rows"], line.rows, strict=True):
        assert row["start"] == [s.start for s in spans]
        assert row["end"] == [s.end for s in spans]
        assert [ops[op] for op in row["op"]] == [s.action.op for s in spans]
        units = list(zip(row["microbatch"], row["chunk"], strict=True))
        assert units == [s.action.unit for s in spans]
        assert row["stage"] == [s.action.stage for s in spans]
    assert drawn["memory"][0] == {
        "time": [time for time, _ in line.memory[0]],
        "value": [value for _, value in line.memory[0]],
    }


def test_several_timelines_stand_in_one_page(page):
    data = json.loads(page(timeline("whole"), timeline("small")).scripts[0])
    assert [drawn["title"] for drawn in data["timelines"]] == ["whole", "small"]
    assert [drawn["memoryTop"] for drawn in data["timelines"]] == [5, 5]


HOSTILE = "</script><script>alert(1)</script><!-- {{script}} {{data}} <b>&amp;"


def test_titles_are_text_whatever_they_say(page):

    written = page(one_box(title=HOSTILE, notes=(HOSTILE,)))
    assert written.title == HOSTILE
    assert len(written.scripts) == 2
    (drawn,) = json.loads(written.scripts[0])["timelines"]
    assert (drawn["title"], drawn["notes"]) == (HOSTILE, [HOSTILE])
    assert not [tag for tag, _ in written.tags if tag == "b"]


def test_the_script_never_makes_html_of_a_text():
    for name in SCRIPTS:
        text = (FOLDER / name).read_text("utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)


def test_the_page_stands_alone(page):
    written = page(timeline("interleaved"))
    attributes = {key for _, attrs in written.tags for key in attrs}
    assert not attributes & {"src", "href", "action"}
    policy = next(attrs for tag, attrs in written.tags if "http-equiv" in attrs)
    assert policy["content"].startswith("default-src 'none';")
    assert "{{" not in written.scripts[1] and "http" not in written.scripts[1]


def test_the_page_has_what_its_script_looks_for(page):
    written = page(timeline("small"))
    ids = {attrs["id"] for _, attrs in written.tags if "id" in attrs}
    wanted = set(re.findall(r'getElementById\("(\w+)"\)', written.scripts[1]))
    assert wanted and wanted == ids


EVALUATE = """
const m = require(process.argv[1]);
require("readline").createInterface({input: process.stdin}).on("line", (line) => {
  const [expression, given] = JSON.parse(line);
  const names = Object.keys(given), values = Object.values(given);
  let result;
  try {
    result = {value: new Function("m", ...names, `return (${expression});`)(m, ...values)};
  } catch (error) {
    result = {error: String(error)};
  }
  console.log(JSON.stringify(result));
});
"""


@pytest.fixture(scope="module")
def compute():
    """Evaluate an expression over the functions of page_model.js, here called `m`.

    One node process answers all of them, line by line.
    """
    process = subprocess.Popen(
        [NODE, "-e", EVALUATE, str(FOLDER / "page_model.js")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8",
    )  # fmt: skip

    def ask(expression, **values):
        process.stdin.write(json.dumps([expression, values]) + "\n")
        process.stdin.flush()
        result = json.loads(process.stdout.readline())
        assert "error" not in result, result
        return result.get("value")

    yield ask
    process.communicate(timeout=60)


@needs_node
def test_the_scripts_are_javascript(tmp_path):
    whole = tmp_path / "whole.js"
    whole.write_text("\n".join((FOLDER / name).read_text("utf-8") for name in SCRIPTS), "utf-8")
    subprocess.run([NODE, "--check", str(whole)], check=True, timeout=60)


@needs_node
def test_zooming_keeps_the_time_under_the_mouse(compute):
    closer = compute("m.zoomView({start: 0, width: 100}, 30, 0.5, 100)")
    assert closer == {"start": 15, "width": 50}
    wider = compute("m.zoomView({start: 60, width: 20}, 70, 100, 100)")
    assert wider == {"start": 0, "width": 100}
    deepest = compute("m.zoomView({start: 50, width: 1}, 50, 1e-9, 100)")
    assert deepest["width"] == pytest.approx(1e-3)


@needs_node
def test_the_view_stays_within_the_step(compute):
    assert compute("[m.clampView(-5, 10, 100), m.clampView(95, 10, 100)]") == [
        {"start": 0, "width": 10},
        {"start": 90, "width": 10},
    ]


@needs_node
def test_ticks_are_round_and_in_view(compute):
    found = compute("m.timeTicks({start: 3, width: 20}, 5)")
    assert found == {"ticks": [5, 10, 15, 20], "step": 5}
    found = compute("m.timeTicks({start: 0, width: 0.9}, 9)")
    assert found["ticks"] == pytest.approx([i / 10 for i in range(10)])
    texts = compute("[m.tickText(0.30000000000000004, 0.1), m.tickText(40, 20)]")
    assert texts == ["0.3", "40"]


@needs_node
def test_spans_are_found_by_time(compute):
    row = page_data([two_halves()])["timelines"][0]["rows"][0]
    # F 0..1, I 2..3, W 5..6
    times = [0, 0.5, 1, 2.5, 4, 5.5, 6]
    assert compute("times.map((t) => m.spanAt(row, t))", row=row, times=times) == [
        0, 0, -1, 1, -1, 2, -1,
    ]  # fmt: skip
    waits = compute("[1.5, 4].map((t) => m.waitAround(row, t, 6))", row=row)
    assert waits == [{"start": 1, "end": 2}, {"start": 3, "end": 5}]
    in_view = compute("m.spansInView(row, {start: 2.5, width: 1})", row=row)
    assert in_view == [1, 2]


@needs_node
def test_the_tooltip_tells_the_action_its_times_and_what_is_held(compute):
    data = page_data([timeline("interleaved")])
    drawn = timeline("interleaved")
    first = next(s for s in drawn.rows[1] if s.action.stage == 5)
    lines = compute("m.tooltipLines(d, d.timelines[0], 1, t)", d=data, t=first.start + 0.5)
    assert lines[:5] == [
        f"{first.action.text(1)} forward",
        "rank 1, stage 5",
        f"microbatch {first.action.microbatch}, chunk {first.action.chunk}",
        f"from {first.start:g} to {first.end:g}",
        "lasts 1",
    ]
    held = max(step for step in drawn.memory[1] if step[0] <= first.start)[1]
    assert lines[5] == f"holds {held:g} units"
    idle = compute("m.tooltipLines(d, d.timelines[0], 3, 0.5)", d=data)
    assert idle == ["waiting", "rank 3", "from 0 to 3", "lasts 3", "holds 0 units"]


@needs_node
def test_the_page_uses_the_colours_of_the_figure(compute):
    line = timeline("split")
    data = page_data([line])
    found = compute(
        "d.timelines[0].rows[2].start.map((_, i) =>"
        " m.colourOf(d.timelines[0], d.timelines[0].rows[2], i))",
        d=data,
    )
    assert found == [fill(s.action.op, *s.action.unit, line.num_chunks) for s in line.rows[2]]


@needs_node
def test_labels_grow_with_their_boxes(compute):
    row = page_data([one_box(spans=(span(0, 2, stage=4),))])["timelines"][0]["rows"][0]
    found = compute(
        "[100, 40, 14, 8].map((width) => m.fittingLabel(m.labelsOf(row, 0, 0, 'F'),"
        " {width, height: 20}, (text) => 5 * text.length))",
        row=row,
    )
    assert found == [
        {"text": "F0.0@4", "upright": False},
        {"text": "0.0", "upright": False},
        {"text": "0.0", "upright": True},
        None,
    ]


@needs_node
def test_later_layers_lie_lower(compute):
    tops = compute("[0, 1, 2].map((group) => m.boxTop({row: 30, box: 20}, group, 3))")
    assert tops == [0, 5, 10]
    assert compute("m.boxTop({row: 30, box: 30}, 0, 1)") == 0


@needs_node
def test_figure_and_page_lower_later_layers_alike(compute):
    panel = lay_out([timeline("interleaved")], num_legend_lines=1).panels[0]
    assert compute("1 - m.STEP") == pytest.approx(panel.box / panel.row)
