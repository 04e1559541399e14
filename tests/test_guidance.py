"What no reader of the guidance page needs: how often a model is asked, wrappers in wrappers, null, refusals, the scales of others."
import math
import pytest, torch
import cfg_edu.onepass, cfg_edu.rules  # noqa: F401  (add the later rules to `rules`, whatever else was imported before)
from hypothesis import given, settings, strategies as st
from torch import nn
from cfg_edu.denoiser import Denoiser
from cfg_edu.guidance import CFG, ClassifierGuided, Guidance, Interval, cfg, conventions, implicit_score, rules, to_scale, to_w
from cfg_edu.mixture import lattice, ring, three
from cfg_edu.process import diffuse
from cfg_edu.sampling import sample


class Asked:
    "The model `m`, and the sizes of the batches that it was asked for"
    def __init__(self, m): self.m, self.null, self.null_like, self.check_y, self.sizes = m, m.null, m.null_like, m.check_y, []
    def __call__(self, z, lam, y=None):
        self.sizes.append(len(z))
        return self.m(z, lam, y)


def six(m, dtype=torch.float64):
    x, y = m.draw(6, generator=torch.Generator().manual_seed(0))
    lam = torch.tensor([-9., -2., 0., 1., 4., 9.]).to(dtype)
    return diffuse(x.to(dtype), lam)[0], lam, y


def test_as_few_calls_as_there_are_questions():
    m = Asked(three())
    z, lam, y = six(three())
    for w, sizes in ((1., [12]), (0., [6]), (-1., [6])):
        m.sizes.clear()
        CFG(m, w)(z, lam, y)
        assert m.sizes == sizes
    m.sizes.clear()
    CFG(m, 1.)(z, lam)
    assert m.sizes == [6]                                              # nothing to guide towards: one call
    for lo, hi, sizes in ((5., 10., [6]), (-1., 1., [12])):
        m.sizes.clear()
        Interval(CFG(m, 3.), lo, hi)(z, torch.zeros(6).double(), y)
        assert m.sizes == sizes                                        # outside one question, inside two


