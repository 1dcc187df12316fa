"""The supernet route: fine-tune the importance-ordered network as a supernet, then search its sub-networks.

Each step trains the largest, a smallest and random sub-networks on the same batch, all of them with the frozen dense
network as teacher (sandwich rule and distillation: Yu and Huang, ICCV 2019; on pretrained LLMs: Sukthanker et al.
2024, whittle, arXiv 2410.06479). Then a multi-objective search finds the front of perplexity and predicted latency;
each of its points is extracted without any further training.

A search space cannot leave out a block's attention or its MLP alone, which the one-shot route can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path

import litgpt
import numpy as np
from torch import Tensor

from pruning.pruned import Pruned
from pruning.recovery_data import ValidatedBlocksDataModule, as_blocks, fingerprint
from pruning.recovery_files import weights_fingerprint
from pruning.recovery_settings import RecoverySettings
from pruning.route_sampler import PretrainedSandwich, check_expendable, uniform_networks, with_best_blocks
from pruning.supernet_lora import LoraSupernetModule
from search.algorithms.nsga2 import NSGA2
from search.algorithms.optimizer import OptimizerFactory
from search.live import LivePerplexityObjective, QualityRecord
from search.objectives import FunctionObjective
from search.pareto import Floats
from search.result import SearchResult, spread
from search.run import run_search
from supernet.architecture import Architecture
from supernet.cost import parameter_count
from supernet.evaluate import evaluate
from supernet.extract import extract
from supernet.fit import TrainerSettings, TrainResult, train, wandb_logger
from supernet.model import Supernet
from supernet.space import SearchSpace
from supernet.spaces import space_from_litgpt
from supernet.text import Tokenizer
from supernet.tokens import TokenBlocks
from supernet.training import SupernetModule

Text = TokenBlocks | Tensor | np.ndarray
_POPULATION = 20
_CPU_CHUNK = 32  # tokens of a loss at once: fits the caches, in which the loss takes less than half of the time


@dataclass(frozen=True, slots=True)
class RouteSettings:
    """How the supernet is trained.

    Attributes:
        training: length, learning rate, full or LoRA, distillation, precision. As many steps and tokens as the recovery
            of a one-shot network with the same settings; each token is used by `n_random` + 2 networks. `patience` and
            `train_embeddings` of LoRA have no meaning here: training does not stop early, the last weights are kept.
        n_random: random sub-networks a step, beside the largest and the smallest.
        uniform_share: share of them whose layers have one shape.
        noise: of the choice of blocks, see `PretrainedSandwich`.
    """

    training: RecoverySettings = field(default_factory=RecoverySettings)
    n_random: int = 2
    uniform_share: float = 0.5
    noise: float = 0.1

    def __post_init__(self) -> None:
        if self.training.teacher_top_k is not None:
            raise ValueError("teacher_top_k is not for the supernet route: leave it out")


def space_around(
    supernet: Supernet,
    *,
    neurons: Sequence[int] | None = None,
    attention: Sequence[tuple[int, int]] | None = None,
    n_layer: Sequence[int] | None = None,
    n_embd: Sequence[int] | None = None,
    name: str = "",
) -> SearchSpace:
    """Return a space whose largest network is this one; layers may differ and any blocks may go.

    Args:
        supernet: the pretrained network.
        neurons: MLP widths, the whole one among them; None for a half, three quarters and all.
        attention: pairs of query heads and groups that are wanted; all legal pairs of these numbers are in the space.
        n_layer: numbers of blocks; None for a half, three quarters and all.
        n_embd: residual widths; None leaves the residual stream whole (other widths cost most without much training).
        name: of the space.

    Raises:
        ValueError: choices that are not legal, or that lack the whole network's.
    """
    config = supernet.config
    arguments = {f.name: getattr(config, f.name) for f in fields(config) if f.init}
    pairs = attention and [*attention, (config.n_head, config.n_query_groups)]
    space = space_from_litgpt(
        arguments, name=name or f"{config.name or 'network'}-pruned", n_embd=n_embd or (config.n_embd,),
        n_layer=n_layer, n_head=pairs and sorted({h for h, _ in pairs}),
        n_query_groups=pairs and sorted({g for _, g in pairs}), intermediate_size=neurons, layer_choice="subset",
    )  # fmt: skip
    whole = (config.n_embd, config.n_layer, config.n_head, config.n_query_groups, config.intermediate_size)
    own = space.largest()
    found = (own.n_embd, own.n_layer, own.n_head[0], own.n_query_groups[0], own.intermediate_size[0])
    if found != whole:
        raise ValueError(
            f"the largest network of these choices has (n_embd, n_layer, n_head, n_query_groups, intermediate_size) = "
            f"{found}, the network {whole}: put its own sizes among the choices"
        )
    return space


def train_route(
    supernet: Supernet,
    dense: litgpt.GPT,
    space: SearchSpace,
    train_text: Text,
    held_out: Text,
    *,
    folder: str | Path,
    settings: RouteSettings | None = None,
    expendable: Sequence[int] = (),
    tokenizer: Tokenizer | None = None,
    progress: bool = False,
) -> TrainResult:
    """Fine-tune a pretrained, importance-ordered supernet; the result lies in `folder/supernet`.

    Called again on the same folder with the same untrained supernet it goes on where it was killed.

    Args:
        supernet: trained in place; afterwards it has the trained weights.
        dense: the teacher, with memory of its own: the pretrained network as it was.
        space: around the supernet, see `space_around`.
        train_text: (n, T + 1) blocks to train on.
        held_out: (m, T + 1) blocks to validate on.
        folder: of the run (`supernet.fit.train`).
        settings: None for the defaults.
        expendable: blocks, the least important first.
        tokenizer: kept with the trained supernet.
        progress: show a progress bar.

    Raises:
        ValueError: unusable text, a space of another network, or a folder of another run.
    """
    settings = settings or RouteSettings()
    options = settings.training.resolved()
    data = ValidatedBlocksDataModule(
        as_blocks(train_text, supernet, name="training", least=options.batch_size * options.devices),
        as_blocks(held_out, supernet, name="held-out", least=options.devices),
        batch_size=options.batch_size,
        seed=options.seed,
        tokenizer=tokenizer,
    )
    if any(a is b for a, b in zip(supernet.parameters(), dense.parameters(), strict=False)):
        raise ValueError("the teacher shares its weights with the supernet, which is trained: give a copy of it")
    trainer = TrainerSettings(
        max_steps=options.max_steps, accelerator=options.accelerator, devices=options.devices,
        precision=options.precision, validate_every=options.check_every, checkpoint_every=options.checkpoint_every,
        progress=progress,
    )  # fmt: skip
    project = options.wandb_project
    loggers = [wandb_logger(folder, project=project)] if project else []
    module = route_module(supernet, dense, space, settings, expendable=expendable)
    training = supernet.training
    supernet.train()
    try:
        return train(module, data, run_dir=folder, settings=trainer, loggers=loggers, command="pruning.supernet_route")
    finally:
        supernet.requires_grad_(True).train(training)


def route_module(
    supernet: Supernet,
    dense: litgpt.GPT,
    space: SearchSpace,
    settings: RouteSettings,
    *,
    expendable: Sequence[int] = (),
) -> SupernetModule:
    """Return the training of a pretrained supernet; what is not to be trained is frozen."""
    options = settings.training
    sampler = PretrainedSandwich(
        space, n_random=settings.n_random, uniform_share=settings.uniform_share, expendable=expendable,
        noise=settings.noise,
    )  # fmt: skip
    distillation = options.distillation
    if distillation is not None and not distillation.chunk_tokens and options.resolved().accelerator == "cpu":
        distillation = replace(distillation, chunk_tokens=_CPU_CHUNK)
    given = {
        "sampler": sampler, "recipe": replace(options.recipe, n_validation_random=0), "distillation": distillation,
        "teacher": dense if distillation is not None else None,
    }  # fmt: skip
    module: SupernetModule
    if options.method == "lora":
        module = LoraSupernetModule(supernet, space, lora=options.lora, **given)
    else:
        supernet.requires_grad_(True)
        if not options.train_embeddings:
            supernet.transformer.wte.requires_grad_(False)
            supernet.lm_head.requires_grad_(False)
        module = SupernetModule(supernet, space, **given)
    module.validation_nets = _validated(space, expendable)
    return module


def _validated(space: SearchSpace, expendable: Sequence[int]) -> dict[str, Architecture | None]:
    """Return the largest network, the smallest that is trained, and one of a middle size whose layers are alike."""
    archs = sorted(
        uniform_networks(space, expendable), key=lambda arch: parameter_count(space.model_config, arch).total
    )
    smallest = with_best_blocks(space.smallest(), space, expendable)
    return {"largest": None, "smallest": smallest, "middle": archs[len(archs) // 2]}


def search_route(
    supernet: Supernet,
    space: SearchSpace,
    held_out: Text,
    latency: Callable[[Sequence[Architecture]], Floats],
    *,
    run_dir: str | Path | None = None,
    n_evaluations: int = 200,
    algorithm: OptimizerFactory | None = None,
    expendable: Sequence[int] = (),
    batch: int = _POPULATION,
    batch_size: int = 8,
    precision: str = "32",
    seed: int = 0,
    progress: bool = False,
) -> SearchResult:
    """Search the front of perplexity on held-out text and predicted latency among a supernet's sub-networks.

    Args:
        supernet: trained (`train_route`), or as it was pretrained.
        space: where to search.
        held_out: (m, T + 1) blocks; not the text that is reported.
        latency: predicted latency of architectures, (n,), e.g. `LatencyModel.predict`: the ratio to the dense network.
        run_dir: where evaluations and front are saved; a killed search goes on there.
        n_evaluations: sub-networks whose perplexity is measured.
        algorithm: None for NSGA-II whose first generation is of one shape in all layers, over the range of latency.
        expendable: blocks, the least important first.
        batch: sub-networks evaluated together.
        batch_size: blocks of one forward.
        precision: "32" or "bf16".
        seed: of the search.
        progress: show a progress bar.

    Returns:
        The result; `front` and `front_architectures` are sorted by latency.

    Raises:
        ValueError: unusable text, or a run_dir of another search.
    """
    check_expendable(space, expendable)
    blocks = as_blocks(held_out, supernet, name="held-out")
    rows = blocks.rows(np.arange(len(blocks)))

    def score(archs: Sequence[Architecture]) -> list[QualityRecord]:
        found = evaluate(supernet, list(archs), rows, batch_size=batch_size, precision=precision)
        return [QualityRecord.of(evaluation) for evaluation in found]

    source = f"supernet {weights_fingerprint(supernet)}, blocks {fingerprint(blocks)}, precision {precision}"
    objectives = (
        LivePerplexityObjective(score, source=source, cache_dir=run_dir),
        FunctionObjective("latency_ratio", latency),
    )
    if algorithm is None:
        first = first_generation(space, latency, expendable=expendable)
        algorithm = partial(NSGA2, population=_POPULATION, initial=first)
    return run_search(
        space, objectives, algorithm=algorithm, n_evaluations=n_evaluations, batch=batch, seed=seed, run_dir=run_dir,
        progress=progress,
    )  # fmt: skip


def first_generation(
    space: SearchSpace, latency: Callable[[Sequence[Architecture]], Floats], *, expendable: Sequence[int] = ()
) -> list[Architecture]:
    """Return networks of one shape in all layers, spread evenly over their range of latency, the largest among them."""
    archs = uniform_networks(space, expendable)
    return [archs[i] for i in spread(np.asarray(latency(archs), dtype=np.float64), _POPULATION)]


def take(supernet: Supernet, arch: Architecture) -> Pruned:
    """Return a point of the front as a network of its own."""
    return Pruned(extract(supernet, arch), arch)
