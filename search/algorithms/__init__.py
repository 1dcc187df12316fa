"""Search algorithms, one a file, each with ask and tell."""

from search.algorithms.ehvi import EHVI
from search.algorithms.free_problem import FreeProblem, free_problem, with_free_problem
from search.algorithms.local_search import LocalSearch
from search.algorithms.lsbo import LSBO
from search.algorithms.lts import LTS, LTSWarmStart, training_free_front
from search.algorithms.mo_rea import MOREA
from search.algorithms.moasha import MOASHA
from search.algorithms.model_guided import ModelGuided
from search.algorithms.nsga2 import NSGA2
from search.algorithms.optimizer import BaseOptimizer, Optimizer, OptimizerFactory
from search.algorithms.pymoo_adaptor import NSGA3, SMSEMOA
from search.algorithms.random_search import RandomSearch
from search.algorithms.rsbo import RSBO
from search.algorithms.tpe import TPE

__all__ = [
    "EHVI", "LSBO", "LTS", "MOASHA", "MOREA", "NSGA2", "NSGA3", "RSBO", "SMSEMOA", "TPE", "BaseOptimizer",
    "FreeProblem", "LTSWarmStart", "LocalSearch", "ModelGuided", "Optimizer", "OptimizerFactory", "RandomSearch",
    "free_problem", "training_free_front", "with_free_problem",
]  # fmt: skip
