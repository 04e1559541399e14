"What no reader of the denoiser's page needs: dtypes, the ways to both answers, what wrappers pass on, 16 bits after a failure."
import copy, pickle
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch import nn
from cfg_edu.denoiser import Denoiser, Wrapper, both, eps2score, eps2v, eps2x, score2eps, v2eps, x2eps
from cfg_edu.mixture import lattice, ring, three
from cfg_edu.process import diffuse
from cfg_edu.schedule import amps


class Cheat(nn.Module):
    "A network that outputs the exact `what` of a mixture, in the dtype that is asked for"
    def __init__(self, m, what, dtype=None):
        super().__init__()
        self.m, self.what, self.dtype, self.null = m, what, dtype, m.null
        self.null_like, self.check_y = m.null_like, m.check_y
    def forward(self, z, lam, y=None):
        z, lam, dtype = z.double(), lam.double(), self.dtype or z.dtype
        eps = self.m(z, lam, y)
        out = dict(eps=eps, x=self.m.posterior_mean(z, lam, y), v=eps2v(z, eps, lam))[self.what]
        return out.to(dtype)


class Net(nn.Module):
    "A small network of products, that can be told a class"
    null = 3
    def __init__(self):
        super().__init__()
        self.lin, self.emb = nn.Linear(2, 2), nn.Embedding(4, 2)
    def null_like(self, y): return torch.full_like(y, self.null)
    def check_y(self, y, n): return torch.as_tensor(y).expand(n)
    def forward(self, z, lam, y=None):
        if y is None: y = torch.full((len(z),), self.null)
        return self.lin(z) + self.emb(y)


def six(): return torch.randn(6, 2), torch.linspace(-6, 6, 6), torch.tensor([0, 1, 2, 2, 1, 0])


