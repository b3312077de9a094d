# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Reads how a program is wired: priors, local sites, conjugate factors, likelihoods."""

from __future__ import annotations

from collections.abc import Callable, Collection

import jax
from jax import Array, random
import jax.numpy as jnp
import numpyro.distributions as dist

from numpyro_svae.distributions import (
    LinearGaussianChain,
    MatrixNormalInverseWishart,
    NormalInverseWishart,
)
from numpyro_svae.program.factors import (
    CategoricalFactor,
    ChainFactor,
    Factor,
    GaussianFactor,
    Local,
    Structure,
    TableFactor,
)
from numpyro_svae.program.priors import DirichletPrior, Prior, RegressionPrior
from numpyro_svae.program.probing import Prober, align, parameters
from numpyro_svae.program.sites import Program, Site, gaussian_view

__all__ = ["read_structure"]

_CATEGORICAL = dist.CategoricalProbs | dist.CategoricalLogits
_NUM_PROBES = 3


def read_structure(program: Program, spoken: Collection[str]) -> Structure:
    """Read the wiring of a program.

    :param program: the program, with concrete arguments.
    :param spoken: names of the sites that the recognition function speaks to.
    :return: its wiring.
    :raises ValueError: naming the site, if a latent site or a dependence on one is
        neither conjugate nor covered by a potential.
    """
    sites = program.sites({})
    priors = _read_priors(program, sites)
    locals = _read_locals(sites, priors)
    prober = Prober(program, sites, priors, locals)
    return _Reader(prober, frozenset(spoken)).read()


def _read_priors(program: Program, sites: dict[str, Site]) -> dict[str, Prior]:
    latent = [site for site in sites.values() if not site.observed]
    priors: dict[str, Prior] = {}
    halves = [s for s in latent if isinstance(s.fn, dist.InverseWishart)]
    for site in latent:
        if isinstance(site.fn, NormalInverseWishart | MatrixNormalInverseWishart):
            dim, width = site.fn.event_shape
            vector = isinstance(site.fn, NormalInverseWishart)
            priors[site.name] = RegressionPrior(
                site.name, (site.name,), _batch(site), dim, width - dim, vector
            )
        elif isinstance(site.fn, dist.Dirichlet):
            size = site.fn.event_shape[-1]
            priors[site.name] = DirichletPrior(
                site.name, (site.name,), _batch(site), size
            )
    for half in halves:
        prior = _join_two_sites(program, half, latent)
        priors[prior.name] = prior
    order = list(sites)
    return dict(sorted(priors.items(), key=lambda item: order.index(item[0])))


def _batch(site: Site) -> tuple[int, ...]:
    if len(site.batch_shape) > 1:
        raise ValueError(
            f"Site '{site.name}': a global site may have a batch of components, found "
            f"batch shape {site.batch_shape}. Open its plate by itself, outside of all "
            "other plates, so that the batch shape is (K,)."
        )
    return site.batch_shape


def _join_two_sites(program: Program, half: Site, latent: list[Site]) -> Prior:
    """Find the location site whose covariance is the given inverse-Wishart site."""
    names = [site.name for site in latent]
    prober = Prober(program, {s.name: s for s in latent}, {}, {})
    needs = prober.dependencies(names)
    for site in latent:
        used = frozenset().union(*needs[site.name].values())
        gaussian = isinstance(site.fn, dist.MultivariateNormal) and not site.extra
        if used != {half.name} or not (gaussian or isinstance(site.fn, dist.MatrixNormal)):
            continue
        if not _is_scaled_by(program, site.name, half):
            continue
        rows, columns = (
            site.fn.event_shape if not gaussian else (*site.fn.event_shape, 1)
        )
        pair = (half.name, site.name)
        return RegressionPrior(site.name, pair, _batch(site), rows, columns, gaussian)
    raise ValueError(
        f"Site '{half.name}': an InverseWishart needs a partner, found none. Accepted: "
        f"MultivariateNormal(loc, {half.name} / kappa) or MatrixNormal(loc, "
        f"cholesky({half.name}), scale_tril_column), with a loc that depends on no "
        "latent site; or one joint site from numpyro_svae.sample."
    )


