"Weighted paths: closed forms, what must not mix, and bad input."
import math
import pytest, torch
from functools import partial
from hypothesis import given, settings, strategies as st
from cfg_edu.denoiser import Denoiser
from cfg_edu.mixture import Mixture, three
from cfg_edu.nets import MLP
from cfg_edu.particles import effective, particles, promised, systematic
from cfg_edu.sampling import ancestral
from cfg_edu.schedule import Schedule, amps

two = Mixture([1, 1], [[1.], [-1.]], [1., 1.])
zeros = partial(torch.zeros, dtype=torch.long)


def grouped(x, f, groups=20):
    each = f(x.reshape(groups, -1).double())
    return each.mean().item(), each.std().item()/groups**.5


def gaussians(*params):
    "Answers of Gaussians N(m, v), by the contract"
    worlds = [Mixture([1.], [[m]], [v]) for m, v in params]
    return lambda z, lam, y: [o(z, lam, None) for o in worlds]


@pytest.mark.parametrize('powers', [(2., -1.), (.5, .5), (1., 0.), (1.5, -.5)])
def test_products_of_gaussians(powers):
    "N(0, 1)^a N(1, 2)^b has the precision a + b/2 and the mean (b/2)/(a + b/2)"
    a, b = powers
    precision = a + b/2
    x = particles(gaussians((0., 1.), (1., 2.)), powers, (8000, 1), groups=20, n_steps=96)
    for f, true in ((lambda x: x.mean(1), b/2/precision), (lambda x: x.std(1), precision**-.5)):
        got, error = grouped(x, f)
        assert abs(got - true) < 4*error + .015*abs(true) + .005      # and the finite steps


def test_the_walk_changes_the_spread_of_the_weights_alone():
    w = 2.
    grid = torch.linspace(-8, 9, 2001).double()[:,None]
    far = torch.full((2001,), 30.).double()
    p = ((1+w)*two.logp(grid, far, zeros(2001)) - w*two.logp(grid, far)).softmax(0)
    for walk in (None, 1., .5):
        got, error = grouped(promised(two, (10_000, 1), 0, w, walk, groups=20), lambda x: x.mean(1))
        assert abs(got - p @ grid[:,0]) < 4*error, walk


def test_weights_are_the_ratio_of_densities():
    "By hand, and for an answer that does not depend on z: log W = ∑a_i log N(z'; …) − log N(z'; …)"
    lams = Schedule(-8, 8).grid(3)
    row, seen = ancestral()(lams)[0], []
    def answers(z, lam, y):
        seen.append(z.clone())
        return [0*z + e for e in (2e-4, -1e-4)]
    logs = []
    particles(answers, (3., -2.), (1000, 2), walk=(.4, .6), n_steps=3,
              cb=lambda i, lam, x, log_w: logs.append(log_w.clone()))
    (alpha, sigma), (_, keep, pull, _, d) = amps(lams[0]), row.tolist()
    x = [(seen[0] - sigma.float()*e)/alpha.float() for e in (2e-4, -1e-4)]
    def log_n(mean): return -((seen[1] - keep*seen[0] - pull*mean)**2).sum(1)/(2*d*d)
    expected = 3*log_n(x[0]) - 2*log_n(x[1]) - log_n(.4*x[0] + .6*x[1])
    torch.testing.assert_close(logs[1], expected, atol=.01, rtol=.01)


@pytest.mark.parametrize('w', [.5, 3.])
def test_a_guided_step_earns_the_defect(w):
    "d log W = ½w(1+w)‖ε_c − ε_∅‖² dλ, for a small step with the least noise"
    lam, h = torch.tensor([.5]).double(), 1e-4
    _, keep, pull, _, d = ancestral(0.)(torch.cat([lam, lam+h]))[0].tolist()
    (alpha, sigma), z = amps(lam), torch.tensor([[.3]]).double()
    eps = torch.stack([two(z, lam, zeros(1)), two(z, lam, None)])
    x = (z - sigma*eps)/alpha
    off = pull*(x - (1+w)*x[0] + w*x[1])/d
    step = -((1+w)*off[0]**2 - w*off[1]**2).item()/2
    assert step/h == pytest.approx(w*(1+w)*(eps[0]-eps[1]).square().item()/2, rel=1e-3)


