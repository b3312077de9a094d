# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Priors that are not conjugate, and Bayesian regressions, beside NUTS.

Each model is fitted by natural-gradient steps on all of its data, and by NumPyro's NUTS
(1,000 steps of warm-up and 4,000 draws), both in float64. The table has the largest
distance between the posterior means of an unknown, in standard deviations of NUTS; the
smallest and the largest ratio of the standard deviations; and the seconds of both, with
compilation. Regressions have ten correlated regressors, standardised, and a column of
ones; those of breast cancer are the 30 of scikit-learn's data, standardised. NUTS has
the states of the mixture of experts summed over. Arguments are the models to run anew,
all if there are none. Writes ``benchmarks/results/priors.json`` and its table.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
import json
from pathlib import Path
import sys
import time
from typing import Any

import jax
from jax import random
import jax.numpy as jnp
from jax.scipy.stats import norm
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS, SVI
import optax
from sklearn.datasets import load_breast_cancer

import numpyro_svae as ns

jax.config.update("jax_enable_x64", True)

COUNT, SIZE, STEPS = 400, 10, 300
RNG = np.random.default_rng(0)
HIDDEN = RNG.standard_normal((COUNT, 3))
RAW = HIDDEN @ RNG.standard_normal((3, SIZE)) + RNG.standard_normal((COUNT, SIZE))
X = np.c_[(RAW - RAW.mean(0)) / RAW.std(0), np.ones(COUNT)]
WEIGHTS = np.r_[1.2, -0.8, 0.5, np.zeros(SIZE - 3), 0.4]
PREDICTOR = X @ WEIGHTS
HEADS = np.asarray(RNG.random(COUNT) < 1 / (1 + np.exp(-PREDICTOR)), int)
COUNTS = RNG.poisson(np.exp(0.5 * PREDICTOR))
KINDS = RNG.integers(0, 3, COUNT)
REAL = PREDICTOR + 0.5 * RNG.standard_t(4, COUNT)
FEW = RNG.normal(0.5, 1.7, 20)
GROUPS = 12
GROUP = np.repeat(np.arange(GROUPS), 10)
GROUPED = RNG.normal(0.0, np.exp(RNG.normal(0.2, 0.5, GROUPS))[GROUP])
PAIRS = RNG.standard_normal((40, 2)) @ np.array([[1.0, 0.8], [0.0, 2.0]])
CENTRES = np.array([-1.5, 1.5])
GATED = CENTRES[HEADS] + RNG.standard_normal(COUNT)
TUMOURS, BENIGN = load_breast_cancer(return_X_y=True)
TUMOURS = np.c_[(TUMOURS - TUMOURS.mean(0)) / TUMOURS.std(0), np.ones(len(BENIGN))]


def regression(likelihood: Callable[[Any], Any], y: np.ndarray) -> Callable:
    def model() -> None:
        prior = dist.Normal(0.0, 2.0).expand([SIZE + 1]).to_event(1)
        weights = numpyro.sample("weights", prior)
        with numpyro.plate("data", COUNT):
            numpyro.sample("y", likelihood(X @ weights), obs=y)

    return model


def classes() -> None:
    prior = dist.Normal(0.0, 1.0).expand([SIZE + 1, 3]).to_event(2)
    weights = numpyro.sample("weights", prior)
    with numpyro.plate("data", COUNT):
        numpyro.sample("y", dist.Categorical(logits=X @ weights), obs=KINDS)


def horseshoe() -> None:
    half = dist.HalfCauchy(1.0)
    common = numpyro.sample("common", half)
    own = numpyro.sample("own", half.expand([SIZE + 1]).to_event(1))
    weights = numpyro.sample("weights", dist.Normal(0.0, common * own).to_event(1))
    with numpyro.plate("data", COUNT):
        numpyro.sample("y", dist.Bernoulli(logits=X @ weights), obs=HEADS)


