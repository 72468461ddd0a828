"""Command lines and recipes gone wrong: every case is a list of arguments and the recipe it names.

A case starts from a tiny run that works and is damaged in one or two places, drawn by its number:
case 17 is the same in every process and on every machine.
"""

import random
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, get_args, get_origin

import yaml

from seq1f1b_jax.cli.keys import setting_types
from seq1f1b_jax.cli.options import option_types

HUGE = (10**6, 10**9, 2**31, 2**63, 2**64, 10**30)
NUMBERS = (
    *HUGE, *(-number for number in HUGE), 0, -1, 1, 2, 3, 7, "-0", "0.5", "1e-3", "1e308", "1e400",
    "-1e308", "1e-320", "nan", ".nan", "NaN", "inf", ".inf", "-.inf", "0x10", "0b1", "1_000", "017",
    "+2", "1,5", "1e", "٣", "½", "9" * 5000,
)  # fmt: skip
WORDS = (
    "", " ", "null", "~", "none", "None", "true", "True", "yes", "off", "seq1f1b", "seq1f1b-i",
    "zb-h1", "gpipe", "even", "cpu", "gpu", "llama", "gpt", "2.7b", "documents", "yarn", "never",
    "selective", "bfloat16", "a" * 3000, "naïve", "東京", "🙂", "e\u0301", "\u202eabc", "a b", "'",
    '"', "`", "$HOME", "~", "~nobody", "%s", "{}", "{0}", "\\", "\\n", "a\nb", "a\r\nb", "\t",
    "\x1b[31m", "\x7f", "a\x00b", "\udcff", "-", "--", "-1x", "=", "a=b", "#", "!", "*", "&a", "@",
    "|", ">", "/", ".", "..", "/dev/null", "/proc/self/mem", "file://x", "http://[", "x" * 300,
)  # fmt: skip
TREES = (
    "[]", "[1,2]", "[1,", "[16,16]", "[32]", "[2,2]", "[-1,33]", "[0]", "[[1]]", "[null]", "[a]",
    "[1.5]", "[nan]", "[true]", f"[{10**30}]", "{}", "{a: 1}", "{a: {b: 1}}", "{1: 2}", "{[1]: 2}",
    "1: 2", "a: b: c", "- 1", "!!python/object:os.system x", "!!int x", "!!binary aGk=",
    "!!set {a}", "!!float '1'", "!!str 3", "!x y", "*nobody", "&a 1", "2026-01-01", "12:30:45",
    "<<", "? a", "[" * 200, "[" * 200 + "]" * 200, '"unclosed', "'unclosed", "%YAML 1.1", "---",
    "...",
)  # fmt: skip
VALUES = (*map(str, NUMBERS), *WORDS, *TREES)
FITTING = {
    int: ("-1", "0", "1", "2", "3", "5", "7", "8", "64", "1000", *map(str, HUGE)),
    float: ("-1", "0", "0.5", "1", "7", "1e-320", "1e-30", "1e30", "1e308", "nan", "inf", "-inf"),
    bool: ("true", "false"),
    str: WORDS,
    tuple: ("[]", "[0]", "[1]", "[32]", "[16,16]", "[8,24]", "[-1,33]", "[2,2]", f"[{10**30}]"),
}
"""Values that the parser takes, by type."""

TOKENS = (
    "--", "-", "---", "--=", "--=1", "=", "-h=1", "-x", "-c", "--config", "--config=", "--config=.",
    "--print_config", "--print_config=1", "--trace", "--trace=x", "--trace=false", "--no-trace",
    "--train", "--train=1", "--train.", "--.num_steps", "--train.num_steps", "--train.num_steps=",
    "--train.num_steps.x=1", "--train.num_step=1", "--train.n=1", "--num_steps=1", "--model={}",
    "--model={num_layers: 3}", "--model.rope={}", "--model.rope={factor: 2}", "--model.rope=1",
    "--model.rope", "--model.rope.type", "--help=1", "--version", "train", "trian", "evaluate",
    "generate", "export", "report", "TRAIN", "tr", "help", "--prompt", "--prompt=x", "--to",
    "--to=", "--to=/dev/null/x", "--num_batches=1", "--num_batches=-1", "--seed=x", "--top_p=nan",
    "\n", "--a\nb=1", "--a\nb", "a\nb", "--é=1", "--\udcff", "--model.num_layers+=1",
    "--model+.x=1", "@file", "--config=a\nb.yaml", "--config=\x00", "--config=" + "x" * 5000,
    "--print_shtab=bash",
    "--print_config=comments", "--config={}", "--config={model: {num_layers: 1}}", "--config=[1]",
)  # fmt: skip

