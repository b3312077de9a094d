# Copyright Contributors to the numpyro_svae project.
# SPDX-License-Identifier: Apache-2.0

"""Plots show the numbers that they are given, where they are told to."""

import sys

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.colors import to_rgba
import matplotlib.pyplot as plt
import numpy as np
import pytest

from numpyro_svae import plots

RNG = np.random.default_rng(0)
TURN = np.array([[0.9, -0.2], [0.2, 0.9]])
COV = np.array([[[2.0, 0.5, 0.1], [0.5, 1.0, 0.2], [0.1, 0.2, 0.7]]])


@pytest.fixture
def ax():
    """Axes that nobody but the plot draws in; nothing else may change."""
    figure = mpl.figure.Figure()
    settings, figures = dict(mpl.rcParams), plt.get_fignums()
    yield figure.add_subplot()
    assert (dict(mpl.rcParams), plt.get_fignums()) == (settings, figures)
    figure.draw_without_rendering()


def test_elbo_is_minus_the_loss_for_each_datum(ax):
    losses = 100.0 + RNG.standard_normal(50)
    losses[0] = 1e6
    assert plots.plot_elbo(losses, ax, per=10) is ax
    np.testing.assert_allclose(ax.lines[0].get_ydata(), -losses / 10)
    assert ax.get_ylim()[0] > -12  # the first step does not hide the others
    plots.plot_elbo([losses, losses], ax, window=5)
    mean = -losses[45:].mean()
    np.testing.assert_allclose(ax.lines[-1].get_ydata()[-1], mean)
    assert ax.lines[-1].get_xdata()[-1] == 49


def test_outlines_are_at_their_distance_from_the_mean(ax):
    loc, points = np.array([[1.0, 2.0, 3.0]]), RNG.standard_normal((20, 3))
    plots.plot_clusters(points, loc, COV, ax, dims=(0, 2))
    assert len(ax.lines) == 2
    plane = COV[0][np.ix_([0, 2], [0, 2])]
    for deviations, line in zip((1.0, 2.0), ax.lines):
        away = line.get_xydata() - loc[0, [0, 2]]
        distance = np.einsum("pi,pi->p", away, np.linalg.solve(plane, away.T).T)
        np.testing.assert_allclose(distance, deviations**2)
    np.testing.assert_allclose(ax.collections[-1].get_offsets(), points[:, [0, 2]])


def test_clusters_without_weight_are_left_out(ax):
    points, loc = RNG.standard_normal((20, 2)), np.zeros((3, 2))
    cov, labels = np.broadcast_to(np.eye(2), (3, 2, 2)), np.arange(20) % 3
    plots.plot_clusters(
        points,
        loc,
        cov,
        ax,
        weights=[0.5, 0.5, 0.001],
        labels=labels,
        transform=lambda x: x + 7.0,
        deviations=(1.0,),
        colors=["red", "lime", "blue"],
    )
    assert [line.get_color()[:3].tolist() for line in ax.lines] == [
        [1, 0, 0],
        [0, 1, 0],
    ]
    np.testing.assert_allclose(np.mean(ax.lines[0].get_xdata()[:-1]), 7.0, atol=1e-6)
    faces = ax.collections[-1].get_facecolors()
    np.testing.assert_array_equal(faces[1], to_rgba("lime"))


def test_ribbons_are_deviations_wide(ax):
    mean, cov = RNG.standard_normal((30, 3)), np.broadcast_to(COV[0], (30, 3, 3))
    plots.plot_states(mean, cov, ax, deviations=1.5, offset=0, truth=mean + 1)
    lines = [line.get_ydata() for line in ax.lines]
    np.testing.assert_allclose(lines[::2], mean.T)
    np.testing.assert_allclose(lines[1::2], mean.T + 1)
    low = ax.collections[1].get_paths()[0].vertices[1:31, 1]
    np.testing.assert_allclose(low, mean[:, 1] - 1.5 * np.sqrt(COV[0, 1, 1]))


