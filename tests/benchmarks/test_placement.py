"""Collectives counted in programs written by hand."""

import pytest

from benchmarks.common.placement import Location, axes_of, count_collectives, rows

AXES = {"data": 2, "pipe": 2, "tensor": 2}

PROGRAM = """HloModule jit_step

%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}

%layer (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %r = f32[4]{0} all-reduce-start(%x), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%sum
  %d = f32[4]{0} all-reduce-done(%r)
  ROOT %t = (s32[], /*index=1*/f32[4]) tuple(%i, %d)
}

%tick (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %w = (s32[], f32[4]{0}) while(%p), condition=%cond, body=%layer
  %s = (f32[4]{0}, f32[4]{0}) collective-permute-start(%w), source_target_pairs={{0,2},{2,0},{1,3}}
  %e = f32[4]{0} collective-permute-done(%s)
  ROOT %t = (s32[], f32[4]) tuple(%i, %e)
}

%scatter (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  ROOT %t = (s32[], f32[4]) tuple(%i, %x)
}

%wrapped (x: f32[4]) -> f32[2] {
  ROOT %rs = f32[2]{0} reduce-scatter(%x), replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%sum
}

%never (x: f32[4]) -> f32[4] {
  ROOT %n = f32[4]{0} all-gather(%x), replica_groups={}
}

ENTRY %main (x: f32[4]) -> f32[2] {
  %first = (s32[], f32[4]{0}) while(%x), condition=%cond, body=%scatter
  %ticks = (s32[], f32[4]{0}) while(%first), condition=%cond, body=%tick
  %start = ((f32[4]), f32[2]) async-start(%ticks), calls=%wrapped
  %norm = f32[]{:T(128)} all-reduce(%y), replica_groups={}, to_apply=%sum
  ROOT %done = f32[2]{0} async-done(%start)
}
"""


def test_kind_axes_and_loop_of_every_collective():
    assert count_collectives(PROGRAM, AXES) == {
        Location("all-reduce", "tensor", "action"): 1,
        Location("collective-permute", "pipe", "tick"): 1,
        Location("reduce-scatter", "data", "step"): 1,
        Location("all-reduce", "data+pipe+tensor", "step"): 1,
    }


def test_a_program_without_loops_has_steps_only():
    text = PROGRAM.replace("while(", "custom-call(")
    assert {place.where for place in count_collectives(text, AXES)} == {"step"}


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", "data"),
        ("replica_groups={{0,2,4,6},{1,3,5,7}}", "data+pipe"),
        ("replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}", "none"),
        ("replica_groups={}", "data+pipe+tensor"),
        ("replica_groups=[4,2]<=[8]", "tensor"),
        ("replica_groups=[4,2]<=[2,2,2]T(0,2,1)", "pipe"),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}", "data"),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1':(1)2}", "pipe"),
        ("replica_groups=mesh['axis_0'=8] {'axis_0':(4)2}", "tensor"),
        ("replica_groups=mesh['pipe'=2,'data'=2,'tensor'=2] {'pipe','tensor'}", "data+tensor"),
        ("source_target_pairs={{0,1},{1,0}}", "tensor"),
    ],
)
def test_axes_of_groups_and_pairs(groups, axes):
    assert axes_of(f"%x = f32[] all-reduce(%y), {groups}, to_apply=%sum", AXES) == axes


def test_table_begins_with_the_loops():
    table = rows(count_collectives(PROGRAM, AXES))
    assert [row["where"] for row in table] == ["tick", "action", "step", "step"]
    assert table[0] == {"where": "tick", "kind": "collective-permute", "axes": "pipe", "count": 1}
