"""The charts: which numbers they hold, in which colour, unit and order."""

import numpy as np
import pytest

from seq1f1b_jax.report.curves import MAX_POINTS
from seq1f1b_jax.report.predicted_figures import memory_figure, step_figure
from seq1f1b_jax.report.run import read_run
from seq1f1b_jax.report.style import DASHES, RUN_COLOURS, colour, dash, label
from seq1f1b_jax.report.time_figures import parts_figure, progress_figure
from seq1f1b_jax.report.training_figure import PANELS, thinned, training_figure
from tests.report.folders import KILLED, PREDICTION, WHOLE, event, step, write_run


@pytest.fixture
def made(tmp_path):
    """Reads a run of that name that is written as `write_run` does."""

    def make(name, *arguments, **options):
        return read_run(write_run(tmp_path / name, *arguments, **options), name)

    return make


def titles(figure):
    return [note.text for note in figure.layout.annotations]


def test_panels_are_those_of_which_a_run_has_numbers(made):
    held_out = {"step": 1, "held_out_loss": 4.5, "bigram_loss": 6.0}
    figure = training_figure([made("a"), made("b", [step(0), step(1), held_out])])
    missing = {"model_flops_per_second"}
    assert titles(figure) == [panel.title for panel in PANELS if panel.key not in missing]
    assert all(axis.title.text == "step" for axis in figure.select_xaxes() if axis.anchor)


def test_runs_of_different_lengths_are_laid_over_each_other_from_step_1(made):
    runs = [made("long", [step(n) for n in range(100)]), made("one", [step(0)])]
    figure = training_figure(runs)
    losses = [trace for trace in figure.data if trace.yaxis == "y"]
    assert [list(trace.x) for trace in losses] == [list(range(1, 101)), [1]]
    assert [list(trace.y) for trace in losses] == [list(run.curve("loss").value) for run in runs]
    assert [trace.mode for trace in losses] == ["lines", "lines+markers"]


def test_a_run_has_one_colour_and_one_place_in_the_legend(made):
    held_out = {"step": 1, "held_out_loss": 4.5, "bigram_loss": 6.0}
    runs = [made(name, [step(0), step(1), held_out], WHOLE) for name in ("a", "b", "c")]
    for figure in (training_figure(runs), progress_figure(runs)):
        for trace in figure.data:
            assert trace.line.color == RUN_COLOURS[int(trace.legendgroup)]
        shown = [trace.name for trace in figure.data if trace.showlegend]
        assert shown == ["a", "b", "c"] and figure.layout.showlegend
    assert not training_figure(runs[:1]).layout.showlegend


def test_many_runs_differ_in_colour_or_dash():
    count = len(RUN_COLOURS) * len(DASHES)
    assert len({(colour(index), dash(index)) for index in range(count)}) == count == 35


def test_colours_differ_in_lightness_or_hue_on_white_and_black():
    """WCAG's contrast with both grounds is at least 1.9, so that no line vanishes."""

    def luminance(text):
        parts = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    for tint in RUN_COLOURS:
        own = luminance(tint) + 0.05
        assert min(1.05 / own, own / (luminance("#15171b") + 0.05)) > 1.9, tint


def test_a_long_curve_is_a_mean_in_its_band_and_says_so(made):
    lines = [step(n, loss=float(n == 777)) for n in range(MAX_POINTS + 1)]
    run = made("long", lines)
    figure = training_figure([run])
    band, mean = [trace for trace in figure.data if trace.yaxis == "y"]
    assert len(mean.x) == 1001 and band.fill == "toself"
    assert max(mean.y) == 0.5 and max(band.y) == 1  # the one high step is still there
    assert mean.customdata[388].tolist() == [777, 778, 0, 1]
    assert thinned([run, made("short")]) == [
        "long: each point is the mean of 2 neighbouring steps, in a band from their lowest to "
        "their highest"
    ]


def test_a_number_that_is_not_finite_is_a_gap(made):
    figure = training_figure([made("a", [step(0), step(1, loss=None), step(2)])])
    assert np.isnan(figure.data[0].y[1]) and not figure.data[0].connectgaps


