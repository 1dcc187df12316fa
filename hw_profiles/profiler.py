"""Measure many architectures on one device and append each to a table as soon as it is done. No torch.

All timing happens in one child process with a fixed number of threads (hw_profiles.worker), on dense litgpt models,
in turn with a reference network that stays loaded, in a random order given by a seed. An architecture's rows are one
part of the table, so a kill at any moment loses at most the architecture being measured, and running the same call
again measures what is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from tqdm import tqdm

from hw_profiles.child import Child, ChildDiedError, ChildError, child_environment
from hw_profiles.counters import check_measurable
from hw_profiles.device import Device, Workload, current_device
from hw_profiles.exact import exact_value
from hw_profiles.messages import RANDOM_WEIGHTS, Samples, WorkerSetup
from hw_profiles.table import ANY_DEVICE, METRICS, Measurement, MeasurementTable
from supernet.architecture import Architecture
from supernet.artifacts import versions
from supernet.huge_pages import in_use
from supernet.litgpt_config import ModelConfig, model_config


@dataclass(frozen=True)
class Failure:
    """An architecture that could not be measured, and why."""

    architecture: str
    reason: str


@dataclass(frozen=True)
class ProfileResult:
    """What a call of `profile` did.

    Attributes:
        table: where the rows are.
        device: what was measured on.
        n_measured: architectures measured now.
        n_present: architectures that the table held already.
        failures: architectures that could not be measured.
        seconds: duration.
    """

    table: MeasurementTable
    device: Device
    n_measured: int
    n_present: int
    failures: tuple[Failure, ...]
    seconds: float

    def __str__(self) -> str:
        present = f", {self.n_present} were there already" if self.n_present else ""
        failed = f", {len(self.failures)} FAILED" if self.failures else ""
        return (
            f"{self.n_measured} architectures measured on {self.device.name} in {self.seconds:.0f} s{present}{failed}: "
            f"{self.table.path}"
        )


@dataclass(frozen=True)
class _Job:
    """An architecture, its place in the order, and the metrics that the table lacks."""

    order: int
    arch: Architecture
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class _Run:
    """What is common to all rows of a call."""

    space_name: str
    model: ModelConfig
    device: Device
    setup: WorkerSetup
    table: MeasurementTable
    extra: Mapping[str, Any]


def profile(
    archs: Iterable[Architecture],
    *,
    config: Mapping[str, Any],
    space_name: str,
    workload: Workload,
    table: MeasurementTable | str | Path,
    metrics: Sequence[str] = ("latency_ms",),
    repeats: int = 10,
    warmup: int = 3,
    threads: int | None = None,
    device: str = "cpu",
    reference: Architecture | None = None,
    seed: int = 0,
    weights: str | Path = RANDOM_WEIGHTS,
    tie_embeddings: bool = False,
    shard: tuple[int, int] = (0, 1),
    progress: bool = True,
) -> ProfileResult:
    """Measure architectures and append the rows to a table; what the table already holds is not measured again.

    Args:
        archs: sub-networks; repeated ones count once.
        config: keyword arguments of litgpt.Config of the supernet (`SearchSpace.config`).
        space_name: goes into the rows.
        workload: the input.
        table: where rows are appended.
        metrics: names in METRICS: latency_ms, tokens_per_s, memory_mib, energy_mj, and the exact ones.
        repeats: samples of each measured metric (of memory_mib at most 3); all are kept.
        warmup: untimed calls before them.
        threads: CPU threads of the measuring process; None for the physical cores.
        device: "cpu", "cuda", "cuda:1".
        reference: network measured in turn with each; None for the supernet's first half of the blocks at full width.
        seed: of the order, the weights and the tokens.
        weights: "random", or the folder of a supernet whose weights are used.
        tie_embeddings: whether embedding and head share one matrix.
        shard: (i, n) measures every n-th architecture from the i-th on; n processes share the work.
        progress: show a progress bar.

    Returns:
        What was done; architectures whose measurement failed are in `failures`, the others are in the table.

    Raises:
        ValueError: a setting that is not possible.
        MeterUnavailable: a metric that this machine cannot measure (named).
        RuntimeError: the measuring process cannot be set up, or not one architecture could be measured.
        KeyboardInterrupt: Ctrl-C; the table holds all architectures that were finished.
    """
    start = monotonic()
    table = table if isinstance(table, MeasurementTable) else MeasurementTable(table)
    if table.path.is_file():
        raise ValueError(f"table = {table.path} is a single file, which is only read; give a folder")
    model = model_config(config)
    workload.check_fits(model.block_size)
    place = current_device(device, threads=threads)
    check_measurable(metrics, place)
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats = {repeats}, warmup = {warmup}: give repeats >= 1 and warmup >= 0")
    setup = WorkerSetup(
        config=dict(config), workload=workload, metrics=tuple(dict.fromkeys(metrics)), device=place.torch_name,
        threads=place.threads, repeats=repeats, warmup=warmup, seed=seed, weights=str(weights),
        reference=(reference or default_reference(model)).id, tie_embeddings=tie_embeddings,
    )  # fmt: skip
    run = _Run(space_name, model, place, setup, table, _extra(setup, place))
    ordered = shuffled(archs, seed=seed, shard=shard)
    jobs = _missing(run, ordered)
    failures = _measure_all(run, jobs, progress=progress)
    if jobs and len(failures) == len(jobs):
        raise RuntimeError(f"not one of {len(jobs)} architectures could be measured; the first: {failures[0].reason}")
    table.compact()
    return ProfileResult(
        table, place, len(jobs) - len(failures), len(ordered) - len(jobs), tuple(failures), monotonic() - start
    )


def default_reference(config: ModelConfig) -> Architecture:
    """Return the first half of the supernet's blocks at full width."""
    return Architecture.uniform(
        n_embd=config.n_embd,
        n_layer=(config.n_layer + 1) // 2,
        n_head=config.n_head,
        n_query_groups=config.n_query_groups,
        intermediate_size=config.intermediate_size,
        bias=config.bias,
    )