def test_dimensions_do_not_overlap(ax):
    mean, cov = RNG.standard_normal((30, 3)), np.broadcast_to(COV[0], (30, 3, 3))
    plots.plot_states(mean, cov, ax, labels="abc")
    boxes = [c.get_paths()[0].get_extents() for c in ax.collections]
    assert boxes[0].y0 > boxes[1].y1 > boxes[1].y0 > boxes[2].y1
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "c"]


def test_segments_have_the_colours_of_their_states(ax):
    rows = {"true": [0, 0, 2, 1], "found": [0, 1, 1, -1]}
    plots.plot_segmentation(rows, ax, names="xyz", colors=["red", "lime", "blue"])
    image = ax.images[0]
    bands = image.get_array()
    np.testing.assert_array_equal(bands.filled(-9), [[0, 0, 2, 1], [0, 1, 1, -9]])
    shown = image.to_rgba(bands)
    np.testing.assert_array_equal(shown[0, 2], to_rgba("blue"))
    assert shown[1, 3, 3] == 0  # padding is blank
    assert [t.get_text() for t in ax.get_yticklabels()] == ["true", "found"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == list("xyz")


def test_arrows_are_the_steps_of_the_dynamics(ax):
    at = RNG.standard_normal((5, 2))
    weight = np.concatenate([TURN, np.ones((2, 1))], 1)
    paths = RNG.standard_normal((3, 4, 2))
    plots.plot_vector_field(weight, ax, bias=[0.5, -0.5], at=at, paths=paths)
    arrows = ax.collections[0]
    expected = at @ TURN.T + [0.5, -0.5] - at
    np.testing.assert_allclose(np.stack([arrows.U, arrows.V], -1), expected)
    np.testing.assert_allclose(ax.lines[2].get_xydata(), paths[2])
    plots.plot_vector_field(TURN, ax, paths=paths, grid=4)
    assert len(ax.collections[1].U) == 16
    with pytest.raises(ValueError, match=r"weight: found shape \(3, 3\)"):
        plots.plot_vector_field(np.eye(3), ax)


def test_strips_stand_below_each_other_in_time(ax):
    frames = RNG.random((6, 12))
    rows = {"data": frames, "forecast": frames[:4].reshape(4, 3, 4)}
    plots.plot_frames(rows, ax, shape=(3, 4), every=2, forecast_from=3)
    assert len(ax.images) == 3 + 2
    np.testing.assert_array_equal(ax.images[1].get_array(), frames[2].reshape(3, 4))
    lefts = [image.get_extent()[0] for image in ax.images]
    assert lefts[:2] == lefts[3:] and lefts[0] < lefts[1] < lefts[2]
    assert ax.images[3].get_extent()[3] >= ax.images[0].get_extent()[2]
    line = ax.lines[0].get_xdata()[0]
    assert lefts[1] + 1 < line < lefts[2]  # step 2 was seen, step 4 was not
    with pytest.raises(ValueError, match=r"rows: 'flat' has shape \(6, 12\)"):
        plots.plot_frames({"flat": frames}, ax)


def test_new_axes_are_made_if_none_are_given():
    ax = plots.plot_elbo([2.0, 1.0])
    assert plt.get_fignums() == [ax.figure.number]
    plt.close(ax.figure)


def test_a_missing_matplotlib_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"needs matplotlib.*pip install matplotlib"):
        plots.plot_elbo([1.0])


def test_a_fan_has_the_quantiles_of_the_draws(ax):
    draws = RNG.standard_normal((400, 5)).cumsum(1)
    past, future = np.arange(3.0), np.full(5, 2.0)
    assert plots.plot_forecast(draws, ax, past=past, future=future) is ax
    wide, narrow = ax.collections
    for level, part in ((0.9, wide), (0.5, narrow)):
        ends = np.quantile(draws, (0.5 - level / 2, 0.5 + level / 2), axis=0)
        box = part.get_paths()[0].get_extents()
        np.testing.assert_allclose(box.y0, ends[0].min())
        np.testing.assert_allclose(box.y1, ends[1].max())
        np.testing.assert_allclose([box.x0, box.x1], [1, 5])
    median, before = ax.lines[0], ax.lines[1]
    np.testing.assert_allclose(median.get_ydata(), np.median(draws, 0))
    np.testing.assert_array_equal(before.get_xdata(), [-2, -1, 0])
    with pytest.raises(ValueError, match=r"draws: found shape \(400, 5, 1\); accepted"):
        plots.plot_forecast(draws[..., None], ax)
    with pytest.raises(ValueError, match=r"time: found shape \(5,\); accepted is \(8,"):
        plots.plot_forecast(draws, ax, past=past, time=np.arange(5))


