# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""One call for everything that tells whether a fit is to be trusted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from jax import Array, random
import jax.numpy as jnp
import numpy as np

from numpyro_svae.diagnostics.collapse import collapsed_sites
from numpyro_svae.diagnostics.dynamics import eigenvalues
from numpyro_svae.diagnostics.fit import check_subsample, read_fit
from numpyro_svae.diagnostics.influence import PriorShare, prior_shares
from numpyro_svae.diagnostics.masks import counted_positions
from numpyro_svae.diagnostics.reliability import pareto_k
from numpyro_svae.guide import AutoSVAE
from numpyro_svae.inference.factors.global_priors import expected_prior
from numpyro_svae.inference.local.posterior import Convergence, LocalPosterior
from numpyro_svae.program.bind.binding import Bound
from numpyro_svae.program.run.parts import whole_name
from numpyro_svae.program.run.wrappers import peel
from numpyro_svae.program.structure.factors import Structure
from numpyro_svae.tracing import check_known
from numpyro_svae.training.plateau import finite_mean
from numpyro_svae.whole_steps import skipped_steps

__all__ = ["Report", "report"]

_FEWEST = 100


@dataclass(frozen=True)
class Report:
    """What :func:`report` has found; ``print`` shows it in short.

    :param elbo: mean of the ELBO over the last tenth of the steps; None without losses.
    :param elbo_gain: that, less the mean over the tenth before.
    :param pareto_k: Pareto k-hat of the global sites, local sites integrated out. Below
        0.7 weights repair what the guide gets wrong; minus infinity if it is exact, NaN
        if there are none.
    :param pareto_k_joint: Pareto k-hat of all latent sites together.
    :param counts: expected number of data in each state, ``(K,)``, by discrete site.
    :param eigenvalues: of draws of the dynamics, ``(S, [K], D)``, by chain.
    :param convergence: of the coordinate ascent of coupled local sites, by site.
    :param priors: the shares of priors in posteriors, by block and part of it.
    :param collapsed: the local sites that say nothing of the data, with what shows it.
    :param skipped: number of steps that were left out as they were not finite; None if
        neither losses nor a state were given.
    """

    elbo: float | None
    elbo_gain: float | None
    pareto_k: float
    pareto_k_joint: float
    counts: dict[str, np.ndarray]
    eigenvalues: dict[str, np.ndarray]
    convergence: dict[str, Convergence]
    priors: dict[str, PriorShare]
    collapsed: dict[str, str]
    skipped: int | None

    @property
    def amortization_gap(self) -> dict[str, np.ndarray]:
        """How many nats the bound of each datum has risen by refinement, by site: what
        the recognition function has left; empty without ``refine``."""
        ends = self.convergence.items()
        return {n: np.asarray(c.gain) for n, c in ends if c.gain is not None}

    @property
    def active(self) -> dict[str, int]:
        """How many states have at least one datum, in expectation, by discrete site."""
        return {name: int(np.sum(n >= 1.0)) for name, n in self.counts.items()}

    @property
    def spectral_radius(self) -> dict[str, np.ndarray]:
        """Largest modulus of the eigenvalues, of each draw, ``(S, [K])``, by chain."""
        return {n: np.max(np.abs(v), -1) for n, v in self.eigenvalues.items()}

    @property
    def converged(self) -> dict[str, bool]:
        """Whether the ascent of coupled sites has converged everywhere, by site."""
        return {n: bool(np.all(c.residual <= 1)) for n, c in self.convergence.items()}

    def __str__(self) -> str:
        rows = [*self._rows()]
        width = max(len(label) for label, _ in rows)
        return "\n".join(f"{label:<{width}}  {text}" for label, text in rows)

    def _rows(self) -> Iterator[tuple[str, str]]:
        if self.elbo is not None:
            gain = f"{self.elbo_gain:+.4g} on the tenth of the steps before"
            yield "ELBO", f"{self.elbo:.6g}, {gain}"
        if self.skipped:
            yield "steps left out", f"{self.skipped}, as they were not finite"
        for name, reason in self.collapsed.items():
            yield f"collapsed: '{name}'", reason
        yield "Pareto k, global sites", _verdict(self.pareto_k)
        yield "Pareto k, all latent sites", _verdict(self.pareto_k_joint)
        for name, counts in self.counts.items():
            largest = ", ".join(f"{n:.3g}" for n in np.sort(counts)[::-1][:6])
            more = ", ..." if len(counts) > 6 else ""
            active = f"{self.active[name]} of {len(counts)} have data"
            yield f"states of '{name}'", f"{active}: {largest}{more}"
        for name, radius in self.spectral_radius.items():
            for label, draws in _by_state(name, radius):
                low, middle, high = np.quantile(draws, [0.05, 0.5, 0.95])
                over = np.mean(draws > 1)
                text = f"{middle:.3f} [{low:.3f}, {high:.3f}], above 1: {over:.0%}"
                yield f"spectral radius of {label}", text
        for name, ended in self.convergence.items():
            yield f"sweeps of '{name}'", _ascent(ended, self.converged[name])
        for name, gap in self.amortization_gap.items():
            text = f"{np.sum(gap):.4g} nats, {np.mean(gap):.4g} for each datum"
            yield f"amortisation gap of '{name}'", f"{text}, at most {np.max(gap):.4g}"
        for name, part in self.priors.items():
            yield f"prior of '{name}'", _influence(part)


