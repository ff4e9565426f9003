from __future__ import annotations

import torch

from speaker_verification.models.speaker_networks import AttentiveStatisticsPooling


def test_astp_follows_its_formulas() -> None:
    torch.manual_seed(1)
    module = AttentiveStatisticsPooling(width=6, embedding_size=4, dropout=0.3).double().eval()
    for norm in (module.attention[2], module.pooled_norm, module.embedding_norm):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.running_mean)
    x = torch.randn(2, 6, 11, dtype=torch.float64)
    with torch.no_grad():
        rows = []
        for frames in x:  # (C, T)
            mean = frames.mean(dim=1, keepdim=True)
            std = ((frames - mean).square().sum(dim=1, keepdim=True) / (11 - 1)).sqrt()
            context = torch.cat([frames, mean.repeat(1, 11), std.repeat(1, 11)])[None]
            weights = torch.softmax(module.attention(context)[0], dim=1)
            centre = (weights * frames).sum(1)
            spread = ((weights * frames**2).sum(1) - centre**2).clamp(min=1e-4).sqrt()
            rows.append(torch.cat([centre, spread]))
        expected = module.embedding_norm(module.projection(module.pooled_norm(torch.stack(rows))))
        torch.testing.assert_close(module(x), expected, rtol=1e-10, atol=1e-10)


def test_constant_frames_keep_a_finite_gradient() -> None:
    torch.manual_seed(0)
    module = AttentiveStatisticsPooling(width=4, embedding_size=3, dropout=0.0)
    x = torch.randn(3, 4, 1).expand(3, 4, 5).clone().requires_grad_()
    module(x).square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_frames_are_left_out_in_training_only() -> None:
    torch.manual_seed(0)
    module = AttentiveStatisticsPooling(width=4, embedding_size=3, dropout=0.9)
    x = torch.randn(6, 4, 7)
    module.eval()
    assert torch.equal(module(x), module(x))
    module.train()
    assert not torch.equal(module(x), module(x))