RECIPES = (
    b"", b" ", b"\n\n", b"#", b"---\n", b"---\n---\n", b"...\n", b"--- a\n--- b\n", b"\xef\xbb\xbf",
    b"\x00", b"\xff\xfe", bytes(range(256)), "model: {num_layers: 4}".encode("utf-16"),
    "model: {num_layers: 4}".encode("utf-32"), b"model:\n\tnum_layers: 4\n", b"model: \x85 x",
    b"%YAML 9.9\n---\nmodel: {num_layers: 4}\n", b"%TAG ! x\n---\n!a b\n", b"&a [*a]", b"*a",
    b"&a {model: *a}", b"model: &a {num_layers: 4}\ndata: *a\n",
    b"model: &a {num_layers: 4, x: *a}\n", b"base: &b {num_layers: 4}\nmodel: {<<: *b}\n",
    b"model: {<<: {num_layers: 4}}\n", b"model: {<<: [{num_layers: 4}, {num_heads: 2}]}\n",
    b"model: {<<: 3}\n", b"<<: {model: {num_layers: 4}}\n",
    b"model: {num_layers: 4, num_layers: 6}\n",
    b"model: {num_layers: 4}\nmodel: {num_heads: 2}\n", b"? [a, b]\n: 1\n", b"? {a: 1}\n: 1\n",
    b"1: {a: 2}\n", b"null: 1\n", b"true: {x: 1}\n", b"1.5: 2\n", b"2026-01-01: 1\n", b"model: 3\n",
    b"model: [4]\n", b"model: []\n", b"model: {}\n", b"model: ''\n", b"model: null\n", b"model:\n",
    b"model: {1: 2}\n", b"model: {null: 2}\n", b"model: {rope: null}\n", b"model: {rope: 3}\n",
    b"model: {rope: []}\n", b"model: {rope: {}}\n", b"model: {rope: {type: 3}}\n",
    b"model.rope.type: x", b"model.num_layers: 4\n", b"model: {num_layers: {a: 4}}\n",
    b"model: {num_layers: [4]}\n",
    b"num_layers: 4\n", b"config: x.yaml\n", b"print_config: true\n", b"help: 1\n", b"prompt: x\n",
    b"!!python/object/apply:os.system [echo]\n", b"!!set {model}\n", b"!!omap [model: {}]\n",
    b"!!binary aGk=\n", b"model: !!binary aGk=\n", b"model: !x {num_layers: 4}\n", b"a: !!int x\n",
    b"a: !!float x\n", b"a: !!timestamp x\n", b"a: !!bool x\n", b"a: !!null x\n",
    b"2026-13-45: 1\n",
    b"a: 2026-13-45\n", b"a: 2026-02-30\n", b"model: {num_layers: 0o4}\n", b"- 1\n", b"3\n", b"x\n",
    b"null\n", b"true\n", b"'x'\n", b"|\n x\n", b"a: |\n x\nb\n", b"model: {num_layers: 4", b"{{{{",
    b"model: {num_layers: 4}}\n", b": : :\n", b"- - - -\n", b"a: b: c\n", b"\xc3\x28",
    b"\xed\xa0\x80",
    b"model: \"\\ud800\"\n", b"data: {source: \"a\\0b\"}\n", b"data: {source: \"a\\nb\"}\n",
    b"\"mo\\ndel\": 3\n", b"model: {\"num\\nlayers\": 4}\n", b"? |\n a\n b\n: 1\n", b"[" * 1000,
    b"[" * 1000 + b"]" * 1000, b"{a: " * 1000 + b"1" + b"}" * 1000, b"- " * 1000, b"? " * 1000,
    "\n".join(f"{' ' * n}a:" for n in range(1000)).encode(),
    "\n".join(f"{' ' * n}model:" for n in range(200)).encode(),
    b"a: &a [x,x,x,x,x,x,x,x]\n" + b"".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 8)}]\n".encode()
        for n in range(9)
    ),
    b"model: &a {x: 1}\n" + b"".join(
        f"k{n}: &k{n} {{<<: *{'a' if n == 0 else f'k{n - 1}'}}}\n".encode() for n in range(50)
    ),
    b"a: " + b"x" * 300_000, b"x" * 300_000 + b": 1", b"a: " + b"9" * 5000, b"9" * 5000 + b": 1",
    b"model: {num_layers: " + b"9" * 5000 + b"}", b"model: {num_layers: 1e999}", b"a: 1:2:3:4:5\n",
)  # fmt: skip


class Case(NamedTuple):
    """A command line, in which `RECIPE` names a recipe, and that recipe (None: the good one)."""

    arguments: tuple[str, ...]
    recipe: bytes | None = None


