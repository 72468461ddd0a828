"""The files beside a tokenizer.json: tokens that it lacks, and the end of a text.

Read as by transformers 4 and 5:

    tokenizer_config.json      added_tokens_decoder: id -> token; bos_token, eos_token, ...;
                               additional_special_tokens (extra_special_tokens in 5)
    special_tokens_map.json    the same names, read if there is no added_tokens_decoder
    added_tokens.json          token -> id, read if there is no added_tokens_decoder
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.tokenizer.base import TOKENIZER, TOKENIZER_CONFIG

SPECIAL_MAP, ADDED = "special_tokens_map.json", "added_tokens.json"
EOS_FILES = ("generation_config.json", "config.json")
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LISTS = ("extra_special_tokens", "additional_special_tokens")
BY_ID = "added_tokens_decoder"
MAX_TOKENS = 1 << 24  # arrays are as long as the largest id


def add_tokens_beside(inner: tokenizers.Tokenizer, folder: Path) -> None:
    """Add the tokens that are named only in the files beside tokenizer.json.

    Args:
      inner: loaded from tokenizer.json; it is modified.
      folder: of tokenizer.json.

    Raises:
      UserError: a malformed file, or a token with different ids in two files.
    """
    config, where = read_object(folder / TOKENIZER_CONFIG), folder / TOKENIZER_CONFIG
    there = inner.get_added_tokens_decoder()
    if BY_ID in config:
        specials = list(_specials(config, where))
        by_id = declared = _by_id(config[BY_ID], where)
    else:
        config = _with_map(config, read_object(folder / SPECIAL_MAP))
        specials = list(_specials(config, where))
        where = folder / ADDED
        declared = _from_added(read_object(where), {token.content for token in specials}, where)
        by_id = declared | there  # the entries of tokenizer.json have more fields
    named_ones = {token.content for token in specials}
    known = {repr(token) for token in there.values()}
    tokens = [token for _, token in sorted(by_id.items()) if repr(token) not in known]
    contents = {token.content for token in (*there.values(), *tokens)}
    for token in tokens:
        token.special = token.special or token.content in named_ones
    inner.add_tokens([*tokens, *(token for token in specials if token.content not in contents)])
    for token_id, token in declared.items():
        if (found := inner.token_to_id(token.content)) != token_id:
            raise UserError(
                f"{where} gives {token.content!r} the id {token_id}, and with {TOKENIZER} it has "
                f"{'none' if found is None else found}; get both files from one place again"
            )


def check_prefix_space(inner: tokenizers.Tokenizer, folder: Path) -> None:
    """Check that both files agree whether a text gets a leading space.

    transformers 4 follows tokenizer_config.json; 5 follows one or the other, by class.

    Raises:
      UserError: they disagree.
    """
    wanted = read_object(folder / TOKENIZER_CONFIG).get("add_prefix_space")
    found = adds_prefix_space(inner)
    if None not in (wanted, found) and wanted != found:
        raise UserError(
            f"{folder / TOKENIZER_CONFIG} says add_prefix_space={wanted} and {TOKENIZER} "
            f"{found}; correct the one that is wrong"
        )


def adds_prefix_space(inner: tokenizers.Tokenizer) -> bool | None:
    """Whether a text gets a leading space; None: there is no such setting."""
    if inner.pre_tokenizer is None:
        return None
    return json.loads(inner.pre_tokenizer.__getstate__()).get("add_prefix_space")


def end_of_text(inner: tokenizers.Tokenizer, folder: Path) -> int | None:
    """The token that ends a document, from the first file beside the tokenizer that names one.

    Raises:
      UserError: a file that is not JSON, or a name that is not a token.
    """
    if name := named_tokens(folder).get("eos_token"):
        return named(inner, name, folder / TOKENIZER)
    return next(iter(ends_of_text(inner, folder)), None)


def named_tokens(folder: Path) -> dict[str, str]:
    """Special tokens by their names in the files: `bos_token`, `eos_token` and so on.

    Raises:
      UserError: a file that is not JSON, or an entry that is no token.
    """
    config = read_object(folder / TOKENIZER_CONFIG)
    if BY_ID not in config:
        config = _with_map(config, read_object(folder / SPECIAL_MAP))
    named_ones = {name: config[name] for name in NAMES if config.get(name)}
    return {
        name: _token(value, folder / TOKENIZER_CONFIG).content
        for name, value in named_ones.items()
    }


def ends_of_text(inner: tokenizers.Tokenizer, folder: Path) -> tuple[int, ...]:
    """All ids that end a generated text, from the first file that lists any by number.

    Raises:
      UserError: a file that is not JSON.
    """
    for file in EOS_FILES:
        found = read_object(folder / file).get("eos_token_id")
        listed = found if isinstance(found, list) else [found]
        # the library takes only ids below 2**32
        known = [i for i in listed if type(i) is int and 0 <= i < MAX_TOKENS]
        if ids := tuple(i for i in known if inner.id_to_token(i) is not None):
            return ids
    return ()


def named(inner: tokenizers.Tokenizer, name: str, file: Path) -> int:
    """The id of a token.

    Raises:
      UserError: there is no such token.
    """
    token = inner.token_to_id(name)
    if token is None:
        raise UserError(f"eos={name!r} is not a token of {file}; give one that is")
    return token


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty if the file is missing.

    Raises:
      UserError: the file holds something else.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); correct or remove it") from error
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise UserError(f"{path} is a JSON {kind}, not an object; correct or remove it")
    return value


def _with_map(config: Mapping[str, Any], special_map: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the entries of the map, which win; lists are joined."""
    merged = {**config, **special_map}
    for name in LISTS:
        one, other = config.get(name), special_map.get(name)
        if isinstance(one, list) and isinstance(other, list):
            merged[name] = one + other
    return merged


