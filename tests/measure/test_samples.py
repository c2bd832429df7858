"""cscm77/measure/samples.py: measures against a formula, a loop or a case that is known."""

import sys
from importlib.machinery import BuiltinImporter

import pytest
import torch
from torch import nn

import gan
from cscm77.measure import samples as measures
from cscm77.measure.judge import Judge, Reading
from cscm77.measure.latents import importance_weighted_loss, kl_of_latents
from cscm77.utils import arithmetic, unwrapped
from cscm77_helper import evaluate_vae
from vae import CVAE, VAE


def exactly(mean, covariance, number=400):
    """Samples that have just this mean and covariance."""
    x = torch.randn(number, len(mean), dtype=torch.float64)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T
    return x @ torch.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_gaussians_whose_covariances_do_not_commute():
    a, b = torch.tensor([[[2.0, 0.5], [0.5, 1.0]], [[1.0, -0.8], [-0.8, 3.0]]]).double()
    mean, other = torch.tensor([[0.0, 1.0], [3.0, -2.0]]).double()
    product = a @ b
    trace_of_root = (product.trace() + 2 * product.det().sqrt()).sqrt()  # of two by two
    expected = (mean - other).square().sum() + a.trace() + b.trace() - 2 * trace_of_root
    found = measures.frechet_distance(exactly(mean, a), exactly(other, b))
    assert found == pytest.approx(expected.item(), rel=1e-9)


def test_frechet_distance_of_a_set_from_itself_and_of_singular_covariances():
    x = torch.randn(300, 8).double()
    x[:, 3], x[:, 4] = 0, x[:, 5]  # a feature that is never used, and one that is there twice
    assert 0 <= measures.frechet_distance(x, x) < 1e-5
    assert measures.frechet_distance(x, x + 1) == pytest.approx(8, rel=1e-5)
    assert measures.frechet_distance(x[:3], x[3:6]) > 0  # fewer samples than features


def test_kernel_distance_is_the_unbiased_sum():
    x, y = torch.randn(7, 3).double(), torch.randn(7, 3).double() + 1

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    pairs = [(i, j) for i in range(7) for j in range(7)]
    own = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs if i != j) / 42
    expected = own - 2 * sum(kernel(x[i], y[j]) for i, j in pairs) / 49
    found = measures.kernel_distance(x, y)
    assert found == pytest.approx((expected.item(), 0), rel=1e-6, abs=1e-6)  # every subset is all


@pytest.mark.parametrize("number, size", [(50, 50), (600, 120), (6000, 1000)])
def test_the_subsets_of_few_images_are_smaller(number, size, monkeypatch):
    sizes = []
    monkeypatch.setattr("torchmetrics.image.kid.poly_mmd", lambda x, y: torch.tensor(
        float(not sizes.append((len(x), len(y))))))
    assert measures.kernel_distance(torch.rand(number, 2), torch.rand(number + 9, 2)) == (1, 0)
    assert sizes == [(size, size)] * measures.SUBSETS


def test_kernel_distance_is_about_zero_for_sets_alike_and_the_same_at_every_call(monkeypatch):
    monkeypatch.setattr(measures, "SUBSET_SIZE", 100)
    x, y = torch.randn(2, 300, 6).double()
    mean, sd = measures.kernel_distance(x, y)
    assert abs(mean) < 0.1 and 0 < sd < 0.2 and measures.kernel_distance(x, y + 0.5)[0] > 0.5
    assert measures.kernel_distance(x, y) == (mean, sd)


def test_neighbourhoods_equal_a_loop(monkeypatch):
    monkeypatch.setattr(measures, "CHUNK", 7)
    real, fake, k = torch.randn(60, 2).double(), torch.randn(50, 2).double() + 1, 5

    def reach(points):
        return [sorted((p - q).norm().item() for q in points)[k] for p in points]

    def within(points, others):
        balls = [*zip(others, reach(others), strict=True)]
        return torch.tensor([[(p - centre).norm().item() <= d for centre, d in balls]
                             for p in points])

    in_real, in_fake = within(fake, real), within(real, fake)  # (N, M), (M, N)
    precision, recall, balls, coverage = (share.double().mean().item() for share in (
        in_real.any(dim=1), in_fake.any(dim=1), in_real.sum(dim=1), in_real.any(dim=0)))
    assert len({precision, recall, balls, coverage, 0, 1}) == 6
    found = measures.neighbourhoods(real, fake)
    assert found == pytest.approx((precision, recall, balls / k, coverage))


