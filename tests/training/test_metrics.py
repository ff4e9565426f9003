from __future__ import annotations

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from speaker_verification.training.metrics import EpochMetrics
from tests.support.training import DeviceReads

CPU = torch.device("cpu")


def test_metrics_are_those_of_all_examples_whatever_the_batches() -> None:
    """Classes 4 and 5 of six neither occur nor are predicted, class 3 is predicted only."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (23,), generator=generator)
    predictions = torch.where(torch.rand(23, generator=generator) < 0.5, labels, 3)
    metrics = EpochMetrics(6, CPU)
    for start, end, loss in ((0, 10, 2.0), (10, 20, 1.0), (20, 23, 4.0)):
        metrics.add(torch.tensor(loss), predictions[start:end], labels[start:end])
    computed = metrics.compute()
    assert computed["loss"] == pytest.approx((10 * 2 + 10 * 1 + 3 * 4) / 23)
    assert computed["accuracy"] == pytest.approx(100 * accuracy_score(labels, predictions))
    assert computed["macro_f1"] == pytest.approx(100 * f1_score(labels, predictions, average="macro"))


def test_a_loss_that_predicts_no_classes_has_a_mean_alone() -> None:
    metrics = EpochMetrics(3, CPU)
    metrics.add(torch.tensor(2.0), None, torch.tensor([0, 2, 1]))
    metrics.add(torch.tensor(6.0), None, torch.tensor([1]))
    assert metrics.compute() == {"loss": 3.0}


def test_an_epoch_begins_anew_after_it_is_cleared() -> None:
    metrics = EpochMetrics(2, CPU)
    metrics.add(torch.tensor(9.0), torch.tensor([1, 1]), torch.tensor([0, 0]))
    metrics.clear()
    metrics.add(torch.tensor(1.0), torch.tensor([0]), torch.tensor([0]))
    assert metrics.compute() == {"loss": 1.0, "accuracy": 100.0, "macro_f1": 100.0}


def test_a_restored_epoch_continues_to_the_same_digits() -> None:
    whole, first, second = (EpochMetrics(2, CPU) for _ in range(3))
    batches = [
        (torch.tensor(0.1 * number + 0.7), torch.tensor([0, 1, number % 2]), torch.tensor([0, 1, 1]))
        for number in range(5)
    ]
    for batch in batches:
        whole.add(*batch)
    for batch in batches[:2]:
        first.add(*batch)
    second.load_state_dict(first.state_dict())
    for batch in batches[2:]:
        second.add(*batch)
    assert second.compute() == whole.compute()


def test_metrics_stay_on_the_device_until_they_are_read_at_once() -> None:
    metrics = EpochMetrics(3, CPU)
    with DeviceReads() as reads:
        metrics.add(torch.tensor(1.0), torch.tensor([0, 2]), torch.tensor([0, 1]))
        assert reads.count == 0
        metrics.compute()
    assert reads.count == 1
