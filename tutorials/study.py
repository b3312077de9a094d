# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

# %% [markdown]
# # A study: subjects, sessions and trials
#
# Two groups of subjects learn a task. Each comes to a few sessions, some to one and
# some to five, and sessions have from 5 to 30 trials, whose scores rise with practice.
# Does the treatment help? Trials of one session are alike, and so are sessions of one
# subject, so that hundreds of trials are not hundreds of witnesses.
#
# In a NumPyro program that is a vector of each session around a vector of its subject
# around that of its group, with plates in plates and a mask for what there is not. The
# guide infers the whole tree exactly, and learns how much there is at each level.

# %% tags=["hide-input"]
import warnings

warnings.filterwarnings("ignore", "IProgress not found")  # no widgets are needed

import jax
from jax import lax, random
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI

import numpyro_svae as ns

plt.rcParams.update({"figure.dpi": 110, "axes.titlesize": 11, "legend.frameon": False})

# %% [markdown]
# ## Data
#
# A level and a slope of each session. The treatment adds one to the level, and nothing
# to the slope.

# %%
SUBJECTS, SESSIONS, TRIALS = 24, 5, 30
CENTRE = np.array([[2.0, 1.0], [3.0, 1.0]])  # control, treated: level and slope
BETWEEN, WITHIN, NOISE = np.array([1.0, 0.5]), np.array([0.5, 0.3]), 1.0
practice = np.linspace(-1, 1, TRIALS)
design = np.stack([np.ones(TRIALS), practice])  # (2, TRIALS)
group = np.arange(SUBJECTS) % 2


def study(seed):
    """Scores (SESSIONS, SUBJECTS, TRIALS), which exist, and the vectors of subjects."""
    rng = np.random.default_rng(seed)
    subject = CENTRE[group] + BETWEEN * rng.standard_normal((SUBJECTS, 2))
    session = subject + WITHIN * rng.standard_normal((SESSIONS, SUBJECTS, 2))
    y = session @ design + NOISE * rng.standard_normal((SESSIONS, SUBJECTS, TRIALS))
    came = np.arange(SESSIONS)[:, None] < rng.integers(1, SESSIONS + 1, SUBJECTS)
    length = rng.integers(5, TRIALS + 1, (SESSIONS, SUBJECTS))
    seen = came[..., None] & (np.arange(TRIALS) < length[..., None])
    return np.where(seen, y, 0.0), seen, subject


y, seen, truth = study(0)
print(f"{seen.any(-1).sum()} sessions of {SUBJECTS} subjects, {seen.sum()} trials")

# %% [markdown]
# ## The model

# %%
known, rows = jnp.asarray(group), jnp.asarray(design, jnp.float32)


def model(y, seen):
    with numpyro.plate("groups", 2):
        prior = ns.NormalInverseWishart(jnp.zeros(2), 0.05, 4.0, 0.5 * jnp.eye(2))
        centre, between = ns.sample("group", prior)
    within = numpyro.sample("within", dist.InverseWishart(4.0, 0.2 * jnp.eye(2)))
    noise = numpyro.sample("noise", dist.HalfNormal(2.0))
    with numpyro.plate("subjects", SUBJECTS, dim=-1):
        own = dist.MultivariateNormal(centre[known], between[known])
        subject = numpyro.sample("subject", own)
        with numpyro.plate("sessions", SESSIONS, dim=-2):
            session = numpyro.sample(
                "session", dist.MultivariateNormal(subject, within)
            )
            scores = dist.Normal(session @ rows, noise).mask(seen).to_event(1)
            numpyro.sample("y", scores, obs=y)


guide = ns.AutoSVAE(model)
svi = SVI(model, guide, ns.svae_optimizer(natural=0.5), ns.SVAE_ELBO())


@jax.jit
def fit(y, seen):
    def step(state, _):
        return svi.update(state, y, seen)

    state, _ = lax.scan(step, svi.init(random.key(0), y, seen), length=40)
    return svi.get_params(state)


params = fit(y, seen)
print(guide.structure)
posterior = guide.get_posterior(params)
centre, between = posterior["group"].unpack(posterior["group"].mean)

# %% [markdown]
# ## Subjects
#
# A subject who came once, for a few trials, is pulled to the group, and the more so the
# less there is of her. Grey: the mean of her own trials, which is too low as well, as
# sessions that end early end before practice pays. Crosses: the truth.

# %%
subject = guide.posterior_local(params, y, seen)["subject"]
spread = np.sqrt(np.asarray(subject.variance))
trials = seen.sum((0, 2))
alone = y.sum((0, 2)) / trials

figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained", sharey=True)
for g, ax in enumerate(axes):
    who = np.flatnonzero(group == g)
    who = who[np.argsort(trials[who])]
    at = np.arange(len(who))
    ax.axhline(centre[g, 0], color=f"C{g}", lw=1)
    ax.scatter(at, alone[who], s=14, color="0.65", zorder=3)
    bars = {"fmt": "o", "ms": 4, "color": f"C{g}"}
    ax.errorbar(at, subject.mean[who, 0], 2 * spread[who, 0], **bars)
    ax.plot(at, truth[who, 0], "kx", ms=6)
    ax.set(xticks=at, xticklabels=trials[who], xlabel="trials of the subject")
    ax.set_title(("control", "treated")[g])