def shuffled(
    archs: Iterable[Architecture], *, seed: int, shard: tuple[int, int] = (0, 1)
) -> list[tuple[int, Architecture]]:
    """Return a shard's distinct architectures in the order of measuring, with their positions in the whole order.

    Raises:
        ValueError: not 0 <= i < n for shard (i, n).
    """
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard = {index}/{count}: give i/n with 0 <= i < n, for example 0/4, 1/4, 2/4 and 3/4")
    distinct = list(dict.fromkeys(archs))
    order = np.random.default_rng(seed).permutation(len(distinct))
    return [(position, distinct[i]) for position, i in enumerate(order)][index::count]


def _missing(run: _Run, ordered: Sequence[tuple[int, Architecture]]) -> list[_Job]:
    """Return a job for each architecture of which the table lacks a metric."""
    done = run.table.keys(space=run.space_name)
    jobs = []
    for order, arch in ordered:
        keys = {name: (arch.id, name, _device_name(run, name), run.setup.workload.id) for name in run.setup.metrics}
        lacking = tuple(name for name, key in keys.items() if key not in done)
        if lacking:
            jobs.append(_Job(order, arch, lacking))
    return jobs


def _measure_all(run: _Run, jobs: Sequence[_Job], *, progress: bool) -> list[Failure]:
    failures: list[Failure] = []
    slow_output = not sys.stderr.isatty()
    bar = tqdm(jobs, desc=f"profile {run.device.name}", unit="arch", disable=not progress, mininterval=0.2,
               miniters=1 if not slow_output else max(1, len(jobs) // 10))  # fmt: skip
    with bar, _Children(run.setup, jobs) as children:
        for job in bar:
            try:
                samples = children.measure(job)
            except ChildError as error:
                failures.append(Failure(job.arch.id, str(error)))
                bar.write(f"{job.arch.id} could not be measured: {error}", file=sys.stderr)
                continue
            run.table.append(_rows(run, job, samples))
    return failures


class _Children:
    """The measuring processes of a run: one for timing, one for memory; they load together and measure in turn."""

    def __init__(self, setup: WorkerSetup, jobs: Sequence[_Job]) -> None:
        lacking = {name for job in jobs for name in job.metrics}
        self._setup = setup
        self._groups = [group for group in _groups(setup.metrics) if lacking & set(group)]
        self._running: dict[tuple[str, ...], Child] = {}

    def __enter__(self) -> _Children:
        try:
            self._start(self._groups)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def measure(self, job: _Job) -> dict[str, Samples]:
        """Return samples of the job's measured metrics; raises ChildError when one of them fails."""
        samples: dict[str, Samples] = {}
        for group in self._groups:
            wanted = [name for name in group if name in job.metrics]
            if wanted:
                found = self._ask(group, job.arch)
                samples |= {name: found[name] for name in wanted}
        return samples

    def _ask(self, group: tuple[str, ...], arch: Architecture) -> dict[str, Samples]:
        if group not in self._running:
            self._start([group])
        try:
            return self._running[group].measure(arch.id)
        except ChildDiedError:
            self._running.pop(group).close()
            raise

    def _start(self, groups: Sequence[tuple[str, ...]]) -> None:
        for group in groups:
            self._running[group] = Child(replace(self._setup, metrics=group))
        for group in groups:
            try:
                self._running[group].wait_until_ready()
            except ChildError as error:
                message = f"the measuring process for {', '.join(group)} cannot be set up: {error}"
                raise _cause(error)(message) from error

    def _close(self) -> None:
        for child in self._running.values():
            child.close()


def _cause(error: ChildError) -> type[Exception]:
    """Return ValueError for the caller's mistakes (the child's message starts with the error's name)."""
    return ValueError if str(error).startswith(("ValueError", "KeyError", "FileNotFoundError")) else RuntimeError


def _groups(metrics: Sequence[str]) -> list[tuple[str, ...]]:
    """Split measured metrics into those that one process can sample: timed ones, and memory."""
    measured = [name for name in metrics if not METRICS[name].exact]
    timed = tuple(name for name in measured if name != "memory_mib")
    return [group for group in (timed, ("memory_mib",) if "memory_mib" in measured else ()) if group]


def _rows(run: _Run, job: _Job, samples: Mapping[str, Samples]) -> list[Measurement]:
    return [_row(run, job, name, samples.get(name) or _exact(run, job, name)) for name in job.metrics]


def _row(run: _Run, job: _Job, metric: str, samples: Samples) -> Measurement:
    exact = METRICS[metric].exact
    return Measurement(
        space=run.space_name,
        architecture=job.arch.id,
        metric=metric,
        unit=METRICS[metric].unit,
        device=_device_name(run, metric),
        workload=run.setup.workload,
        repeats=samples.repeats,
        reference_repeats=samples.reference_repeats,
        threads=run.device.threads,
        order=job.order,
        extra={"exact": True, "tie_embeddings": run.setup.tie_embeddings} if exact else run.extra,
        reference=(run.setup.reference or "") if samples.reference_repeats else "",
    )


def _exact(run: _Run, job: _Job, metric: str) -> Samples:
    setup = run.setup
    value = exact_value(metric, run.model, job.arch, workload=setup.workload, tie_embeddings=setup.tie_embeddings)
    return Samples.of([value])


def _device_name(run: _Run, metric: str) -> str:
    return run.device.name if METRICS[metric].per_device else ANY_DEVICE


def _extra(setup: WorkerSetup, device: Device) -> dict[str, Any]:
    """Return the facts that go into every measured row."""
    return {
        "device": dict(device.card),
        "huge_pages": in_use(child_environment(setup.threads)),
        "versions": versions(),
        "warmup": setup.warmup,
        "seed": setup.seed,
        "weights": setup.weights,
        "tie_embeddings": setup.tie_embeddings,
    }