def report(
    model: Callable,
    guide: AutoSVAE,
    params: dict[str, Any],
    *args: Any,
    losses: Any = None,
    state: Any = None,
    num_samples: int = 1000,
    num_particles: int = 20,
    rng_key: Array | None = None,
    show: bool = True,
    **kwargs: Any,
) -> Report:
    """Look a fit over: its guide, its states, its dynamics, its sweeps, its priors.

    :param model: the model.
    :param guide: its guide.
    :param params: parameters, from :meth:`~numpyro.infer.svi.SVI.get_params`.
    :param args: the arguments of the model, with all of its data.
    :param losses: losses of a run of SVI.
    :param state: of that run, ``result.state``, for the count of steps left out.
    :param num_samples: number of draws, of weights and of dynamics.
    :param num_particles: number of importance samples of local sites for each weight of
        the global ones.
    :param rng_key: random key; by default a fixed one.
    :param show: whether to print the report.
    :param kwargs: the keyword arguments of the model.
    :raises TypeError: if the guide is not an :class:`AutoSVAE`, or within ``jit``,
        ``vmap`` or ``grad``.
    :raises ValueError: if there are data for a part of a plate alone, or draws are too
        few for a tail.

    **Example**

    .. code-block:: python

        found = ns.report(model, guide, result.params, y, losses=result.losses)
        assert found.pareto_k < 0.7
    """
    if num_samples < _FEWEST:
        raise ValueError(
            f"num_samples: found {num_samples}; accepted are {_FEWEST} or more, of "
            "which the largest weights make a tail."
        )
    instead = "guide.convergence(params, *args), ns.log_likelihood(model, guide, ...)"
    check_known("report", (params, args, kwargs, rng_key), instead)
    fit = read_fit(model, guide, params, args, kwargs)
    key = random.PRNGKey(0) if rng_key is None else rng_key
    weigh_key, draw_key = random.split(key)
    check_subsample(fit)
    naturals, bound, local = guide._infer_all(fit.params, args, kwargs)
    local = guide.watch.watch(local)  # draws are of what it has ended at
    found = Report(
        *_elbo(losses),
        *pareto_k(fit, weigh_key, num_samples, num_particles, local),
        _counts(guide.structure, bound, local),
        eigenvalues(guide, params, bound, draw_key, num_samples),
        {whole_name(bound.sites, n): c for n, c in local.convergence.items()},
        _priors(guide, naturals, bound),
        collapsed_sites(guide.structure, bound, local),
        _skipped(losses, state),
    )
    if show:
        print(found)
    return found


def _elbo(losses: Any) -> tuple[float | None, float | None]:
    if losses is None or len(losses) < 2:
        return None, None
    values = -np.asarray(losses, float)
    tenth = max(1, len(values) // 10)
    last, before = map(finite_mean, (values[-tenth:], values[-2 * tenth : -tenth]))
    return last, last - before


def _skipped(losses: Any, state: Any) -> int | None:
    counted = None if state is None else skipped_steps(state)
    if counted is not None:
        return int(counted)
    return None if losses is None else int(np.sum(~np.isfinite(losses)))


def _counts(
    structure: Structure, bound: Bound, local: LocalPosterior
) -> dict[str, np.ndarray]:
    found = {}
    for name, marginal in local.marginals.items():
        base = peel(marginal)[0]
        if base.is_discrete:
            counts = counted_positions(structure, bound, name)[..., None]
            counts = jnp.sum(counts * base.probs, tuple(range(base.probs.ndim - 1)))
            found[whole_name(bound.sites, name)] = np.asarray(counts)
    return found


def _priors(guide: AutoSVAE, naturals: dict, bound: Bound) -> dict[str, PriorShare]:
    structure, found = guide.structure, {}
    moments = {n: p.moments(naturals[n]) for n, p in structure.priors.items()}
    for name in structure.priors:
        natural = naturals[name]
        prior = expected_prior(structure, bound, name, moments, natural)
        for part, share in prior_shares(natural, prior).items():
            found[f"{name} {part}".strip()] = share
    return found


def _verdict(k: float) -> str:
    if np.isnan(k):
        return "there are none"
    if k == -np.inf:
        return "none: all weights are equal, the guide is exact"
    words = ((0.5, "good"), (0.7, "fair"), (1.0, "poor"), (np.inf, "bad"))
    return f"{k:.2f}, {next(word for bound, word in words if k <= bound)}"


def _by_state(name: str, radius: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    if radius.ndim == 1:
        yield f"'{name}'", radius
    else:
        for state in range(radius.shape[1]):
            yield f"'{name}' in state {state}", radius[:, state]


def _ascent(ended: Convergence, converged: bool) -> str:
    sweeps, residual = np.max(ended.sweeps), np.max(ended.residual)
    text = "converged" if converged else f"not converged: residual {residual:.3g}"
    if ended.adjoint is not None and not np.all(ended.adjoint):
        text += "; the adjoint of implicit gradients is not found"
    return f"{sweeps}, {text}"


def _influence(part: PriorShare) -> str:
    least, most = np.min(part.share), np.max(part.share)
    text = f"{most:.1%}" if np.isclose(least, most) else f"{least:.1%} to {most:.1%}"
    if part.prior is None or part.data is None:
        return f"{text} of the posterior"
    prior, data = np.sum(part.prior), np.sum(part.data)
    return f"{text} of the posterior: {prior:.4g} pseudo-counts, {data:.4g} of data"
