"""Added devices as a benchmark takes them: targets that answer from genes, and what is known about them. No torch."""

from __future__ import annotations

from pathlib import Path

from surrogates.adapted import AdaptedDevice, AdaptedMetric, BoundTarget, SourceModel
from surrogates.benchmark_card import TargetCard, flat_scores
from surrogates.device_store import load_device


def added_targets(
    device: AdaptedDevice | str | Path, model: SourceModel
) -> list[tuple[BoundTarget, TargetCard]]:  # fmt: skip
    """Return each metric of a device as a target of a benchmark, with its card.

    Args:
        device: what `surrogates.adapt.adapt_device` gave, or its folder.
        model: the surrogate that it was adapted from.

    Raises:
        FileNotFoundError: there is no device in the folder.
        ValueError: a damaged file (named), or a device of another space or another version of the surrogates.
    """
    loaded = device if isinstance(device, AdaptedDevice) else load_device(device)
    return [(target, target_card(target.metric, loaded)) for target in loaded.bind(model)]


def target_card(metric: AdaptedMetric, device: AdaptedDevice) -> TargetCard:
    """Return what is known about one metric of an added device; its scores are of leave-one-out predictions."""
    report = metric.report
    shares = ", ".join(f"{name} {share:.2f}" for name, share in report.shares.items() if share >= 0.005)
    return TargetCard(
        metric.target,
        workload=metric.workload,
        protocol=(
            f"adapted from {len(metric.sources)} shipped targets to {metric.n} measured architectures "
            f"(`paretolm adapt`); scores are leave-one-out"
        ),
        n_train=metric.n,
        scores=flat_scores(report.scores["blend"]),
        winner=f"blend of {shares}",
        noise=metric.noise == metric.noise,
        hardware=device.hardware,
    )
