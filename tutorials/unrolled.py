# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""An unrolled map of what is seen: neighbours stay neighbours, and what is far is far.

This is Isomap with landmarks (Tenenbaum, de Silva and Langford 2000; de Silva and
Tenenbaum 2002): distances are lengths of the shortest ways over neighbouring pictures,
and places have these distances as well as they can.
"""

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import minimum_spanning_tree, shortest_path

SAMPLE, LANDMARKS, NEIGHBOURS, DIRECTIONS = 2000, 500, 6, 50
CANDIDATES = 10  # coordinates, of which those that are new are taken


def project(x, basis):
    """``x (N, P)`` along the principal directions of ``basis (M, P)``."""
    vectors = np.linalg.eigh(np.cov(basis.T))[1][:, ::-1]
    return (x - basis.mean(0)) @ vectors[:, :DIRECTIONS]


def spread(x, count):
    """Indices of points of ``x (N, P)``, each the farthest from those before.

    They are spread evenly over what the points cover, however often one was seen.
    """
    squares, index, chosen = np.sum(x**2, 1), 0, []
    nearest = np.full(len(x), np.inf)
    for _ in range(min(count, len(x))):
        chosen.append(index)
        away = squares + squares[index] - 2 * x @ x[index]
        nearest = np.minimum(nearest, away)
        index = int(np.argmax(nearest))
    return np.array(chosen)


def lengths(x):
    """Lengths of the shortest ways from the first points of ``x (N, P)`` to all.

    A step costs a squared distance: that of pictures grows with the area that differs,
    and so as fast as a thing moves, even if it moves by more than its own width. The
    spanning tree sees to it that there is a way.

    :return: an array ``(L, N)``.
    """
    squares = np.sum(x**2, 1)
    away = np.maximum(squares[:, None] + squares - 2 * x @ x.T, 1e-9)
    np.fill_diagonal(away, 0)
    near = np.argpartition(away, NEIGHBOURS, 1)[:, : NEIGHBOURS + 1]
    first, second = np.repeat(np.arange(len(x)), NEIGHBOURS + 1), near.ravel()
    steps = coo_matrix((away[first, second], (first, second)), away.shape).tocsr()
    steps = steps.maximum(minimum_spanning_tree(away))
    landmarks = np.arange(min(LANDMARKS, len(x)))
    return shortest_path(steps, "D", directed=False, indices=landmarks)


def independent(x, count):
    """The first columns of ``x (N, D)`` that are no functions of those before.

    A ring has its harmonics among its coordinates, a sheet its bend: they are smooth
    functions of others, and four fifths of their variance are that of the mean of
    neighbours. There are columns of zeros for what is missing.

    :return: an array ``(N, count)``.
    """
    found = np.zeros((len(x), count), np.float32)
    away, size = np.zeros((len(x), len(x))), 0
    np.fill_diagonal(away, np.inf)
    for column in x.T:
        near = np.argpartition(away, NEIGHBOURS, 1)[:, :NEIGHBOURS]
        rest = column - column[near].mean(1) if size else column
        if size < count and np.var(rest) > 0.2 * np.var(column):
            found[:, size], size = column, size + 1
            away += (column[:, None] - column) ** 2
    return found


def unroll(seen, count):
    """Places of pictures, or of other things that are seen.

    :param seen: ``(N, P)``.
    :param count: number of coordinates ``D`` of a place.
    :return: indices ``(M,)`` of some that are spread evenly over what was seen, and
        their places ``(M, D)``, which have a mean of zero. The variance of their
        strongest coordinate is one, and all have the same scale.
    """
    seen = np.asarray(seen, np.float32)
    # what is rare has its own directions only when it is not drowned by the rest
    basis = seen[np.linspace(0, len(seen) - 1, min(SAMPLE, len(seen))).astype(int)]
    basis = seen[spread(project(seen, basis), SAMPLE)]
    x = project(seen, basis)
    chosen = spread(x, SAMPLE)
    squares = lengths(x[chosen]) ** 2
    among = squares[:, : len(squares)]
    centre = among.mean(0)
    values, vectors = np.linalg.eigh(
        -0.5 * (among - centre - centre[:, None] + centre.mean())
    )
    values, vectors = values[::-1][:CANDIDATES], vectors[:, ::-1][:, :CANDIDATES]
    places = -0.5 * (squares - centre[:, None]).T @ vectors
    places = places / np.sqrt(np.maximum(values, 1e-9))
    places -= places.mean(0)
    return chosen, independent(places / places.std(0).max(), count)
