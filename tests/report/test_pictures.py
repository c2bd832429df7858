"""cscm77/report/pictures.py: grids against a loop, curves against their numbers."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image

import gan
from cscm77.report import pictures
from cscm77.training.journal import GANHistory, VAEEpoch

FORMULA = r"$\wrong$"  # to matplotlib a formula with an unknown symbol
FIGURES = {  # (form of the values, a text) -> a figure
    "digits": lambda form, text: pictures.draw_digits(form(torch.rand(4, 784)), title=text),
    "VAE": lambda form, text: pictures.plot_vae_training(
        [VAEEpoch(i, *row) for i, row in enumerate(form(torch.rand(3, 4)))], text),
    "GAN": lambda form, text: pictures.plot_gan_training(
        {text: GANHistory(*form(torch.rand(2, 150)))}, text),
    "probabilities": lambda form, text: pictures.plot_probabilities(
        {text: GANHistory([], [], d_real=form(torch.rand(9)), d_fake=form(torch.rand(9)))}, text),
    "choices": lambda form, text: pictures.plot_choices({text: {text: form(torch.rand(3))}}, text),
    "trials": lambda form, text: pictures.plot_trials(
        {text: dict(zip([text, "other"], form(torch.rand(2, 3)), strict=True))}, text),
    "KL": lambda form, text: pictures.plot_kl_of_latents(form(torch.rand(5)), text),
    "counts": lambda form, text: pictures.plot_class_counts({text: form(torch.rand(10))}, text),
    "confusion": lambda form, text: pictures.plot_confusion(form(torch.rand(10, 10)), text),
    "networks": lambda form, text: pictures.plot_networks({"D": (gan.discriminator(), 784)}, text),
    "map": lambda form, text: pictures.plot_latent_map(
        form(torch.rand(4, 2)), torch.tensor([1, 1, 2, 2]), text),
}
FORMS = {"with gradient": lambda t: t.requires_grad_(), "float64": lambda t: t.double(),
         "numbers": lambda t: t.tolist(), "tensors": list}


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("form", FORMS)
def test_every_figure_takes_tensors_of_any_kind_and_lists(figure, form):
    FIGURES[figure](FORMS[form], "title").canvas.draw()


@pytest.mark.parametrize("figure", FIGURES)
def test_a_dollar_in_a_title_or_label_begins_no_formula(figure):
    fig = FIGURES[figure](torch.Tensor, FORMULA)
    fig.canvas.draw()
    shown = [text.get_text() for text in fig.findobj(Text) if "$" in text.get_text()]
    assert shown and set(shown) == {FORMULA}
    assert len(shown) == {"GAN": 2, "probabilities": 2, "choices": 3, "counts": 2,
                          "trials": 4}.get(figure, 1)


@pytest.mark.parametrize("n, columns, rows, cols",
                         [(7, None, 3, 3), (7, 7, 1, 7), (16, None, 4, 4), (2, 5, 1, 2)])
def test_tile_puts_every_image_where_a_loop_would(n, columns, rows, cols):
    images, gap = torch.rand(n, 1, 6, 6) - 0.5, pictures.GAP
    grid = pictures.tile(images, columns)
    assert grid.shape == (rows * (6 + gap) + gap, cols * (6 + gap) + gap)
    expected = np.full(grid.shape, images.min().item(), dtype=np.float32)
    for i in range(n):
        top, left = gap + (i // cols) * (6 + gap), gap + (i % cols) * (6 + gap)
        expected[top:top + 6, left:left + 6] = images[i, 0].numpy()
    np.testing.assert_array_equal(grid, expected)


def test_tile_takes_one_image_of_any_type_and_refuses_what_is_no_square_picture():
    for images in (torch.rand(1, 784), torch.ones(1, 28, 28, dtype=torch.uint8)):
        assert pictures.tile(images).shape == (28, 28)  # one image needs no gaps
    for shape in ((0, 784), (4, 783), (4,), (4, 0)):
        with pytest.raises(ValueError, match="N >= 1 and square pictures, found"):
            pictures.tile(torch.rand(shape))


def test_digits_are_one_image_with_a_title_and_labels_to_the_left_of_its_rows():
    fig = pictures.draw_digits(torch.rand(20, 784), columns=10, title="a title",
                               labels=["above", "below, averaged"])
    assert fig is plt.gcf() and [ax.get_title() for ax in fig.axes] == ["a title"]
    width, height = fig.get_size_inches()
    assert width > 3 * height
    fig.canvas.draw()
    boxes = {text.get_text(): text.get_window_extent() for text in fig.axes[0].texts}
    assert boxes["above"].y0 > boxes["below, averaged"].y0 > 0
    assert all(box.x0 >= 0 and box.x1 <= fig.axes[0].bbox.x0 for box in boxes.values())


def test_a_network_is_drawn_from_its_layers_with_their_outputs_and_weights():
    assert pictures.layers_of(gan.build_dc_generator(4), 4) == [
        ("input", (4,), 0), ("Linear, ReLU, BatchNorm1d", (1024,), 7168),
        ("Linear, ReLU, BatchNorm1d", (6272,), 6441344), ("Unflatten", (128, 7, 7), 0),
        ("ConvTranspose2d, ReLU, BatchNorm2d", (64, 14, 14), 131264),
        ("ConvTranspose2d, Tanh", (1, 28, 28), 1025), ("Flatten", (784,), 0)]
    (ax,) = pictures.plot_networks({"D": (gan.discriminator(), 784)}, "GAN").axes
    assert ax.get_title() == "D: 267,009 parameters"
    assert [text.get_text() for text in ax.texts][:2] == ["784", "256   200,960 parameters"]


@pytest.mark.parametrize("draw", [
    lambda: pictures.plot_choices({"a": {str(i): [3.0, 2.0] for i in range(5)}}, "study"),
    lambda: pictures.plot_class_counts({"FC": [1] * 10, "DC": [2] * 10}, "digits")])
def test_a_legend_covers_no_curve(draw):
    fig = draw()
    fig.canvas.draw()
    for ax in fig.axes:
        assert ax.get_legend().get_window_extent().y1 <= ax.bbox.y0


def test_a_long_title_takes_more_lines_and_more_room():
    short, long = (pictures.draw_digits(torch.rand(4, 784), columns=2, title=title)
                   for title in ("short", "a long title " * 4))
    assert long.axes[0].get_title().count("\n") >= 1
    assert long.get_size_inches()[1] > short.get_size_inches()[1]
    for fig in (long, pictures.plot_kl_of_latents(torch.rand(15), "a long title " * 12)):
        fig.canvas.draw()
        title = fig.axes[0].title if fig is long else fig._suptitle
        box = title.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= fig.bbox.width and box.y1 <= fig.bbox.height


def test_interpolation_begins_and_ends_where_it_should_in_its_own_type(double_by_default):
    start, end = torch.randn(2, 3, 5, dtype=torch.float32)
    points = pictures.interpolate(start, end, np.int64(4)).view(3, 4, 5)
    torch.testing.assert_close(points[:, 0], start)
    torch.testing.assert_close(points[:, 3], end)
    torch.testing.assert_close(points[:, 1], start + (end - start) / 3)
    for other, steps, words in ((end[:, :4], 3, "one shape"), (end, 1, "steps: expected")):
        with pytest.raises(ValueError, match=words):
            pictures.interpolate(start, other, steps)


def test_vae_curves_hold_the_numbers_and_the_threshold():
    epochs = [VAEEpoch(0, 150.0, 140.0, 10.0, 130.0), VAEEpoch(1, 110.0, 90.0, 20.0, 105.0)]
    fig = pictures.plot_vae_training(epochs, "VAE")
    lines = [line.get_ydata() for line in fig.axes[0].lines]
    assert [list(line) for line in lines] == [[150.0, 110.0], [130.0, 105.0], [120, 120]]
    assert list(fig.axes[1].lines[0].get_ydata()) == [140.0, 90.0]
    assert list(fig.axes[2].lines[0].get_ydata()) == [10.0, 20.0]
    without = pictures.plot_vae_training([e._replace(val_loss=None) for e in epochs], "VAE")
    assert len(without.axes[0].lines) == 2


@pytest.mark.parametrize("steps, window", [(1, 100), (50, 7)])
def test_gan_curves_have_a_panel_for_each_game_and_average_the_last_steps(steps, window):
    values = torch.rand(steps).tolist()
    history = GANHistory(values, [2.0] * steps, d_real=values, d_fake=[0.3] * steps)
    shown = min(window, steps)
    means = np.convolve(values, np.ones(shown) / shown, "valid")
    for plot, constant in ((pictures.plot_gan_training, 2.0), (pictures.plot_probabilities, 0.3)):
        fig = plot({"FC": history, "DC": history}, "GANs", window=window)
        assert [ax.get_title() for ax in fig.axes] == ["FC", "DC"]
        first, second, *guessing = fig.axes[1].lines
        np.testing.assert_allclose(first.get_ydata(), means)
        assert first.get_xdata()[-1] == steps - 1
        assert second.get_ydata() == pytest.approx([constant] * len(means))
    assert [line.get_ydata()[0] for line in guessing] == [0.5]


def test_a_picture_is_saved_with_its_folder_and_a_shown_one_is_freed(tmp_path, capsys):
    fig = pictures.draw_digits(torch.rand(4, 784))
    path = tmp_path / "a" / "b" / "picture.jpg"
    pictures.save_picture(fig, path)
    pictures.save_picture(fig, str(tmp_path / "no ending"))
    assert path.stat().st_size > 1000 and capsys.readouterr().out == ""
    assert plt.imread(tmp_path / "no ending.png").ndim == 3
    pictures.save_picture(fig, tmp_path / "x.odd")
    assert "not saved as x.odd: Format 'odd' is not supported" in capsys.readouterr().out
    pictures.show_and_close(fig)
    assert plt.get_fignums() == []


def test_rows_grow_in_one_figure_of_a_page_and_nowhere_else(monkeypatch):
    seen = []

    class Shown:
        """What `display` returns: it takes a figure's next form."""

        def update(self, fig):
            seen.append(fig.axes[0].images[0].get_array().shape)

    def show(fig, display_id):
        Shown().update(fig)
        return Shown()

    monkeypatch.setattr("IPython.display.display", show)
    rows = pictures.GrowingRows()
    rows.add(torch.rand(16, 784))
    assert seen == []  # a terminal
    monkeypatch.setattr(pictures, "in_notebook", lambda: True)
    for _ in range(3):
        rows.add(torch.rand(16, 784))
    assert seen == [(2 + n * 30, 2 + 16 * 30) for n in (1, 2, 3)] and plt.get_fignums() == []