def _is_scaled_by(program: Program, name: str, half: Site) -> bool:
    """Whether the row covariance of a site is a multiple of an inverse-Wishart site."""
    root = random.normal(random.PRNGKey(0), half.value.shape)
    cov = root @ jnp.swapaxes(root, -1, -2) + jnp.eye(root.shape[-1])
    fn = program.sites({half.name: cov})[name].fn
    tril = fn.scale_tril_row if isinstance(fn, dist.MatrixNormal) else fn.scale_tril
    found = tril @ jnp.swapaxes(tril, -1, -2)
    if isinstance(fn, dist.MatrixNormal):
        return _same(found, cov)
    return _same(found / found[..., :1, :1], cov / cov[..., :1, :1])


def _read_locals(sites: dict[str, Site], priors: dict[str, Prior]) -> dict[str, Local]:
    of_priors = {name for prior in priors.values() for name in prior.sites}
    locals = {}
    for name, site in sites.items():
        if site.observed or name in of_priors:
            continue
        if isinstance(site.fn, _CATEGORICAL):
            locals[name] = Local(name, "categorical", site.fn.probs.shape[-1])
        elif isinstance(site.fn, LinearGaussianChain):
            locals[name] = Local(name, "chain", site.fn.event_shape[-1])
        elif gaussian_view(site) is not None:
            locals[name] = Local(name, "gaussian", site.outer.event_shape[-1])
        else:
            raise ValueError(
                f"Site '{name}': latent {type(site.fn).__name__} is neither conjugate "
                "nor can it be given a potential. Accepted global sites: "
                "NormalInverseWishart, MatrixNormalInverseWishart, Dirichlet, "
                "InverseWishart with a MultivariateNormal or MatrixNormal. Accepted "
                "local sites: Categorical, MultivariateNormal, Normal(...).to_event(1), "
                "LinearGaussianChain. Hide other sites with numpyro.handlers.block and "
                "give them a guide of their own in an AutoGuideList."
            )
    return locals


def _same(found: Array, expected: Array) -> bool:
    """Equality up to broadcasting and float32 rounding."""
    try:
        expected = jnp.broadcast_to(expected, jnp.broadcast_shapes(
            jnp.shape(found), jnp.shape(expected)))
    except ValueError:
        return False
    size = jnp.max(jnp.abs(expected), initial=1e-30)
    return bool(jnp.max(jnp.abs(found - expected), initial=0.0) < 1e-3 * size)


