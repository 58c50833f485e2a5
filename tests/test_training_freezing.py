"""Frozen means still: no gradient, eval mode, statistics fixed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hfadapt.training.freezing import only


def network() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    return nn.ModuleDict({"body": body, "drop": nn.Dropout(0.5), "head": nn.Linear(4, 2)})


def forward(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return net["head"](net["drop"](net["body"](x)))


HEAD = ("head.weight", "head.bias")


def test_only_the_named_parameters_move():
    net, x = network(), torch.randn(16, 4)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with only(net, HEAD):
        optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1.0)
        for _ in range(3):
            net.train()
            forward(net, x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == set(HEAD), "buffers of the frozen batch norm are among those that stayed"


def test_a_frozen_module_is_in_eval_mode_and_a_free_dropout_is_not():
    net = network()
    with only(net, HEAD):
        net.train()
        assert not net["body"].training and not net["body"][1].training and not net["body"][2].training
        assert net["drop"].training and net["head"].training
        x = torch.randn(8, 4)
        assert torch.equal(net["body"](x), net["body"](x))
    net.train()
    assert net["body"][2].training and all(p.requires_grad for p in net.parameters())


def test_a_dropout_between_frozen_modules_is_still_and_one_before_a_moving_one_is_not():
    """As in GPT-2, between its embeddings and its blocks."""
    layers = {"early": nn.Linear(4, 4), "between": nn.Dropout(0.5), "late": nn.Linear(4, 4), "last": nn.Dropout(0.5)}
    net = nn.ModuleDict({**layers, "head": nn.Linear(4, 2)})
    with only(net, HEAD):
        net.train()
        assert not net["between"].training
        assert net["last"].training
    with only(net, ("late.weight", *HEAD)):
        net.train()
        assert net["between"].training
    net.train()
    assert net["between"].training


def test_what_was_frozen_before_is_frozen_after():
    net = network()
    net["head"].bias.requires_grad_(False)
    with only(net, ("head.weight", "head.bias")):
        assert net["head"].bias.requires_grad
    assert not net["head"].bias.requires_grad


def test_an_unknown_name():
    with pytest.raises(KeyError, match=r"heads\.weight"), only(network(), ("heads.weight",)):
        pass
