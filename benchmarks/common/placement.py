"""Where the collectives of a compiled program are: kind, mesh axes, and in which loop.

Read from the HLO text, so it works for every program that compiles, also for devices that are not
present. A collective counts once in the text, not once per iteration.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

KINDS = (
    "all-gather", "all-reduce", "all-to-all", "collective-broadcast", "collective-permute",
    "ragged-all-to-all", "reduce-scatter",
)  # fmt: skip
STEP, TICK, ACTION = "step", "tick", "action"
"""Outside the loop over ticks; directly in it; in a loop inside it, such as that of an action."""

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_OPCODE = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (?:\([^=]*?\)|\S+) ([\w\-]+)\(")
_CALLS = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_MESH = re.compile(r"replica_groups=mesh\[(.*?)\] ?\{([^}]*)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})?\}")


@dataclass(frozen=True, order=True)
class Location:
    """Collectives of one kind, along the same axes, in the same loop.

    Attributes:
      kind: opcode.
      axes: mesh axes along which its groups or pairs extend, joined by `+`.
      where: `step`, `tick` or `action`.
    """

    kind: str
    axes: str
    where: str


def count_collectives(text: str, axes: Mapping[str, int]) -> Counter[Location]:
    """Count the collectives of a program.

    Args:
      text: `compiled.as_text()`.
      axes: name -> size of the mesh axes, outermost first; devices are numbered in that order.

    Example:
      >>> import jax
      >>> from jax.sharding import PartitionSpec
      >>> mesh = jax.make_mesh((4,), ("pipe",), axis_types=(jax.sharding.AxisType.Auto,))
      >>> total = jax.shard_map(
      ...     lambda x: jax.lax.psum(x, "pipe"), mesh=mesh, in_specs=PartitionSpec("pipe"),
      ...     out_specs=PartitionSpec(),
      ... )
      >>> text = jax.jit(total).lower(jax.ShapeDtypeStruct((4,), "float32")).compile().as_text()
      >>> count_collectives(text, {"pipe": 4})
      Counter({Location(kind='all-reduce', axes='pipe', where='step'): 1})
    """
    program = _read(text)
    depths = _depths(program)
    found: Counter[Location] = Counter()
    for name, depth in depths.items():
        for opcode, line in program.lines[name]:
            kind = opcode.removesuffix("-start")
            if kind in KINDS:
                where = (STEP, TICK, ACTION)[min(depth, 2)]
                found[Location(kind, axes_of(line, axes), where)] += 1
    return found


def axes_of(line: str, axes: Mapping[str, int]) -> str:
    """The mesh axes along which an instruction's groups or pairs extend.

    Example:
      >>> axes_of("replica_groups={{0,2},{1,3}}", {"pipe": 2, "tensor": 2})
      'pipe'
    """
    coordinates = np.array(np.unravel_index(range(_size(axes)), tuple(axes.values()))).T
    differ = np.zeros(len(axes), bool)
    for group in _groups(line, _size(axes)):
        members = coordinates[list(group)]
        differ |= (members != members[0]).any(axis=0)
    return "+".join(name for name, along in zip(axes, differ, strict=True) if along) or "none"


def rows(counts: Mapping[Location, int]) -> list[dict[str, object]]:
    """Counts as lines of a table, loops first."""
    order = {TICK: 0, ACTION: 1, STEP: 2}
    locations = sorted(counts, key=lambda location: (order[location.where], location))
    return [
        {"where": at.where, "kind": at.kind, "axes": at.axes, "count": counts[at]}
        for at in locations
    ]


@dataclass(frozen=True)
class _Program:
    """Instructions `(opcode, line)` of every computation, and the name of the first."""

    lines: Mapping[str, Sequence[tuple[str, str]]]
    entry: str


def _read(text: str) -> _Program:
    lines: dict[str, list[tuple[str, str]]] = {}
    entry, current = "", None
    for line in re.sub(r"/\*index=\d+\*/", "", text).splitlines():
        if header := _COMPUTATION.match(line):
            current = lines.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is not None and (found := _OPCODE.match(line)):
            current.append((found[1], line))
    return _Program(lines, entry)


def _depths(program: _Program) -> dict[str, int]:
    """Loops around each computation that runs: 0 outside the loop over ticks, 1 in it, ...

    The loop over ticks is the outermost loop with the most loops inside. Loops outside of it, such
    as that of a scatter, do not count.
    """
    outside = _reach(program, [program.entry], into_loops=False)
    loops = [body for name in outside for body in _bodies(program, name)]
    everywhere = _reach(program, [program.entry], into_loops=True)
    depths = dict.fromkeys(everywhere, 0)
    if not loops:
        return depths
    inside = {body: _reach(program, [body], into_loops=True) for body in loops}
    ticks = max(loops, key=lambda body: len(inside[body]))
    depths |= dict.fromkeys(inside[ticks], 2)
    return depths | dict.fromkeys(_reach(program, [ticks], into_loops=False), 1)


def _reach(program: _Program, start: Iterable[str], *, into_loops: bool) -> set[str]:
    """Computations reached from these, except fusions and reductions, which do not communicate."""
    seen: set[str] = set()
    todo = list(start)
    while todo:
        name = todo.pop()
        if name in seen or name not in program.lines:
            continue
        seen.add(name)
        for opcode, line in program.lines[name]:
            if opcode in ("call", "conditional", "async-start") or (
                into_loops and opcode == "while"
            ):
                todo += _called(line)
    return seen


def _bodies(program: _Program, name: str) -> Iterator[str]:
    for opcode, line in program.lines[name]:
        if opcode == "while":
            yield from re.findall(r"body=%?([\w.\-]+)", line)


def _called(line: str) -> list[str]:
    branches = _BRANCHES.search(line)
    return _CALLS.findall(line) + (re.findall(r"[\w.\-]+", branches[1]) if branches else [])


def _size(axes: Mapping[str, int]) -> int:
    return int(np.prod(list(axes.values())))


def _groups(line: str, num_devices: int) -> list[Sequence[int]]:
    """Devices of every group, or the two of every pair; no list means all devices."""
    if mesh := _MESH.search(line):
        return _mesh_groups(mesh[1], mesh[2])
    if iota := _IOTA.search(line):
        shape, dims = _numbers(iota[1]), _numbers(iota[2])
        order = _numbers(iota[3]) if iota[3] else range(len(dims))
        return np.arange(np.prod(dims)).reshape(dims).transpose(order).reshape(shape).tolist()
    listed = _LISTED.search(line)
    if listed is None or not listed[1]:
        return [range(num_devices)]
    return [_numbers(group) for group in re.findall(r"\{([\d, ]+)\}", listed[1])]


def _mesh_groups(mesh: str, along: str) -> list[Sequence[int]]:
    """Groups along axes of a mesh of XLA's own, whose names need not be ours.

    `'a':(2)4` is the part of axis `a` that has 2 parts before it and is 4 long.
    """
    if "device_ids" in mesh:
        raise ValueError(f"a mesh with a custom order of devices is not read: {mesh}")
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh)}
    cuts = re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", along)
    ids = np.arange(np.prod(list(sizes.values()))).reshape(list(sizes.values()))
    coordinates = np.array(np.unravel_index(ids.ravel(), ids.shape)).T
    keys = coordinates.copy()
    for name, before, size in cuts:
        dim = list(sizes).index(name)
        after = sizes[name] // (int(before) * int(size)) if size else 1
        inside = (coordinates[:, dim] // after) % int(size or sizes[name])
        keys[:, dim] -= inside * after
    groups: dict[tuple, list[int]] = {}
    for device, key in enumerate(map(tuple, keys)):
        groups.setdefault(key, []).append(device)
    return list(groups.values())


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]
