"""The table of torch's orders: needs torch, and says so where there is none."""

import json
import sys

import pytest

from benchmarks import torch_plans


def test_without_torch_the_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.distributed.pipelining", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert torch_plans.main(["--execute", "none"]) == 2
    assert "pip install -e '.[torch]'" in capsys.readouterr().err


def test_every_order_is_read_and_replayed(capsys):
    pytest.importorskip("torch", reason="needs the extra torch: pip install -e '.[torch]'")
    assert torch_plans.main(["--execute", "none"]) == 0
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert values["num_read_and_replayed"] == 46 and values["num_refused"] == 2
    assert (values["num_equal_to_ours"], values["num_different_from_ours"]) == (24, 0)


def test_the_orders_to_execute_are_of_every_kind():
    names = {order.name for order in torch_plans.all_orders()}
    assert {order.name for order in torch_plans.EXECUTED} == names
    assert set(torch_plans.EXECUTED) <= {*torch_plans.all_orders()}


def test_the_summary_counts_what_is_off():
    rows = [
        {"read": "yes", "ours": "equal", "executed exactly": "yes", "error": "1e-15"},
        {"read": "yes", "ours": "differs", "executed exactly": "NO", "error": "3e-02"},
        {"read": "refused: placed in a V"},
    ]  # fmt: skip
    values = torch_plans.summary(rows)
    assert (values["num_executed"], values["num_exact"], values["max_error"]) == (2, 1, 0.03)
    assert (values["num_refused"], values["num_different_from_ours"]) == (1, 1)
