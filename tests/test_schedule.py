"The schedule beyond its page: bounds far out, float32, what it refuses, the information in a nat, the places of its draws."
import math
import pytest, torch
from hypothesis import given, settings, strategies as st
from cfg_edu.schedule import Schedule, amps

f64 = torch.float64


def test_amps_in_float32():
    "No digit is lost at either end, where α² or σ² rounds to one"
    lam = torch.linspace(-80, 80, 2001)
    for got, true in zip(amps(lam), amps(lam.double())):
        assert torch.allclose(got.double(), true, rtol=1e-5, atol=0)
    far = torch.linspace(10, 20, 10_001)
    last = far[1 - amps(far)[0]**2 > 0].max().item()         # the form that the page warns of
    assert abs(last - 16.6) < .1


def test_amps_of_many_shapes():
    "One λ for each example, whatever the number of dims; none for none"
    for n in (0, 1, 5):
        for ndim in (1, 2, 4): assert amps(torch.zeros(n), ndim)[0].shape == (n, *[1]*(ndim-1))


@settings(deadline=None)
@given(st.floats(-1000, 999), st.floats(.01, 2000))
def test_bounds(lo, width):
    "λ(u) falls from bound to bound, u(λ) undoes it, grids rise: for any bounds within ±1000"
    hi = min(lo + width, 1000.)
    if hi - lo < .01: return
    s, u = Schedule(lo, hi), torch.linspace(0, 1, 101, dtype=f64)
    lam = s.lam(u)
    assert lam.isfinite().all() and (lam.diff() <= 1e-9).all()
    assert (s.lam(torch.tensor([1., 0.], dtype=f64)) - torch.tensor([lo, hi])).abs().max() < 1e-5*max(1, abs(lo), abs(hi))
    for kind in ('paper', 'authors', 'uniform'):
        lams = s.grid(7, kind)
        assert lams.dtype == f64 and lams.shape == (7,) and (lams.diff() >= 0).all()
        assert lams.min() >= lo and lams.max() <= hi


def test_there_and_back():
    u = torch.linspace(0, 1, 1001, dtype=f64)
    for lo, hi in ((-20, 20), (-4, 9), (80, 100), (-100, -80), (-900, 900)):
        s = Schedule(lo, hi)
        assert (s.u(s.lam(u)) - u).abs().max() < 1e-12
        assert s.u(torch.tensor([hi+1., lo-1.])).tolist() == [0, 1]     # beyond the bounds u stops


def test_angle():
    "The angle between the ends, against the plain difference of two"
    assert abs(Schedule().a - (math.atan(math.exp(10)) - math.atan(math.exp(-10)))) < 1e-14
    assert abs(Schedule(-3, 5).a - (math.atan(math.exp(1.5)) - math.atan(math.exp(-2.5)))) < 1e-14


def test_pdf():
    "It integrates to one, far out too, is the textbook's sech, and 0 outside; float32 keeps its digits"
    for s in (Schedule(), Schedule(-4, 9), Schedule(-130, -100)):
        at = torch.linspace(s.lam_min, s.lam_max, 20_001, dtype=f64)
        assert abs(torch.trapezoid(s.pdf(at), at) - 1) < 1e-6
        assert (s.pdf(at.float())/s.pdf(at.float().double()) - 1).abs().max() < 1e-5
    lam = torch.linspace(-20, 20, 81, dtype=f64)
    assert (Schedule().pdf(lam) - 1/(4*Schedule().a*torch.cosh(lam/2))).abs().max() < 1e-15
    assert Schedule().pdf(torch.tensor([-21., 21.])).tolist() == [0, 0]


def test_variance_without_bounds():
    "π², the page's second exercise"
    far = torch.linspace(-100, 100, 20_001, dtype=f64)
    assert abs(torch.trapezoid(far**2*Schedule(-100, 100).pdf(far), far) - math.pi**2) < 1e-6


def test_draws_in_random_order():
    "Neither the place in the batch nor the draw before tells where a λ lies"
    s, g = Schedule(), torch.Generator().manual_seed(0)
    us = torch.stack([s.u(s.draw(128, generator=g)) for _ in range(400)])
    place = torch.stack([torch.arange(128.).repeat(400), us.flatten()]).corrcoef()[0,1]
    assert abs(place) < 4/us.numel()**.5                       # 4 standard errors of a correlation
    next_ = torch.stack([us[:,:-1].flatten(), us[:,1:].flatten()]).corrcoef()[0,1]
    assert abs(next_ + 1/127) < 4/us.numel()**.5               # without replacement: −1/(n−1)
    assert s.draw(0).shape == (0,) and s.draw(3).dtype == torch.float32


def test_draws_repeat_with_their_generator():
    a, b = (Schedule().draw(16, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a, b)


def test_grid_of_the_authors():
    "Their last call is at λ(1/T), by the formula in plain Python"
    s = Schedule()
    assert abs(s.grid(256, 'authors')[-1] - -2*math.log(math.tan(s.a/256 + s.b))) < 1e-9
    assert torch.allclose(s.grid(256, 'authors'), s.lam(torch.arange(256, 0, -1, dtype=f64)/256), atol=1e-9)
    assert s.grid(256).max() == 20


def test_equal_angles():
    "The share of points is the share of draws, and a third of a degree is a step"
    angle = torch.atan2(*amps(Schedule().grid(256))[::-1]).diff().abs()
    assert abs(angle.mean().rad2deg() - .3529) < 1e-3 and angle.max() - angle.min() < 1e-12


@pytest.mark.parametrize('lam', [-3., 0., 3.])
def test_a_nat_buys_half_a_squared_error(lam):
    "dI/dλ of a Gaussian, by automatic differentiation, against draws of the best guess of ε"
    g, s, n = torch.Generator().manual_seed(0), .5, 400_000
    l = torch.tensor([lam], dtype=f64, requires_grad=True)
    rate = torch.autograd.grad(.5*torch.log1p(s*s*l.exp()).sum(), l)[0].item()
    a, sigma = (o.item() for o in amps(l.detach()))
    x, eps = s*torch.randn(n, generator=g), torch.randn(n, generator=g)
    error = (eps - sigma*(a*x + sigma*eps)/(a*a*s*s + sigma**2)).pow(2)
    assert abs(error.mean()/2 - rate) < 2*error.std()/n**.5     # ½ of 4 standard errors


@pytest.mark.parametrize('lo, hi', [(5, -5), (1, 1), (-20, math.inf), (math.nan, 3), (-1001, 0)])
def test_bounds_refused(lo, hi):
    with pytest.raises(ValueError, match='lam_min < lam_max must lie within ±1000'): Schedule(lo, hi)


def test_grid_refused():
    for n in (1, 0, -3):
        with pytest.raises(ValueError, match='n_steps must be at least 2'): Schedule().grid(n)
    with pytest.raises(ValueError, match="kind must be paper, authors or uniform, got 'cosine'"): Schedule().grid(8, 'cosine')


def test_says_its_bounds():
    assert repr(Schedule(-4, 9)) == 'Schedule(-4, 9)'
