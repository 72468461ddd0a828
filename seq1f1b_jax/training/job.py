"""What a command works on, and where its data, its model and its tokenizer come from."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jaxlib.version

from seq1f1b_jax.config import Config, UserError
from seq1f1b_jax.data import Corpus, SequenceData, Tokenizer, load_corpus, load_tokenizer, make_data
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
from seq1f1b_jax.inference.sampling import Stream
from seq1f1b_jax.pipeline.stage import Params, Stage, window_of
from seq1f1b_jax.training.checkpoint.folder import clear, committed_steps
from seq1f1b_jax.training.checkpoint.read import LOOKS, read_again
from seq1f1b_jax.training.checkpoint.restore import CHECKPOINTS, load_newest
from seq1f1b_jax.training.faults.finite import finite_rows
from seq1f1b_jax.training.faults.watchdog import Watchdog
from seq1f1b_jax.training.reports.events import process_began
from seq1f1b_jax.training.setup import Setup, make_setup

T = TypeVar("T")

SOURCE = "source"
"""In a run's folder: what the checkpoint that it began from has beside its weights."""


@dataclass(frozen=True, eq=False)
class Source:
    """The checkpoint that `model.source` names, opened by whoever knows models.

    Attributes:
      told: what it is, in one line.
      load: its weights in the layout that is free of topology, read when they are asked for.
      tokenizer: what `load_tokenizer` makes its tokenizer from; `None` where it has none.
      context_length: tokens of the longest sequence that it was trained on, where it says so.
      keep: copies what it has beside its weights into a new folder, for an export later on.
    """

    told: str
    load: Callable[[Stage], Params]
    tokenizer: Path | None
    context_length: int | None
    keep: Callable[[Path], None]


@dataclass(frozen=True, eq=False)
class Job:
    """What a command works on.

    Attributes:
      config: of the run.
      recipe: the same as YAML.
      stage: the model.
      stream: its sampler.
      source: the checkpoint that the run starts from, where it does.
      export: `(params, folder, *, dtype, tokenizer)`, writes topology-free parameters, arrays or
        `Rows`, as a checkpoint for others.
      watchdog: ends this process when it, or another one, does not get on.
      group: the processes of the run.
      say: prints a line, with paths as the user typed them.
      output: where what is printed goes.
      environment: variables of this process.
      began: when the work was asked for, seconds since 1970: with the process, unless said.
    """

    config: Config
    recipe: str
    stage: Stage
    stream: Stream
    source: Source | None
    export: Callable[..., None]
    watchdog: Watchdog
    output: Output
    group: Group = ALONE
    say: Callable[[str], None] = print
    environment: Mapping[str, str] = field(default_factory=dict)
    began: float = field(default_factory=process_began)

    @property
    def folder(self) -> Path:
        """Where the run lies, absolute."""
        return Path(self.config.train.output_dir).absolute()


class Model(NamedTuple):
    """Weights to look at.

    Attributes:
      told: where they come from.
      params: in the layout that is free of topology, read when they are asked for (`Rows`).
      tokenizer: of the text they were trained on; `None` where that was token ids.
    """

    told: str
    params: Params
    tokenizer: Tokenizer | None


def keep_source(job: Job) -> None:
    """Keep in a new run's folder what its source has beside the weights, and of no earlier one.

    Raises:
      UserError: it cannot be read or written.
    """
    folder = job.folder / SOURCE
    try:
        clear(folder)
        if job.source is not None:
            job.source.keep(folder)
    except OSError as error:
        raise UserError(
            f"cannot keep what lies beside the weights of {job.config.model.source} in {folder} "
            f"({error.strerror}); set train.output_dir to a folder that this user may write"
        ) from error


def load_data(job: Job) -> SequenceData:
    """The corpus and its sequences.

    Raises:
      UserError: also where the model starts from a checkpoint of another tokenizer.
    """
    data = job.config.data
    corpus = load_corpus(
        data.source, token_dtype=data.token_dtype, vocab_size=job.config.model.vocab_size
    )
    if job.source is not None:
        check_tokenizer(corpus, job)
    return make_data(
        corpus, seq_len=data.seq_len, eval_fraction=data.eval_fraction, seed=data.seed,
        packing=data.packing, long_documents=data.long_documents,
    )