def scale(prior: dist.Distribution) -> Callable:
    def model() -> None:
        loc = numpyro.sample("loc", dist.Normal(0.0, 5.0))
        sigma = numpyro.sample("sigma", prior)
        with numpyro.plate("data", len(FEW)):
            numpyro.sample("y", dist.Normal(loc, sigma), obs=FEW)

    return model


def cancer() -> None:
    prior = dist.Normal(0.0, 1.0).expand([TUMOURS.shape[1]]).to_event(1)
    weights = numpyro.sample("weights", prior)
    with numpyro.plate("data", len(BENIGN)):
        fn = dist.Bernoulli(logits=TUMOURS @ weights)
        numpyro.sample("y", fn, obs=BENIGN)


def scales_of_groups(prior: Callable[[], Any]) -> Callable:
    def model() -> None:
        fn = prior()
        with numpyro.plate("groups", GROUPS):
            sigma = numpyro.sample("sigma", fn)
        with numpyro.plate("data", len(GROUPED)):
            numpyro.sample("y", dist.Normal(0.0, sigma[GROUP]), obs=GROUPED)

    return model


def half_normal() -> dist.Distribution:
    return dist.HalfNormal(numpyro.sample("tau", dist.HalfNormal(1.0)))


def log_normal() -> dist.Distribution:
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    return dist.LogNormal(mu, numpyro.sample("tau", dist.HalfNormal(1.0)))


def correlated() -> None:
    half = dist.HalfCauchy(1.0).expand([2]).to_event(1)
    sigma = numpyro.sample("sigma", half)
    root = numpyro.sample("root", dist.LKJCholesky(2, 2.0))
    with numpyro.plate("data", len(PAIRS)):
        fn = dist.MultivariateNormal(scale_tril=sigma[:, None] * root)
        numpyro.sample("y", fn, obs=PAIRS)


def experts(summed: bool = False) -> None:
    prior = dist.Normal(0.0, 1.0).expand([2, SIZE + 1]).to_event(2)
    gates = numpyro.sample("gates", prior)
    label = dist.Categorical(logits=X @ gates.T)
    with numpyro.plate("data", COUNT):
        if summed:
            each = dist.Normal(jnp.broadcast_to(CENTRES, (COUNT, 2)), 1.0)
            numpyro.sample("y", dist.MixtureSameFamily(label, each), obs=GATED)
        else:
            z = numpyro.sample("z", label)
            fn = dist.Normal(jnp.asarray(CENTRES)[z], 1.0)
            numpyro.sample("y", fn, obs=GATED)


MODELS: dict[str, Callable] = {
    "half-normal scale": scale(dist.HalfNormal(1.0)),
    "half-Cauchy scale": scale(dist.HalfCauchy(1.0)),
    "log-normal scale": scale(dist.LogNormal(0.0, 1.0)),
    "exponential scale": scale(dist.Exponential(1.0)),
    "uniform scale": scale(dist.Uniform(0.0, 10.0)),
    "uniform scale, bound in the data": scale(dist.Uniform(0.0, 1.5)),
    "half-normal scales of groups": scales_of_groups(half_normal),
    "log-normal scales of groups": scales_of_groups(log_normal),
    "LKJ with half-Cauchy scales": correlated,
    "logistic": regression(lambda x: dist.Bernoulli(logits=x), HEADS),
    "probit": regression(lambda x: dist.Bernoulli(probs=norm.cdf(x)), HEADS),
    "Poisson": regression(lambda x: dist.Poisson(jnp.exp(x)), COUNTS),
    "negative binomial": regression(
        lambda x: dist.NegativeBinomial2(jnp.exp(x), 2.0), COUNTS
    ),
    "Student-t": regression(lambda x: dist.StudentT(4.0, x, 0.5), REAL),
    "softmax, three classes": classes,
    "breast cancer, logistic": cancer,
    "horseshoe logistic": horseshoe,
    "mixture of experts": experts,
}
SUMMED = {"mixture of experts": partial(experts, summed=True)}