@pytest.mark.parametrize(("norms", "scale"), [((1.0, 2.0), "log"), ((0.0, 2.0), "linear")])
def test_gradient_norms_are_on_a_logarithmic_axis_where_all_are_above_0(made, norms, scale):
    figure = training_figure([made("a", [step(n, grad_norm=x) for n, x in enumerate(norms)])])
    place = titles(figure).index("Gradient norm before clipping")
    assert list(figure.select_yaxes())[place].type == scale


def test_parts_of_the_wall_time_add_up(made):
    runs = [made("whole", None, WHOLE), made("killed", None, KILLED), made("none")]
    figure = parts_figure(runs)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    sums = np.sum([trace.x for trace in bars], axis=0)
    assert sums.tolist() == [15, 40]
    assert sums.tolist() == [run.goodput.wall_seconds for run in runs[:2]]
    assert figure.layout.xaxis.title.text == "time (s)"
    [down] = [trace for trace in bars if trace.name == "down"]
    assert down.x == (0, 18) and "from the last sign of life" in down.hovertemplate
    assert list(figure.layout.yaxis.ticktext)[1].startswith("killed ")
    assert colour(1) in figure.layout.yaxis.ticktext[1]


def test_steps_over_time_have_a_line_per_start(made):
    figure = progress_figure([made("killed", None, KILLED)])
    assert [(trace.x, trace.y) for trace in figure.data] == [
        ((10, 12), (0, 1)),
        ((35, 40), (1, 2)),
    ]
    assert figure.layout.xaxis.title.text == "time since the first start (s)"


def test_hours_are_hours(made):
    events = [event(0, "start"), event(36000, "step", step=0), event(72000, "end")]
    run = made("a", [step(0)], events)
    assert parts_figure([run]).layout.xaxis.title.text == "time (h)"
    assert progress_figure([run]).data[0].x == (10, 20)


def test_without_events_there_is_no_chart_of_time(made):
    assert parts_figure([made("a")]) is progress_figure([made("a")]) is None


def test_memory_is_predicted_in_terms_beside_compiled_and_measured(made):
    events = [*WHOLE[:2], event(111, memory={"arguments": 2_000_000, "temporaries": 3_500_000}),
              event(112, memory={"peak": 5_800_000})]  # fmt: skip
    figure = memory_figure([made("a", None, events, prediction=PREDICTION), made("b")])
    rows = [title.rpartition("<br>")[2] for title in figure.layout.yaxis.ticktext]
    assert rows == ["predicted", "compiled", "measured"]
    bars = {trace.name: trace.x for trace in figure.data if trace.type == "bar"}
    assert list(bars) == ["parameters, optimizer", "ring", "cache", "temporaries",
                          "in use at the peak"]  # fmt: skip
    np.testing.assert_allclose(np.sum(list(bars.values()), axis=0), [6, 5.5, 5.8])
    assert figure.layout.xaxis.title.text == "memory of one device (MB)"
    assert memory_figure([made("c")]) is None


def test_time_of_a_step_is_shown_where_it_was_predicted(made):
    assert step_figure([made("a", prediction=PREDICTION)]) is None
    prediction = PREDICTION | {"step_seconds": {"matmul": 0.25, "bubble": 0.125}}
    figure = step_figure([made("a", prediction=prediction), made("b")])
    bars = {trace.name: trace.x for trace in figure.data if trace.type == "bar"}
    assert bars == {
        "matmul": (0.25, 0, 0), "bubble": (0.125, 0, 0), "step": (0, 0.4, 0.4),
        "waiting for the batch": (0, 0.1, 0.1),
    }  # fmt: skip


def test_names_are_text_and_not_marks():
    assert label("<b>&%{x}") == "&lt;b&gt;&amp;%{x}"
    assert label("a\nb\udcff") == "a\\nb\\udcff"
    assert len(label("x" * 300)) == 48 and label("x" * 100 + "end").endswith("xend")