class _Reader:
    """Classifies the sites of one program."""

    def __init__(self, prober: Prober, spoken: frozenset[str]) -> None:
        self.prober = prober
        self.spoken = spoken
        self.block_of = {
            name: prior for prior in prober.priors.values() for name in prior.sites
        }
        latents = [*self.block_of, *prober.locals]
        self.needs = prober.dependencies(latents)

    def read(self) -> Structure:
        factors: list[Factor] = []
        likelihoods: dict[str, frozenset[str]] = {}
        for name, site in self.prober.sites.items():
            if name in self.block_of:
                self._check_hyperparameters(self.block_of[name])
                continue
            factor = self._factor(site)
            if factor is not None:
                factors.append(factor)
            elif self._used(name):
                likelihoods[name] = self._used(name)
        return Structure(
            self.prober.priors, self.prober.locals, tuple(factors), likelihoods
        )

    def _used(self, name: str) -> frozenset[str]:
        return frozenset().union(*self.needs[name].values())

    def _check_hyperparameters(self, prior: Prior) -> None:
        for name in prior.sites:
            others = self._used(name) - set(prior.sites)
            if others:
                raise ValueError(
                    f"Site '{name}': its hyperparameters depend on latent "
                    f"{_listed(others)}, which is not conjugate. Accepted: fixed values "
                    "or numpyro.param."
                )

    def _factor(self, site: Site) -> Factor | None:
        latent = not site.observed
        blocks = {self.block_of[n].name for n in self._used(site.name) if n in self.block_of}
        parents = {n for n in self._used(site.name) if n in self.prober.locals}
        if isinstance(site.fn, LinearGaussianChain):
            return self._chain(site)
        if isinstance(site.fn, _CATEGORICAL) and (latent or blocks):
            return self._categorical(site)
        if gaussian_view(site) is not None and (latent or blocks):
            return self._gaussian(site, blocks, parents)
        if blocks:
            raise _not_conjugate(site, "its parameters", blocks, "no latent global site")
        kinds = {self.prober.locals[n].kind for n in parents}
        if kinds == {"categorical"} and len(parents) == 1:
            return TableFactor(site.name, parents.pop())
        unspoken = {
            n
            for n in parents - self.spoken
            if self.prober.locals[n].kind != "categorical"
        }
        return self._known_regression(site, parents, unspoken) if unspoken else None

    # categorical sites

    def _categorical(self, site: Site) -> CategoricalFactor:
        used = self._used(site.name)
        if not used:
            return CategoricalFactor(site.name)
        accepted = "the value of one Dirichlet site, or fixed probabilities"
        prior = self.block_of.get(next(iter(used)))
        if len(used) > 1 or not isinstance(prior, DirichletPrior):
            raise _not_conjugate(site, "probs", used, accepted)

        def holds(values: dict[str, Array], sites: dict[str, Site]) -> bool:
            return _same(sites[site.name].fn.probs, values[prior.name])

        self._demand(holds, site, "probs", used, accepted)
        return CategoricalFactor(site.name, prior.name)

    # Gaussian chains

    def _chain(self, site: Site) -> ChainFactor:
        return ChainFactor(
            site.name,
            self._chain_block(site, "initial_loc", "initial_cov"),
            self._chain_block(site, "transition_matrix", "transition_cov"),
        )

    def _chain_block(self, site: Site, loc: str, cov: str) -> str | None:
        used = self.needs[site.name][loc] | self.needs[site.name][cov]
        accepted = "the weight and the covariance of one global block, or fixed values"
        if not used:
            return None
        names = {self.block_of[n].name for n in used if n in self.block_of}
        prior = self.prober.priors.get(next(iter(names))) if len(names) == 1 else None
        if not isinstance(prior, RegressionPrior) or used - set(prior.sites):
            raise _not_conjugate(site, f"({loc}, {cov})", used, accepted)

        def holds(values: dict[str, Array], sites: dict[str, Site]) -> bool:
            weight, covariance = _pair(prior, values)
            weight = weight[..., 0] if loc == "initial_loc" else weight
            fn = sites[site.name].fn
            return _same(getattr(fn, loc), weight) and _same(getattr(fn, cov), covariance)

        self._demand(holds, site, f"({loc}, {cov})", used, accepted)
        return prior.name

    # Gaussian vectors

    def _gaussian(
        self, site: Site, blocks: set[str], parents: set[str]
    ) -> GaussianFactor:
        accepted = (
            "loc = F u and covariance = Sigma of one global block, with u affine in at "
            "most one latent Gaussian site, picked by at most one latent Categorical"
        )
        kinds = {n: self.prober.locals[n].kind for n in parents}
        selectors = [n for n, kind in kinds.items() if kind == "categorical"]
        states = [n for n, kind in kinds.items() if kind != "categorical"]
        too_many = len(blocks) > 1 or len(selectors) > 1 or len(states) > 1
        if too_many or (states and not site.observed):
            raise _not_conjugate(site, "(loc, covariance)", blocks | parents, accepted)
        selector = selectors[0] if selectors else None
        if not blocks:
            return GaussianFactor(site.name, selector=selector)
        prior = self.prober.priors[blocks.pop()]
        if not isinstance(prior, RegressionPrior):
            raise _not_conjugate(site, "(loc, covariance)", {prior.name}, accepted)
        parent = states[0] if states else None
        factor = self._regression(site, prior, selector, parent)
        if factor is None:
            used = {prior.name} | parents
            raise _not_conjugate(site, "(loc, covariance)", used, accepted)
        return factor

    def _regression(
        self, site: Site, prior: RegressionPrior, selector: str | None, parent: str | None
    ) -> GaussianFactor | None:
        """The factor, if the program agrees with it at random points."""
        gathered = prior.components is not None and selector is None
        if selector is not None and prior.components is None:
            return None

        def regressor(values: dict[str, Array]) -> Array:
            return self.prober.regressor(site.name, prior.columns, values)

        matrix = None
        if parent is not None:
            matrix, uniform = self.prober.parent_map(site.name, parent, regressor)
            if not uniform:
                return None
        origin = regressor({})
        members = self._members(site, prior) if gathered else None

        def holds(values: dict[str, Array], sites: dict[str, Site]) -> bool:
            u = origin
            if parent is not None:
                extra = self.prober.sites[parent].extra
                u = u + align(values[parent] @ matrix.T, site, extra, 1)
            weight, cov = _pair(prior, values)
            if selector is not None:
                index = align(values[selector], site, self.prober.sites[selector].extra)
                weight, cov = weight[index], cov[index]
            elif members is not None:
                weight, cov = weight[members], cov[members]
            found = parameters(sites[site.name])
            loc = jnp.squeeze(weight @ u[..., None], -1)
            return _same(found["loc"], loc) and _same(found["covariance"], cov)

        if not self._holds(holds):
            return None
        return GaussianFactor(
            site.name, prior.name, selector, gathered, parent, matrix
        )

    def _members(self, site: Site, prior: RegressionPrior) -> Array:
        run = self.prober.program.sites(self.prober.plain_values())
        return read_members(run[site.name])

    def _known_regression(
        self, site: Site, parents: set[str], unspoken: set[str]
    ) -> GaussianFactor:
        """A likelihood that is linear and Gaussian in a state with no potential."""
        selectors = [n for n in parents if self.prober.locals[n].kind == "categorical"]
        view = gaussian_view(site)
        if view is not None and len(parents) - len(selectors) == 1 and len(selectors) < 2:
            parent = next(iter(unspoken))
            read = self._loc_reader(site)
            matrix, uniform = self.prober.parent_map(site.name, parent, read)

            def holds(values: dict[str, Array], sites: dict[str, Site]) -> bool:
                chosen = {n: values[n] for n in selectors}
                origin = read(chosen)
                matrix, _ = self.prober.parent_map(
                    site.name, parent, lambda v: read({**chosen, **v})
                )
                shift = align(
                    values[parent] @ matrix.T, site, self.prober.sites[parent].extra, 1
                )
                return _same(parameters(sites[site.name])["loc"], origin + shift)

            free = parent not in self.needs[site.name]["covariance"]
            if free and uniform and not selectors and self._holds(holds):
                return GaussianFactor(site.name, parent=parent)
        raise ValueError(
            f"Site '{sorted(unspoken)[0]}': latent, observed through site "
            f"'{site.name}' ({type(site.fn).__name__}), and neither conjugate to it nor "
            "given a potential. Return a GaussianPotential for it from the recognition "
            "function, or make the observation linear and Gaussian in it."
        )

    def _loc_reader(self, site: Site) -> Callable[[dict], Array]:
        def read(values: dict[str, Array]) -> Array:
            plain = self.prober.plain_values()
            run = self.prober.program.sites({**plain, **values})
            return parameters(run[site.name])["loc"]

        return read

    # identities at random points

    def _holds(self, identity: Callable[[dict, dict], bool]) -> bool:
        for seed in range(_NUM_PROBES):
            values = self.prober.random_values(random.PRNGKey(seed))
            if not identity(values, self.prober.program.sites(values)):
                return False
        return True

    def _demand(
        self,
        identity: Callable[[dict, dict], bool],
        site: Site,
        what: str,
        used: Collection[str],
        accepted: str,
    ) -> None:
        if not self._holds(identity):
            raise _not_conjugate(site, what, used, accepted)


def read_members(site: Site) -> Array:
    """Which member of a batch each position picked, at the plain values of its prior."""
    count = parameters(site)["covariance"][..., 0, 0]
    members = jnp.round(count).astype(jnp.int32) - 1
    return jnp.broadcast_to(members, site.positions)


def _pair(prior: RegressionPrior, values: dict[str, Array]) -> tuple[Array, Array]:
    if prior.packed:
        value = values[prior.name]
        return value[..., : prior.columns], value[..., prior.columns :]
    cov, weight = (values[name] for name in prior.sites)
    return (weight[..., None] if prior.vector else weight), cov


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


def _not_conjugate(
    site: Site, what: str, used: Collection[str], accepted: str
) -> ValueError:
    return ValueError(
        f"Site '{site.name}' ({type(site.fn).__name__}): {what} depend on latent "
        f"{_listed(used)} in a way that is not conjugate. Accepted: {accepted}. No "
        "neural network or other nonlinear function may stand between a global and a "
        "local site."
    )