def test_classifier_score_has_the_number_of_classes_as_its_ceiling():
    certain = torch.eye(10).double()
    for probabilities, score in ((certain, 10), (certain[:3], 3), (certain[[0, 0]], 1),
                                 (torch.full((4, 10), 0.1), 1)):
        assert measures.classifier_score(probabilities) == pytest.approx(score)


def test_an_empty_class_is_counted():
    ones, real = (reading(torch.randn(9, 4), digits) for digits in (torch.ones(9).long(),
                                                                    torch.arange(9)))
    quality = measures.measure_samples(ones, real)
    assert quality.classes == [0, 9] + 8 * [0] and quality.uniformity == pytest.approx(0.9)
    assert measures.distance_from_uniform(torch.full((10,), 7)) == 0
    assert measures.distance_from_uniform(torch.tensor([5] + 9 * [0])) == pytest.approx(0.9)


def test_a_confusion_matrix_has_rows_of_digits_asked_for():
    asked = torch.arange(10).repeat(2)
    recognised = asked.clone()
    recognised[3] = 5
    matrix = measures.confusion_matrix(asked, recognised)
    assert matrix[3, 5] == 1 and matrix[5, 3] == 0 and matrix[3, 3] == 1 and matrix.sum() == 20


def test_the_three_worst_pairs_come_in_order():
    matrix = torch.diag(torch.full((10,), 100))
    matrix[4, 9], matrix[7, 2] = 5, 9
    assert measures.worst_pairs(matrix) == [(7, 2, 9), (4, 9, 5)]  # no pair that was never confused
    matrix[2, 7], matrix[0, 6] = 3, 1
    assert measures.worst_pairs(matrix) == [(7, 2, 9), (4, 9, 5), (2, 7, 3)]


def test_generate_is_in_eval_mode_in_the_unit_range_and_the_same_in_any_batches(monkeypatch):
    G, noise = gan.build_dc_generator(), gan.sample_noise(23, 96)
    whole = measures.generate(G, noise, low=-1)
    monkeypatch.setattr(measures, "CHUNK", 10)
    torch.testing.assert_close(measures.generate(G, noise, low=-1), whole)
    assert whole.shape == (23, 1, 28, 28) and whole.min() >= 0 and whole.max() <= 1 and G.training
    G.eval()
    with torch.no_grad():
        torch.testing.assert_close(whole.flatten(1), (G(noise) + 1) / 2)


def test_digits_are_asked_for_one_by_one_from_the_same_latents_each_time():
    class Decoder(nn.Linear):
        def forward(self, latents):
            return latents[:, -10:].sigmoid().repeat(1, 79)[:, :784]  # the label is what it draws

    images, asked = measures.ask_for_digits(Decoder(1, 1), 15, each=4)
    assert asked.tolist() == [digit for digit in range(10) for _ in range(4)]
    assert (images.flatten(1)[:, :10].argmax(1) == asked).all()
    cvae = CVAE(784, hidden_dim=8)
    before = torch.get_rng_state()
    first, second, other = (measures.ask_for_digits(cvae.decoder, 15, 2, seed)[0]
                            for seed in (0, 0, 1))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel])
def test_a_model_is_asked_in_its_own_precision(double_by_default, wrap):
    model = wrap(CVAE(784, hidden_dim=8))
    decoder = unwrapped(model).decoder
    images, _ = measures.ask_for_digits(decoder, 15, each=2)
    assert images.dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(measures.ask_for_digits(decoder, 15, each=2)[0], images)
    assert 0 <= measures.conditional_accuracy(Judge(), model, each=2) <= 1
    assert measures.generate(decoder, torch.zeros(3, 25).float()).dtype == torch.float64
    with pytest.raises(ValueError, match="each: expected a whole number of at least 1, found 0"):
        measures.ask_for_digits(decoder, 15, each=0)


def test_measures_take_either_precision(double_by_default):
    certain = torch.eye(10).float()
    assert measures.classifier_score(certain[:3]) == pytest.approx(3)
    features = torch.randn(30, 4).float()
    assert measures.frechet_distance(features, features) < 1e-4
    assert measures.kernel_distance(features, features)
    samples = torch.rand(3, 784).requires_grad_()
    assert not measures.nearest_images(samples, torch.rand(5, 784).float())[0].requires_grad


