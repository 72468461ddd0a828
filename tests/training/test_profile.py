"""Profiling a stage: which chunks, what its programs do, and a run that uses the table."""

import os
import re
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO

import jax
import numpy as np
import pytest

from seq1f1b_jax.cli import parse
from seq1f1b_jax.cli.for_command import for_command
from seq1f1b_jax.cli.recipes import packaged_recipes
from seq1f1b_jax.config import Config, ScheduleConfig
from seq1f1b_jax.config.checks import problems
from seq1f1b_jax.schedule import Op
from seq1f1b_jax.schedule.simulation.cost_table import CostTable
from seq1f1b_jax.training.preview.predict import predict_time
from seq1f1b_jax.training.profile.actions import FIRST, LAST, MIDDLE, Actions, Case
from seq1f1b_jax.training.profile.command import main
from seq1f1b_jax.training.profile.grid import cuts_of, points_of, usual_lengths
from seq1f1b_jax.training.profile.run import make_subject, make_work
from seq1f1b_jax.training.profile.timing import measure
from seq1f1b_jax.training.setup import make_setup

TINY = [
    "--model.preset=null", "--model.family=llama", "--model.num_layers=4", "--model.model_dim=32",
    "--model.num_heads=2", "--model.mlp_dim=64", "--data.seq_len=64", "--mesh.pipe=2",
    "--schedule.block=8", "--schedule.num_chunks=2", "--schedule.num_microbatches=2",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _quick_compiler():
    """Tiny programs: compiling them is most of the time."""
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)


