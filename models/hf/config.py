"""A checkpoint's config.json as fields of our models: architecture, sizes, what is refused."""

from dataclasses import dataclass
from typing import Any

from seq1f1b_jax.config import UserError
from seq1f1b_jax.models.hf.families import FAMILIES, Family
from seq1f1b_jax.models.hf.rules import Rule
from seq1f1b_jax.models.hf.settings import CheckedValues, short


@dataclass(frozen=True)
class Description:
    """The model of a checkpoint, as its header describes it.

    Attributes:
      architecture: its name there.
      rules: of its tensors.
      fields: keyword arguments of `build_stage`.
      context_length: tokens of the longest sequence that it was trained for.
      special_tokens: ids by name (`bos`, `eos`, `pad`), or lists of ids, as in the file.
      tokenizer_class: transformers' class for its tokenizer, where it names one.
    """

    architecture: str
    rules: tuple[Rule, ...]
    fields: dict[str, Any]
    context_length: int | None
    special_tokens: dict[str, int | list[int]]
    tokenizer_class: str | None = None


def read_config(config: dict[str, Any], *, where: str) -> Description:
    """Read a config.json.

    Args:
      config: its content, as transformers 4 or 5 writes it.
      where: the file, named in messages.

    Raises:
      UserError: an architecture or a setting that our models do not have, with reason and cure.
    """
    settings = CheckedValues(config, where)
    family = _family(settings)
    for quantized in ("quantization_config", "compression_config"):
        if settings.get(quantized):
            raise UserError(
                f"{where}: {quantized} is set; training needs the weights themselves: use the "
                "checkpoint that was quantized"
            )
    if settings.get("pruned_heads"):
        raise UserError(
            f"{where}: pruned_heads={settings.get('pruned_heads')}; all layers have all heads: use "
            "the checkpoint that was pruned"
        )
    fields, length = family.read(settings)
    named = settings.get("tokenizer_class")
    return Description(
        family.architecture, family.rules, fields, length, read_special_tokens(settings),
        named if isinstance(named, str) else None,
    )


def _family(settings: CheckedValues) -> Family:
    names, kind = settings.texts("architectures"), settings.get("model_type")
    by_name = {family.architecture: family for family in FAMILIES}
    meant = next((family for family in FAMILIES if family.model_type == kind), None)
    found = by_name.get(names[0]) if names else meant
    if len(names) > 1 or found is None:
        raise UserError(
            f"{settings.where}: architectures={names}, model_type={kind!r} "
            f"is not supported; use a checkpoint of {', '.join(by_name)}"
        )
    if kind is not None and found is not meant:
        raise UserError(
            f"{settings.where}: architectures={names} and model_type={kind!r} name two models "
            f"(the architecture's type is {found.model_type!r}); correct the one that is wrong"
        )
    return found


def read_special_tokens(settings: CheckedValues) -> dict[str, int | list[int]]:
    """Ids by name (`bos`, `eos`, `pad`) from a config.json or a generation_config.json.

    Raises:
      UserError: one that is neither an id nor a list of them.
    """
    found = {name: settings.get(f"{name}_token_id") for name in ("bos", "eos", "pad")}
    for name, value in found.items():
        ids = value if isinstance(value, list) else [value]
        if value is not None and not all(type(token) is int for token in ids):
            raise UserError(
                f"{settings.where}: {name}_token_id={short(value)} is neither an id nor a list of "
                "ids; correct it"
            )
    return {name: value for name, value in found.items() if value is not None}