def test_nearest_images_equal_a_loop_at_the_notebooks_precision_too(monkeypatch):
    monkeypatch.setattr(measures, "CHUNK", 10)
    training = torch.rand(300, 784)
    samples = torch.cat((torch.rand(5, 784), training[40:60]))  # the last are copies
    with arithmetic("medium"):
        distance, index = measures.nearest_images(samples.reshape(-1, 1, 28, 28), training)
    for i, sample in enumerate(samples):
        least, which = (sample - training).norm(dim=1).min(dim=0)
        assert index[i] == which and distance[i].item() == pytest.approx(least.item(), abs=0.05)


def reading(features, labels):
    return Reading(features.double(), nn.functional.one_hot(labels, 10).double())


def test_quality_is_that_of_its_parts_whatever_is_held_at_a_time(monkeypatch):
    real, fake = (reading(torch.randn(60, 6), torch.arange(60) % 10) for _ in range(2))
    quality, features = measures.measure_samples(fake, real), (real.features, fake.features)
    assert quality.frechet == measures.frechet_distance(*features)
    assert quality[1:3] == measures.kernel_distance(*features)
    assert quality[5:9] == measures.neighbourhoods(*features)
    assert (quality.score, quality.uniformity) == (pytest.approx(10), 0)
    assert quality.classes == [6] * 10 and len(quality.numbers()) == len(measures.QUALITY_COLUMNS)
    monkeypatch.setattr(measures, "CHUNK", 7)
    again = measures.measure_samples(fake, real)
    assert again.numbers() == pytest.approx(quality.numbers(), rel=1e-6)
    few = reading(torch.randn(5, 6), torch.arange(5))
    with pytest.raises(ValueError, match="to compare: expected .* of at least 6, found 5"):
        measures.measure_samples(few, real)


@pytest.mark.parametrize("real, fake, classes, word", [
    (0.6, 0.4, [10] * 10, "balanced"), (0.95, 0.05, [10] * 10, "D winning"),
    (0.6, 0.4, [100] + [0] * 9, "collapsed"), (0.6, 0.4, [4] + [10] * 9, "partial mode collapse")])
def test_the_state_of_the_game(real, fake, classes, word):
    sentence = measures.state_of_the_game([0.0, real, real], [1.0, fake, fake], classes, steps=2)
    assert sentence.startswith(word) and f"D(x) = {real:.2f}, D(G(z)) = {fake:.2f}" in sentence
    with pytest.raises(ValueError, match="expected at least one step, found none"):
        measures.state_of_the_game([], [], classes, steps=2)


@pytest.mark.parametrize("measure", ["frechet_distance", "kernel_distance"])
def test_without_torchmetrics_it_says_what_to_install_and_goes_on(measure, monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("torchmetrics")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [BuiltinImporter])  # which finds no package
    x = torch.randn(20, 4)
    with measures.where_torchmetrics_is_installed():
        getattr(measures, measure)(x, x)
        pytest.fail("it went on within the block")
    assert "pip install torchmetrics" in capsys.readouterr().out
    with pytest.raises(ImportError, match="another"), measures.where_torchmetrics_is_installed():
        import another  # noqa: F401


def test_measuring_changes_no_weight_no_mode_and_no_random_number():
    networks = nn.ModuleList([gan.build_dc_generator(), VAE(784, hidden_dim=8), Judge()])
    G, model, judge = networks
    before = {name: tensor.clone() for name, tensor in networks.state_dict().items()}
    noise, images = torch.randn(40, 96), torch.rand(40, 1, 28, 28)
    state = torch.get_rng_state()
    loader = [(images, torch.arange(40) % 10)]
    real, fake = judge.read(images), judge.read(measures.generate(G, noise, low=-1))
    measures.measure_samples(fake, real)
    for measure in (evaluate_vae, kl_of_latents, importance_weighted_loss):
        measure(model, loader)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in networks.modules())
    assert all(p.requires_grad and p.grad is None for p in networks.parameters())
    for name, tensor in networks.state_dict().items():
        assert torch.equal(tensor, before[name]), name  # the statistics of batches among them