@settings(max_examples=50, deadline=None)
@given(n=st.integers(2, 200), scale=st.floats(0, 6), seed=st.integers(0, 10_000))
def test_systematic_copies(n, scale, seed):
    g = torch.Generator().manual_seed(seed)
    log_w = scale*torch.randn(n, generator=g)
    copies = systematic(log_w, g).bincount(minlength=n)
    assert copies.sum() == n and (copies - n*log_w.double().softmax(0)).abs().max() < 1 + 1e-6


def test_systematic_is_fair():
    log_w, g = torch.tensor([0., 1., -2., .5]), torch.Generator().manual_seed(0)
    copies = sum(systematic(log_w, g).bincount(minlength=4) for _ in range(4000))/16_000
    torch.testing.assert_close(copies, log_w.softmax(0), atol=.01, rtol=0)


def test_effective_at_its_ends():
    assert effective(torch.zeros(7)).item() == pytest.approx(1)
    assert effective(torch.tensor([900., 0., -900., 0.])).item() == pytest.approx(.25)
    assert effective(torch.full((5,), -3000.)).item() == pytest.approx(1)


def test_w_0_weighs_nothing():
    logs = []
    x = promised(three(), (60, 2), 1, 0., n_steps=12, cb=lambda i, lam, x, log_w: logs.append(log_w.clone()))
    assert len(logs) == 12 and all((o == 0).all() for o in logs) and len(x.unique(dim=0)) == 60


def test_classes_do_not_compete():
    m, y = three(), torch.arange(3).repeat(200)
    x = promised(m, (600, 2), y, 3., n_steps=48)
    assert (m.classify(x.double(), torch.full((600,), 20.).double()).argmax(1) == y).double().mean() > .97


def test_groups_do_not_compete():
    "The answer is the particle's number: a copy says where it came from"
    y, own = torch.arange(2).repeat(20), torch.arange(40.)[:,None]
    def answers(z, lam, y): return z*amps(lam, 2)[1] + own, z*0 + 3*own*(own % 3 == 0)
    ancestors = []
    x = particles(answers, (2., -1.), (40, 1), y, groups=4, n_steps=4)
    assert x.isfinite().all()
    from cfg_edu import particles as module
    taken = module.systematic
    def spy(log_w, g):
        ancestors.append(len(log_w))
        return taken(log_w, g)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'systematic', spy)
        particles(answers, (2., -1.), (40, 1), y, groups=4, n_steps=4)
    assert set(ancestors) == {5} and len(ancestors) >= 8


def test_repeats_and_seeds():
    a, b, c = (promised(two, (50, 1), 0, 1., n_steps=8, seed=s) for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_clipped():
    x = promised(two, (100, 1), 0, 2., n_steps=8, clip=(-.5, .5))
    assert x.abs().max() <= .5


def test_a_network_keeps_its_mode():
    net = Denoiser(MLP(2)).train()
    x = promised(net, (6, 2), torch.tensor([0, 1]*3), 1., n_steps=4)
    assert net.training and x.shape == (6, 2) and x.isfinite().all()


def test_told_by_numbers():
    y = torch.tensor([[.1, .2], [.3, .4]]).repeat(5, 1)
    def model(z, lam, y=None): return 0*z if y is None else z*0 + y
    assert promised(model, (10, 2), y, 1., n_steps=4).shape == (10, 2)


def test_refuses():
    m = three()
    for w in (-1.5, math.inf, math.nan):
        with pytest.raises(ValueError, match='w must be finite and at least -1'): promised(m, (6, 2), 0, w)
    with pytest.raises(ValueError, match='powers and walk must each have the sum 1'): promised(m, (6, 2), 0, 1., math.nan)
    for powers, walk in (((1., 1.), None), ((2., -1.), (1., .5))):
        with pytest.raises(ValueError, match='must each have the sum 1'):
            particles(gaussians((0., 1.), (0., 2.)), powers, (6, 1), walk=walk)
    with pytest.raises(ValueError, match='two particles or more, got 3 for 3'): promised(m, (3, 2), torch.arange(3), 1.)
    with pytest.raises(ValueError, match='two particles or more'): promised(m, (6, 2), torch.arange(6) % 3, 1., groups=2)
    with pytest.raises(ValueError, match=r'y must lie in 0 … 3'): promised(m, (6, 2), 4, 1.)
    for y in (3, None):
        with pytest.raises(ValueError, match='y must name classes'): promised(m, (6, 2), y, 1.)
    with pytest.raises(ValueError, match='n_steps must be at least 2'): promised(m, (6, 2), 0, 1., n_steps=1)
