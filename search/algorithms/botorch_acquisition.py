"""BoTorch's Monte-Carlo hypervolume improvement (qLogEHVI, qLogNEHVI) over our Gaussian processes; optional.

Daulton et al. 2020 (arXiv:2006.05078), 2021 (arXiv:2105.08195); logarithms of Ament et al. 2023 (arXiv:2310.20708).
The processes keep our hyper-parameters: BoTorch gets the same kernel, noise and points. BoTorch maximises, so that
all values are negated, the reference point too, which every point must then be above.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from search.algorithms.gaussian_process import GaussianProcess
from search.pareto import Floats

if TYPE_CHECKING:
    import torch
    from botorch.acquisition import AcquisitionFunction
    from botorch.models import ModelListGP
    from botorch.sampling import MCSampler

_ROWS = 128  # candidates scored together


def log_ehvi_by_sampling(
    processes: Sequence[GaussianProcess], X: Floats, *, front: Floats, reference: Floats, n_samples: int, seed: int
) -> Floats:
    """Return qLogEHVI (n,) of candidates one by one, up to the same constant for all.

    Args:
        processes: one an objective, minimised.
        X: features of candidates, (n, d).
        front: values (k, m) to improve on.
        reference: the reference point (m,).
        n_samples: Sobol samples.
        seed: of them.
    """
    from botorch.acquisition.multi_objective.logei import qLogExpectedHypervolumeImprovement
    from botorch.utils.multi_objective.box_decompositions import FastNondominatedPartitioning

    corner = _negated(processes, reference[None])[0]
    boxes: Any = FastNondominatedPartitioning(ref_point=corner, Y=_negated(processes, front))
    acquisition = qLogExpectedHypervolumeImprovement(
        model=_model(processes),
        ref_point=corner,
        partitioning=boxes,
        sampler=_sampler(n_samples, seed),
    )
    return _scores(acquisition, X)


def log_nehvi_by_sampling(
    processes: Sequence[GaussianProcess], X: Floats, *, baseline: Floats, reference: Floats, n_samples: int, seed: int
) -> Floats:
    """Return qLogNEHVI (n,): as qLogEHVI, the front being that of samples of the functions at `baseline` (k, d)."""
    import torch
    from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement

    acquisition = qLogNoisyExpectedHypervolumeImprovement(
        model=_model(processes),
        ref_point=_negated(processes, reference[None])[0],
        X_baseline=torch.from_numpy(baseline),
        sampler=_sampler(n_samples, seed),
        prune_baseline=False,  # its samples come from torch's global generator, and take most of the time
    )
    return _scores(acquisition, X)


def require_botorch() -> None:
    """Raise ImportError unless BoTorch is installed."""
    try:
        import botorch  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "EHVI by sampling, and with noise=True, is BoTorch's, which is not installed: pip install botorch. "
            "acquisition='exact' without noise needs no BoTorch"
        ) from error


def _model(processes: Sequence[GaussianProcess]) -> ModelListGP:
    import torch
    from botorch.models import ModelListGP, SingleTaskGP
    from botorch.settings import validate_input_scaling
    from gpytorch.kernels import MaternKernel, ScaleKernel
    from gpytorch.means import ZeroMean

    models = []
    for process in processes:
        X, y = torch.from_numpy(process.X), torch.from_numpy(-process.standardised(process.y))[:, None]
        *lengths, signal, noise = np.exp(process.hyperparameters).tolist()
        kernel = ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=X.shape[1]))
        with validate_input_scaling(False):
            model = SingleTaskGP(
                X, y, torch.full_like(y, noise), covar_module=kernel, mean_module=ZeroMean(), outcome_transform=None
            )
        kernel.base_kernel.lengthscale = torch.tensor(lengths, dtype=X.dtype)
        kernel.outputscale = torch.tensor(signal, dtype=X.dtype)
        models.append(model.eval())
    return ModelListGP(*models)


def _negated(processes: Sequence[GaussianProcess], values: Floats) -> torch.Tensor:
    """Return values (n, m) as BoTorch's models have them."""
    import torch

    columns = [-process.standardised(column) for process, column in zip(processes, values.T, strict=True)]
    return torch.from_numpy(np.column_stack(columns))


def _sampler(n_samples: int, seed: int) -> MCSampler:
    import torch
    from botorch.sampling import SobolQMCNormalSampler

    return SobolQMCNormalSampler(sample_shape=torch.Size([n_samples]), seed=seed)


def _scores(acquisition: AcquisitionFunction, X: Floats) -> Floats:
    import torch

    with torch.no_grad():
        parts = [acquisition(part[:, None, :]) for part in torch.from_numpy(X).split(_ROWS)]
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float64)