axes[0].set_ylabel("level")
plt.show()
for name, value in (("tree", subject.mean[:, 0]), ("own trials", alone)):
    error = np.sqrt(np.mean((value - truth[:, 0]) ** 2))
    print(f"{name:10s} rms error of the levels {error:.3f}")

# %% [markdown]
# ## Does the treatment help?
#
# The difference between the groups, and its 90 per cent interval, in forty studies like
# this one. Beside it, three analyses that are often seen: all trials of a group as
# if they were independent, the means of all sessions, and the means of subjects.


# %%
def interval(values, treated):
    """Difference of means, and what is to be added to either side."""
    first, second = values[~treated], values[treated]
    variances = [np.var(v, ddof=1) / len(v) for v in (first, second)]
    return second.mean() - first.mean(), 1.645 * np.sqrt(sum(variances))


STUDIES = 40
found = {name: [] for name in ("trials", "sessions", "subjects", "tree")}
for seed in range(STUDIES):
    y, seen, _ = study(100 + seed)
    treated = np.broadcast_to(group == 1, seen.shape[:2])
    came, own = seen.any(-1), seen.sum((0, 2))
    found["trials"].append(
        interval(y[seen], np.broadcast_to(treated[..., None], seen.shape)[seen])
    )
    means = y.sum(-1)[came] / seen.sum(-1)[came]
    found["sessions"].append(interval(means, treated[came]))
    found["subjects"].append(interval(y.sum((0, 2)) / own, group == 1))
    own = guide.get_posterior(fit(y, seen))["group"]
    own = own.unpack(own.sample(random.key(1), (1000,)))[0][..., 0]
    low, high = np.quantile(own[:, 1] - own[:, 0], [0.05, 0.95])
    found["tree"].append(((low + high) / 2, (high - low) / 2))

figure, axes = plt.subplots(1, 4, figsize=(10, 3.6), layout="constrained", sharey=True)
for ax, (name, values) in zip(axes, found.items()):
    middle, half = np.transpose(values)
    misses = np.abs(middle - 1.0) > half
    order = np.argsort(middle)
    for i, n in enumerate(order):
        color = "tab:red" if misses[n] else "0.6"
        ax.plot([i, i], middle[n] + half[n] * np.array([-1, 1]), color=color, lw=2)
    ax.axhline(1.0, color="k", lw=0.8, ls="--")
    ax.set(xticks=[], xlabel="studies", title=f"{name}: {1 - misses.mean():.1%} hold 1")
    error = np.sqrt(np.mean((middle - 1) ** 2))
    print(
        f"{name:9s} {1 - misses.mean():.1%} of intervals hold the truth, their mean "
        f"length is {2 * half.mean():.2f}, rms error {error:.2f}"
    )
axes[0].set_ylabel("effect of the treatment")
plt.show()

# %% [markdown]
# Red: intervals that miss the truth, of which there should be one in ten. Trials and
# sessions that are taken for independent make intervals that are far too short. The
# means of subjects are honest, and waste what is known: a subject with five trials
# counts as much as one with a hundred. The tree is as honest, and its intervals are
# shorter.
#
# ## It is exact
#
# Subjects and sessions are inferred together: no factorisation is assumed. With groups,
# spreads and noise known, what is left is one large Gaussian. Its evidence, computed
# densely, is the ELBO to rounding.


# %%
def known_model(y):
    with numpyro.plate("subjects", SUBJECTS, dim=-1):
        own = dist.MultivariateNormal(CENTRE[group], np.diag(BETWEEN**2))
        subject = numpyro.sample("subject", own)
        with numpyro.plate("sessions", SESSIONS, dim=-2):
            within = dist.MultivariateNormal(subject, np.diag(WITHIN**2))
            scores = dist.Normal(numpyro.sample("session", within) @ design, NOISE)
            numpyro.sample("y", scores.to_event(1), obs=y)


with jax.enable_x64(True):
    y = jnp.asarray(study(0)[0])
    guide = ns.AutoSVAE(known_model)
    loss = ns.SVAE_ELBO().loss(random.key(0), {}, known_model, guide, y)
    alike, own = np.ones((SESSIONS, SESSIONS)), np.eye(SESSIONS)
    tree = np.kron(alike, np.diag(BETWEEN**2)) + np.kron(own, np.diag(WITHIN**2))
    rows = np.kron(own, design.T)  # (SESSIONS * TRIALS, SESSIONS * 2)
    cov = rows @ tree @ rows.T + NOISE**2 * np.eye(len(rows))
    dense = dist.MultivariateNormal(np.tile(CENTRE[group] @ design, SESSIONS), cov)
    evidence = dense.log_prob(jnp.moveaxis(y, 1, 0).reshape(SUBJECTS, -1)).sum()
    print(f"ELBO     {-loss:.5f}")
    print(f"evidence {evidence:.5f}")