def cases(recipe: bytes, count: int) -> Iterator[Case]:
    """The first `count` ways to damage a recipe that is good; every kind comes early."""
    kinds = (_setting, _recipe_value, _token, _recipe, _setting, _bytes, _option, _order)
    for number in range(count):
        draw = random.Random(number)
        yield kinds[number % len(kinds)](draw, number // len(kinds), recipe)


def to_recipe(settings: Mapping[str, object]) -> bytes:
    """YAML of settings by dotted name."""
    tree: dict = {}
    for key, value in settings.items():
        section, name = key.split(".")
        tree.setdefault(section, {})[name] = value
    return yaml.safe_dump(tree, sort_keys=False).encode()


def _names() -> list[str]:
    return list(setting_types())


def _setting(draw: random.Random, number: int, recipe: bytes) -> Case:
    """One or two settings on the command line with a value from the pool."""
    changed = draw.sample(_names(), draw.choice((1, 1, 2)))
    return Case(("RECIPE", *(f"--{name}={_value(draw, name)}" for name in changed)))


def _value(draw: random.Random, name: str) -> str:
    """Mostly one of the setting's type, else any."""
    hint = setting_types()[name]
    kinds = [hint, get_origin(hint), *get_args(hint), *map(get_origin, get_args(hint))]
    fitting = [value for kind in kinds for value in FITTING.get(kind, ())]
    fitting += [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    return draw.choice(fitting or VALUES if draw.random() < 0.7 else VALUES)


def _recipe_value(draw: random.Random, number: int, recipe: bytes) -> Case:
    """A setting in the recipe, its value as raw YAML."""
    section, _, name = draw.choice(_names()).partition(".")
    value = draw.choice(VALUES).encode("utf-8", "surrogatepass")
    lines = recipe.splitlines(keepends=True)
    at = next((n + 1 for n, line in enumerate(lines) if line == f"{section}:\n".encode()), None)
    if at is None:
        lines, at = [*lines, f"{section}:\n".encode()], len(lines) + 1
    lines.insert(at, b"  " + name.replace(".", ": {").encode() + b": " + value
                 + b"}" * name.count(".") + b"\n")
    return Case(("RECIPE",), b"".join(lines))


def _token(draw: random.Random, number: int, recipe: bytes) -> Case:
    """A word where none belongs: every one of them once, then in pairs."""
    chosen = [TOKENS[number % len(TOKENS)]]
    if number >= len(TOKENS):
        chosen.append(draw.choice(TOKENS))
    words = ["RECIPE"]
    for word in chosen:
        words.insert(draw.randrange(len(words) + 1), word)
    return Case(tuple(words))


def _recipe(draw: random.Random, number: int, recipe: bytes) -> Case:
    """A recipe of another shape: every one of them once, then before or after the good one."""
    content = RECIPES[number % len(RECIPES)]
    if number >= len(RECIPES):
        content = recipe + content if draw.random() < 0.5 else content + b"\n" + recipe
    return Case(("RECIPE",), content)


def _bytes(draw: random.Random, number: int, recipe: bytes) -> Case:
    """The good recipe with bytes changed, dropped or doubled, or lines in another order."""
    content = bytearray(recipe)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(content))
        match draw.randrange(6):
            case 0:
                content[at] = draw.randrange(256)
            case 1:
                content[at] = draw.choice(b" \n:{}[]&*!|>'\"%@#-,?")
            case 2:
                del content[at : at + draw.randint(1, 20)]
            case 3:
                content[at:at] = content[at : at + draw.randint(1, 30)]
            case 4:
                content = content[: at + 1]
            case _:
                lines = content.splitlines(keepends=True)
                draw.shuffle(lines)
                content = bytearray(b"".join(lines))
    return Case(("RECIPE",), bytes(content))


def _option(draw: random.Random, number: int, recipe: bytes) -> Case:
    """A command with a strange value of an option of its own."""
    command = draw.choice(("evaluate", "generate", "export", "report"))
    name = draw.choice(list(option_types(command)))
    words = [command, f"--{name}={draw.choice(VALUES)}"]
    if command == "export" and name != "to":
        words.append("--to=exported")
    return Case((*words, "RECIPE"))


def _order(draw: random.Random, number: int, recipe: bytes) -> Case:
    """A good command line with words dropped, doubled, cut, exchanged or torn apart."""
    words = ["evaluate", "--num_sequences", "1", "--model.num_layers", "4", "RECIPE"]
    words.append("--trace=false")
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(words))
        match draw.randrange(5):
            case 0:
                del words[at]
            case 1:
                words.insert(draw.randrange(len(words)), words[at])
            case 2:
                words[at] = words[at][: draw.randrange(len(words[at]) + 1)]
            case 3:
                draw.shuffle(words)
            case _:
                words[at] += draw.choice(("=", "=1", " ", "\n", ".", "x"))
        words = words or ["RECIPE"]
    return Case(tuple(words))
