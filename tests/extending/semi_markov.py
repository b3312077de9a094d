# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""A kind of local site of one's own: states that last for a while of their own.

A semi-Markov chain draws a state, how long it lasts, the next state, and so on. It is a
Markov chain of pairs (state, steps that are left), which is how it is inferred.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints

from numpyro_svae.blocks import discrete_chain
from numpyro_svae.distributions import DiscreteMarkovChain
from numpyro_svae.inference.local.beliefs import DiscreteBelief, expected_logits
from numpyro_svae.kinds import DiscreteKind
from numpyro_svae.program.read.rows import read_discrete_chain
from numpyro_svae.program.run.positions import per_path


class Paths(dist.Distribution):
    """Paths of states ``z_t``, of which a Markov chain has the pairs ``(z_t, r_t)``.

    :param pairs: the chain of ``K M`` pairs.
    :param longest: M, the number of values of what is left.
    """

    arg_constraints: dict = {}
    pytree_data_fields = ("pairs",)
    pytree_aux_fields = ("longest",)

    def __init__(self, pairs, longest, validate_args=None):
        self.pairs, self.longest = pairs, longest
        shapes = pairs.batch_shape, pairs.event_shape
        super().__init__(*shapes, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self):
        last = self.pairs.num_states // self.longest - 1
        return constraints.independent(constraints.integer_interval(0, last), 1)

    def sample(self, key, sample_shape=()):
        return self.pairs.sample(key, sample_shape) // self.longest

    def log_prob(self, value):
        states = self.pairs.num_states // self.longest
        seen = jax.nn.one_hot(value, states)
        logs = map(log, (self.pairs.initial_probs, self.pairs.transition_probs))
        return discrete_chain.smooth(*logs, self.by_pair(log(seen))).log_normalizer

    def by_pair(self, message):
        """What is said of states, ``(..., K)``, of all pairs with them."""
        return jnp.repeat(message, self.longest, -1)


class SemiMarkovChain(Paths):
    """States that do not follow themselves, and last for a number of steps.

    :param initial_probs: of the first state, ``(K,)``.
    :param transition_probs: of the next state, ``(K, K)``, zero on the diagonal.
    :param duration_probs: of lasting for 1 to M steps, by state, ``(K, M)``; the last
        state is cut at the end of the path.
    :param num_steps: T.
    """

    arg_constraints = {
        "initial_probs": constraints.simplex,
        "transition_probs": constraints.independent(constraints.simplex, 1),
        "duration_probs": constraints.independent(constraints.simplex, 1),
    }
    pytree_data_fields = ("initial_probs", "transition_probs", "duration_probs")

    def __init__(
        self,
        initial_probs,
        transition_probs,
        duration_probs,
        num_steps,
        validate_args=None,
    ):
        self.initial_probs = jnp.asarray(initial_probs)
        self.transition_probs = jnp.asarray(transition_probs)
        self.duration_probs = jnp.asarray(duration_probs)
        logs = map(log, (initial_probs, transition_probs, duration_probs))
        first, steps = map(jnp.exp, of_pairs(*logs))
        pairs = DiscreteMarkovChain(first, steps, num_steps, validate_args=False)
        super().__init__(pairs, self.duration_probs.shape[-1], validate_args)


def log(probs):
    possible = jnp.asarray(probs) > 0
    return jnp.where(possible, jnp.log(jnp.where(possible, probs, 1.0)), -jnp.inf)


def of_pairs(initial, transition, duration):
    """The logs of the chain of pairs, ``(K M,)`` and ``(K M, K M)``, from those of
    states."""
    states, longest = duration.shape
    begins = (initial[:, None] + duration).ravel()
    counts_down = log(jnp.eye(longest, k=-1))
    goes_on = log(jnp.eye(states))[:, None, :, None] + counts_down[:, None, :]
    ends = log(jnp.eye(longest, 1))[:, :, None]
    moves = transition[:, None, :, None] + ends + duration
    both = jnp.maximum(goes_on, moves)  # one of them is impossible
    return begins, both.reshape(states * longest, -1)


class SemiMarkovKind(DiscreteKind):
    """How sites of semi-Markov chains are read and inferred."""

    name = "semi_markov"
    distributions = (SemiMarkovChain,)
    chain = True

    def parameters(self, site):
        names = "initial_probs", "transition_probs", "duration_probs"
        return {name: getattr(site.fn, name) for name in names}

    def size(self, site):
        return site.fn.initial_probs.shape[-1]

    def read(self, wiring, site):
        needed = sorted(wiring.needs[site.name]["duration_probs"])
        if needed:
            raise ValueError(
                f"Site '{site.name}': its duration_probs depend on latent {needed}. "
                "Accepted: fixed values or numpyro.param."
            )
        return read_discrete_chain(wiring, site)

    def _logs(self, factors, name):
        """Expected logs of the first state, of transitions and of durations."""
        fn, found = factors.site(name).fn, []
        for role in ("initial", "transition"):
            factor = factors.own(name, role)
            known = factor.source.prior is None
            given = getattr(fn, f"{role}_probs")
            found.append(log(given) if known else factors.rows(factor))
        return *found, log(fn.duration_probs)

    def infer(self, factors, name, message):
        logs, extent = self._logs(factors, name), factors.extent(name)
        states, longest = logs[-1].shape
        first, steps = of_pairs(*logs)
        told = jnp.repeat(message, longest, -1)
        found = discrete_chain.smooth(first, steps[None], told)
        pairs = DiscreteMarkovChain(
            found.initial_probs, found.transition_probs, validate_args=False
        )
        shape = (*found.probs.shape[:-1], states, longest)
        at = found.probs.reshape(shape)
        joint = found.probs[..., :-1, :, None] * found.transition_probs
        joint = joint.reshape(*shape[:-3], shape[-3] - 1, *2 * shape[-2:])
        ended = joint[..., 0, :, :].sum(-4)  # where nothing is left of a state
        begun = at[..., 0, :, :], ended.sum(-1), at[..., 0, :, :] + ended.sum(-3)
        belief = DiscreteBelief(at.sum(-1), begun, 0.0, True, Paths(pairs, longest))
        terms = jnp.sum(expected_logits(belief.probs, message), -1)
        terms = terms + self._expected(logs, begun)
        possible = per_path(jnp.isfinite(found.log_normalizer), extent)
        entropy = per_path(found.log_normalizer - terms, extent)
        return belief._replace(entropy=entropy, possible=possible)

    def _expected(self, logs, begun):
        """The log density of the prior, from how often what has begun."""
        initial, transition, duration = logs
        first, moves, lasting = begun
        pairs = (first.sum(-1), initial, 1), (moves, transition, 2)
        terms = [expected_logits(n, x).sum(tuple(range(1 - k, 0))) for n, x, k in pairs]
        return sum(terms, expected_logits(lasting, duration).sum(-1))

    def expected_prior(self, factors, name, belief):
        value = self._expected(self._logs(factors, name), belief.steps)
        return per_path(value, factors.extent(name))
