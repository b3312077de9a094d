# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Gaussian chains that rounding hurts, and their moments in a given precision."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_svae.blocks import gaussian_chain
from numpyro_svae.blocks.gaussian_chain import Dynamics, Gaussian
from numpyro_svae.blocks.loops import flip_steps


def hard_case(steps, noise, precision, seed=0, size=8):
    """Nearly orthogonal dynamics; arguments of :func:`smoothed` as numpy arrays."""
    rng = np.random.default_rng(seed)
    matrix = 0.999 * np.linalg.qr(rng.normal(size=(size, size)))[0]
    states = [rng.normal(size=size)]
    for _ in range(steps - 1):
        states.append(matrix @ states[-1] + np.sqrt(noise) * rng.normal(size=size))
    x = np.stack(states, -1)[..., None]
    J = precision(rng, (size, steps, 1))
    error = rng.normal(size=x.shape) / np.sqrt(np.maximum(J, 1e-2))
    if J.ndim == 4:
        return matrix, noise, np.einsum("ijtn,jtn->itn", J, x), J
    return matrix, noise, J * (x + error), J


def spectrum(low, high):
    return lambda rng, shape: 10.0 ** rng.uniform(low, high, size=shape)


def rotated(rng, shape):
    """Full precisions with eigenvalues from 1e-6 to 1e6."""
    size, steps, _ = shape
    axes = np.linalg.qr(rng.normal(size=(steps, size, size)))[0]
    values = spectrum(-6, 6)(rng, (steps, size))
    return np.einsum("tik,tk,tjk->ijt", axes, values, axes)[..., None]


PRECISIONS = {
    "small": spectrum(-6, -6),
    "large": spectrum(6, 6),
    "mixed": spectrum(-6, 6),
    "zero": lambda rng, shape: np.zeros(shape),
    "full": rotated,
}


# Without optimisation products are rounded before they are added, as nowhere else.
@partial(jax.jit, compiler_options={"xla_backend_optimization_level": 1})
def _smooth(matrix, noise, h, J):
    eye = jnp.eye(len(matrix), dtype=matrix.dtype)
    zeros, noise = jnp.zeros_like(matrix[:, 0]), noise * eye
    steps = Dynamics(*(x[..., None, None] for x in (matrix, zeros, noise)))
    first = Gaussian(zeros[:, None], eye[..., None])
    return gaussian_chain.smooth(first, steps, h, J).marginals


def smoothed(matrix, noise, h, J, dtype):
    """Posterior means and deviations ``(D, T, 1)``."""
    found = _smooth(*(jnp.asarray(x, dtype) for x in (matrix, noise, h, J)))
    mean, cov = flip_steps(found)
    return mean, jnp.sqrt(jnp.einsum("iitn->itn", cov))
