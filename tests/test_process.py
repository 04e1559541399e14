"The process beyond its page: against an independent Gaussian, data that are no Gaussian, the printed variance, small steps, what it refuses."
import math
import pytest, torch
from hypothesis import given, settings, strategies as st
from cfg_edu.schedule import Schedule, amps
from cfg_edu.mixture import three
from cfg_edu.process import diffuse, forward, fresh, posterior, posterior_weights, transition, transition_var

f64 = lambda *v: torch.tensor(v, dtype=torch.float64)
levels = st.tuples(st.floats(-15, 15), st.floats(0, 10)).map(lambda o: (o[0], o[0]+o[1]))
printed_var = lambda lam_s, lam: -torch.expm1(lam-lam_s)*(-lam_s).sigmoid()     # E1, the workshop text's


def joint(x, s2, lams):
    "Mean and covariance of z at falling `lams` for x ~ N(x, s2): the diagonal from Eq. 1, beside it the factor that scales"
    a, sigma = amps(f64(*lams))
    V = a**2*s2 + sigma**2
    cov = torch.stack([torch.stack([a[max(i, j)]/a[min(i, j)]*V[min(i, j)] for j in range(len(a))]) for i in range(len(a))])
    return a*x, cov


def condition(mean, cov, z):
    "The first of two Gaussians, given the second"
    k = cov[0,1]/cov[1,1]
    return mean[0] + k*(z - mean[1]), cov[0,0] - k*cov[0,1]


@settings(deadline=None)
@given(levels, st.floats(-1, 1), st.floats(-3, 3))
def test_posterior_is_conditioning(ls, x, z):
    lam, lam_s = ls
    mean, var = posterior(f64(z), f64(x), f64(lam), f64(lam_s))
    known_mean, known_var = condition(*joint(x, 0., (lam_s, lam)), z)
    assert abs(mean - known_mean) < 1e-9 and abs(var - known_var) < 1e-9


@settings(deadline=None)
@given(levels, st.floats(.01, 2), st.floats(-3, 3))
def test_step_back_for_gaussian_data(ls, s2, z):
    "With x̂ = E[x|z] the mean is exact, and the variance lies between v = 0 and 1 for s ≤ 1; exercise 2 has its closed form"
    lam, lam_s = f64(ls[0]), f64(ls[1])
    (a, sigma), (a_s, sigma_s) = amps(lam), amps(lam_s)
    V, V_s = a**2*s2 + sigma**2, a_s**2*s2 + sigma_s**2
    known_mean, known_var = condition(*joint(0., s2, (ls[1], ls[0])), z)
    mean, low = transition(f64(z), a*s2/V*z, lam, lam_s, 0.)
    high = transition_var(lam, lam_s, 1.)
    assert abs(mean - known_mean) < 1e-9
    assert abs(-torch.expm1(lam-lam_s)*sigma**2*V_s/V - known_var) < 1e-9
    if s2 <= 1: assert low - 1e-12 <= known_var <= high + 1e-12


@settings(deadline=None)
@given(levels, st.floats(0, 10))
def test_two_steps_are_one(ls, more):
    lam, lam1, lam2 = f64(ls[0]), f64(ls[1]), f64(ls[1]+more)
    mean1, var1 = forward(f64(1.3), lam2, lam1)
    mean, var = forward(mean1, lam1, lam)
    one_mean, one_var = forward(f64(1.3), lam2, lam)
    assert abs(mean - one_mean) < 1e-12 and abs((amps(lam)[0]/amps(lam1)[0])**2*var1 + var - one_var) < 1e-12


def test_255_steps_are_one():
    lams, z, var = Schedule().grid(256).flip(0), f64(1.), f64(0.)
    for lam_s, lam in zip(lams, lams[1:]):
        z, add = forward(z, lam_s[None], lam[None])
        var = (amps(lam)[0]/amps(lam_s)[0])**2*var + add
    one_mean, one_var = forward(f64(1.), lams[:1], lams[-1:])
    assert abs(z - one_mean) < 1e-12 and abs(var - one_var) < 1e-12


@pytest.mark.parametrize('l2, l1, l', [(4., 1., -2.), (20., 3., -20.), (1., .5, .4)])
def test_printed_variance_is_no_process(l2, l1, l):
    l2, l1, l = f64(l2), f64(l1), f64(l)
    two = (amps(l)[0]/amps(l1)[0])**2*printed_var(l2, l1) + printed_var(l1, l)
    assert two > 1.1*printed_var(l2, l)


def test_printed_variance_by_draws():
    "Noise to λ′ = 1, then on to −2: ours arrives at the true spread, the printed form far below it"
    g, n = torch.Generator().manual_seed(1), 200_000
    z_s, _ = diffuse(torch.zeros(n, 1), torch.ones(n), torch.randn(n, 1, generator=g))
    lam, lam_s = torch.full((n,), -2.), torch.ones(n)
    mean, var = forward(z_s, lam_s, lam)
    noise = torch.randn(n, 1, generator=g)
    true = amps(torch.tensor([-2.]))[1].item()
    assert abs((mean + var.sqrt()*noise).std() - true) < 4*true/(2*n)**.5       # 4 standard errors
    assert abs((mean + printed_var(lam_s, lam).sqrt()[:,None]*noise).std() - true) > .2