def make_parts(job: Job) -> tuple[Setup, SequenceData]:
    """Data, and the setup that is balanced for it."""
    config, data = job.config, load_data(job)
    balanced = config.data.packing == "documents" and config.schedule.documents != "ignore"
    window = window_of(job.stage)
    visible_keys = data.mean_visible_keys(window=window) if balanced else None
    return make_setup(config, job.stage, visible_keys=visible_keys), data


def check_alike(job: Job, data: SequenceData) -> None:
    """Refuse processes that would not do the same work.

    Raises:
      UserError: what differs, and in which process.
    """
    if job.group.count == 1:
        return
    parts = {"jax": jax.__version__, "jaxlib": jaxlib.version.__version__, "code": code_hash()}
    module = sys.modules.get(type(job.stage).__module__)
    parts["code of the model"] = file_hash(getattr(module, "__file__", None))
    parts |= settings_of(job.config) | numerics_of(job.environment, jax.config.values)
    parts |= {f"data ({name})": value for name, value in data.identity.items()}
    for warning in check_same(job.group, parts):
        job.say(f"note: {warning}")


def check_tokenizer(corpus: Corpus, job: Job) -> None:
    """Refuse data of another tokenizer than that of the checkpoint; a `.bin` does not tell.

    Raises:
      UserError: their tokens are not the same.
    """
    ours = corpus.load_tokenizer()
    if ours is None or job.source.tokenizer is None:
        return
    theirs = load_tokenizer(job.source.tokenizer)
    probe = "def f(x):\n    return 12345 * x  # naïve, 東京, 🙂 and so on\n"
    if ours.encode(probe, specials=False) == theirs.encode(probe, specials=False):
        return
    name = job.config.model.source
    raise UserError(
        f"data.source={job.config.data.source} has other tokens than the checkpoint "
        f"model.source={name} ({ours.vocab_size} and {theirs.vocab_size} of them); make them with "
        f"its tokenizer: python -m seq1f1b_jax.data prepare TEXT --to FOLDER --tokenizer {name}, "
        "and set data.source to that folder"
    )


def load_model(job: Job, setup: Setup, report: Callable[[str], None]) -> Model:
    """The newest good checkpoint of the run, or where there is none the one it would start from."""
    if job.source is not None and not committed_steps(job.folder / CHECKPOINTS):
        params = job.source.load(setup.stage)
        return Model(job.config.model.source, params, source_tokenizer(job.source))
    step, meta, params = load_newest(setup, report, group=job.group)
    params = finite_rows(params, f"the checkpoint of step {step} in {job.folder}")
    return Model(f"step {step}", params, run_tokenizer(job, meta))


def use_model(job: Job, setup: Setup, use: Callable[[Model], T]) -> T:
    """What `use` makes of the model, whose weights it reads.

    Where a run that goes on deletes the checkpoint meanwhile, a process that is alone takes the
    newest again.
    """
    times = LOOKS if job.group.count == 1 else 1
    return read_again(lambda: use(load_model(job, setup, job.say)), times=times)


def run_tokenizer(job: Job, meta: Mapping[str, Any]) -> Tokenizer | None:
    """The tokenizer of the text that a run was trained on, by what its checkpoint records.

    Raises:
      UserError: its file is gone from the run's folder.
    """
    older = None if meta["data"]["kind"] == "tokens" else BYTES
    kind = meta.get("tokenizer", older)
    if kind is None:
        return None if job.source is None else source_tokenizer(job.source)
    if kind != BYTES and not (job.folder / TOKENIZER).is_file():
        raise UserError(
            f"{job.folder} has no {TOKENIZER}, and the run was trained on its tokens; put the one "
            "of its data back"
        )
    return load_tokenizer(BYTES if kind == BYTES else job.folder)


def source_tokenizer(source: Source) -> Tokenizer | None:
    """The tokenizer of a checkpoint."""
    return None if source.tokenizer is None else load_tokenizer(source.tokenizer)
