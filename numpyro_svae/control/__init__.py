# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Planning and acting in the latent space of a fitted dynamical system."""

from numpyro_svae.control.episodes import Agent, Episode, aggregate, run_episode
from numpyro_svae.control.fitted_problem import FittedProblem
from numpyro_svae.control.lqr import Regulator, solve_lqr
from numpyro_svae.control.planners import Plan, plan_by_gradient, plan_by_sampling
from numpyro_svae.control.problem import (
    ControlProblem,
    PiecewiseProblem,
    Problem,
    QuadraticCost,
)
from numpyro_svae.control.receding import RecedingHorizon

__all__ = [
    "Agent",
    "ControlProblem",
    "Episode",
    "FittedProblem",
    "PiecewiseProblem",
    "Plan",
    "Problem",
    "QuadraticCost",
    "RecedingHorizon",
    "Regulator",
    "aggregate",
    "plan_by_gradient",
    "plan_by_sampling",
    "run_episode",
    "solve_lqr",
]
