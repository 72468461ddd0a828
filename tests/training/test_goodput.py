"""Where a run's time went, from what its attempts wrote down before they were killed."""

import itertools
import json
import time

import pytest

from seq1f1b_jax.config import UserError
from seq1f1b_jax.training.reports import events as phases
from seq1f1b_jax.training.reports.events import EVENTS, Events, process_began
from seq1f1b_jax.training.reports.goodput import (
    DOWN,
    IDLE,
    LOST,
    MEANINGS,
    PARTS,
    USEFUL,
    main,
    measure,
)


def lines(*attempts):
    """`lines((("start", 0), ("step 3", 5)), ...)`: the phases of each attempt and their times."""
    for number, attempt in enumerate(attempts):
        for phase, when in attempt:
            name, _, step = phase.partition(" ")
            event = {"time": when, "attempt": f"a{number}", "phase": name}
            yield json.dumps(event | ({"step": int(step)} if step else {}))


KILLED = (("start", 0), ("compile", 10), ("step 0", 20), ("step 1", 23), ("step 2", 26))
CONTINUED = (("start", 40), ("step 1", 50), ("step 2", 53), ("save", 56), ("end", 58))


def test_steps_done_again_are_lost_and_the_time_until_the_next_start_is_down():
    found = measure(lines(KILLED, CONTINUED))
    assert (found.useful_steps, found.lost_steps) == (3, 1)  # the second step 2 is the first whole
    assert (found.attempts, found.cut_short) == (2, 1)
    expected = {
        USEFUL: 9, LOST: 3, DOWN: 14, "start": 20, "compile": 10, "save": 2,
    }
    assert {name: value for name, value in found.seconds.items() if value} == expected
    assert found.wall_seconds == 58 == sum(found.seconds.values())
    assert found.goodput == 9 / 58


def test_steps_lost_to_an_attempt_that_began_earlier_still_stay_lost():
    damaged = (("start", 60), ("step 0", 61), ("step 1", 62), ("end", 63))  # an older checkpoint
    found = measure(lines(KILLED, CONTINUED[:3], damaged))
    assert (found.useful_steps, found.lost_steps) == (2, 3)


def test_an_attempt_that_dies_before_its_first_step_loses_none():
    found = measure(lines(KILLED, (("start", 40), ("restore", 41)), CONTINUED))
    assert (found.attempts, found.cut_short, found.lost_steps) == (3, 2, 1)


def test_an_end_that_was_asked_for_is_no_down_time():
    asked = (*KILLED, ("end", 30))
    found = measure(lines(asked, CONTINUED))
    assert found.seconds[IDLE] == 10 and not found.seconds[DOWN] and found.cut_short == 0
    assert found.wall_seconds == 58 == sum(found.seconds.values())


def test_a_pause_that_was_asked_for_costs_no_goodput_and_a_restart_after_a_kill_does():
    """Two equal attempts of 20 s, 10 of them useful steps, with 1000 s between them."""
    first = (("start", 0), ("step 0", 10), ("save", 20), ("end", 20))
    second = (("start", 1020), ("step 1", 1030), ("save", 1040), ("end", 1040))
    paused, killed = measure(lines(first, second)), measure(lines(first[:-1], second))
    assert paused.goodput == 20 / 40 and paused.counted_seconds == 40
    assert killed.goodput == 20 / 1040 and killed.seconds[DOWN] == 1000
    assert json.loads(paused.json_line) | {"goodput": 0.5, "wall_seconds": 1040.0,
        "counted_seconds": 40.0} == json.loads(paused.json_line)  # fmt: skip
    rows = {row[:13].strip(): row[13:].split()[2] for row in str(paused).splitlines()[1:]}
    assert rows[IDLE] == "-" and rows[USEFUL] == "50.0"
    assert sum(float(share) for part, share in rows.items() if part != IDLE) == 100


def test_ctrl_c_before_the_first_step_is_an_end_that_was_asked_for(tmp_path):
    for began, error in ((100.0, KeyboardInterrupt), (200.0, OSError)):
        clock = itertools.count(began).__next__
        with pytest.raises(error), Events(tmp_path / EVENTS, clock=clock) as events:
            events.begin("compile")
            raise error
    found = measure((tmp_path / EVENTS).read_text(encoding="utf-8").splitlines())
    assert (found.attempts, found.cut_short) == (2, 1)


def test_lines_that_a_kill_cut_are_left_out():
    text = [*lines(KILLED), '{"time": 30, "att', "", "[1]", *lines((), CONTINUED)]
    assert measure(text).wall_seconds == 58


def test_every_part_is_explained_and_summed():
    assert PARTS == tuple(measure(lines(KILLED)).seconds) and set(PARTS) == set(MEANINGS)
    written = {getattr(phases, name) for name in vars(phases) if name.isupper()}
    assert {"step", "end", EVENTS} == {name for name in written if name.__class__ is str} - set(
        PARTS
    )


def test_lines_of_others_are_left_out():
    whole = ['{"time": 0, "attempt": "a", "phase": "start"}',
             '{"time": 4, "attempt": "a", "phase": "end"}']  # fmt: skip
    others = [
        "5", "[]", '{"phase": "step"}', '{"time": "0", "attempt": "a", "phase": "step"}',
        '{"time": 1, "attempt": "a", "phase": "step", "step": "x"}',
    ]  # fmt: skip
    assert measure([whole[0], *others, whole[1]]) == measure(whole)


def test_what_is_written_reads_back_after_a_cut_line(tmp_path):
    path, clock = tmp_path / EVENTS, iter(range(100, 200))
    first = Events(path, clock=lambda: next(clock))
    first.begin("start", at=90.0)
    first.begin("step", step=7)
    with path.open("ab") as file:
        file.write(b'{"time"')  # killed here: `first` never says that it ended
    first._lines.close()
    with Events(path, clock=lambda: next(clock) + 1000) as second:
        second.begin("step", step=7)
    found = measure(path.read_text(encoding="utf-8").splitlines())
    assert (found.attempts, found.cut_short, found.useful_steps) == (2, 1, 1)
    assert [*map(len, path.read_text(encoding="utf-8").splitlines())][2] == len('{"time"')


def test_no_path_writes_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with Events(None) as events:
        events.begin("start")
        events.note("nobody reads this")
        events.catch_up()
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_a_note_ends_no_phase(tmp_path):
    with Events(tmp_path / EVENTS, clock=itertools.count(0).__next__) as events:
        events.begin("step", step=0)
        events.note("standard output is gone")
    told = (tmp_path / EVENTS).read_text(encoding="utf-8").splitlines()
    assert "standard output is gone" in told[1]
    assert measure(told) == measure([told[0], told[2]])


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(UserError, match="cannot write .*Is a directory"):
        Events(tmp_path)


def test_the_process_began_before_this_line():
    assert 0 < time.time() - process_began() < 24 * 3600


def test_the_command_prints_a_table_and_one_line_of_json(tmp_path, capsys):
    (tmp_path / EVENTS).write_text("\n".join(lines(KILLED, CONTINUED)), encoding="utf-8")
    assert main([str(tmp_path)]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    assert json.loads(last)["goodput"] == 0.1552 and len(table) == 1 + len(PARTS)
    assert table[0].startswith("58 s in 2 attempts, 1 of them cut short; 3 steps that counted, 1")


def test_a_folder_without_events_is_told_in_one_line(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "cannot read" in capsys.readouterr().err
    (tmp_path / EVENTS).write_text("{}\n", encoding="utf-8")
    assert main([str(tmp_path)]) == 2
    assert "no event" in capsys.readouterr().err
    with pytest.raises(UserError, match="no event"):
        measure([])
