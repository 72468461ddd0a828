"""`train.py plan`: one configuration explained, better ones found, without devices and JAX."""

from dataclasses import replace

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from seq1f1b_jax.cli.options import PlanOptions
from seq1f1b_jax.config import Config, UserError
from seq1f1b_jax.config.checks import validate
from seq1f1b_jax.plan.draft import draft_of
from seq1f1b_jax.plan.draw import check_picture, draw_estimate
from seq1f1b_jax.plan.estimate import Estimate
from seq1f1b_jax.plan.fill import fill_model
from seq1f1b_jax.plan.hardware import Hardware, find_hardware
from seq1f1b_jax.plan.recipe import check_new, recipe_text, write_recipe
from seq1f1b_jax.plan.report import findings, limit_of, report
from seq1f1b_jax.plan.search.find import Result, search
from seq1f1b_jax.schedule.plan import PlanError


def plan(config: Config, options: PlanOptions) -> int:
    """Print the plan of a run.

    Args:
      config: settings, as parsed.
      options: of the command.

    Returns:
      The exit status: 0.

    Raises:
      UserError: bad input.
    """
    hardware = find_hardware(options.hardware)
    if options.to is not None:
        check_new(options.to)
    if options.draw is not None:
        check_picture(options.draw)
    own = _with_model(config)
    num_devices = options.devices or _size(config) or hardware.devices_per_host
    given = _on_devices(own, num_devices)
    estimate = None if given is None else _estimate(given, hardware)
    if estimate is not None:
        print(report(estimate, tokens=options.tokens, price=options.price))
        if estimate.note is not None:
            print(f"note      {estimate.note}")
    else:
        mesh = config.mesh
        pipe = "all" if mesh.pipe is None else mesh.pipe
        problem = (
            f"data {mesh.data} x pipe {pipe} x tensor {mesh.tensor} is no mesh of {num_devices} "
            f"devices for {own.model.num_layers} layers"
        )
        if not options.search:
            raise UserError(f"{problem}; set --mesh.data, --mesh.pipe and --mesh.tensor, or search")
        print(f"note      {problem}, so the settings as they are have no plan")
    result = _search(own, hardware, num_devices, options) if options.search else None
    if result is not None:
        print()
        print(findings(result, f"{num_devices} x {hardware.name}"))
    best = estimate if result is None else result.best[0].estimate if result.best else None
    drawn = best or estimate
    if options.draw is not None and drawn is not None:
        draw_estimate(drawn, options.draw)
        print(f"picture   {options.draw}")
    if options.to is not None:
        _write(options.to, config, best)
    return 0


def _with_model(config: Config) -> Config:
    """The model's sizes filled in; of a checkpoint they are read, which needs JAX."""
    fields = None
    if config.model.source is not None and config.model.stage is None:
        from seq1f1b_jax.models.hf import read_source

        fields = read_source(config.model.source).fields
    return fill_model(config, fields)


def _size(config: Config) -> int | None:
    """Devices of the mesh that the settings name; None where they leave `pipe` open."""
    mesh = config.mesh
    return mesh.pipe and mesh.data * mesh.pipe * mesh.tensor


def _on_devices(config: Config, num_devices: int) -> Config | None:
    """The settings on so many devices; None where their mesh is another."""
    mesh = config.mesh
    pipe = mesh.pipe or max(1, num_devices // (mesh.data * mesh.tensor))
    too_many = mesh.pipe is None and pipe > (config.model.num_layers or pipe)
    if too_many or mesh.data * pipe * mesh.tensor != num_devices:
        return None
    return replace(config, mesh=replace(mesh, pipe=pipe, platform=None, virtual_devices=None))


def _estimate(config: Config, hardware: Hardware) -> Estimate:
    validate(config)
    try:
        return Estimate(draft_of(config, hardware), hardware).checked()
    except PlanError as error:
        raise UserError(str(error).splitlines()[0].rstrip(":")) from error


def _search(
    config: Config, hardware: Hardware, num_devices: int, options: PlanOptions
) -> Result:
    base = _on_devices(config, num_devices) or replace(
        config, mesh=replace(config.mesh, data=1, pipe=1, tensor=1)
    )
    console = Console(stderr=True, highlight=False)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True
    ) as bar:
        task = bar.add_task("searching")

        def progress(count: int, stage: str) -> None:
            bar.update(task, description=f"{count:,} configurations {stage}")

        return search(
            base, hardware, num_devices=num_devices, top=options.top, progress=progress
        )


def _write(to: str, config: Config, best: Estimate | None) -> None:
    if best is None:
        raise UserError(
            f"--to {to}: there is no configuration to write, since none fits; use more devices, "
            "or larger ones"
        )
    found = best.draft.config
    # the model as it was described, not as it was filled in, and the platform that was asked for
    mesh = replace(found.mesh, platform=config.mesh.platform)
    recipe = replace(found, model=config.model, mesh=mesh)
    comments = [
        f"planned for {best.draft.num_devices} x {best.hardware.name}: predicted, not measured",
        f"{best.held / 1e9:.1f} GB on each device, {best.time.total:.3g} s a step, "
        f"{best.tokens_per_second:,.0f} tokens/s per device",
        f"limited by {limit_of(best)}",
    ]
    write_recipe(to, recipe_text(recipe, comments))
    print(f"recipe    {to}; start it with: python train.py --config {to}")


