"What holds of guidance with exact scores, and what does not: by the samplers themselves (nbs/08_always.ipynb has the proofs and the densities)."
import math
import pytest
import torch
from cfg_edu.guidance import CFG, Interval
from cfg_edu.mixture import Mixture
from cfg_edu.sampling import dpmpp_2m, sample
from cfg_edu.schedule import Schedule

noise, none = dpmpp_2m(0.), dpmpp_2m()


def logp(world, x):
    "log p(class 0|x) of clean samples"
    x = x.double()
    return world.classify(x, torch.full((len(x),), 20.).double())[:, 0]


def drawn(world, model, sampler, n=6000, steps=100, seed=0, lo=-12):
    d = world.means.shape[1]
    lams = Schedule(lo, 9).grid(steps, 'uniform')
    return logp(world, sample(model, (n, d), 0, sampler, lams=lams, seed=seed))


@pytest.mark.parametrize('sampler', (noise, none))
def test_the_mean_certainty_can_fall(sampler):
    means = [[0.], [1.], [-.5], [1.]]
    world = Mixture([.5, .5, .8, .2], means, [.05**2]*4, [0, 0, 1, 1])
    for seed in (0, 10_000):
        a, b = (drawn(world, CFG(world, w), sampler, seed=seed) for w in (0., 4.))
        assert b.mean() < a.mean() - 4*(a.var()/len(a) + b.var()/len(b))**.5


@pytest.mark.parametrize('w', (-.75, -.25, 0., .25, .5))
def test_a_power_mean_of_p_stays(w):
    "E p(c|x)^−(1+2w) = p(c)^−(1+2w) with noise: orders for which samples suffice"
    world = Mixture([.3, .7], [[.6, 0.], [-.6, .2]], [1., 1.])
    a = 1 + 2*w
    power = (-a*drawn(world, CFG(world, w), noise, 20_000)).exp()
    se = power.std()/len(power)**.5
    assert (power.mean() - .3**-a).abs() < 4*se + .01*.3**-a   # .01: the steps


def test_early_guidance_breaks_the_bound_without_noise_alone():
    ours, theirs, places = [.1, .6, .3], [.3, .1, .6], [[-8.], [0.], [1.]]
    world = Mixture(ours + theirs, places*2, [.01]*6, [0]*3 + [1]*3)
    early = Interval(CFG(world, 16.), -99, -4)
    for seed in (0, 10_000):
        a, b = (drawn(world, early, o, steps=300, seed=seed, lo=-14) for o in (none, noise))
        inv_a, inv_b = (-a).exp(), (-b).exp()
        assert inv_a.mean() > 2 + 4*inv_a.std()/len(a)**.5 and a.mean() < math.log(.5)
        assert inv_b.mean() < 2 + 4*inv_b.std()/len(b)**.5 and b.mean() > math.log(.5)


def test_no_random_plane_breaks_the_bound():
    "Two classes of two round parts in the plane; constant weight, with noise and without"
    g = torch.Generator().manual_seed(0)
    for _ in range(12):
        means = torch.randn(4, 2, generator=g)
        spread = .2*2.5**torch.rand(4, generator=g)
        share = -torch.rand(2, 2, generator=g).log()
        share = (share/share.sum(1, keepdim=True)).flatten()
        world = Mixture(share, means, spread**2, [0, 0, 1, 1])
        for sampler in (noise, none):
            inv = (-drawn(world, CFG(world, 1.), sampler, 1500, 50)).exp()
            assert inv.mean() < 2 + 4*inv.std()/len(inv)**.5