def test_gaps_are_filled_and_data_are_left_as_they_are(ax):
    data = np.arange(8.0)
    seen = np.array([1, 1, 0, 0, 1, 1, 1, 0], bool)
    draws = np.where(seen, data, 10 * RNG.standard_normal((50, 8)))
    plots.plot_imputed(draws, data, seen, ax, truth=data)
    filled, kept, truth = (line.get_ydata() for line in ax.lines)
    np.testing.assert_array_equal(np.isnan(filled), [1, 0, 0, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(filled[[1, 4, 6]], data[[1, 4, 6]])
    np.testing.assert_array_equal(np.isnan(kept), ~seen)
    np.testing.assert_array_equal(truth[~seen], data[~seen])


def test_a_raster_has_a_tick_for_each_bin_with_spikes(ax):
    counts = RNG.poisson(0.3, (20, 6))
    plots.plot_raster(counts, ax, rates=np.full((20, 6), 0.3), bin_width=0.5)
    ticks = np.array(ax.collections[0].get_segments()).mean(1)
    times, rows = np.nonzero(counts)
    np.testing.assert_allclose(ticks, np.c_[(times + 0.5) * 0.5, rows])
    assert ax.images[0].get_extent() == [0, 10, -0.5, 5.5]


def test_eigenvalues_are_those_of_the_square_part(ax):
    draws = np.concatenate([TURN, np.ones((2, 3))], -1) + np.zeros((4, 1, 1))
    plots.plot_eigenvalues(draws, ax, truth=TURN)
    expected = np.sort_complex(np.linalg.eigvals(TURN))
    found = ax.collections[0].get_offsets() @ [1, 1j]
    np.testing.assert_allclose(np.sort_complex(found), np.repeat(expected, 4))
    crosses = next(x for x in ax.lines if x.get_marker() == "x").get_xydata()
    np.testing.assert_allclose(np.sort_complex(crosses @ [1, 1j]), expected)
    plots.plot_eigenvalues(np.stack([draws, -draws], 1), ax)
    assert len(ax.collections) == 3  # one more for each state
    with pytest.raises(ValueError, match="at least as many columns"):
        plots.plot_eigenvalues(np.ones((2, 1)), ax)


def test_matrices_are_shown_as_they_are(ax):
    loadings = np.array([[0.5, -2.0], [0.1, 0.0], [0.3, 1.0]])
    plots.plot_loadings(loadings, ax, colorbar=False)
    image = ax.images[0]
    np.testing.assert_array_equal(image.get_array(), loadings)
    assert image.get_clim() == (-2.0, 2.0)  # white is zero
    probs = np.array([[0.9, 0.1], [0.25, 0.75]])
    plots.plot_transitions(probs, ax, names="ab")
    np.testing.assert_array_equal(ax.images[1].get_array(), probs)
    assert [text.get_text() for text in ax.texts] == ["90", "10", "25", "75"]


def test_shares_leave_the_padding_out(ax):
    probs = np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [np.nan, np.nan]]])
    plots.plot_occupancy(probs, ax)
    heights = [bar.get_height() for bar in ax.patches]
    np.testing.assert_allclose(heights, [0.5, 0.5])
    gap = np.array([[0.1, 0.2], [0.3, 0.8]])
    plots.plot_amortization_gap(gap, ax, bins=[0.0, 0.5, 1.0])
    assert [bar.get_height() for bar in ax.patches[2:]] == [3, 1]
    np.testing.assert_allclose(ax.lines[-1].get_xdata(), 0.35)