@settings(max_examples=60, deadline=None)
@given(st.floats(-12, 12), st.sampled_from([(3,), (2, 5), (1, 4, 4)]), st.integers(0, 99))
def test_four_names_of_one_prediction(l, shape, seed):
    x, eps = torch.randn(2, 3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    lam = torch.full((3,), l, dtype=torch.float64)
    z, _ = diffuse(x, lam, eps)
    alpha, sigma = amps(lam, z.ndim)
    for got, want in ((eps2x(z, eps, lam), x), (x2eps(z, x, lam), eps), (eps2v(z, eps, lam), alpha*eps - sigma*x),
                      (v2eps(z, alpha*eps - sigma*x, lam), eps), (score2eps(eps2score(eps, lam), lam), eps)):
        assert torch.allclose(got, want, atol=1e-9)                   # 1/α and 1/σ are at most 404


def test_exact_scores():
    m, z, lam = lattice(), torch.randn(50, 2).double(), torch.linspace(-10, 10, 50).double()
    assert torch.allclose(eps2score(m(z, lam), lam), m.score(z, lam), atol=1e-12)
    assert torch.allclose(score2eps(m.score(z, lam), lam), m(z, lam), atol=1e-12)


@pytest.mark.parametrize('what', ['eps', 'x', 'v'])
@pytest.mark.parametrize('l', [-10., -1., 4.])
def test_epsilon_of_any_output(what, l):
    m, (x, y) = three(), three().draw(500)
    lam = torch.full((500,), l)
    z, _ = diffuse(x, lam)
    model = Denoiser(Cheat(m, what), what)
    assert torch.allclose(model(z, lam, y), m(z, lam, y), atol=1e-4)         # float32's 6e−8, × up to 148, × z up to 4
    for got, want in zip(model.pair(z, lam, y), (m(z, lam, y), m(z, lam))): assert torch.allclose(got, want, atol=1e-4)


@pytest.mark.parametrize('z_dtype', [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('out', [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('what', ['eps', 'v'])
def test_epsilon_is_float32_or_better(z_dtype, out, what):
    z, lam, y = six()
    want = torch.float64 if out == torch.float64 else torch.float32
    model = Denoiser(Cheat(three(), what, out), what)
    assert model(z.to(z_dtype), lam, y).dtype == want
    assert {o.dtype for o in model.pair(z.to(z_dtype), lam, y)} == {want}


def test_unknown_output():
    with pytest.raises(ValueError, match="predicts must be one of .*, got 'noise'"): Denoiser(Net(), 'noise')


class Asked:
    "The model `m`, and how it was asked"
    def __init__(self, m): self.m, self.calls = m, []
    def __call__(self, z, lam, y=None):
        self.calls.append((len(z), lam.stride(0)))
        return self.m(z, lam, y)


@pytest.mark.parametrize('one_level', [False, True])
def test_both_ways_to_ask(one_level):
    m, (z, lam, y) = three(), six()
    if one_level: lam = lam[:1].expand(6)
    want = m(z, lam, y), m(z, lam)
    bare, knows = Asked(m), Asked(m)
    knows.null_like = m.null_like
    for model, calls in ((bare, [(6, lam.stride(0))]*2), (knows, [(12, lam.stride(0))])):
        for got, w in zip(both(model, z, lam, y), want): assert torch.allclose(got, w, atol=1e-5)
        assert model.calls == calls                                    # two calls, or one batch; one level stays one


def test_pair_is_used_but_not_of_a_compiled_network():
    class Sharer(Net):
        def pair(self, z, lam, y): return 'with', 'without'
    z, lam, y = six()
    net = Sharer()
    assert both(net, z, lam, y) == ('with', 'without')
    plain = net(z, lam, y), net(z, lam)
    copied = copy.deepcopy(net)
    copied.compile(backend='eager')
    for compiled in (torch.compile(net, backend='eager'), copied):
        for got, want in zip(both(compiled, z, lam, y), plain): assert torch.allclose(got, want, atol=1e-6)


def test_both_for_a_condition_that_is_no_class():
    class Told(nn.Module):
        null = None
        def null_like(self, y): return torch.full_like(y, torch.nan)
        def forward(self, z, lam, y): return z + y.nan_to_num(7.)
    z, lam, _ = six()
    y = torch.randn(6, 2)
    for model in (Told(), Denoiser(Told(), 'eps')):
        with_y, without = both(model, z, lam, y)
        assert torch.equal(with_y, z + y) and torch.equal(without, z + 7)


def test_wrappers_pass_on_what_the_model_knows():
    net = Net()
    outer = Wrapper(Wrapper(Denoiser(net)))
    y = torch.tensor([0, 1])
    assert outer.null == 3 and outer.null_like(y).tolist() == [3, 3] and outer.check_y(2, 4).tolist() == [2]*4
    again = copy.deepcopy(outer)
    assert again.model.model.net is not net and again.null_like.__self__ is again.model.model.net
    assert pickle.loads(pickle.dumps(outer)).null == 3
    bare = Wrapper(lambda z, lam, y: z)
    assert not hasattr(bare, 'null') and not hasattr(bare, 'null_like') and not hasattr(bare, 'check_y')
    assert not hasattr(outer, 'nothing')
    class Own(Wrapper):
        def check_y(self, y, n): return 'mine'
    assert Own(net).check_y(0, 1) == 'mine'


def test_names_of_the_weights_and_what_is_shown():
    assert list(Denoiser(Net()).state_dict()) == ['net.lin.weight', 'net.lin.bias', 'net.emb.weight']
    assert "predicts=v" in repr(Denoiser(Net()))


def test_sixteen_bits_in_the_network_alone():
    z, lam, y = six()
    model = Denoiser(Net().requires_grad_(False))
    full = model(z, lam, y)
    model.half = torch.bfloat16
    for eps in (model(z, lam, y), both(model, z, lam, y)[0]):
        assert eps.dtype == torch.float32 and 0 < (eps-full).abs().max() < .05
    model.half = None
    assert torch.equal(model(z, lam, y), full)
    with torch.autocast('cpu', torch.bfloat16): outer = model(z, lam, y)
    assert not torch.equal(outer, full)                                # None leaves an outer autocast alone


def test_sixteen_bits_end_with_a_failing_network():
    z, lam, y = six()
    def fails(z, lam, y): raise KeyboardInterrupt
    model = Denoiser(fails)
    model.half = torch.bfloat16
    for ask in (model, model.pair):
        with pytest.raises(KeyboardInterrupt): ask(z, lam, y)
        assert not torch.is_autocast_enabled('cpu') and nn.Linear(2, 2)(z).dtype == torch.float32


def test_compiled_denoiser():
    z, lam, y = six()
    model = Denoiser(Net())
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    assert torch.allclose(compiled(z, lam, y), model(z, lam, y), atol=1e-6)


def test_the_exact_answer_wins_on_the_ring():
    "Scaling the exact ε, or not telling it the class, costs loss"
    m, n = ring(), 50_000
    g = torch.Generator().manual_seed(0)
    x, y = m.draw(n, generator=g)
    lam = torch.empty(n).uniform_(-8, 8, generator=g)
    z, eps = diffuse(x, lam, torch.randn(n, 2, generator=g))
    loss = lambda out: (out-eps).pow(2).mean().item()
    assert loss(m(z, lam, y)) < min(loss(.95*m(z, lam, y)), loss(1.05*m(z, lam, y)), loss(m(z, lam)))
