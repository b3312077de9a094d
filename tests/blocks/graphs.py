# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Small graphs of Gaussian and discrete latents; their posteriors by enumeration."""

import itertools

import numpy as np

from numpyro_svae.blocks.graph import GaussianTerm, TableTerm, Variable


class Graph:
    """Variables, plates and random terms."""

    def __init__(self, *variables: Variable, **plate_sizes: int):
        self.variables = variables
        self.plate_sizes = plate_sizes
        self.by_name = {v.name: v for v in variables}
        self.terms: list[GaussianTerm | TableTerm] = []
        self.rng = np.random.default_rng(0)

    def batch(self, states, plates):
        sizes = [self.plate_sizes[plate] for plate in plates]
        return (*sizes, *[self.by_name[name].size for name in states])

    def link(self, *names, states=(), plates=()):
        """A regression of the last variable on the others: rank of its size only."""
        sizes = [self.by_name[name].size for name in names]
        batch = self.batch(states, plates)
        a = 0.4 * self.rng.normal(size=(*batch, sizes[-1], sum(sizes)))
        a[..., -sizes[-1] :] += np.eye(sizes[-1])
        b = self.rng.normal(size=(*batch, sizes[-1], 1))
        a_t = np.swapaxes(a, -1, -2)
        constant = self.rng.normal(size=batch)
        term = GaussianTerm(names, states, plates, (a_t @ b)[..., 0], a_t @ a, constant)
        self.terms.append(term)
        return self

    def table(self, *states, plates=()):
        logits = self.rng.normal(size=self.batch(states, plates))
        self.terms.append(TableTerm(states, plates, logits))
        return self

    @property
    def arguments(self):
        return self.variables, self.plate_sizes, tuple(self.terms)


def members(plates, plate_sizes):
    return itertools.product(*(range(plate_sizes[plate]) for plate in plates))


class Enumerated:
    """The dense joint Gaussian of all members, given every assignment of the states."""

    def __init__(self, variables, plate_sizes, terms):
        self.variables = {v.name: v for v in variables}
        self.plate_sizes = plate_sizes
        self.slices, self.states, start = {}, [], 0
        for v in variables:
            for index in members(v.plates, plate_sizes):
                if v.discrete:
                    self.states.append((v.name, index))
                else:
                    self.slices[v.name, index] = np.arange(start, start + v.size)
                    start += v.size
        self.size = start
        ranges = [range(self.variables[name].size) for name, _ in self.states]
        self.assignments = [
            dict(zip(self.states, values)) for values in itertools.product(*ranges)
        ]
        self.solved = [self.solve(terms, a) for a in self.assignments]
        logits = np.array([log_weight for log_weight, _, _ in self.solved])
        self.log_normalizer = np.logaddexp.reduce(logits)
        self.weights = np.exp(logits - self.log_normalizer)

    def member(self, name, plates, index):
        position = dict(zip(plates, index))
        return name, tuple(position[plate] for plate in self.variables[name].plates)

    def at(self, term, index, assignment):
        """The index into a term's arrays, and the positions of its real variables."""
        states = [assignment[self.member(s, term.plates, index)] for s in term.states]
        names = getattr(term, "variables", ())
        reals = [self.slices[self.member(v, term.plates, index)] for v in names]
        return (*index, *states), np.concatenate([*reals, []]).astype(int)

    def solve(self, terms, assignment):
        constant, h = 0.0, np.zeros(self.size)
        J = np.zeros((self.size, self.size))
        for term in terms:
            for index in members(term.plates, self.plate_sizes):
                where, x = self.at(term, index, assignment)
                if isinstance(term, TableTerm):
                    constant += term.logits[where]
                else:
                    constant += term.constant[where]
                    h[x] += term.info[where]
                    J[np.ix_(x, x)] += term.precision[where]
        covariance = np.linalg.solve(J, np.eye(self.size))
        mean = covariance @ h
        log_det = np.linalg.slogdet(J / (2 * np.pi))[1]
        return constant + 0.5 * h @ mean - 0.5 * log_det, mean, covariance

    def statistics(self, term):
        """``E[1{s}]``, ``E[1{s} x]`` and ``E[1{s} x x']``."""
        if isinstance(term, TableTerm):
            probability, first, second = np.zeros(term.logits.shape), None, None
        else:
            shapes = term.constant.shape, term.info.shape, term.precision.shape
            probability, first, second = map(np.zeros, shapes)
        for weight, assignment, (_, mean, covariance) in zip(
            self.weights, self.assignments, self.solved
        ):
            for index in members(term.plates, self.plate_sizes):
                where, x = self.at(term, index, assignment)
                probability[where] += weight
                if first is not None:
                    first[where] += weight * mean[x]
                    square = covariance[np.ix_(x, x)] + np.outer(mean[x], mean[x])
                    second[where] += weight * square
        return probability, first, second


