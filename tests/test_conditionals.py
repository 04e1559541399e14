"The filter at its edges: what begins a path, what is refused, and whether its parts do what they say."
import math
import pytest, torch
from cfg_edu.conditionals import ClassAverage
from cfg_edu.denoiser import eps2x
from cfg_edu.guidance import CFG
from cfg_edu.mixture import Mixture, three
from cfg_edu.process import posterior
from cfg_edu.sampling import ancestral, heun, sample


def at(lam, n=4): return torch.full((n,), lam, dtype=torch.float64)


@pytest.fixture
def zs(): return torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_hand(m, z0, z1, lam, lam_s, prior, clip=None):
    logq = []
    for c, share in enumerate(prior):
        x = eps2x(z0, m(z0, at(lam), torch.full((4,), c)), at(lam))
        mean, var = posterior(z0, x if clip is None else x.clamp(*clip), at(lam), at(lam_s))
        logq.append(math.log(share) - ((z1-mean)**2).sum(1)/(2*var[:,0]))
    return torch.stack(logq, 1).softmax(1)


@pytest.mark.parametrize('prior, clip', [([1, 1, 1], None), ([1, 2, 3], None), ([5, 1, 1], (-.3, .3))])
def test_an_update_is_bayes(zs, prior, clip):
    m = three()
    a = ClassAverage(m, prior=prior, clip=clip)
    a(zs[0], at(-5.))
    eps = a(zs[1], at(-1.))
    torch.testing.assert_close(a.q, by_hand(m, *zs, -5., -1., prior, clip), rtol=0, atol=1e-9)
    each = torch.stack([m(zs[1], at(-1.), torch.full((4,), c)) for c in range(3)], 1)
    torch.testing.assert_close(eps, (a.q[...,None]*each).sum(1))


def test_what_begins_a_path(zs):
    a, start = ClassAverage(three(), prior=[1, 2, 3]), (torch.tensor([1, 2, 3]).double()/6).expand(4, 3)
    a(zs[0], at(-5.)); a(zs[1], at(-1.))
    assert not torch.allclose(a.q, start)
    a(zs[0], at(-6.)); torch.testing.assert_close(a.q, start)               # λ falls
    a(zs[1], at(-5.)); a(zs[1], at(-5.)); torch.testing.assert_close(a.q, start)    # or stands in noise
    a(zs[1], at(2.)); a.reset(); a(zs[0], at(-4.)); torch.testing.assert_close(a.q, start)
    a(zs[1][:2], at(-3.5, 2)[:2] - 1); assert a.q.shape == (2, 3)           # another batch


def test_beyond_stop_the_weights_stay(zs):
    a = ClassAverage(three(), stop=4.)
    a(zs[0], at(-5.)); a(zs[1], at(2.))
    before = a.q
    a(zs[0], at(4.1)); assert torch.equal(a.q, before)
    b = ClassAverage(three(), stop=5.)
    b(zs[0], at(-5.)); b(zs[1], at(2.)); b(zs[0], at(4.1)); assert not torch.equal(b.q, before)


def test_with_a_class_it_is_the_model(zs):
    m, y = three(), torch.tensor([0, 1, 3, 3])
    a = ClassAverage(m)
    free = a(zs[0][2:], at(-5., 2))
    a.reset()
    mixed = a(zs[0], at(-5.), y)                                            # two of the four ask for no class
    torch.testing.assert_close(mixed[:2], m(zs[0], at(-5.), y)[:2]); torch.testing.assert_close(mixed[2:], free)
    assert a.null == 3 and a.q.shape == (2, 3)
    a.reset()
    torch.testing.assert_close(a(zs[0], at(9.), y.clamp(max=2)), m(zs[0], at(9.), y.clamp(max=2)))   # asks for no path


def test_refuses(zs):
    m, a = three(), ClassAverage(three())
    with pytest.raises(ValueError, match='begin a path in noise'): a(zs[0], at(-3.9))
    a(zs[0], at(-5.)); a(zs[0], at(1.))
    with pytest.raises(ValueError, match='must rise'): a(zs[0], at(1.))
    with pytest.raises(ValueError, match='begin a path in noise'): a(zs[0][:2], at(2., 2))
    with pytest.raises(ValueError, match='lam must be one level'): a(zs[0], torch.tensor([0., 1., 1., 1.]))
    for bad in ([1, 1], [1, 1, math.inf], [1, 0, 1], [1, -1, 1], [1, math.nan, 1]):
        with pytest.raises(ValueError, match='prior must be 3 positive shares'): ClassAverage(m, prior=bad)
    with pytest.raises(ValueError, match='null'): ClassAverage(lambda z, lam, y: z)
    with pytest.raises(ValueError, match='must rise'): sample(ClassAverage(m), (4, 2), sampler=heun(), n_steps=9)   # two calls at one λ


def test_the_prior_decides_how_often_a_class_appears():
    "Two classes far apart, 3 : 1, sampled without a class"
    m = Mixture([3, 1], [[-.8, 0.], [.8, 0.]], [.04]*2)
    def left(prior): return (sample(ClassAverage(m, prior=prior), (600, 2), sampler=ancestral(), n_steps=64)[:,0] < 0).double().mean().item()
    assert left([3, 1]) == pytest.approx(.75, abs=.07) and left([1, 1]) == pytest.approx(.5, abs=.08)


def test_guided_samples_are_those_of_the_mixture():
    m, y = three(), torch.arange(3).repeat(40)
    a, b = (sample(CFG(o, 1.), (120, 2), y, ancestral(), 128) for o in (m, ClassAverage(m)))
    assert (a-b).norm(dim=1).median() < .01
