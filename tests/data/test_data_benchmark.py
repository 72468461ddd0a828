"""The benchmark of data tells what it promises; how fast is for `python -m benchmarks.data`."""

import json

from benchmarks import data


def test_its_last_line_has_every_figure(monkeypatch, capsys):
    sizes = {"VOCAB_SIZE": 300, "SEQ_LEN": 16, "SEQUENCES": 2, "STEP_SECONDS": 0.001}
    for name, value in {**sizes, "PACKED_DOCUMENTS": 1000}.items():
        monkeypatch.setattr(data, name, value)
    data.main(["--megabytes", "0.02", "--rounds", "1"])
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    rates = [name for name in values if name.endswith("_per_second")]
    assert {"prepare_bytes_tokens_per_second", "prepare_bpe_tokens_per_second",
            "loader_windows_tokens_per_second", "loader_packed_tokens_per_second"} < set(rates)
    assert all(values[name] > 0 for name in rates)
    assert values["loader_wait_fraction"] >= 0 and 0.9 < values["fill_rate"] <= 1
