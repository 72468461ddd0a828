"""What a run records beside its steps: its predictions, and bytes as measured."""

from collections.abc import Callable

from jax.sharding import Mesh

from seq1f1b_jax.training.preview.header import device_name
from seq1f1b_jax.training.preview.predict import Predicted
from seq1f1b_jax.training.reports.prediction import Prediction
from seq1f1b_jax.training.setup import Setup


def record(setup: Setup, predicted: Predicted, *, num_params: int) -> Prediction:
    """Put what was predicted into the form of `prediction.json`.

    Args:
      setup: of the run.
      predicted: of its step.
      num_params: parameters of the whole model.
    """
    memory, needs = predicted.memory, predicted.needs
    return Prediction(
        num_params=num_params,
        tokens_per_step=setup.num_sequences * setup.pipeline.table.seq_len,
        device=device_name(setup.mesh.devices.flat[0]),
        num_devices=setup.mesh.size,
        step_bytes=memory.terms(),
        state_bytes=needs.state,
        bubble_fraction=predicted.bubble_fraction,
        present_bytes=needs.present,
        sharing=needs.sharing,
        host_bytes=memory.host,
        step_seconds={} if predicted.time is None else predicted.time.terms,
    )


def compiled_bytes(step: Callable) -> dict[str, int]:
    """What the compiled step allocates on a device; empty where the compiler does not say.

    Args:
      step: a compiled program, or a callable that holds several, which are not looked at.

    Returns:
      `arguments`: parameters, optimizer and batch; `temporaries`: all else.
    """
    analysis = getattr(step, "memory_analysis", lambda: None)()
    if analysis is None:
        return {}
    made = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return {
        "arguments": analysis.argument_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes + made,
    }


def peak_bytes(mesh: Mesh) -> dict[str, int]:
    """The most that a device of this process had in use so far; empty where devices do not say.

    CPU devices do not.

    Args:
      mesh: of the run.
    """
    found = [device.memory_stats() or {} for device in mesh.local_devices]
    peaks = [stats["peak_bytes_in_use"] for stats in found if "peak_bytes_in_use" in stats]
    return {"peak": max(peaks)} if peaks else {}
