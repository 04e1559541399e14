"The exact mixture beyond its page: scipy's densities at all noise levels, float32, one batch or many, uncertainty, what it refuses."
import math
import pytest, scipy.integrate, scipy.stats, torch
from hypothesis import given, settings, strategies as st
from cfg_edu.schedule import amps
from cfg_edu.process import diffuse
from cfg_edu.sampling import ancestral, sample
from cfg_edu.mixture import Mixture, lattice, ring, sliced_wasserstein, three

worlds = dict(three=three(), ring=ring(), lattice=lattice())
uneven = Mixture([3, 1], [[-1., 0.], [1., 0.]], [.1, .1])                 # classes of unequal share
world = pytest.mark.parametrize('m', worlds.values(), ids=worlds)
seed = lambda k: torch.Generator().manual_seed(k)
points = lambda n, k=0: torch.randn(n, 2, dtype=torch.float64, generator=seed(k))
at = lambda lam, z: torch.full((len(z),), float(lam), dtype=z.dtype)


@world
def test_moments_of_draws(m):
    n = 100_000
    x, y = m.draw(n, generator=seed(0))
    mean = m.weights @ m.means
    cov = torch.einsum('k,kij->ij', m.weights, m.covs + m.means[:,:,None]*m.means[:,None]) - mean[:,None]*mean
    assert (x.double().mean(0) - mean).abs().max() < 8e-3                 # 4 standard errors: below 4 × 0.6/√n
    assert (x.double().T.cov() - cov).abs().max() < 8e-3
    shares = torch.zeros(m.null).double().index_add(0, m.labels, m.weights)
    assert (y.bincount()/n - shares).abs().max() < 6.5e-3                 # 4 × 0.5/√n


def test_draws_of_a_tilted_component():
    "Longer, narrower and turned: the covariance of the draws is the one that was given"
    cov = torch.tensor([[.5, .3, 0.], [.3, .4, -.2], [0., -.2, .9]], dtype=torch.float64)
    x, _ = Mixture([1], [[1., 2., 3.]], cov[None]).draw(200_000, generator=seed(0))
    assert (x.double().T.cov() - cov).abs().max() < 4*.9*(2/200_000)**.5    # 4 standard errors of the largest


@world
def test_draws_of_one_class(m):
    "Its own components alone, in their shares within the class"
    for c in range(m.null):
        x, y = m.draw(20_000, y=c, generator=seed(c))
        assert (y == c).all()
        inside = m.labels == c
        weights = m.weights[inside]/m.weights[inside].sum()
        assert (x.double().mean(0) - weights @ m.means[inside]).abs().max() < .025
    assert m.draw(0)[0].shape == (0, 2)


def test_null_draws_from_all():
    "The same draws for None, for null and for null in each place"
    m = uneven
    a, b, c = (m.draw(500, y, generator=seed(1)) for y in (None, m.null, torch.full((500,), m.null)))
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], c[1])
    assert abs((a[1] == 0).float().mean() - .75) < .08


@world
def test_density_and_posterior_by_scipy(m):
    z = points(40)
    for l in (-20., -2., 0., 3., 20.):
        a, s = (o.item() for o in amps(torch.tensor([l], dtype=torch.float64)))
        normals = [scipy.stats.multivariate_normal(a*mu, a*a*S + s*s*torch.eye(2).double()) for mu, S in zip(m.means, m.covs)]
        joint = torch.stack([w*torch.as_tensor(o.pdf(z)) for w, o in zip(m.weights, normals)], 1)
        ok = joint.sum(1) > 1e-250                                        # scipy's pdf underflows where logp does not
        assert ok.any() and (m.logp(z, at(l, z)) - joint.sum(1).log())[ok].abs().max() < 1e-9
        by_class = torch.stack([joint[:,m.labels==c].sum(1) for c in range(m.null)], 1)
        assert (m.classify(z, at(l, z)).exp() - by_class/by_class.sum(1, keepdim=True))[ok].abs().max() < 1e-9
        for c in range(m.null):
            share = m.weights[m.labels==c].sum()
            assert (m.logp(z, at(l, z), torch.full((40,), c)) - (by_class[:,c]/share).log())[ok & (by_class[:,c] > 1e-250)].abs().max() < 1e-9


@pytest.mark.parametrize('m', [three(), uneven])
def test_densities_integrate_to_one(m):
    axis = torch.linspace(-5, 5, 201, dtype=torch.float64)
    plane = torch.cartesian_prod(axis, axis)
    for c in range(m.null+1):
        p = m.logp(plane, at(2, plane), torch.full((len(plane),), c)).exp()
        assert abs(p.sum()*.05**2 - 1) < 1e-10                            # exact for Gaussians far wider than .05


