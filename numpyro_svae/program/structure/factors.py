# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What a program is made of: local sites, conjugate factors and likelihoods.

Everything here is static: it says how a program is wired, never what its data are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from jax import Array

from numpyro_svae.program.priors.priors import Prior
from numpyro_svae.program.priors.row_products import Joined
from numpyro_svae.program.run.kinds import LocalKind
from numpyro_svae.program.run.scans import Scan
from numpyro_svae.program.run.shown import Shown
from numpyro_svae.program.structure.supports import Support

__all__ = [
    "Beside",
    "Factor",
    "GaussianFactor",
    "Local",
    "Source",
    "Structure",
    "TableFactor",
]


@dataclass(frozen=True)
class Local:
    """A latent site that each datum has its own value of.

    :param name: name of the site.
    :param kind: what kind of site it is.
    :param size: number of states, or dimension of the vector.
    """

    name: str
    kind: LocalKind
    size: int

    @property
    def discrete(self) -> bool:
        """Whether its values are states rather than vectors."""
        return self.kind.discrete

    @property
    def chain(self) -> bool:
        """Whether its positions are the steps of one path."""
        return self.kind.chain


@dataclass(frozen=True)
class Source:
    """Where the parameters of a factor come from.

    :param prior: the global block, or the join of blocks, that holds them; None if
        they are given.
    :param selector: the latent discrete site that picks a member of the batch.
    :param offset: position ``t`` of the factor has the state of the selector at
        ``t + offset``.
    :param gathered: whether data pick a member of the batch, alone or with discrete
        sites.
    :param placed: whether the parameters are entries of the block one by one, each
        times a known number, beside entries that are known.
    """

    prior: str | None = None
    selector: str | None = None
    offset: int = 0
    gathered: bool = False
    placed: bool = False

    @property
    def plain(self) -> bool:
        """Whether the parameters are those of the block as it is, or of its members by
        the states of the selector."""
        return not (self.gathered or self.placed)


@dataclass(frozen=True)
class Factor:
    """A conjugate factor of the joint density.

    :param site: the site whose density it is, or a part of whose density.
    :param source: where its parameters come from.
    :param role: ``"initial"`` and ``"transition"`` are the two parts of a chain;
        ``"value"`` is the whole density of any other site.
    :param form: what kind of density it is; see its classes.
    :param parents: the latent Gaussian sites that it depends on.
    :param selectors: the latent discrete sites that it differs between.
    :param coupled: whether it joins its sites as a factor of a general graph does.
    :param event_dim: how many event dimensions of an observed site are features that
        one member of the block covers.
    :param weights: the Gaussian blocks that it is any function of, and sends the
        gradient of its expectation.
    """

    site: str
    source: Source = Source()
    role: str = "value"
    form: str = ""
    parents: tuple[str, ...] = ()
    selectors: tuple[str, ...] = ()
    coupled: bool = False
    event_dim: int = 0
    weights: tuple[str, ...] = ()

    @property
    def parent(self) -> str | None:
        """The one parent of a factor that is not coupled."""
        return self.parents[0] if self.parents and not self.coupled else None


@dataclass(frozen=True)
class Beside:
    """What the program gives of ``N(v; (K + F S) w, s Sigma)``, beside F and Sigma.

    :param location: ``""`` if K is zero; ``"offset"`` if it is for all regressors but
        the constant one; else ``"map"``.
    :param by_state: whether K differs between the states of the selectors.
    :param noise_by_state: whether a known covariance does.
    :param shared: whether K and S are the same at all positions, but for the offset.
    :param scaled: whether there is an s that is not one.
    :param all_by_state: whether S and s differ between the states too, as where labels
        pick one of several sites: ``jnp.where(z == 1, a, b)``.
    """

    location: str = ""
    by_state: bool = False
    noise_by_state: bool = False
    shared: bool = True
    scaled: bool = False
    all_by_state: bool = False


@dataclass(frozen=True)
class GaussianFactor(Factor):
    """``N(v; (K + F S) w, s Sigma)`` with (F, Sigma) learnt, and K, S and s known.

    The regressor w is [x; 1] with the parents x side by side. In the transition of a
    chain, v is a state and w the state before it with the inputs; in its initial part,
    w is 1.

    It is coupled if its response and a parent are latent, if it has several parents or
    selectors, or a map of its own at each position. Others say a potential to their one
    parent.

    :param beside: what is known in it.
    :param parent_map: the columns of S for x, ``(M, P)``, where they are the same for
        all positions and arguments; None if they are to be read. It follows from the
        rest, so a factor is compared and hashed without it.
    :param support: where a part of a chain has noise; None if that is everywhere, and
        for other sites.
    """

    form: str = "regression"
    beside: Beside = Beside()
    parent_map: Array | None = field(default=None, compare=False)
    support: Support | None = field(default=None, compare=False)

    @property
    def vector(self) -> bool:
        """Whether it is read as the location of a vector is, not as a matrix of a path.

        A first state that depends on latent vectors is.
        """
        return self.role == "value" or bool(self.parents)


