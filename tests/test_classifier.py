"Noisy classifiers and the classifier in the generator, beyond what their page shows."
import math
import pytest, torch
from torch import nn
from fastai.callback.fp16 import MixedPrecision
from cfg_edu.classifier import DiffuseInput, UniformLam, classifier_learner, classifier_logp, implicit_logits
from cfg_edu.data import toy_dls
from cfg_edu.mixture import three
from cfg_edu.nets import MLP
from cfg_edu.schedule import amps

def dls(): return toy_dls('moons', bs=64, n=640, device='cpu')

class Reads(nn.Module):
    "Logits of points; it does not say how many classes it has"
    def __init__(self, n=2):
        super().__init__()
        self.net = nn.Linear(3, n)
    def forward(self, z, lam): return self.net(torch.cat([z, lam[:,None]], 1))

# --- the learner --------------------------------------------------------------------------------------------------------------------------------------

def test_it_learns_and_keeps_the_label():
    torch.manual_seed(0)
    learn = classifier_learner(dls(), Reads())
    with learn.no_bar(), learn.no_logging(): learn.fit(4)
    first, last = learn.recorder.values[0], learn.recorder.values[-1]
    assert last[1] < first[1] and len(last) == 3                                             # with the accuracy
    z, lam = torch.randn(5, 2), torch.zeros(5)
    torch.testing.assert_close(learn.ema.avg(z, lam).exp().sum(1), torch.ones(5))
    assert DiffuseInput.order < MixedPrecision.order                                         # noise is drawn in float32

@pytest.mark.parametrize('make, words', [
    (lambda: classifier_learner(dls(), MLP(4)), 'as many classes as the data, 2, got 4'), (lambda: classifier_learner(dls(), Reads(), wd=-1.), 'wd must be finite'),
    (lambda: classifier_learner(dls(), Reads(), wd=math.inf), 'wd must be finite'), (lambda: classifier_learner(dls(), Reads(), decay=1.), 'decay')])
def test_the_door(make, words):
    with pytest.raises(ValueError, match=words): make()

def test_the_first_batch_tells_the_classes():
    learn = classifier_learner(dls(), Reads(7))
    with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match=r'logits \(64, 2\), one for each class, got \(64, 7\)'): learn.fit(1)

@pytest.mark.parametrize('kw, wd, lr', [(dict(), .2, 4e-3), (dict(wd=.1, lr=1e-3), .1, 1e-3)])
def test_what_is_asked_for_reaches_the_optimiser(kw, wd, lr):
    learn = classifier_learner(dls(), Reads(), **kw)
    learn.create_opt()
    assert {(p['weight_decay'], p['lr']) for p in learn.opt.opt.param_groups} == {(wd, lr)} and learn.ema.decay == .99
    assert classifier_learner(dls(), Reads(), metrics=[]).metrics == []

def test_at_least_float32():
    z, lam = torch.randn(9, 4), torch.zeros(9)
    for dtype, kept in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        out = classifier_logp(lambda z, lam: z.to(dtype))(z, lam)                            # noqa: B023
        assert out.dtype == kept
        torch.testing.assert_close(out.exp().sum(1), torch.ones(9, dtype=kept))

def test_sixteen_bits_are_its_own_or_those_around_it():
    net, dtypes = Reads(), []
    net.net.register_forward_hook(lambda m, i, out: dtypes.append(out.dtype))
    logp, z, lam = classifier_logp(net), torch.randn(9, 2), torch.zeros(9)
    logp(z, lam)
    logp.amp_dtype = torch.bfloat16
    assert logp(z, lam).dtype == torch.float32
    logp.amp_dtype = None
    with torch.autocast('cpu', torch.bfloat16): logp(z, lam)
    assert dtypes == [torch.float32, torch.bfloat16, torch.bfloat16]

# --- the generator reads ------------------------------------------------------------------------------------------------------------------------------