def _by_id(entries: Any, where: Path) -> dict[int, tokenizers.AddedToken]:
    if not isinstance(entries, dict) or not all(key.isdecimal() for key in entries):
        raise UserError(f"{where}: {BY_ID} is not an object with ids as names; correct it")
    return {int(key): _token(entry, where) for key, entry in entries.items()}


def _from_added(
    entries: Mapping[str, Any], special: set[str], where: Path
) -> dict[int, tokenizers.AddedToken]:
    wrong = [name for name, token_id in entries.items() if type(token_id) is not int]
    if wrong:
        raise UserError(
            f"{where} gives {wrong[0]!r} the id {entries[wrong[0]]!r}, which is no integer; "
            "correct or remove it"
        )
    return {
        token_id: tokenizers.AddedToken(
            name, normalized=name not in special, special=name in special
        )
        for name, token_id in entries.items()
    }


def _specials(config: Mapping[str, Any], where: Path) -> Iterator[tokenizers.AddedToken]:
    """Named tokens, then the additional ones, in transformers' order."""
    values = [config.get(name) for name in NAMES]
    # model-specific names, such as image_token; other names with this suffix are flags
    values += [
        value for name, value in config.items()
        if name.endswith("_token") and name not in NAMES and isinstance(value, str)
    ]
    for name in LISTS:
        further = config.get(name) or []
        if not isinstance(further, list | dict):
            raise UserError(f"{where}: {name} is not a list of tokens; correct it")
        values += list(further.values() if isinstance(further, dict) else further)
    for value in values:
        if value is not None:
            yield _token(value, where, special=True)


def _token(value: Any, where: Path, *, special: bool = False) -> tokenizers.AddedToken:
    """A token as given in a file: its text, or an object with the text and flags."""
    entry = {"content": value} if isinstance(value, str) else value
    content = entry.get("content") if isinstance(entry, dict) else None
    if not isinstance(content, str):
        raise UserError(f"{where}: {value!r:.80} is no token; correct or remove it")
    flags = {
        name: entry[name] for name in ("single_word", "lstrip", "rstrip", "normalized", "special")
        if isinstance(entry.get(name), bool)
    }
    return tokenizers.AddedToken(content, **(flags | {"special": True} if special else flags))
