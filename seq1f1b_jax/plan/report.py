"""What `plan` prints: where the memory goes, where the time goes, what was found."""

from collections.abc import Iterable, Sequence

from seq1f1b_jax.host.sizes import size_text
from seq1f1b_jax.plan.draft import Draft
from seq1f1b_jax.plan.estimate import Estimate
from seq1f1b_jax.plan.model.shape import ModelShape
from seq1f1b_jax.plan.model.state import Spread, num_gradients
from seq1f1b_jax.plan.search.find import Found, Result
from seq1f1b_jax.schedule.simulation.flops import FLOP_CONVENTIONS

GB = 1e9
NEAR = 0.9
"""Share of the memory from which it limits."""


def report(estimate: Estimate, *, tokens: float | None = None, price: float | None = None) -> str:
    """All about one configuration.

    Args:
      estimate: of it.
      tokens: to train on; `None`: no cost.
      price: of an hour of one device; `None`: hours only.
    """
    lines = [*_header(estimate), "", *_memory(estimate), "", *_time(estimate), ""]
    lines += _speed(estimate)
    if tokens is not None:
        lines.append(_cost(estimate, tokens, price))
    return "\n".join(lines)


def _header(estimate: Estimate) -> Iterable[str]:
    draft, hardware = estimate.draft, estimate.hardware
    model, shape = draft.config.model, draft.shape
    name = " ".join(filter(None, (model.family, model.preset)))
    yield (
        f"model     {name}, {shape.num_params:,} parameters{_experts(shape)}, {shape.num_layers} "
        f"layers of width {shape.model_dim}"
    )
    if shape.trainable is not None:
        whole = Spread(data=1, pipe=1, tensor=1, rank_layers=shape.num_layers)
        yield f"trains    {num_gradients(shape, whole):,} of {shape.num_params:,} parameters"
    yield (
        f"hardware  {draft.num_devices} x {hardware.name}, {hardware.devices_per_host} in a host; "
        f"a run may hold {hardware.usable / GB:.1f} of {hardware.memory / GB:.1f} GB"
    )
    yield f"mesh      {_mesh(draft)}, layers {_joined(draft.layers_per_stage)} per stage"
    lengths = _joined(draft.lengths)
    seq_len, num_chunks = draft.config.data.seq_len, len(draft.lengths)
    yield f"sequence  {seq_len:,} tokens in {num_chunks} chunk{'s' * (num_chunks > 1)}: {lengths}"
    yield (
        f"step      {draft.config.schedule.num_microbatches} microbatches of "
        f"{draft.config.data.microbatch_size}: {draft.tokens_per_step:,} tokens, "
        f"{draft.config.schedule.name}, recompute {draft.config.executor.recompute}"
    )


def _experts(shape: ModelShape) -> str:
    if not shape.num_experts:
        return ""
    idle = shape.num_layers * (shape.layer_weights(1) - shape.active_weights)
    chosen = f"{shape.experts_per_token} of {shape.num_experts} experts"
    return f" ({shape.num_params - idle:,} for a token: {chosen})"


def _memory(estimate: Estimate) -> Iterable[str]:
    hardware, state = estimate.hardware, estimate.draft.state
    verdict = "fits" if estimate.held <= hardware.usable else "does not fit"
    host = f", {size_text(estimate.host)} on each host" if estimate.memory.host else ""
    if estimate.host > hardware.host_memory:
        host += f", which has {size_text(hardware.host_memory)}: does not fit"
    yield f"memory    {size_text(estimate.held)} on each device{host}: {verdict}"
    rows = [("GB", "allocated", *(f"rank {rank}" for rank in range(len(estimate.used))))]
    rows += [
        (name, _gb(size), *[_gb(size)] * len(estimate.used))
        for name, size in (("parameters", state.params), ("moments", state.moments))
    ]
    used = [memory.terms() for memory in estimate.used]
    for name, size in estimate.memory.terms().items():
        if size:
            rows.append((_words(name), _gb(size), *(_gb(terms[name]) for terms in used)))
    totals = (state.total + memory.total for memory in estimate.used)
    rows.append(("all", _gb(estimate.held), *map(_gb, totals)))
    if estimate.memory.host:
        host_of = (_gb(memory.host) for memory in estimate.used)
        rows.append(("host", _gb(estimate.memory.host), *host_of))
    yield from _table(rows)


def _time(estimate: Estimate) -> Iterable[str]:
    time = estimate.time
    yield f"time      {_seconds(time.total)} a step"
    unit, factor = ("s", 1.0) if time.total >= 1 else ("ms", 1e3)
    rows = [("", unit, "share")]
    for name, seconds in time.terms().items():
        if seconds > 5e-4 * time.total:
            rows.append((name, f"{factor * seconds:.2f}", f"{seconds / time.total:.1%}"))
    yield from _table(rows)
    if len(time.ranks) > 1:
        ranks = " ".join(f"{factor * seconds:.1f}" for seconds in time.ranks)
        yield f"          ranks compute for {ranks} {unit}"


