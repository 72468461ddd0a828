"""`data.sources`: a mapping of paths, in recipes and on the command line."""

import pytest

from seq1f1b_jax.cli import parse, to_yaml
from seq1f1b_jax.cli.keys import with_typed_paths
from seq1f1b_jax.cli.recipes import packaged_recipes
from seq1f1b_jax.config import UserError
from seq1f1b_jax.config.checks import validate


def read(*arguments):
    invocation = parse([str(word) for word in arguments], recipes=packaged_recipes())
    validate(invocation.config)
    return invocation


def test_paths_with_dots_go_into_a_recipe_and_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = read("--data.sources", "{tokens/v1.2: 0.7, stdlib: 3}")
    assert given.config.data.sources == {str(tmp_path / "tokens/v1.2"): 0.7, "stdlib": 3.0}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(with_typed_paths(given.config, given.typed)))
    assert "tokens/v1.2: 0.7" in recipe.read_text()
    assert read("--config", recipe).config.data == given.config.data
    assert read("--config", recipe, "--data.source", "x.txt").config.data.sources is None
    other = read("--config", recipe, "--data.sources", "{b: 1}").config.data.sources
    assert other == {str(tmp_path / "b"): 1.0}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--data.sources", "{a: -1}"], "the weight of .*a is -1.0; use a number from 0 on"),
        (["--data.sources", "{a: 1, ./a: 2}"], "a, ./a name a file twice; name it once"),
        (["--data.sources", "{a: 0}"], "no source with a weight above 0"),
        (["--data.sources", "{}"], "no source with a weight above 0"),
        (["--data.sources", "[a, b]"], "must be weights such as {a: 0.7} or null"),
        (["--data.sources", "{a: 1}", "--data.source", "b"], "give one of them"),
        (["--data.sources", "{a.bin: 1}", "--model.preset", "null"], "set model.vocab_size"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cannot_be_is_one_line(words, told):
    with pytest.raises(UserError, match=told):
        read(*words)
