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
from numpyro_svae.control.cost import QuadraticCost
from numpyro_svae.control.cost_regression import fit_quadratic_cost
from numpyro_svae.control.episodes import Episode, load_episodes, save_episodes
from numpyro_svae.control.feedback import Feedback
from numpyro_svae.control.fitted_problem import FittedProblem
from numpyro_svae.control.ilqr import plan_by_ilqr
from numpyro_svae.control.improvement import PolicyStep, improve_policy
from numpyro_svae.control.latent_agent import LatentAgent, Policy
from numpyro_svae.control.local_dynamics import fit_local_dynamics, smooth_paths
from numpyro_svae.control.lqr import Regulator, solve_lqr
from numpyro_svae.control.planners import Plan, plan_by_gradient, plan_by_sampling
from numpyro_svae.control.policy import LinearGaussianPolicy
from numpyro_svae.control.problem import ControlProblem, PiecewiseProblem, Problem
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
    "LinearGaussianPolicy",
    "PiecewiseProblem",
    "Plan",
    "Policy",
    "PolicyStep",
    "Problem",
    "QuadraticCost",
    "RandomAgent",
    "RecedingHorizon",
    "Regulator",
    "Tracker",
    "aggregate",
    "fit_local_dynamics",
    "fit_quadratic_cost",
    "improve_policy",
    "load_episodes",
    "plan_by_gradient",
    "plan_by_ilqr",
    "plan_by_sampling",
    "run_episode",
    "run_episodes",
    "save_episodes",
    "smooth_paths",
    "solve_lqr",
]