def test_step_back_for_three_classes():
    "Data that are no Gaussian: what is left after the mean averages to 0 at any weight in z, its square to the sum of two terms"
    g, n, m = torch.Generator().manual_seed(3), 200_000, three()
    x = m.draw(n, generator=g)[0].double()
    lam, lam_s = torch.zeros(n).double(), torch.full((n,), 2.).double()
    z_s, _ = diffuse(x, lam_s, torch.randn(n, 2, generator=g).double())
    mean, var = forward(z_s, lam_s, lam)
    z = mean + var.sqrt()*torch.randn(n, 2, generator=g)
    x_hat = m.posterior_mean(z, lam)
    left = z_s - transition(z, x_hat, lam, lam_s)[0]
    low, high = (transition_var(lam, lam_s, v)[0] for v in (0., 1.))
    formula = low + (-torch.expm1(lam-lam_s)*amps(lam_s)[0])[:,None]**2*(x-x_hat)**2
    for weight in (torch.ones(n), z[:,0], z[:,1]**2):
        for rest in (left*weight[:,None], (left**2-formula)*weight[:,None]):
            assert (rest.mean(0).abs() < 4*rest.std(0)/n**.5).all()             # 4 standard errors
    assert low < left.pow(2).mean() < high
    sloppy = z_s - transition(z, 0*x_hat, lam, lam_s)[0]                        # a guess that is not E[x|z]
    assert (sloppy*z).mean().abs() > 20*(sloppy*z).std()/n**.5


def test_small_steps():
    "A step of 1e−6 nats keeps ten digits in float64; no step at all stays, with no variance"
    lam, lam_s, z, x = f64(0.), f64(1e-6), f64(1.3), f64(.7)
    (a, _), (a_s, s_s) = amps(lam), amps(lam_s)
    prec = (a/a_s)**2/forward(z, lam_s, lam)[1] + 1/s_s**2
    assert abs(posterior(z, x, lam, lam_s)[1]*prec - 1) < 1e-9
    for v in (0., .3, 1.):
        mean, var = transition(z, x, lam, lam, v)
        assert torch.equal(mean, z) and var == 0


@pytest.mark.parametrize('step', [1e-4, 1e-2, 1.])
def test_small_steps_in_float32(step):
    "Every digit of the variance is kept, where 1 − exp would lose all but three"
    lam, lam_s = torch.zeros(1), torch.full((1,), step)
    for f in (fresh, lambda a, b: posterior_weights(a, b)[1], lambda a, b: posterior_weights(a, b)[2],
              lambda a, b: transition_var(a, b), lambda a, b: forward(torch.ones(1), b, a)[1]):
        assert abs(f(lam, lam_s)/f(lam.double(), lam_s.double()) - 1) < 1e-6


def test_ratio_of_the_two_ends():
    "1,137 in the last of 8 points between ±10, 1.5 of 1,024: what v can move"
    for n_steps, most in ((8, 1137), (1024, 1.503)):
        lams = Schedule(-10, 10).grid(n_steps)
        ratio = transition_var(lams[:-1], lams[1:], 1.)/transition_var(lams[:-1], lams[1:], 0.)
        assert abs(ratio.max()/most - 1) < .01 and ratio.argmax() == n_steps - 2


def test_noise_of_its_own():
    "Without ε, standard normal noise is drawn and handed back; λ of each example is its own"
    x, lam = torch.full((200_000, 1), .7), torch.tensor([-1., 3.]).repeat(100_000)
    z, eps = diffuse(x, lam)
    assert abs(eps.mean()) < .01 and abs(eps.std() - 1) < .01                   # 4/√n = .009
    a, s = amps(lam, 2)
    assert (z - a*x - s*eps).abs().max() < 1e-6 and a[0] != a[1]


@pytest.mark.parametrize('shape', [(3, 2), (3, 1, 4, 4), (3,), (0, 2)])
def test_shapes(shape):
    z, lam = torch.randn(shape), torch.linspace(-2, 1, shape[0])
    for mean, var in (forward(z, lam+1, lam), posterior(z, z, lam, lam+1), transition(z, z, lam, lam+1, .3)):
        assert mean.shape == z.shape and var.shape == (len(z), *[1]*(z.ndim-1))
    assert [o.shape for o in posterior_weights(lam, lam+1)] == [lam.shape]*3
    assert transition_var(f64(1.).reshape(()), f64(2.).reshape(())).shape == ()


def test_wrong_way_round():
    "λ and λ′ exchanged would give a negative variance without a word; v outside [0, 1] a wrong one"
    z, lo, hi = f64(1., 1.), f64(-2., 0.), f64(1., 3.)
    for f in (lambda: forward(z, lo, hi), lambda: posterior(z, z, hi, lo), lambda: posterior_weights(hi, lo),
              lambda: transition(z, z, hi, lo), lambda: transition_var(hi, lo), lambda: fresh(hi, lo)):
        with pytest.raises(ValueError, match='lam must not exceed lam_s, the cleaner level'): f()
    with pytest.raises(ValueError, match='lam must not'): forward(z, f64(1., -3.), f64(0., -2.))     # one of them
    for v in (-.1, 1.2, math.nan):
        with pytest.raises(ValueError, match=r'v must lie in \[0, 1\]'): transition_var(lo, hi, v)
        with pytest.raises(ValueError, match=r'v must lie in \[0, 1\]'): transition(z, z, lo, hi, v)
