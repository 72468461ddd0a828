"""Folders that `Dataset.save_to_disk` of the `datasets` library has written.

    state.json          names the Arrow files, in their order
    dataset_info.json   describes the columns
    data-00000-of-00002.arrow ...

Of several splits: a folder for each, and `dataset_dict.json` beside them.
"""

import json
from pathlib import Path
from typing import Any

from seq1f1b_jax.config import UserError

STATE, SPLITS = "state.json", "dataset_dict.json"
FILES = "_data_files"


def saved_files(folder: Path) -> list[Path] | None:
    """The Arrow files of a saved data set in their order; None for any other folder.

    Raises:
      UserError: it holds several splits, or its record is damaged or of a kind that is not read.
    """
    if (folder / SPLITS).is_file():
        splits = _read(folder / SPLITS).get("splits")
        if not (isinstance(splits, list) and splits and all(isinstance(s, str) for s in splits)):
            raise _damaged(folder / SPLITS)
        if len(splits) > 1:
            raise UserError(
                f"{folder} holds the splits {', '.join(splits)}; give one: {folder / splits[0]}"
            )
        folder = folder / splits[0]
    elif not (folder / STATE).is_file():
        return None
    state = _read(folder / STATE)
    if FILES not in state:  # another program's
        return None
    if state.get("_indices_data_files"):
        raise UserError(
            f"{folder} is a selection of rows that an old version of datasets has saved; save it "
            "again with a newer one"
        )
    try:
        files = [folder / Path(part["filename"]).name for part in state[FILES]]
    except (TypeError, KeyError) as error:
        raise _damaged(folder / STATE) from error
    if not files:
        raise UserError(f"{folder} is a saved data set of 0 rows; take it out")
    return files


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path) from error
    return found if isinstance(found, dict) else {}


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is not what save_to_disk writes; save the data set again")