@pytest.mark.parametrize("seq_len, num_chunks", [(4096, 4), (4096, 1), (1000, 4), (32768, 8)])
def test_every_point_is_in_one_cut_at_its_place(seq_len, num_chunks):
    lengths = usual_lengths(seq_len, num_chunks, block=128)
    points = points_of(seq_len, lengths, block=128)
    cuts = cuts_of(seq_len, points, block=128)
    assert sorted(p for cut in cuts for p in cut.points.values()) == sorted(points)
    assert len(cuts) < len(points)
    assert {p.length for p in points} == set(lengths)
    assert {p.offset for p in points} >= {0, (seq_len - min(lengths)) // 128 * 128}
    for cut in cuts:
        assert sum(cut.lengths) == seq_len and min(cut.lengths) > 0
        assert max(cut.lengths) == max(p.length for p in cut.points.values())
        for chunk, point in cut.points.items():
            assert (cut.lengths[chunk], sum(cut.lengths[:chunk])) == point


@pytest.fixture(scope="module")
def subject():
    """What `TINY` comes to."""
    return make_subject(parse(TINY, recipes=packaged_recipes()).config)


def test_the_stage_is_one_of_the_run(subject):
    assert subject.profiled.num_layers == 2 and subject.cost.layers_per_stage == (2, 2)
    assert subject.mesh.size == 1 and subject.config.mesh.pipe == 2
    program = subject.profiled.program((32, 32), split=False)
    run = make_setup(subject.config, subject.stage).pipeline.program(1)
    assert program.layout.max_layers == run.layout.max_layers
    assert program.residual_plans[0].entries == run.residual_plans[0].entries
    assert program.weight_shapes == run.weight_shapes
    assert program.options == run.options and program.attention.name == run.attention.name


def changed(before, after):
    return not np.array_equal(np.asarray(before), np.asarray(after))


def test_only_the_first_stage_embeds_and_only_the_last_has_a_loss(subject):
    """What an action sends and adds, on each of the three stages of one program."""
    actions = Actions(subject.profiled, (32, 32), split=False)
    actions.compile(Op.F, 1)
    actions.compile(Op.B, 1)
    sent, losses, tables = {}, {}, {}
    for stage in (FIRST, MIDDLE, LAST):
        for op in (Op.F, Op.B):
            before = jax.tree.map(np.array, (actions._state.loss, actions._state.grads))
            sent[op, stage] = np.array(actions.call(Case(op, 1, stage)))
            after = actions._state.loss, actions._state.grads
            losses[op, stage] = changed(before[0], after[0])
            tables[op, stage] = {
                name: changed(before[1].tables[name], after[1].tables[name])
                for name in before[1].tables
            }
            layers = zip(*map(jax.tree.leaves, (before[1].layers, after[1].layers)), strict=True)
            assert all(changed(*leaves) == (op is Op.B) for leaves in layers)
    assert [key for key, value in losses.items() if value] == [(Op.F, LAST)]
    touched = [key for key, value in tables.items() if any(value.values())]
    assert sorted(touched) == sorted([(Op.F, LAST), (Op.B, FIRST)])  # the head's, the embedding's
    assert changed(sent[Op.F, FIRST], sent[Op.F, MIDDLE])  # it reads tokens, not the message
    assert not changed(sent[Op.F, LAST], sent[Op.F, MIDDLE])
    assert changed(sent[Op.B, LAST], sent[Op.B, MIDDLE])  # it reads the loss's gradient
    assert all(np.isfinite(value).all() for value in sent.values())


def test_a_stage_may_be_shared_by_devices():
    """Collectives over `tensor` are part of an action."""
    settings = [*TINY, "--mesh.tensor=2", "--mesh.sequence_parallel=true"]
    shared = make_subject(parse(settings, recipes=packaged_recipes()).config)
    assert shared.mesh.size == 2
    actions = Actions(shared.profiled, (32, 32), split=False)
    for op in (Op.F, Op.B):
        actions.compile(op, 1)
        sent = np.asarray(actions.call(Case(op, 1, MIDDLE)))
        assert sent.shape == (1, 16, 32) and np.isfinite(sent).all()  # half of the tokens
        assert "all-reduce" in text_of(actions, op) or "all-gather" in text_of(actions, op)


def text_of(actions, op):
    return actions._compiled[op, 1].as_text()


def test_halves_of_a_backward_are_timed_too(subject):
    (work,) = (w for w in make_work(subject, (64,), split=True) if w.split)
    i, w = measure(subject.profiled, work, seconds=0.0)
    assert [tuple(row[:3]) for row in (i, w)] == [("I", 64, 0), ("W", 64, 0)]
    assert i.layers > 0 and w.layers > 0 and (w.embedding, w.head) == (0.0, 0.0)


def command(*arguments):
    """The command line; its environment is not ours."""
    return main([str(argument) for argument in arguments], dict(os.environ))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What the command wrote, where, and what it printed."""
    path = tmp_path_factory.mktemp("costs") / "costs.json"
    with redirect_stdout(StringIO()) as printed:
        assert command(*TINY, "--lengths=32", "--seconds=0", "--to", path) == 0
    return CostTable.load(path), path, printed.getvalue()


def test_every_operation_and_point_has_its_row(written, subject):
    table, path, printed = written
    points = points_of(64, (32,), block=8)
    assert [(row.op, row.length, row.offset) for row in table.rows] == [
        (op, *point) for op in "FB" for point in sorted(points)
    ]
    assert all(row.layers > 0 for row in table.rows)
    assert table.num_layers == 2 and table.seq_len == 64
    assert table.conditions["model"] == "Llama" and table.conditions["mlp_dim"] == 64
    assert "profiling F, B of 2 layers on 3 chunks of a sequence of 64 tokens" in printed
    assert "6 programs to compile" in printed
    assert printed.rstrip().endswith(f"--schedule.partition measured --schedule.costs {path}")
    shown = [line.split()[:3] for line in printed.splitlines() if line[:1] in ("F", "B")]
    assert shown == [[row.op, str(row.length), str(row.offset)] for row in table.rows]


def with_costs(config, path, **schedule):
    schedule = {"partition": "measured", "costs": str(path)} | schedule
    return replace(config, schedule=replace(config.schedule, **schedule))


def test_a_run_is_cut_and_predicted_by_the_table(written, subject):
    _, path, _ = written
    setup = make_setup(with_costs(subject.config, path), subject.stage)
    lengths = setup.pipeline.table.chunk_lengths
    assert sum(lengths) == 64 and not any(length % 8 for length in lengths)
    time = predict_time(setup).makespan
    for partition in ("even", "balanced"):
        other = make_setup(
            with_costs(subject.config, path, partition=partition, costs=None), subject.stage
        )
        assert other.measured is None
        assert time <= predict_time(replace(other, measured=setup.measured)).makespan * (1 + 1e-9)
    assert 0 < time < 60  # seconds
    assert setup.notes == ()


def test_other_versions_of_jax_are_noted(written, subject, tmp_path):
    path = tmp_path / "costs.json"
    conditions = {**written[0].conditions, "jax": "0.1.0"}
    replace(written[0], conditions=conditions).save(path)
    (note,) = make_setup(with_costs(subject.config, path), subject.stage).notes
    assert note.endswith(f"was measured with jax 0.1.0, this is {jax.__version__}")


@pytest.mark.parametrize("command_name", ["evaluate", "generate", "export"])
def test_a_table_that_is_gone_hinders_no_other_command(command_name):
    config = Config(schedule=ScheduleConfig(partition="measured", costs="gone.json"))
    found = for_command(command_name, config).schedule
    assert (found.partition, found.costs) == ("balanced", None)
    assert for_command("train", config) == config


def test_another_run_is_refused(written, subject):
    config = with_costs(subject.config, written[1])
    other = replace(subject.stage, mlp_dim=96)
    with pytest.raises(ValueError, match="mlp_dim=64.*this run has mlp_dim=96.*profile it again"):
        make_setup(config, other)
    two = replace(config, data=replace(config.data, microbatch_size=2))
    with pytest.raises(ValueError, match="num_sequences=1, and this run has num_sequences=2"):
        make_setup(two, subject.stage)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"partition": "measured"}, "plan profile --to costs.json.*--schedule.costs costs.json"),
        ({"costs": "c.json"}, "schedule.costs=c.json has no effect with .*partition=balanced"),
        ({"max_growth": -0.1}, "schedule.max_growth=-0.1: must not be negative"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    found = list(problems(Config(schedule=ScheduleConfig(**changes))))
    assert len(found) == 1 and re.search(message, found[0])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--lengths", "1k"], "--lengths '1k': chunk lengths are whole numbers"),
        (["--lengths", "0"], "a chunk has at least 1 token"),
        (["--lengths", "128"], "--lengths 128 is longer than data.seq_len=64"),
        (["--seconds", "-1"], "--seconds -1: must be 0 or more"),
        (["--seconds", "soon"], "invalid float value"),
        (["--to", "nowhere/c.json"], "--to nowhere/c.json: name a file in a folder that exists"),
        (["evaluate"], "none of its commands"),
        (["--schedule.num_chunk", "2"], "unknown setting '--schedule.num_chunk'"),
        (["--mesh.tensor", "16"], "16"),
        (["--mesh.pipe", "5"], "model.num_layers=4 is fewer than mesh.pipe=5"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_refused_in_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(*TINY, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("error: ")
    assert not list(tmp_path.iterdir())
