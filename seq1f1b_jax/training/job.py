"""What a command works on, and where its data, its weights and its tokenizer come from."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

import jax
import jaxlib.version

from seq1f1b_jax.cli import to_yaml
from seq1f1b_jax.config import Config, DistributedConfig, UserError
from seq1f1b_jax.data import (
    Corpus,
    MixedData,
    SequenceData,
    Tokenizer,
    load_corpus,
    load_tokenizer,
    make_data,
    make_mixture,
)
from seq1f1b_jax.data.tokenizer import BYTES, TOKENIZER
from seq1f1b_jax.distributed import ALONE, Group
from seq1f1b_jax.distributed.fingerprint import (
    check_same,
    code_hash,
    file_hash,
    numerics_of,
    settings_of,
)
from seq1f1b_jax.host.stdout import Output
from seq1f1b_jax.models.hf import Origin, Source, keep_origin, kept_origin, origin_of
from seq1f1b_jax.models.hf.lora.weights import source_rows
from seq1f1b_jax.models.hf.origin import is_kept
from seq1f1b_jax.pipeline.stage import Params, Stage, windows_of
from seq1f1b_jax.schedule import mean_over_layers
from seq1f1b_jax.training.checkpoint.folder import clear, committed_steps
from seq1f1b_jax.training.checkpoint.read import LOOKS, read_again
from seq1f1b_jax.training.checkpoint.restore import CHECKPOINTS, load_newest
from seq1f1b_jax.training.faults.finite import finite_rows
from seq1f1b_jax.training.faults.watchdog import Watchdog
from seq1f1b_jax.training.reports.events import process_began
from seq1f1b_jax.training.setup import Setup, make_setup

T = TypeVar("T")

SOURCE = "source"
"""In a run's folder: the files beside the weights of the checkpoint that it began from."""


@dataclass(frozen=True, eq=False)
class Job:
    """What a command works on.

    Attributes:
      config: of the run, resolved.
      stage: the model.
      source: the checkpoint that the run starts from, if any.
      watchdog: ends this process when it, or another one, makes no progress.
      output: where printed text goes.
      group: the processes of the run.
      say: prints a line, with paths as the user typed them.
      environment: variables of this process.
      page: writes the page of a run into its folder, and returns its path; None: nothing can.
      began: when the command was started, seconds since 1970; default: with the process.
    """

    config: Config
    stage: Stage
    source: Source | None
    watchdog: Watchdog
    output: Output
    group: Group = ALONE
    say: Callable[[str], None] = print
    environment: Mapping[str, str] = field(default_factory=dict)
    page: Callable[[Path], Path] | None = None
    began: float = field(default_factory=process_began)

    @property
    def folder(self) -> Path:
        """Where the run is stored, absolute."""
        return Path(self.config.train.output_dir).absolute()

    @property
    def recipe(self) -> str:
        """The configuration as YAML, without what differs by process."""
        return to_yaml(replace(self.config, distributed=DistributedConfig()))


class Model(NamedTuple):
    """Weights to look at.

    Attributes:
      name: where they come from.
      params: in the layout that is free of topology, read on demand (`Rows`).
      tokenizer: of the text they were trained on; `None` where that was token ids.
    """

    name: str
    params: Params
    tokenizer: Tokenizer | None


def keep_source(job: Job) -> None:
    """Copy the files beside the source's weights into a new run's folder; drop an earlier run's.

    A folder of that name that no run wrote stays as it is.

    Raises:
      UserError: it cannot be read or written, or the name is taken.
    """
    folder, source = job.folder / SOURCE, job.config.model.source
    try:
        if is_kept(folder) and (source is None or Path(source).resolve() != folder.resolve()):
            clear(folder)
        if job.source is not None:
            if os.path.lexists(folder):
                raise UserError(
                    f"{folder} was not written by a run, which would keep there what is beside the "
                    f"weights of {source}; move it away, or set another train.output_dir"
                )
            with TemporaryDirectory(dir=job.folder) as made:  # a kill leaves no half of it
                keep_origin(origin_of(job.source), Path(made, SOURCE))
                Path(made, SOURCE).rename(folder)
    except OSError as error:
        raise UserError(
            f"cannot keep what is beside the weights of {source} in {folder} "
            f"({error.strerror}); set train.output_dir to a folder that this user may write"
        ) from error


def origin_of_run(job: Job) -> Origin | None:
    """What is beside the weights that the run began with: its own copy once it has begun."""
    if committed_steps(job.folder / CHECKPOINTS):
        return kept_origin(job.folder / SOURCE)
    return job.source and origin_of(job.source)


def load_data(job: Job) -> SequenceData | MixedData:
    """The corpus, or the mixture, and its sequences.

    Raises:
      UserError: also where the model starts from a checkpoint of another tokenizer.
    """
    weights = job.config.data.sources
    if weights is None:
        return load_source(job, job.config.data.source)
    found = {}
    for path in weights:
        try:
            found[path] = load_source(job, path)
        except UserError as error:
            named = path in str(error)
            raise error if named else UserError(f"data.sources: {path}: {error}") from error
    return make_mixture(found, weights)


