"""Figures from arrays: every number is where it belongs, and bad input is one line."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure

import unlearn_jax as uj

LABELS = ["Original", "AMUN", "Retrained"]
STYLES = uj.figures.row_styles(["original", "method", "oracle"])
ESTIMATES = np.array([[62.0, 60, 64], [51, 49.5, 53], [50.2, 49, 51.5]])


def scores(num_rows=3, size=400):
    rng = np.random.default_rng(0)
    members = rng.normal(np.linspace(1, 0, num_rows)[:, None], 1, (num_rows, size))
    return members, rng.normal(0, 1, (num_rows, 2 * size))


def drawn(figure):
    assert isinstance(figure, Figure)
    figure.savefig(io.BytesIO(), format="png", dpi=30)
    return figure


def test_a_forest_has_a_mean_a_bar_and_dots_a_row():
    runs = [[61.0, 63.0, np.nan], [51.0], []]
    figure = uj.figures.forest_plot(
        LABELS, ESTIMATES, styles=STYLES, runs=runs, lines=[50, 48], xlabel="AUC (%)"
    )
    (axes,) = drawn(figure).axes
    bars = [line for line in axes.lines if line.get_linewidth() == 2.4]
    np.testing.assert_array_equal([b.get_xdata() for b in bars], ESTIMATES[:, 1:])
    means = [line for line in axes.lines if line.get_marker() == "o"]
    assert [float(mean.get_xdata()[0]) for mean in means] == [62, 51, 50.2]
    assert [mean.get_color() for mean in means] == [style.color for style in STYLES]
    assert [len(dots.get_offsets()) for dots in axes.collections] == [2, 1, 0]
    dotted = [line.get_xdata()[0] for line in axes.lines[-2:]]
    assert dotted == [50, 48]
    (band,) = axes.patches
    assert (band.get_x(), band.get_x() + band.get_width()) == (49, 51.5)
    assert axes.get_ylim() == (2.6, -0.6)
    assert axes.get_xlabel() == "AUC (%)"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["mean and 95% interval", "one run", "the oracle's interval"]


def test_a_narrow_forest_has_a_title_of_lines_and_a_legend_of_one_column():
    figure = uj.figures.forest_plot(
        LABELS, ESTIMATES, styles=STYLES, title="FT AUC of every row", width=3
    )
    (axes,) = drawn(figure).axes
    assert axes.get_title("left") == "FT AUC of every\nrow"
    assert figure.get_figwidth() == 3
    assert figure.legends[0]._ncols == 1


def test_a_forest_without_numbers_has_a_dash_and_no_band():
    estimates = [[np.nan] * 3, [3.0, np.nan, np.nan]]
    figure = uj.figures.forest_plot(["lost", "one run"], estimates)
    (axes,) = drawn(figure).axes
    assert [text.get_text() for text in axes.texts] == ["–"]
    assert not axes.patches
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["mean and 95% interval"]


def test_a_forest_of_one_infinite_mean_has_a_dash():
    estimates = [[np.inf, 0.0, 1.0]]
    styles = uj.figures.row_styles(["method"])
    figure = uj.figures.forest_plot(["lost"], estimates, styles=styles)
    assert [text.get_text() for text in drawn(figure).axes[0].texts] == ["–"]


def test_forests_share_a_figure():
    figure = Figure()
    panels = figure.subplots(1, 2, sharey=True)
    for axes in panels:
        assert uj.figures.forest_plot(LABELS, ESTIMATES, axes=axes) is figure
    assert not drawn(figure).legends


@pytest.mark.parametrize("scale", ["log", "linear"])
def test_a_roc_is_the_audits_at_every_rate(scale):
    members, others = scores()
    figure = uj.figures.roc_plot(LABELS, members, others, styles=STYLES, scale=scale)
    (axes,) = drawn(figure).axes
    assert (axes.get_xscale(), axes.get_yscale()) == (scale, scale)
    assert axes.get_xlim() == ((1 / 800, 1) if scale == "log" else (0, 1))
    assert len(axes.lines) == 4
    lines = axes.lines[1:]
    for line, own, rest in zip(lines, members, others, strict=True):
        curve = uj.roc(np.append(own, rest), np.arange(1200) < 400)
        assert line.get_label().endswith(f"{100 * curve.auc:.1f}")
        for rate in (0.01, 0.1, 0.5):
            height = np.interp(rate, *line.get_data())
            assert height == pytest.approx(curve.tpr_at_fpr(rate), abs=0.02)


def test_many_rows_have_panels_of_their_own():
    members, others = scores(11)
    labels = [f"row {i}" for i in range(11)]
    styles = uj.figures.row_styles(["original", *["method"] * 9, "oracle"])
    figure = drawn(uj.figures.roc_plot(labels, members, others, styles=styles))
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title("left") for axes in shown] == labels[1:-1]
    assert [len(axes.lines) for axes in shown] == [4] * 9
    assert "AUC" in shown[0].texts[0].get_text()
    assert len({(style.color, str(style.dashes)) for style in styles}) == 11


@pytest.mark.parametrize("with_retain", [True, False])
def test_histograms_count_every_sample(with_retain):
    forget, test = scores()
    retain = [2 * row for row in forget] if with_retain else None
    figure = uj.figures.score_histograms(LABELS, forget, test, retain, styles=STYLES)
    panels = drawn(figure).axes
    assert [axes.get_title("left") for axes in panels] == LABELS
    for axes, own, rest in zip(panels, forget, test, strict=True):
        heights, edges, _ = axes.patches[0].get_data()
        assert len(axes.patches) == 2 + with_retain
        inside = np.clip(own, edges[0], edges[-1])
        counts = np.histogram(inside, edges)[0]
        np.testing.assert_allclose(heights, 100 * counts / own.size)
        assert axes.patches[1].get_data()[0].sum() == pytest.approx(100)
        assert rest.size == 2 * own.size
    assert "logit scale" not in figure.get_supxlabel()
    probabilities = 1 / (1 + np.exp(-forget))
    figure = uj.figures.score_histograms(LABELS, probabilities, probabilities)
    assert "logit scale" in drawn(figure).get_supxlabel()


def test_a_cumulative_line_is_the_fraction_below():
    values, others = scores()
    figure = uj.figures.cumulative_plot(
        LABELS, values, styles=STYLES, background={"test": others[0]}, line=0
    )
    (axes,) = drawn(figure).axes
    assert len(axes.lines) == 5
    for line, row in zip(axes.lines, [*values, others[0]], strict=False):
        for place, height in np.transpose(line.get_data())[10:-10:40]:
            assert height == pytest.approx(100 * np.mean(row < place))


def test_curves_have_markers_where_few_and_bands_where_many():
    few = np.stack([np.arange(4.0), np.arange(4) - 1, np.arange(4) + 1.0], 1)
    figure = uj.figures.curve_plot(["a", "b"], [1, 2, 3, 4], [few, few[:, 0]])
    (axes,) = drawn(figure).axes
    assert [line.get_marker() for line in axes.lines] == ["o", "o"]
    ends = np.array(axes.collections[0].get_segments())[:, :, 1]
    np.testing.assert_array_equal(ends, few[:, 1:])
    many = np.repeat(few, 10, axis=0)
    figure = uj.figures.curve_plot(["a"], range(40), [many], line=0)
    (axes,) = drawn(figure).axes
    assert axes.lines[0].get_marker() == "None"
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), range(40))
    assert len(axes.collections) == 1


def test_many_rows_without_a_method_share_a_panel():
    """A panel of its own is for a method, in front of the others."""
    scores = [np.arange(5.0)] * 12
    styles = uj.figures.row_styles(["oracle"] * 12)
    labels = list(map(str, range(12)))
    figure = uj.figures.cumulative_plot(labels, scores, styles=styles)
    assert len(figure.axes) == 1
    assert len(figure.axes[0].lines) == 12


def test_a_notebook_shows_a_figure():
    png = uj.figures.forest_plot(LABELS, ESTIMATES)._repr_png_()
    assert png.startswith(b"\x89PNG")
    assert len(png) < 30_000


MEMBERS, OTHERS = scores()


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("a label per row", lambda: uj.figures.forest_plot("AMUN", ESTIMATES)),
        ("at least one row", lambda: uj.figures.forest_plot([], ESTIMATES)),
        (
            "styles has 3 entries for 1 labels",
            lambda: uj.figures.forest_plot(["a"], ESTIMATES[:1], styles=STYLES),
        ),
        (
            r"shape \(3, 3\): pass mean, lower and upper end for each of 2",
            lambda: uj.figures.forest_plot(["a", "b"], ESTIMATES),
        ),
        (
            "interval of 'AMUN' ends below its start",
            lambda: uj.figures.forest_plot(["AMUN"], [[1.0, 2.0, 0.0]]),
        ),
        ("level", lambda: uj.figures.forest_plot(LABELS, ESTIMATES, level=95)),
        (
            "runs has 1 entries",
            lambda: uj.figures.forest_plot(LABELS, ESTIMATES, runs=[[1.0]]),
        ),
        ("unknown kind of row 'best'", lambda: uj.figures.row_styles(["best"])),
        (
            "others has 2 entries",
            lambda: uj.figures.roc_plot(LABELS, MEMBERS, OTHERS[:2]),
        ),
        (
            "unknown scale 'loglog'",
            lambda: uj.figures.roc_plot(LABELS, MEMBERS, OTHERS, scale="loglog"),
        ),
        (
            r"members\[1\] .*NaN",
            lambda: uj.figures.roc_plot(["a", "b"], [[1.0], [np.nan]], OTHERS[:2]),
        ),
        (
            r"test\[0\] .*at least one",
            lambda: uj.figures.score_histograms(["a"], [[1.0]], [[]]),
        ),
        (
            r"values\[0\] .*real numbers",
            lambda: uj.figures.cumulative_plot(["a"], [["x"]]),
        ),
        (
            "places must be finite and ascend",
            lambda: uj.figures.curve_plot(["a"], [1, 1], [[0.0, 1.0]]),
        ),
        (
            r"curves\[0\] has shape \(3,\)",
            lambda: uj.figures.curve_plot(["a"], [1, 2], [[0.0, 1.0, 2.0]]),
        ),
    ],
)
def test_bad_input_is_one_line(message, call):
    with pytest.raises(uj.InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