def test_what_cannot_be_saved_is_said_in_words(tmp_path, capsys, full_disk):
    pictures.save_picture(pictures.draw_digits(torch.rand(4, 784)), tmp_path / "x.png")
    pictures.save_animation(torch.rand(2, 4, 784), tmp_path / "x.gif")
    assert capsys.readouterr().out.splitlines() == [
        "The picture was not saved as x.png: No space left on device",
        "The animation was not saved as x.gif: No space left on device"]
    assert list(tmp_path.iterdir()) == []


def test_choices_have_a_line_for_each():
    curves = {"hidden size": {"8": [3.0, 2.0], "9": [2.5]}, "latent size": {"2": [5.0]}}
    fig = pictures.plot_choices(curves, "study")
    assert [[list(line.get_ydata()) for line in ax.lines] for ax in fig.axes] == [
        [[3.0, 2.0], [2.5]], [[5.0]]]
    assert [text.get_text() for text in fig.axes[0].get_legend().get_texts()] == ["8", "9"]


def test_the_kl_of_latents_is_sorted():
    (ax,) = pictures.plot_kl_of_latents(torch.tensor([0.5, 2.0, 1.0]), "KL").axes
    assert [bar.get_height() for bar in ax.patches] == [2.0, 1.0, 0.5]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2", "0"]