def _speed(estimate: Estimate) -> Iterable[str]:
    hardware = estimate.hardware
    counted = ", ".join(
        f"{estimate.utilisation(name):.1%} {name}" for name in FLOP_CONVENTIONS
    )
    yield (
        f"speed     {estimate.tokens_per_second:,.0f} tokens/s per device; of "
        f"{hardware.matmul_flops / 1e12:,.0f} TFLOP/s by how FLOPs are counted: {counted}"
    )
    yield f"limits    {limit_of(estimate)}"


def _cost(estimate: Estimate, tokens: float, price: float | None) -> str:
    hours = tokens / estimate.tokens_per_second / 3600
    days = hours / 24 / estimate.draft.num_devices
    text = f"cost      {tokens:,.0f} tokens take {hours:,.0f} device hours, {days:,.1f} days"
    return text if price is None else f"{text}, {hours * price:,.0f} at {price:g} an hour"


def limit_of(estimate: Estimate) -> str:
    """What a configuration suffers from most, beside its matmuls and attention."""
    terms = estimate.time.terms()
    total = estimate.time.total
    others = {name: s for name, s in terms.items() if name not in ("matmul", "attention")}
    name, seconds = max(others.items(), key=lambda item: item[1])
    text = f"{name} {seconds / total:.0%}"
    share = estimate.held / estimate.hardware.usable
    return f"memory {share:.0%} full, {text}" if share >= NEAR else text


def findings(result: Result, hardware_name: str) -> str:
    """The table of a search, or why it is empty."""
    counted = (
        f"{result.num_configurations:,} configurations: {result.num_too_large:,} do not fit, "
        f"{result.num_simulated:,} simulated, the others are slower by their bound"
    )
    if not result.best:
        least = "" if result.smallest is None else (
            f"; the smallest holds at least {size_text(result.smallest)} on each device"
        )
        return (
            f"search    none of {result.num_configurations:,} configurations fits on "
            f"{hardware_name}{least}"
        )
    rows = [HEADINGS, *(_row(place, found) for place, found in enumerate(result.best, 1))]
    return "\n".join([f"search    {counted}", *_table(rows)])


HEADINGS = (
    "", "data x pipe x tensor", "schedule", "C", "M", "recompute", "offload", "chunks", "layers",
    "GB", "host GB", "s a step", "tokens/s each", "of peak", "limited by",
)


def _row(place: int, found: Found) -> Sequence[str]:
    estimate = found.estimate
    config = estimate.draft.config
    mesh, schedule = config.mesh, config.schedule
    stages = f" V={schedule.stages_per_rank}" if schedule.stages_per_rank else ""
    sequences = config.data.microbatch_size // mesh.data
    return (
        str(place), f"{mesh.data} x {mesh.pipe} x {mesh.tensor}", schedule.name + stages,
        str(schedule.num_chunks), f"{schedule.num_microbatches} x {sequences}",
        config.executor.recompute, f"{config.executor.offload:g}", schedule.partition,
        "balanced" if mesh.layers_per_stage == "balanced" else "even",
        _gb(found.held), _gb(estimate.host), f"{found.seconds:.3g}",
        f"{estimate.tokens_per_second:,.0f}", f"{estimate.utilisation():.1%}",
        limit_of(estimate),
    )


def _table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Aligned columns, the first to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numeric = [
        all(_is_number(row[index]) for row in rows[1:]) for index in range(len(widths))
    ]
    for row in rows:
        cells = (
            word.rjust(width) if right else word.ljust(width)
            for word, width, right in zip(row, widths, numeric, strict=True)
        )
        yield ("          " + "  ".join(cells)).rstrip()


def _is_number(word: str) -> bool:
    return bool(word) and word[0].isdigit() and not any(c.isalpha() for c in word.replace("e", ""))


def _mesh(draft: Draft) -> str:
    mesh = draft.config.mesh
    shared = ", which share tokens too" if mesh.sequence_parallel else ""
    parts = [f"{mesh.data} pipelines of"] if mesh.data > 1 else []
    parts.append(f"{mesh.pipe} rank{'s' * (mesh.pipe != 1)}")
    if mesh.tensor > 1:
        parts.append(f"of {mesh.tensor} devices{shared}")
    return " ".join(parts)


def _joined(counts: Sequence[int]) -> str:
    return "+".join(map(str, counts))


def _gb(size: float) -> str:
    return f"{size / GB:.2f}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _words(name: str) -> str:
    return name.replace("_", " ")