@pytest.mark.parametrize('dtype,tol', [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize('make', [three, ring, lattice])
def test_free_is_by_classifier(make, dtype, tol):
    m, n = make(), 400
    x, y = m.draw(n, generator=torch.Generator().manual_seed(1))
    lam = torch.empty(n, dtype=dtype).uniform_(-8, 8)
    z, _ = diffuse(x.to(dtype), lam)
    none = torch.where(torch.arange(n)%2 == 0, m.null, y)              # half of them ask for no class
    for w in (-1., 0., .3, 1., 4.):
        off = CFG(m, w)(z, lam, y) - ClassifierGuided(m, m.classify, w)(z, lam, y)
        assert off.abs().max() < tol
    off = CFG(m, 1.)(z, lam, none) - ClassifierGuided(m, m.classify, 1.)(z, lam, none)
    assert off.abs().max() < tol                                       # neither of the two guides those
    assert torch.equal(CFG(m, 0.)(z, lam, y), m(z, lam, y))
    bare = CFG(lambda z, lam, y: m(z, lam, y), 2.)                     # knows no null: asked twice
    assert (bare(z, lam, y) - CFG(m, 2.)(z, lam, y)).abs().max() < 2*tol


@given(st.floats(-1, 20), st.integers(0, 50))
def test_formula(w, seed):
    c, u = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(cfg(c, u, w), c + w*(c-u))
    assert torch.equal(cfg(c, u, 0.), c) and torch.equal(cfg(c, u, -1.), u)


def test_a_condition_that_is_no_class():
    class Told(nn.Module):
        null = None
        def null_like(self, y): return torch.zeros_like(y)
        def check_y(self, y, n):
            if y.shape == (n, 2): return y
            raise ValueError(f"y must be ({n}, 2)")
        def forward(self, z, lam, y=None): return z - (0 if y is None else y)
    model, y = CFG(Denoiser(Told(), 'eps'), 2.), torch.randn(5, 2)
    z, lam = torch.randn(5, 2), torch.zeros(5)
    assert torch.allclose(model(z, lam, y), z - 3*y)
    assert model.null is None and sample(model, (5, 2), y, n_steps=3).shape == (5, 2)
    with pytest.raises(ValueError, match=r'y must be \(4, 2\)'): sample(Interval(model, -1., 1.), (4, 2), y)


def test_interval():
    m = lattice()
    z, lam, y = six(m)
    plain, guided = m(z, lam, y), CFG(m, 3.)(z, lam, y)
    part = Interval(CFG(m, 3.), -2., 4.)(z, lam, y)
    assert torch.allclose(part[1:5], guided[1:5]) and torch.allclose(part[[0, 5]], plain[[0, 5]])   # both ends belong to it
    nested = Interval(Interval(CFG(m, 3.), -3., 3.), -1., 9.)(z, lam, y)
    overlap = ((lam >= -1) & (lam <= 3))[:,None]
    assert torch.allclose(nested, torch.where(overlap, guided, plain))                              # guided where both guide
    image = Interval(CFG(lambda z, lam, y: z*(0 if y is None else 1), 1.), 0., 1.)(torch.ones(6, 1, 2, 2).double(), lam, y)
    assert image.flatten(1).unique().tolist() == [1., 2.]


def test_what_wrappers_know():
    m = three()
    for f in (CFG(m, 1.), ClassifierGuided(m, m.classify, 1.), Interval(CFG(m, 1.), -1., 1.), Interval(Interval(CFG(m, 1.), -1., 1.), 0., 1.)):
        assert f.null == 3 and f.null_like(torch.tensor([0, 2])).tolist() == [3, 3]
        assert f.check_y(2, 4).tolist() == [2]*4
        with pytest.raises(ValueError, match='0 … 3'): f.check_y(4, 4)
        assert f.model is m
    assert 'w=1.0' in repr(CFG(m, 1.)) and 'lo=-1.0, hi=1.0' in repr(Interval(CFG(m, 1.), -1., 1.))


@pytest.mark.parametrize('name', [o for o in rules if o != 'onepass'])   # which wants a model that is told w
def test_rules_by_name(name):
    m = three()
    z, lam, y = six(m)
    rule = rules[name](m, 2.)
    assert getattr(rule, 'guided', rule).w == 2.
    assert torch.allclose(rules[name](m, 0.)(z, lam, y), m(z, lam, y), rtol=0, atol=1e-14)
    with pytest.raises(ValueError, match='w must be'): rules[name](m, -2.)


@pytest.mark.parametrize('w', [-1.5, math.nan, math.inf])
def test_weights_that_are_none(w):
    m = three()
    for make in (lambda: CFG(m, w), lambda: ClassifierGuided(m, m.classify, w), lambda: Guidance(m, w), lambda: to_scale(w, 'paper')):
        with pytest.raises(ValueError, match='w must be'): make()


def test_refused():
    m = three()
    z, lam, y = six(m)
    for ask, word in ((lambda: Interval(CFG(m, 1.), 2., -2.), 'lo must lie below hi'), (lambda: Interval(CFG(m, 1.), math.nan, 2.), 'lo must lie below hi'),
                      (lambda: Interval(m, -1., 1.), 'guided must be'), (lambda: ClassifierGuided(m, m.classify, 1.)(z, lam, None), 'y must be a class'),
                      (lambda: to_w(1., 'midjourney'), "'midjourney'"), (lambda: to_scale(1., 'midjourney'), "'midjourney'"),
                      (lambda: to_w(-.5, 'imagen'), 'at least 0'), (lambda: to_w(-1.5, 'paper'), 'at least -1'), (lambda: to_w(math.inf, 'paper'), 'finite'),
                      (lambda: to_scale(-.5, 'diffusers'), 'at least 0')):
        with pytest.raises(ValueError, match=word): ask()


@settings(max_examples=50)
@given(st.sampled_from(sorted(conventions)), st.floats(0, 50))
def test_scales_of_others(name, w):
    assert to_w(to_scale(w, name), name) == pytest.approx(w, abs=1e-12)
    assert to_scale(0., name) == conventions[name]
    if name != 'diffusers': assert to_w(conventions[name] - 1, name) == -1.
    else: assert to_w(.5, name) == 0.                                  # its pipelines ask for no guidance up to 1


def test_a_scale_of_anybodys():
    "A dotted path to the scale at which guidance is off"
    try: assert to_w(7.5, 'token.NAME') == 6.5 and to_scale(6.5, 'token.NAME') == 7.5      # an integer, 1
    finally: conventions.pop('token.NAME', None)
    with pytest.raises(ValueError, match='convention must be one of paper'): to_w(1., 'math.tau')


def test_gradients_may_be_off_around_it():
    "The push needs a gradient of its own, under `no_grad` and with a z that is used elsewhere"
    m = three()
    z, lam, y = six(m)
    want = ClassifierGuided(m, m.classify, 2.)(z, lam, y)
    with torch.no_grad(): assert torch.equal(ClassifierGuided(m, m.classify, 2.)(z, lam, y), want)
    assert not z.requires_grad and not want.requires_grad
    assert torch.allclose(want, m(z, lam, y) + 2*(m(z, lam, y) - m(z, lam)), atol=1e-12)
    assert torch.allclose(implicit_score(m, z, lam, y), (m(z, lam) - m(z, lam, y))/(-lam).sigmoid().sqrt()[:,None])
