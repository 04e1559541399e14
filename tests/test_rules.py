"Later guidance rules at their edges."
import math
import pytest, torch
from cfg_edu.denoiser import eps2v
from cfg_edu.guidance import CFG, ClassifierGuided, Interval, rules
from cfg_edu.mixture import Mixture, lattice, three
from cfg_edu.rules import AutoGuided, Rescaled
from cfg_edu.sampling import sample


@pytest.fixture
def points():
    g = torch.Generator().manual_seed(0)
    return torch.randn(30, 2, generator=g).double(), torch.linspace(-6, 6, 30).double(), torch.arange(30) % 3


def test_rescaled_keeps_the_direction(points):
    m, (z, lam, y) = lattice(), points
    def v(model): return eps2v(z, model(z, lam, y), lam)
    guided, scaled = v(CFG(m, 3.)), v(Rescaled(CFG(m, 3.), 1.))
    torch.testing.assert_close(scaled.norm(dim=1), v(m).norm(dim=1))
    torch.testing.assert_close(torch.cosine_similarity(guided, scaled), torch.ones(30).double())
    torch.testing.assert_close(Rescaled(CFG(m, 0.))(z, lam, y), m(z, lam, y))
    torch.testing.assert_close(v(Rescaled(CFG(m, 3.), .3)).norm(dim=1), .7*guided.norm(dim=1) + .3*v(m).norm(dim=1))


def test_rescaled_takes_any_guided_model(points):
    m, (z, lam, y) = three(), points
    by_classifier = ClassifierGuided(m, m.classify, 2.)
    for guided in (by_classifier, Interval(CFG(m, 2.), -3., 3.)): assert Rescaled(guided)(z, lam, y).shape == z.shape
    assert Rescaled(CFG(m, 1.)).null == 3
    still = Rescaled(CFG(lambda z, lam, y: 0*z, 1.))                        # the output v may be 0
    assert torch.equal(still(torch.zeros(1, 2), torch.zeros(1), torch.zeros(1).long()), torch.zeros(1, 2))


def test_rescaled_refuses():
    for phi in (-.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=r'phi must lie in \[0, 1\]'): Rescaled(CFG(three(), 1.), phi)
    with pytest.raises(ValueError, match='guided must be a model such as CFG'): Rescaled(three())


def test_rules_by_name(points):
    m, (z, lam, y) = three(), points
    torch.testing.assert_close(rules['rescaled'](m, 2.)(z, lam, y), Rescaled(CFG(m, 2.))(z, lam, y))
    torch.testing.assert_close(rules['cfg'](m, 2.)(z, lam, y), CFG(m, 2.)(z, lam, y))
    with pytest.raises(ValueError, match='w must'): rules['rescaled'](m, -2.)


def test_autoguided(points):
    m, (z, lam, y) = three(), points
    dull = Mixture(m.weights, m.means, m.covs + .04*torch.eye(2).double(), m.labels)
    torch.testing.assert_close(AutoGuided(m, dull, .5)(z, lam, y), 1.5*m(z, lam, y) - .5*dull(z, lam, y))
    torch.testing.assert_close(AutoGuided(m, dull, .5)(z, lam), 1.5*m(z, lam) - .5*dull(z, lam))
    torch.testing.assert_close(AutoGuided(m, m, 3.)(z, lam, y), m(z, lam, y), rtol=1e-9, atol=1e-9)
    def never(z, lam, y): raise AssertionError('w = 0 needs no second model')
    never.null = 3
    assert torch.equal(AutoGuided(m, never, 0.)(z, lam, y), m(z, lam, y))
    assert AutoGuided(m, dull, 1.).null == 3 and sample(AutoGuided(m, dull, 1.), (6, 2), y[:6], n_steps=4).isfinite().all()


def test_autoguided_refuses():
    for w in (-1., -.5, math.nan, math.inf):
        with pytest.raises(ValueError, match='w must be'): AutoGuided(three(), three(), w)
    with pytest.raises(ValueError, match=r'same classes, got null = \[3, 1\]'): AutoGuided(three(), Mixture([1.], [[0., 0.]], [.1]), 1.)
