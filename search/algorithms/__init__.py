"""Search algorithms, one a file, each with ask and tell."""

from search.algorithms.nsga2 import NSGA2
from search.algorithms.optimizer import BaseOptimizer, Optimizer, OptimizerFactory
from search.algorithms.random_search import RandomSearch

__all__ = ["NSGA2", "BaseOptimizer", "Optimizer", "OptimizerFactory", "RandomSearch"]