@pytest.mark.parametrize('dim', [1, 3, 5])
def test_any_dimension(dim):
    "A random mixture: the score is the slope of logp, and the contract's three answers fit together"
    g = seed(dim)
    q = torch.randn(4, dim, dim, dtype=torch.float64, generator=g)
    m = Mixture(torch.rand(4, generator=g)+.1, torch.randn(4, dim, generator=g), (q @ q.mT + (q @ q.mT).mT)/2 + torch.eye(dim), [0, 1, 1, 2])
    z = torch.randn(30, dim, dtype=torch.float64, generator=g, requires_grad=True)
    y = torch.randint(0, 4, (30,), generator=g)
    for l in (-6., 0., 6.):
        a, s = amps(at(l, z), 2)
        slope, = torch.autograd.grad(m.logp(z, at(l, z), y).sum(), z)
        assert (m.score(z, at(l, z), y) - slope).norm(dim=1).le(1e-9*(1 + slope.norm(dim=1))).all()
        assert (a*m.posterior_mean(z, at(l, z), y) + s*m(z, at(l, z), y) - z).abs().max() < 1e-9


@world
def test_slopes_at_every_level(m):
    z = points(200).requires_grad_()
    y = torch.randint(0, m.null+1, (200,), generator=seed(1))
    for l in (-20., -6., 0., 6., 20.):
        slope, = torch.autograd.grad(m.logp(z, at(l, z), y).sum(), z)
        assert ((m.score(z, at(l, z), y) - slope).norm(dim=1) <= 1e-10*(1 + slope.norm(dim=1))).all()
    assert torch.allclose(m(z, at(6, z)), m(z, at(6, z), torch.full((200,), m.null)), atol=1e-12)    # None is null


@world
def test_float32(m):
    "It agrees with float64 over the whole clock, and all is finite"
    x, y = m.draw(500, generator=seed(0))
    for l in (-20., -10., 0., 10., 20.):
        z, _ = diffuse(x, at(l, x), torch.randn(500, 2, generator=seed(1)))
        for f in (m.__call__, m.posterior_mean):
            a, b = f(z, at(l, z), y), f(z.double(), at(l, z.double()), y)
            assert a.dtype == torch.float32 and a.isfinite().all() and (a-b).abs().max() < 1e-5


@world
def test_any_batch(m):
    "One point at a time, in one batch, in float32: the same to rounding; and an empty batch"
    z = points(16).float()
    lam, y = torch.linspace(-8, 8, 16), torch.arange(16) % (m.null+1)
    whole = m(z, lam, y)
    single = torch.cat([m(z[i:i+1], lam[i:i+1], y[i:i+1]) for i in range(16)])
    assert (whole - single).abs().max() < 1e-5
    assert m(z[:0], lam[:0], y[:0]).shape == (0, 2) and m.logp(z[:0], lam[:0]).shape == (0,)


def test_far_from_the_data():
    "Densities underflow there; their logarithms and the classes do not"
    z = torch.tensor([[300., -400.]])
    m, lam = lattice(), torch.tensor([20.])
    assert abs(m.logp(z, lam)/m.logp(z.double(), lam.double()) - 1) < 1e-6
    assert m.classify(z, lam).exp().sum() == 1 and m.score(z, lam).isfinite().all()


@world
def test_tweedie(m):
    z = points(200)
    for l in (-8., 0., 8.):
        a, s = amps(at(l, z), 2)
        assert ((z + s**2*m.score(z, at(l, z)))/a - m.posterior_mean(z, at(l, z))).abs().max() < 1e-11


@pytest.mark.parametrize('lam', [-2., 1., 4.])
def test_uncertainty_of_the_guess(lam):
    "Mean and variance of x, uniform on [−1, 1], from the density of z alone, against integrals over x"
    a, s = (o.item() for o in amps(torch.tensor([lam], dtype=torch.float64)))
    for z0 in (0., .4, 1.1):
        z = torch.tensor(z0, dtype=torch.float64, requires_grad=True)
        logp = (torch.special.ndtr((z+a)/s) - torch.special.ndtr((z-a)/s)).log()
        first, = torch.autograd.grad(logp, z, create_graph=True)
        second, = torch.autograd.grad(first, z)
        moment = lambda k: scipy.integrate.quad(lambda x: x**k*math.exp(-.5*((z0-a*x)/s)**2), -1, 1, epsabs=1e-12)[0]
        mean = moment(1)/moment(0)
        assert abs((z + s*s*first)/a - mean) < 1e-8
        assert abs(s*s/a**2*(1 + s*s*second) - (moment(2)/moment(0) - mean**2)) < 1e-8


def test_printed_sign_in_sampling():
    "E2: even with x̂ clipped to the data's range, the printed sign leaves most samples on its border"
    m = three()
    wrong = sample(lambda z, lam, y: -m(z, lam, y), (500, 2), sampler=ancestral(), n_steps=64, clip=(-1., 1.))
    right = sample(m, (500, 2), sampler=ancestral(), n_steps=64, clip=(-1., 1.))
    assert (wrong.abs() > .99).any(1).float().mean() > .8 and (right.abs() > .99).any(1).float().mean() < .05


