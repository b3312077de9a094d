# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A Dirichlet distribution in which some categories are impossible."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array, random
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln, xlogy
from jax.typing import ArrayLike
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.kl import kl_divergence
from numpyro.distributions.util import validate_sample

__all__ = ["DirichletWithZeros"]


class DirichletWithZeros(dist.Dirichlet):
    r"""A Dirichlet of which some concentrations are zero.

    Categories of concentration zero have probability zero, and the others are a
    Dirichlet by themselves: the rows of a left-to-right or a banded transition matrix,
    or words that a topic never has. What is impossible in the prior stays impossible in
    the posterior. NumPyro's :class:`~numpyro.distributions.Dirichlet` refuses zeros,
    and its density is NaN there; without zeros both are the same distribution.

    :param concentration: :math:`\alpha \geq 0`, of shape ``(..., K)``, where each row
        has an entry that is not zero.
    :param validate_args: whether to check the arguments, as in NumPyro.

    **Example**

    .. code-block:: python

        band = jnp.eye(3) + jnp.eye(3, k=1)  # stay, or go to the next state
        with numpyro.plate("states", 3):
            rows = numpyro.sample("rows", DirichletWithZeros(band))
    """

    arg_constraints = {
        "concentration": constraints.independent(constraints.nonnegative, 1)
    }

    @property
    def _possible(self) -> tuple[Array, Array]:
        """Which categories are possible, and concentrations that are safe elsewhere."""
        possible = jnp.asarray(self.concentration) != 0
        return possible, jnp.where(possible, self.concentration, 1.0)

    def sample(
        self, key: jax.Array | None, sample_shape: tuple[int, ...] = ()
    ) -> Array:
        """Draw probabilities, exactly zero where a category is impossible.

        :param key: random key.
        :param sample_shape: shape of the draws.
        :return: of shape ``(*sample_shape, *batch_shape, K)``.
        :raises ValueError: without a key.
        """
        if key is None:
            raise ValueError("key: found None. Accepted: a key of jax.random.")
        possible, safe = self._possible
        shape = (*sample_shape, *self.batch_shape, *self.event_shape)
        logs = random.loggamma(key, safe, shape)
        drawn = jax.nn.softmax(jnp.where(possible, logs, -jnp.inf), -1)
        tiny, eps = jnp.finfo(drawn.dtype).tiny, jnp.finfo(drawn.dtype).eps
        alone = jnp.sum(possible, -1, keepdims=True) == 1
        most = jnp.where(alone, 1.0, 1 - eps)  # as NumPyro does
        return jnp.where(possible, jnp.clip(drawn, tiny, most), 0.0)

    @validate_sample
    def log_prob(self, value: ArrayLike) -> Array:
        """Log density among the categories that are possible.

        :param value: probabilities ``(..., K)``.
        :return: minus infinity where an impossible category is not zero.
        """
        possible, safe = self._possible
        each = xlogy(safe - 1.0, jnp.where(possible, value, 1.0)) - gammaln(safe)
        each = jnp.where(possible, each, 0.0)
        ruled_out = jnp.any(~possible & (jnp.asarray(value) > 0), -1)
        found = jnp.sum(each, -1) + gammaln(jnp.sum(self.concentration, -1))
        return jnp.where(ruled_out, -jnp.inf, found)


@kl_divergence.register(DirichletWithZeros, dist.Dirichlet)
@kl_divergence.register(DirichletWithZeros, DirichletWithZeros)
def _kl_dirichlet_with_zeros(p: DirichletWithZeros, q: Any) -> Array:
    """The divergence; infinite if the two have zeros in other places."""
    possible, safe = p._possible
    total, other = (jnp.sum(x.concentration, -1) for x in (p, q))
    theirs = jnp.where(q.concentration != 0, q.concentration, 1.0)
    moments = digamma(safe) - digamma(total)[..., None]
    each = gammaln(theirs) - gammaln(safe) + (safe - theirs) * moments
    found = jnp.sum(jnp.where(possible, each, 0.0), -1)
    same = jnp.all(possible == (jnp.asarray(q.concentration) != 0), -1)
    return jnp.where(same, found + gammaln(total) - gammaln(other), jnp.inf)