m = three()
x = m.draw(60, generator=torch.Generator().manual_seed(3))[0]
def bare(z, lam, y): return m(z, lam, y)

@pytest.mark.parametrize('lo, hi', [(2, 2), (3, 2), (-math.inf, 2), (0, math.nan)])
def test_levels_that_are_none(lo, hi):
    with pytest.raises(ValueError, match='lam_min must lie below lam_max and both be finite'): UniformLam(lo, hi)

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_levels_keep_their_dtype(dtype):
    law, u = UniformLam(-3, 5), torch.linspace(0, 1, 9, dtype=dtype)
    assert law.lam(u).dtype == law.pdf(u).dtype == dtype

def test_each_example_has_its_own_seed():
    a = implicit_logits(m, x, 8, seed=5)
    assert torch.equal(implicit_logits(m, x, 8, seed=5), a)
    torch.testing.assert_close(implicit_logits(m, x[10:20], 8, seed=15), a[10:20], atol=1e-4, rtol=1e-4)
    assert (implicit_logits(m, x, 8, seed=6)-a).abs().max() > .1
    assert torch.equal(implicit_logits(bare, x, 8, seed=5, n_classes=3), a)

@pytest.mark.parametrize('common', [True, False])
def test_batches_change_nothing(common):
    sizes = []
    def spy(z, lam, y):
        sizes.append(len(z))
        return m(z, lam, y)
    a = implicit_logits(m, x, 4, common=common)
    torch.testing.assert_close(implicit_logits(spy, x, 4, common=common, n_classes=3, bs=7), a, atol=1e-4, rtol=1e-4)
    assert max(sizes) == 7

@pytest.mark.parametrize('common', [True, False])
def test_noise_in_common_or_ones_own(common):
    seen = {}
    def watch(z, lam, y):
        alpha, sigma = amps(lam, 2)
        seen['eps'], seen['lam'] = ((z-alpha*x.repeat_interleave(3, 0))/sigma).reshape(60, 3, 2), lam.reshape(60, 3)
        return m(z, lam, y)
    implicit_logits(watch, x, 1, n_classes=3, common=common)
    for v in seen.values(): assert [((v[:,0]-v[:,c]).abs().max() < 1e-3).item() for c in (1, 2)] == [common]*2

def test_the_prior_is_added():
    a, prior = implicit_logits(m, x, 8), torch.tensor([.7, .2, .1])
    assert torch.equal(implicit_logits(m, x, 8, prior=[1, 1, 1]), a)
    assert torch.equal(implicit_logits(m, x, 8, prior=prior), a + prior.log())

def test_precision():
    low = x.bfloat16()
    assert torch.equal(implicit_logits(m, low, 8), implicit_logits(m, low.float(), 8))
    assert implicit_logits(m, x.double(), 8).dtype == torch.float64

def test_no_dropout_inside():
    class Noisy(nn.Module):
        null = 3
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(.5)
        def forward(self, z, lam, y): return m(self.drop(z), lam, y)
    net = Noisy().train()
    assert torch.equal(implicit_logits(net, x, 8), implicit_logits(m, x, 8)) and net.drop.training

@pytest.mark.parametrize('kw, words', [
    (dict(n_draws=0), 'n_draws and bs must be at least 1'), (dict(bs=0), 'n_draws and bs must be at least 1'), (dict(model=bare), 'n_classes must be given'),
    (dict(prior=torch.ones(4)), 'prior must be 3 positive finite numbers'), (dict(prior=[1., 0, 1]), 'prior must be'), (dict(prior=[1., math.inf, 1]), 'prior must be'),
    (dict(prior=[1., math.nan, 1]), 'prior must be'), (dict(x=x.long()), 'x must be floating point, got torch.int64')])
def test_what_is_refused(kw, words):
    with pytest.raises(ValueError, match=words): implicit_logits(**dict(dict(model=m, x=x), **kw))