def test_ends_of_the_clock():
    m, z = lattice(), points(5).float()
    assert (m.posterior_mean(z, at(-40, z)) - m.weights @ m.means).abs().max() < 1e-6
    assert (m.posterior_mean(z*.3, at(40, z)) - z*.3).abs().max() < 1e-6
    assert (uneven.classify(z, at(-40, z)).exp() - torch.tensor([.75, .25])).abs().max() < 1e-6


def test_contract():
    m = ring()
    y = torch.tensor([0, 3, 1])
    assert m.null_like(y).tolist() == [4, 4, 4] and m.null_like(y).dtype == torch.int64
    assert m.check_y(None, 2).tolist() == [4, 4] and m.check_y(2, 3).tolist() == [2, 2, 2]
    assert m.check_y([0, 4], 2).tolist() == [0, 4] and torch.equal(m.check_y(y, 3), y)
    for kind in (torch.uint8, torch.int32): assert torch.equal(m(torch.ones(3, 2), torch.zeros(3), y.to(kind)), m(torch.ones(3, 2), torch.zeros(3), y))


def test_sliced_wasserstein():
    "A shift t gives |t|/√d, two spreads their difference; the floor falls as 1/√n"
    a = torch.randn(3000, 5, generator=seed(0))
    assert abs(sliced_wasserstein(a, a+1., 2048) - 1) < 5e-2                # 4 standard errors of 2,048 random directions
    assert abs(sliced_wasserstein(a, 1.5*a.flip(0)) - .5) < 2e-2
    assert sliced_wasserstein(a, a) == 0 and sliced_wasserstein(a.double(), a.double()) == 0
    assert abs(sliced_wasserstein(a[:,:1], a[:,:1]+2.) - 2) < 1e-5        # one dimension
    x, y = a[:1500,:2], a[1500:,:2]
    assert sliced_wasserstein(x, y) == sliced_wasserstein(y, x)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.data())
def test_parameters(k, dim, data):
    "Right ones are taken, one wrong one is refused by its name"
    right = dict(weights=[1.]*k, means=torch.randn(k, dim), covs=[.1]*k, labels=[0]*k)
    assert Mixture(**right).null == 1
    wrong = dict(weights=[[-1.]*k, [0.]*k, [math.nan]*k, [math.inf]*k, [1.]*(k+1)],
                 means=[torch.randn(k), torch.full((k, dim), math.nan), torch.randn(k, dim, 1)],
                 covs=[[-1.]*k, [0.]*k, [.1]*(k+1), -torch.eye(dim).expand(k, -1, -1), torch.full((k, dim, dim), math.inf)],
                 labels=[[-1]*k, [5]*k, [0]*(k+1)])
    name = data.draw(st.sampled_from(list(wrong)))
    value = data.draw(st.sampled_from(wrong[name]))
    with pytest.raises(ValueError, match=name): Mixture(**{**right, name: value})


@pytest.mark.parametrize('make, says', [
    (lambda: ring(0), 'k must be even and at least 2'), (lambda: ring(3), 'k must be even and at least 2'),
    (lambda: lattice(0), 'side must be an integer of at least 1'), (lambda: lattice(1.5), 'side must be an integer of at least 1'),
    (lambda: Mixture([1], [[0., 0.]], [[[1., 0.], [0., -1.]]]), 'positive definite'),
    (lambda: Mixture([1], [[0., 0.]], [[[1., 0.], [.5, 1.]]]), 'symmetric'),
    (lambda: Mixture([1, 1], [0., 1.], [1., 1.]), r'\(k, d\)'),
    (lambda: Mixture([1, 1], [[0., 0.], [1., 1.]], [1., 1.], labels=[0, 2]), 'labels must be 2 classes that cover 0 … n−1'),
    (lambda: three().draw(5, y=4), '0 … 3'), (lambda: three().draw(5, y=[0, 1]), 'y must be a class or 5 integers'),
    (lambda: three()(torch.zeros(3, 2), torch.zeros(3), torch.zeros(3)), 'y must be a class or 3 integers, got torch.float32'),
    (lambda: three()(torch.zeros(2, 2), torch.zeros(2), torch.tensor([0, 4])), '0 … 3'),
    (lambda: three()(torch.zeros(2, 2), torch.zeros(2), torch.tensor([0, -1])), '0 … 3'),
    (lambda: three()(torch.zeros(2, 3), torch.zeros(2)), r'z must have shape \(b, 2\), got \(2, 3\)'),
    (lambda: sliced_wasserstein(torch.zeros(5, 2), torch.zeros(4, 2)), r'of one shape, got \(5, 2\) and \(4, 2\)')])
def test_refused(make, says):
    with pytest.raises(ValueError, match=says): make()