def test_class_counts_are_shares_beside_the_equal_one():
    (ax,) = pictures.plot_class_counts({"FC": [5] * 10, "DC": [20] + [0] * 9}, "digits").axes
    assert [bar.get_height() for bar in ax.patches] == [10.0] * 10 + [100.0] + [0.0] * 9
    assert set(ax.lines[0].get_ydata()) == {10.0}


def test_a_confusion_matrix_shows_its_numbers_where_they_belong():
    matrix = torch.diag(torch.full((10,), 900))
    matrix[3, 5], matrix[8] = 100, 0  # and a digit that was not asked for
    (ax,) = pictures.plot_confusion(matrix, "CVAE").axes
    texts = {text.get_position(): text.get_text() for text in ax.texts}
    assert texts[5, 3] == "100" and texts[3, 5] == "" and texts[0, 0] == "900"  # (column, row)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("digit recognised", "digit asked for")
    assert ax.images[0].get_array()[3, 5] == pytest.approx(0.1)


def test_a_latent_map_names_each_digit_among_its_points():
    points, labels = [[0.0, 0.0], [2.0, 0.0], [1.0, 0.0], [9.0, 9.0]], [4, 4, 4, 7]
    (ax,) = pictures.plot_latent_map(points, labels, "VAE").axes
    places = {text.get_text(): text.get_position() for text in ax.texts}
    assert places == {"4": (1.0, 0.0), "7": (9.0, 9.0)}


@pytest.mark.parametrize("strip", [None, [], torch.zeros(0, 5, 784)])
def test_a_training_of_no_epochs_has_no_strip_and_that_is_said(strip, tmp_path):
    with pytest.raises(ValueError, match="strip: expected .* of one epoch or more"):
        pictures.save_animation(strip, tmp_path / "x.gif")


@pytest.mark.parametrize("low", [-1, 1])
def test_an_animation_has_a_frame_for_each_moment(tmp_path, low):
    strip = torch.linspace(low, 1, 4).double().view(-1, 1, 1).expand(4, 10, 784).requires_grad_()
    pictures.save_animation(strip, str(tmp_path / "new" / "x.gif"))
    with Image.open(tmp_path / "new" / "x.gif") as animation:
        assert animation.n_frames == (4 if low == -1 else 1)  # of frames that are alike one is kept
        assert animation.size == (2 * (5 * 30 + 2), 2 * (2 * 30 + 2))
