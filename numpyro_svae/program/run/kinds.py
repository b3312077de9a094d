# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""What a kind of local site says of itself, and which kinds there are.

A kind is one class in one file of :mod:`numpyro_svae.kinds`: how its sites are
recognised and read, how they are inferred, and, if they are paths, how they go on. All
other code asks the kind. A kind of one's own derives from
:class:`~numpyro_svae.inference.local.kinds.DiscreteKind` or
:class:`~numpyro_svae.inference.local.kinds.GaussianKind`, and is made known by
:func:`register`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any, ClassVar

from jax import Array
import numpyro.distributions as dist

from numpyro_svae.program.run.classes import entries_by_class

__all__ = [
    "LocalKind",
    "kind_of",
    "lengths_of",
    "register",
]


class LocalKind(ABC):
    """A kind of local site."""

    name: ClassVar[str]
    """What it is called where a structure is printed."""

    distributions: ClassVar[tuple[type[dist.Distribution], ...]]
    """The classes of its distributions, without what they are wrapped in."""

    discrete: ClassVar[bool]
    """Whether its values are states rather than vectors."""

    chain: ClassVar[bool] = False
    """Whether its positions are the steps of one path, the first event dimension."""

    linearised: ClassVar[bool] = False
    """Whether it is a chain whose steps are shown as linear ones, found in sweeps."""

    def __str__(self) -> str:
        return self.name

    # reading

    @abstractmethod
    def parameters(self, site: Any) -> dict[str, Any] | None:
        """The parameters of a distribution of its classes, by name.

        :param site: a :class:`~numpyro_svae.program.run.sites.Site`, latent or not.
        :return: None if the site is none of this kind after all.
        """

    @abstractmethod
    def size(self, site: Any) -> int | None:
        """Number of states, or dimension of the vectors; None as before."""

    @abstractmethod
    def read(self, wiring: Any, site: Any) -> list[Any]:
        """The factors of a latent site.

        :param wiring: the program that is being read, a
            :class:`~numpyro_svae.program.read.wiring.Wiring`.
        :param site: the site.
        :raises ValueError: naming the site, if its prior is not conjugate.
        """

    def read_observed(
        self, wiring: Any, site: Any, blocks: Collection[str]
    ) -> list[Any]:
        """The factors of an observed site; none if it is only to be evaluated.

        :param blocks: the global blocks that it depends on.
        """
        return []

    def log_probs(self, fn: Any) -> Array:
        """Logs of the probabilities of the states, or of the steps of a path.

        :param fn: a distribution of its classes.
        :return: ``(..., K)``, or ``(..., T - 1 or 1, K, K)``.
        """
        raise NotImplementedError(
            f"A {self.name} does not say the logs of its probabilities. Accepted: a "
            "kind of discrete sites that defines `log_probs`."
        )

    # paths

    def draw_on(self, fn: Any, state: Array, key: Array) -> Array:
        """Draw a path that begins at a state, from the transitions of a chain.

        :param fn: the chain; what it says of its first state and of lengths is ignored.
        :param state: the first state, ``(...)`` or ``(..., D)``.
        :param key: random key.
        :return: of shape ``(..., T)`` or ``(..., T, D)``, the first state included.
        """
        raise self._no_path("go on from a state")

    def log_steps(self, fn: Any, before: Array, after: Array) -> Array:
        """Log densities of single steps of a chain, each from a state of its own.

        :param fn: the chain; what it says of its first state and of lengths is ignored.
        :param before: the states that the steps begin at, ``(..., T - 1)`` or
            ``(..., T - 1, D)``.
        :param after: those that they end at, of the same shape.
        :return: of shape ``(..., T - 1)``.
        """
        raise self._no_path("score its steps")

    def begin_with(self, fn: Any, belief: Any) -> dist.Distribution:
        """The chain of two states of which the first one has a belief.

        :param fn: the chain, of two steps.
        :param belief: probabilities of the first state, or its mean and covariance.
        """
        raise self._no_path("begin with a belief, as a filter wants it")

    def _no_path(self, what: str) -> NotImplementedError:
        return NotImplementedError(
            f"A {self.name} does not say how to {what}. Accepted: a chain whose kind "
            "defines `draw_on` (for forecasts), `log_steps` (for their scores where it "
            "is observed) and `begin_with` (for filters)."
        )


_KINDS: list[LocalKind] = []


def register(kind: LocalKind) -> None:
    """Make a kind of local site known.

    :param kind: the kind; it comes before those that are known.
    """
    _KINDS.insert(0, kind)


def kind_of(fn: Any) -> LocalKind | None:
    """The kind of local site that a distribution is.

    :param fn: a distribution without what it is wrapped in.
    """
    return next(entries_by_class(((k.distributions, k) for k in _KINDS), fn), None)


def lengths_of(fn: Any) -> Array | None:
    """The lengths of padded paths, of the batch shape of a chain.

    :param fn: a distribution without what it is wrapped in.
    :return: None if all paths are whole, or it has none.
    """
    return getattr(fn, "lengths", None)