def load_source(job: Job, source: str) -> SequenceData:
    """The sequences of one source."""
    data = job.config.data
    corpus = load_corpus(
        source, token_dtype=data.token_dtype, vocab_size=job.config.model.vocab_size,
        vocab_setting="model.settings.vocab_size" if job.config.model.stage else "model.vocab_size",
    )
    if job.source is not None:
        check_tokenizer(corpus, job, source)
    return make_data(
        corpus, seq_len=data.seq_len, eval_fraction=data.eval_fraction, seed=data.seed,
        packing=data.packing, long_documents=data.long_documents,
    )


def make_parts(job: Job) -> tuple[Setup, SequenceData | MixedData]:
    """Data, and the setup that is balanced for it."""
    config, data = job.config, load_data(job)
    balanced = config.data.packing == "documents" and config.schedule.documents != "ignore"
    visible_keys = None
    if balanced:
        visible_keys = mean_over_layers(
            windows_of(job.stage), lambda window: data.mean_visible_keys(window=window)
        )
    return make_setup(config, job.stage, visible_keys=visible_keys), data


def check_alike(job: Job, data: SequenceData | MixedData) -> None:
    """Refuse processes that would not do the same work.

    Raises:
      UserError: what differs, and in which process.
    """
    if job.group.count == 1:
        return
    parts = {"jax": jax.__version__, "jaxlib": jaxlib.version.__version__, "code": code_hash()}
    module = sys.modules.get(type(job.stage).__module__)
    parts["measured costs"] = file_hash(job.config.schedule.costs)
    parts["code of the model"] = file_hash(getattr(module, "__file__", None))
    parts |= settings_of(job.config) | numerics_of(job.environment, jax.config.values)
    parts |= {f"data ({name})": value for name, value in data.identity.items()}
    for warning in check_same(job.group, parts):
        job.say(f"note: {warning}")


def check_tokenizer(corpus: Corpus, job: Job, given: str) -> None:
    """Refuse data of another tokenizer than that of the checkpoint; a `.bin` names none.

    Raises:
      UserError: their tokens are not the same.
    """
    ours = corpus.load_tokenizer()
    theirs = source_tokenizer(job.source)
    if ours is None or theirs is None:
        return
    probe = "def f(x):\n    return 12345 * x  # naïve, 東京, 🙂 and so on\n"
    if ours.encode(probe, specials=False) == theirs.encode(probe, specials=False):
        return
    name = job.config.model.source
    raise UserError(
        f"data.source={given} has other tokens than the checkpoint "
        f"model.source={name} ({ours.vocab_size} and {theirs.vocab_size} of them); make them with "
        f"its tokenizer: python -m seq1f1b_jax.data prepare TEXT --to FOLDER --tokenizer {name}, "
        "and set data.source to that folder"
    )


def load_model(job: Job, setup: Setup, report: Callable[[str], None]) -> Model:
    """The newest good checkpoint of the run, or else the one that it would start from."""
    if job.source is not None and not committed_steps(job.folder / CHECKPOINTS):
        key = jax.random.key(job.config.train.seed)
        params = source_rows(job.source, setup.stage, key)
        return Model(job.config.model.source, params, source_tokenizer(job.source))
    step, meta, params = load_newest(setup, report, group=job.group)
    params = finite_rows(params, f"the checkpoint of step {step} in {job.folder}")
    return Model(f"step {step}", params, run_tokenizer(job, meta))


def use_model(job: Job, setup: Setup, use: Callable[[Model], T]) -> T:
    """The result of `use(model)`, which reads the model's weights.

    If a run in progress deletes the checkpoint meanwhile, a single process tries again with the
    newest.
    """
    times = LOOKS if job.group.count == 1 else 1
    return read_again(lambda: use(load_model(job, setup, job.say)), times=times)


def run_tokenizer(job: Job, meta: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer of the text that a run was trained on, according to its checkpoint.

    Raises:
      UserError: its file is missing from the run's folder.
    """
    older = None if meta["data"]["kind"] == "tokens" else BYTES
    kind = meta.get("tokenizer", older)
    if kind is None:
        return source_tokenizer(job.source)
    if kind != BYTES and not (job.folder / TOKENIZER).is_file():
        raise UserError(
            f"{job.folder} has no {TOKENIZER}, and the run was trained on its tokens; put the one "
            "of its data back"
        )
    return load_tokenizer(BYTES if kind == BYTES else job.folder)


def source_tokenizer(source: Source | None) -> Tokenizer | None:
    """The tokenizer of a checkpoint, if it has one."""
    file = source and source.tokenizer_file
    return file and load_tokenizer(file)
