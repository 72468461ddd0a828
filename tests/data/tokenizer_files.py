"""Files that lie beside a tokenizer.json of 300 tokens and name further ones."""


def token(content, **flags):
    """An entry of `added_tokens_decoder`."""
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {"content": content, "special": True, **plain, **flags}


IM = {"300": token("<|im_start|>"), "301": token("<|im_end|>")}
# Name -> (files, the id of every token that they add or change).
BESIDE = {
    "by id": ({"tokenizer_config.json": {"added_tokens_decoder": IM}},
              {"<|im_start|>": 300, "<|im_end|>": 301}),
    "by id, one is the end": (
        {"tokenizer_config.json": {"added_tokens_decoder": IM, "eos_token": "<|im_end|>"}},
        {"<|im_end|>": 301}),
    "by id, no special ones": (
        {"tokenizer_config.json": {"added_tokens_decoder": {
            "300": token("<think>", special=False), "301": token("tomato", special=False)}}},
        {"<think>": 300, "tomato": 301}),
    "by id, it swallows spaces": (
        {"tokenizer_config.json": {"added_tokens_decoder": {
            "0": token("<|endoftext|>", lstrip=True), "300": token("<mask>", rstrip=True)}}},
        {"<|endoftext|>": 0, "<mask>": 300}),
    "further ones": (
        {"tokenizer_config.json": {"additional_special_tokens": ["<|a|>", "<|b|>"]}},
        {"<|a|>": 300, "<|b|>": 301}),
    "further ones, one by id": (
        {"tokenizer_config.json": {
            "added_tokens_decoder": {"300": token("<|a|>")},
            "additional_special_tokens": ["<|a|>", "<|b|>"]}},
        {"<|a|>": 300, "<|b|>": 301}),
    "by name": (
        {"tokenizer_config.json": {"pad_token": "[PAD]", "bos_token": "<s>"}},
        {"<s>": 300, "[PAD]": 301}),
    "by name, as objects": (
        {"tokenizer_config.json": {"pad_token": {"__type": "AddedToken", **token("[PAD]")}}},
        {"[PAD]": 300}),
    "a name of the model's own": (
        {"tokenizer_config.json": {"extra_special_tokens": {"image_token": "<image>"}}},
        {"<image>": 300}),
    "an ordinary piece": ({"tokenizer_config.json": {"eos_token": "to"}}, {"to": None}),
    "the older files": (
        {"added_tokens.json": {"<x>": 300, "<|im_end|>": 301},
         "special_tokens_map.json": {"eos_token": "<|im_end|>"}},
        {"<x>": 300, "<|im_end|>": 301}),
    "an older file names one that is there": (
        {"added_tokens.json": {"<|endoftext|>": 0, "<x>": 300}}, {"<|endoftext|>": 0, "<x>": 300}),
    "the map, as objects": (
        {"special_tokens_map.json": {"pad_token": {
            "content": "[PAD]", "lstrip": False, "normalized": False, "rstrip": False,
            "single_word": False}}},
        {"[PAD]": 300}),
    "all ids make the older files nothing": (
        {"tokenizer_config.json": {"added_tokens_decoder": {"300": token("<|a|>")}},
         "added_tokens.json": {"<x>": 300}, "special_tokens_map.json": {"pad_token": "[PAD]"}},
        {"<|a|>": 300}),
}
ONLY_4 = {  # 5 leaves out what the map has more, and 4 wrote these files
    "the map of further ones": (
        {"tokenizer_config.json": {"additional_special_tokens": ["<|a|>"]},
         "special_tokens_map.json": {"additional_special_tokens": ["<|a|>", "<|b|>"]}},
        {"<|a|>": 300, "<|b|>": 301}),
}
ONLY_5 = {
    "a list of extra ones": (
        {"tokenizer_config.json": {"extra_special_tokens": ["<|a|>", "<|b|>"]}},
        {"<|a|>": 300, "<|b|>": 301}),
    "a name of the model's own at the top": (
        {"tokenizer_config.json": {"image_token": "<image>"}}, {"<image>": 300}),
}