def by_guide(model: Callable) -> tuple[dict[str, tuple], float]:
    """Means and standard deviations by site, and seconds."""
    begin, guide = time.perf_counter(), ns.AutoSVAE(model)
    optimizer = ns.svae_optimizer(optax.adam(1e-3), 0.5)
    svi = SVI(model, guide, optimizer, ns.SVAE_ELBO())
    result = svi.run(random.key(0), STEPS, progress_bar=False)
    params = jax.block_until_ready(result.params)
    found = guide.get_posterior(params)
    moments = {n: (fn.mean, jnp.sqrt(fn.variance)) for n, fn in found.items()}
    if "root" in moments:  # a block of two sites has no moments of each
        drawn = guide.sample_posterior(random.key(2), params, sample_shape=(20_000,))
        moments = {n: (jnp.mean(x, 0), jnp.std(x, 0)) for n, x in drawn.items()}
    return moments, time.perf_counter() - begin


def by_nuts(model: Callable) -> tuple[dict[str, tuple], float]:
    """Means and standard deviations by site, and seconds."""
    begin = time.perf_counter()
    kernel = NUTS(model, target_accept_prob=0.9)
    mcmc = MCMC(kernel, num_warmup=1000, num_samples=4000, progress_bar=False)
    mcmc.run(random.key(1))
    draws = jax.block_until_ready(mcmc.get_samples())
    moments = {n: (jnp.mean(x, 0), jnp.std(x, 0)) for n, x in draws.items()}
    return moments, time.perf_counter() - begin


def _finite(x: float) -> float | None:
    """A number for JSON."""
    return float(x) if np.isfinite(x) else None


def compare(name: str) -> dict[str, dict[str, Any]]:
    """One row for each site of a model."""
    own, seconds = by_guide(MODELS[name])
    other, others = by_nuts(SUMMED.get(name, MODELS[name]))
    rows = {}
    for site, (mean, sd) in own.items():
        nuts_mean, nuts_sd = other[site]
        varies = np.asarray(nuts_sd) > 0  # the root of a correlation has known entries
        mean, sd, nuts_mean, nuts_sd = (
            np.asarray(x)[varies] for x in (mean, sd, nuts_mean, nuts_sd)
        )
        ratio = sd / nuts_sd
        rows[site] = {
            "mean": float(np.max(np.abs(mean - nuts_mean) / nuts_sd)),
            "least": _finite(ratio.min()),
            "largest": _finite(ratio.max()),
            "seconds": seconds,
            "nuts_seconds": others,
        }
    return rows


def main() -> None:
    folder = Path(__file__).parent / "results"
    chosen, known = sys.argv[1:], {}
    if chosen:
        known = json.loads((folder / "priors.json").read_text())
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name in MODELS:
        if chosen and name not in chosen:
            found |= {name: known[name]} if name in known else {}
            continue
        found[name] = compare(name)
        print(name, found[name], flush=True)
    (folder / "priors.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        "# Priors that are not conjugate, and regressions, beside NUTS",
        "",
        "Largest distance of means, in standard deviations of NUTS, and ratios of "
        "standard deviations, over the entries of each site. `bench_priors.py` says "
        "what the models are. A dash: the posterior of the precision is so wide that "
        "the standard deviation has no variance.",
        "",
        "| model | site | means | sd ratio | seconds | NUTS |",
        "|---|---|---|---|---|---|",
    ]
    for name, sites in found.items():
        for site, row in sites.items():
            ratios = "-"
            if row["largest"] is not None:
                ratios = f"{row['least']:.2f} to {row['largest']:.2f}"
            lines.append(
                f"| {name} | `{site}` | {row['mean']:.2f} | {ratios} | "
                f"{row['seconds']:.1f} | {row['nuts_seconds']:.1f} |"
            )
    (folder / "priors.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
