# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What a tracker knows along an episode that is over."""

import jax.numpy as jnp


def follow(tracker, episode):
    """Means of the filtered states (T + 1, D) of an episode."""
    seen, beliefs = episode.observations, [tracker.begin(episode.observations[0])]
    for t, action in enumerate(episode.actions):
        beliefs.append(tracker.update(beliefs[-1], seen[t], action, seen[t + 1]))
    return jnp.stack([belief.marginals["x"].mean[0] for belief in beliefs])
