# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Planning and acting in the latent space of a fitted dynamical system."""

from numpyro_svae.control.acting import (
    Agent,
    RandomAgent,
    aggregate,
    run_episode,
    run_episodes,
)
from numpyro_svae.control.bounds import Bounds
from numpyro_svae.control.episodes import Episode, load_episodes, save_episodes
from numpyro_svae.control.feedback import Feedback
from numpyro_svae.control.fitted_problem import FittedProblem
from numpyro_svae.control.latent_agent import LatentAgent, Policy
from numpyro_svae.control.lqr import Regulator, solve_lqr
from numpyro_svae.control.planners import Plan, plan_by_gradient, plan_by_sampling
from numpyro_svae.control.problem import (
    ControlProblem,
    PiecewiseProblem,
    Problem,
    QuadraticCost,
)
from numpyro_svae.control.receding import RecedingHorizon
from numpyro_svae.control.tracker import Tracker

__all__ = [
    "Agent",
    "Bounds",
    "ControlProblem",
    "Episode",
    "Feedback",
    "FittedProblem",
    "LatentAgent",
    "PiecewiseProblem",
    "Plan",
    "Policy",
    "Problem",
    "QuadraticCost",
    "RandomAgent",
    "RecedingHorizon",
    "Regulator",
    "Tracker",
    "aggregate",
    "load_episodes",
    "plan_by_gradient",
    "plan_by_sampling",
    "run_episode",
    "run_episodes",
    "save_episodes",
    "solve_lqr",
]