@dataclass(frozen=True)
class TableFactor(Factor):
    """A factor whose log density is a table of the states of discrete sites.

    ``form`` says what is looked up there:

    - ``"rows"``: probabilities of a latent discrete site, or of a part of a chain,
      which are those of a block or given. Rows of a transition are the members of a
      Dirichlet block, if the source is plain.
    - ``"statistics"``: an observation of an exponential family, ``log p(v) = <t,
      statistics of v> + base`` with t those of a block. The parts of an observed
      discrete chain are such factors, with rows picked by data.
    - ``"density"``: the density of a site in each state, from the program.
    - ``"weights"``: probabilities of a latent discrete site, or of a part of a chain,
      that are any function of some Gaussian blocks. They send these the gradient of
      their expectation.
    - ``"logits"``: probabilities of a latent discrete site, or of the steps of a chain,
      that are any function of its one parent, a latent vector at one position each,
      and perhaps of some Gaussian blocks. They send these the gradient of their
      expectation.

    It is coupled if its site is latent and depends on discrete sites, or observed and
    depends on several.

    :param order: in which order the logits of these have the axes of the positions;
        empty for the same order.
    :param alike: whether these are the same after all states of a chain.
    """

    form: str = "rows"
    order: tuple[int, ...] = ()
    alike: bool = False


@dataclass(frozen=True, eq=False)
class Structure:
    """How a program is wired. It is hashed by identity, as a static argument of jit.

    :param priors: global blocks by name.
    :param locals: latent local sites by name, in program order.
    :param factors: conjugate factors, in program order.
    :param likelihoods: the observed sites that are sampled, with the latent sites
        that each depends on.
    :param labels: latent discrete sites of which a part is observed, by ``obs_mask``,
        with the site of the observed part.
    :param leaves: local sites on which nothing depends. They have their prior and say
        nothing, so that what they depend on is not learnt from them.
    :param axes: names of the axes of the positions of local sites, and of those that
        have conjugate factors.
    :param scans: the scans of the program, whose chains are among the local sites.
    :param joins: blocks that give the parameters of one factor together.
    :param populations: priors of global blocks that depend on other blocks, by block.
    :param shown: the sites that are shown in another shape.
    :param gradients: the local sites that likelihoods send the gradient of their
        expectation to, with these likelihoods.
    :param predicted: the observed sites that are not conjugate and depend on global
        Gaussian blocks alone, with these blocks.
    :param products: vectors of which likelihoods multiply some entries by another
        vector, as in matrix factorisation, with these entries.
    :param classes: what each site was when the program was read.
    """

    priors: dict[str, Prior]
    locals: dict[str, Local]
    factors: tuple[Any, ...]
    likelihoods: dict[str, frozenset[str]]
    labels: dict[str, str]
    leaves: frozenset[str]
    axes: dict[str, tuple[str, ...]]
    scans: tuple[Scan, ...] = ()
    joins: dict[str, Joined] = field(default_factory=dict)
    populations: dict[str, Any] = field(default_factory=dict)
    shown: Shown = field(default_factory=Shown)
    gradients: dict[str, tuple[str, ...]] = field(default_factory=dict)
    predicted: dict[str, tuple[str, ...]] = field(default_factory=dict)
    products: dict[str, tuple[int, ...]] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)

    def blocks_of(self, factor: Any) -> tuple[str, ...]:
        """Names of the global blocks that a factor depends on."""
        if factor.weights:
            return factor.weights
        join = self.joins.get(str(factor.source.prior))
        if join is not None:
            return tuple(block.name for block in join.blocks)
        return () if factor.source.prior is None else (factor.source.prior,)

    def holder(self, factor: Factor) -> Any:
        """What holds the parameters of a factor, a join or a block; None if nothing."""
        name = str(factor.source.prior)
        return self.joins.get(name, self.priors.get(name))

    def __str__(self) -> str:
        rows = []
        for name, prior in self.priors.items():
            kind = type(prior).__name__.removesuffix("Prior")
            text = f"global: {kind} of {_listed(prior.sites)}"
            if name in self.populations:
                names = _listed(b.name for b in self.populations[name].above)
                free = ", whose prior is not conjugate"
                text += f", given {names}" if names else free
            rows.append((f"'{name}'", text))
        for name, local in self.locals.items():
            size = "states" if local.discrete else "dimensions"
            rows.append((f"'{name}'", f"local: {local.kind} of {local.size} {size}"))
        for factor in self.factors:
            part = "" if factor.role == "value" else f", {factor.role}"
            given = [*self.blocks_of(factor), *factor.parents, *factor.selectors]
            text = f"conjugate factor of {_listed(given)}" if given else "known factor"
            if factor.form == "logits" or factor.weights:
                text = f"sends its gradient to {_listed(given)}"
            rows.append((f"'{factor.site}'{part}", text))
        for name, parents in self.likelihoods.items():
            sends = any(name in senders for senders in self.gradients.values())
            how = "sends its gradient to" if sends else "evaluated at samples of"
            rows.append((f"'{name}'", f"{how} {_listed(parents)}"))
        for name, blocks in self.predicted.items():
            rows.append((f"'{name}'", f"sends its gradient to {_listed(blocks)}"))
        width = max((len(label) for label, _ in rows), default=0)
        return "\n".join(f"{label:<{width}}  {text}" for label, text in rows)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))