def tree():
    graph = Graph(*(Variable(n, d) for n, d in zip("abcde", (2, 1, 3, 2, 1))))
    graph.link("a").link("a", "b").link("a", "c").link("c", "d").link("c", "e")
    return graph.link("e").link("b")


def groups_of_members():
    plates = ("groups", "members")
    graph = Graph(
        Variable("root", 1),
        Variable("group", 2, plates=("groups",)),
        Variable("member", 2, plates=plates),
        groups=3,
        members=2,
    )
    graph.link("root").link("root", "group", plates=("groups",))
    graph.link("group", "member", plates=plates)
    return graph.link("member", plates=("members", "groups"))


def coupled_gaussian_chains():
    names = [f"{chain}{t}" for t in range(4) for chain in "xy"]
    graph = Graph(*(Variable(name, 2) for name in names))
    graph.link("x0").link("x0", "y0")
    for t in range(1, 4):
        graph.link(f"x{t - 1}", f"y{t - 1}", f"x{t}").link(
            f"y{t - 1}", f"x{t}", f"y{t}"
        )
    return graph.link("y3")


def coupled_discrete_chains():
    names = [f"{chain}{t}" for t in range(4) for chain in "zw"]
    graph = Graph(*(Variable(n, 2 + (n[0] == "w" and n != "w3"), True) for n in names))
    for t in range(4):
        graph.table(f"z{t}", f"w{t}")
        if t:
            graph.table(f"z{t - 1}", f"z{t}").table(f"w{t - 1}", f"w{t}")
    return graph


def mixture():
    graph = Graph(
        Variable("z", 2, True, ("n",)),
        Variable("parent", 3, True),
        Variable("scale", 2),
        Variable("x", 2, plates=("n",)),
        n=3,
    )
    graph.table("parent").table("parent", "z", plates=("n",))
    graph.link("x", states=("z",), plates=("n",)).link("x", plates=("n",))
    return graph.link("scale", states=("parent",))


def gaussian_hmm():
    graph = Graph(
        *(Variable(f"z{t}", 3, True) for t in range(4)),
        *(Variable(f"x{t}", 2) for t in range(4)),
    )
    graph.table("z0")
    for t in range(4):
        graph.link(f"x{t}", states=(f"z{t}",)).link(f"x{t}")
        if t:
            graph.table(f"z{t - 1}", f"z{t}")
    return graph


def labelled_groups():
    plates = ("groups", "members")
    graph = Graph(
        Variable("label", 3, True, ("groups",)),
        Variable("center", 1, plates=("groups",)),
        Variable("x", 2, plates=plates),
        groups=2,
        members=3,
    )
    graph.table("label", plates=("groups",))
    graph.link("center", states=("label",), plates=("groups",))
    graph.link("center", "x", states=("label",), plates=plates)
    return graph.link("x", plates=plates)


GRAPHS = {
    build.__name__: build
    for build in (
        tree,
        groups_of_members,
        coupled_gaussian_chains,
        coupled_discrete_chains,
        mixture,
        gaussian_hmm,
        labelled_groups,
    )
}
