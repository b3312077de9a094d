# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Planning in the latent space of a fitted linear dynamical system."""

from numpyro_svae.control.lqr import Regulator, solve_lqr
from numpyro_svae.control.planners import Plan, plan_by_gradient, plan_by_sampling
from numpyro_svae.control.problem import ControlProblem, QuadraticCost

__all__ = [
    "ControlProblem",
    "Plan",
    "QuadraticCost",
    "Regulator",
    "plan_by_gradient",
    "plan_by_sampling",
    "solve_lqr",
]
