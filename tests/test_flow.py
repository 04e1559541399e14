"Flows and models turned into each other: both ways, at the ends, in several shapes and precisions, in training and sampling."
import math
import pytest, torch
from fastai.callback.core import Callback
from hypothesis import given, settings, strategies as st
from cfg_edu.data import toy_dls
from cfg_edu.denoiser import Denoiser, both, eps2x, u2eps
from cfg_edu.flow import FlowLoss, FlowModel, FlowSchedule, Velocity, to_lam, to_t
from cfg_edu.guidance import CFG
from cfg_edu.mixture import Mixture, three
from cfg_edu.nets import MLP, unet_digits
from cfg_edu.process import diffuse
from cfg_edu.sampling import Sampler, ddim, dpmpp_2m, heun, sample
from cfg_edu.schedule import Schedule, amps
from cfg_edu.training import diffusion_learner

close = lambda a, b, tol: torch.testing.assert_close(a, b, rtol=0, atol=tol)


def noisy(n=200, shape=(2,), lo=-12., hi=12., dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    lam = torch.linspace(lo, hi, n, dtype=dtype)
    x, eps = torch.randn(2, n, *shape, generator=g, dtype=torch.float64).to(dtype)
    return x, eps, lam, diffuse(x, lam, eps)[0]


@settings(deadline=None, max_examples=30)
@given(st.floats(-40, 40))
def test_the_clock_there_and_back(lam):
    lam = torch.tensor([lam], dtype=torch.float64)
    alpha, sigma = amps(lam)
    close(to_t(lam), sigma/(alpha+sigma), 1e-15)
    close(to_lam(to_t(lam)), lam, 1e-6)                 # 1 − t has 7 digits left at ±40
    assert to_t(lam.float()).dtype == torch.float32


@pytest.mark.parametrize('t', [0., 1., -.1, 1.2, math.nan])
def test_times_outside_are_refused(t):
    for f in (to_lam, lambda t: Velocity(three())(torch.zeros(2, 2), t)):
        with pytest.raises(ValueError, match=r't must lie above 0 \(data\) and below 1 \(noise\)'): f(torch.tensor([.5, t]))


@pytest.mark.parametrize('shape', [(2,), (3, 4, 4)])
def test_velocity_is_noise_minus_data(shape):
    "A model that knows the answer gives u = ε − x, and a flow that knows it gives ε"
    x, eps, lam, z = noisy(shape=shape)
    t = to_t(lam).reshape(-1, *[1]*len(shape))
    x_t = (1-t)*x + t*eps
    close(Velocity(lambda z, lam, y: eps)(x_t, to_t(lam)), eps - x, 1e-11)
    close(FlowModel(lambda at, when, y: eps - x)(z, lam), eps, 1e-13)
    close(eps2x(z, u2eps(z, eps - x, lam), lam), x, 1e-9)
    seen = {}
    FlowModel(lambda at, when, y: seen.update(at=at, t=when) or at)(z, lam)
    close(seen['at'], x_t, 1e-13); close(seen['t'], to_t(lam), 0.)


def test_u_output_is_safe_at_both_ends():
    "An error of the output becomes t times as large in x̂, (1−t) times in ε: never larger"
    x, eps, lam, z = noisy(lo=-20., hi=20.)
    off = u2eps(z, eps - x + 1e-3, lam) - eps
    close(off, 1e-3*(1 - to_t(lam))[:,None].expand_as(off), 1e-12)
    z32, lam32 = z.float(), lam.float()                  # … also in float32
    assert (u2eps(z32, (eps - x).float(), lam32) - eps).abs().max() < 2e-6


def test_continuity():
    "∂p/∂t + ∇·(pu) = 0 for a class and for all, where two components overlap; a wrong velocity fails"
    m, (x, eps, lam, _) = Mixture([2, 1, 1], [[.4, 0], [-.4, .2], [0, -.5]], [.04, .09, .02], [0, 1, 0]), noisy(lo=-6., hi=6.)
    def rest(field, y):
        t = to_t(lam).requires_grad_()
        at = ((1-t[:,None])*x + t[:,None]*eps).detach().requires_grad_()
        logp = m.logp(sum(amps(to_lam(t), 2))*at, to_lam(t), y) + 2*sum(amps(to_lam(t))).log()
        rise, slope = torch.autograd.grad(logp.sum(), (t, at))
        u = field(at, t, y)
        spread = sum(torch.autograd.grad(u[:,i].sum(), at, retain_graph=True)[0][:,i] for i in range(2))
        return (rise + spread + (u*slope).sum(1)).abs().max()
    for y in (None, torch.arange(200)%2):
        assert rest(Velocity(m), y) < 1e-8
        assert rest(lambda at, t, y: 1.01*Velocity(m)(at, t, y), y) > 1e-3


@settings(deadline=None, max_examples=30)
@given(st.floats(-1, 20))
def test_guided_velocities_are_those_of_the_guided_model(w):
    m, (_, _, lam, z) = three(), noisy(lo=-8., hi=8.)
    y, f, at, t = torch.arange(200)%3, Velocity(m), z/sum(amps(lam, 2)), to_t(lam)
    close((1+w)*f(at, t, y) - w*f(at, t), Velocity(CFG(m, w))(at, t, y), 1e-10*(1+abs(w)))


def test_a_foreign_network_is_a_model_here():
    "Guided, asked twice, sampled, without an idea of classes; its classes where it has some"
    class Foreign(torch.nn.Module):
        null, calls = 3, 0
        def null_like(self, y): return torch.full_like(y, 3)
        def forward(self, x, t, y=None):
            self.calls += 1
            return Velocity(three())(x, t, y)
    net, m, (_, _, lam, z), y = Foreign(), three(), noisy(lo=-8., hi=8.), torch.arange(200)%3
    model = FlowModel(net)
    assert model.null == 3 and model.predicts == 'u'
    for got, want in zip(both(model, z, lam, y), (m(z, lam, y), m(z, lam, None))): close(got, want, 1e-10)
    assert net.calls == 1                                              # one batch for both answers
    plain = FlowModel(lambda x, t, y=None: Velocity(m)(x, t, y))
    close(CFG(plain, 2.)(z, lam, y), CFG(m, 2.)(z, lam, y), 1e-10)
    a, b = (sample(CFG(o, 1.), (30, 2), y[:30], n_steps=12, dtype=torch.float64) for o in (model, m))
    close(a, b, 1e-8)
    model.amp_dtype = torch.bfloat16                                   # only the network's products
    assert model(z.float(), lam.float(), y).dtype == torch.float32


def test_velocity_is_a_wrapper():
    assert Velocity(three()).null == 3 and Velocity(three()).check_y(1, 2).tolist() == [1, 1]


@pytest.mark.parametrize('mean, std', [(0., None), (math.log(3), None), (0., 1.), (-1.2, 1.2)])
def test_schedule(mean, std):
    "u and λ there and back; the density is the slope; draws follow it; the shift moves λ"
    s, lam = FlowSchedule(mean, std), torch.linspace(-9, 9, 4001, dtype=torch.float64)
    u = torch.linspace(.001, .999, 500, dtype=torch.float64)
    close(s.u(s.lam(u)), u, 1e-12)
    close(-torch.gradient(s.u(lam), spacing=(lam,))[0][1:-1], s.pdf(lam)[1:-1], 1e-6)
    draws = s.draw(20_000, generator=torch.Generator().manual_seed(0))
    for k in (.1, .25, .5, .75, .9): close((draws > s.lam(torch.tensor(1-k))).float().mean(), torch.tensor(1-k), 2e-3)
    close(s.lam(u), FlowSchedule(0., std).lam(u) - 2*mean, 1e-12)
    ends = s.lam(torch.tensor([0., 1.]))
    assert ends.tolist() == [20., -20.] and s.draw(100).abs().max() <= 20


def test_uniform_t_and_logit_normal_are_what_they_say():
    g = torch.Generator().manual_seed(0)
    t = to_t(FlowSchedule().draw(4096, generator=g)).sort().values
    close(t, (torch.arange(4096) + .5)/4096, 2e-4)
    logit = to_t(FlowSchedule(-.5, .7).draw(4096, generator=g).double()).logit()
    assert abs(logit.mean() + .5) < 2e-3 and abs(logit.std() - .7) < 3e-3


@pytest.mark.parametrize('kw', [dict(std=0.), dict(std=-1.), dict(std=4.), dict(mean=4.), dict(mean=math.nan), dict(std=math.nan)])
def test_schedule_refuses(kw):
    with pytest.raises(ValueError, match='mean must lie within ±3, std in'): FlowSchedule(**kw)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 200), st.floats(-2, 2))
def test_grid(n, mean):
    "Euler's: t = 1 … 1/n before the shift, rising in λ, as `sample` wants it"
    lams = FlowSchedule(mean).grid(n)
    t = to_t(lams + 2*mean)
    close(t[1:], torch.linspace(1, 1/n, n, dtype=torch.float64)[1:], 1e-9)
    assert lams[0] == -20 and (lams.diff() > 0).all()
    with pytest.raises(ValueError, match='n_steps must be at least 2'): FlowSchedule().grid(1)


@pytest.mark.parametrize('w', [0., 1., 4.])
def test_euler_is_ddim(w):
    "Single steps to 1e-12 between levels of every kind; a whole walk from λ = −20"
    m, f, y = CFG(three(), w), Velocity(CFG(three(), w)), torch.arange(200)%3
    x, eps, lam, z = noisy(lo=-8., hi=8.)
    to = lam + 3*torch.rand(200, generator=torch.Generator().manual_seed(1)).double()
    a, b, at = to_t(lam)[:,None], to_t(to)[:,None], z/sum(amps(lam, 2))
    euler = at + (b-a)*f(at, a[:,0], y)
    (al, sg), (al2, sg2), e = amps(lam, 2), amps(to, 2), m(z, lam, y)
    close(euler*(al2+sg2), al2*(z - sg*e)/al + sg2*e, 1e-12*(1+w))
    lams, zs = FlowSchedule().grid(9), []
    got = sample(m, (50, 2), y[:50], ddim(sched=FlowSchedule()), 9, dtype=torch.float64, cb=lambda i, l, z, x_hat: zs.append(z))
    p, ts = zs[0]/sum(amps(lams[:1])), [*to_t(lams), torch.tensor(0.)]
    for c, d in zip(ts, ts[1:]): p = p + (d-c)*f(p, c.expand(50), y[:50])
    close(p, got, 1e-9)
    assert len(zs) == 9
    sample(m, (5, 2), 0, dpmpp_2m(sched=FlowSchedule()), 6)            # other samplers take it too


def test_heun_in_t_is_a_row_of_heun():
    "The correction of the second call, times (1−t)/(1−t')"
    def table(lams):
        rows, t = heun().table(lams), to_t(lams)
        rows[1::2,2:4] *= ((1-t[:-1])/(1-t[1:]))[:,None]
        return rows
    m, y, lams, zs = CFG(three(), 1.), torch.arange(60)%3, heun().grid(23), []
    x = sample(m, (60, 2), y, Sampler(table, heun().grid), lams=lams, dtype=torch.float64, cb=lambda i, l, z, x_hat: zs.append(z))
    f, p, ts = Velocity(m), zs[0]/sum(amps(lams[:1])), [*to_t(lams), torch.tensor(0.)]
    for a, b in zip(ts, ts[1:]):
        u = f(p, a.expand(60), y)
        if b > 0: u = (u + f(p + (b-a)*u, b.expand(60), y))/2
        p = p + (b-a)*u
    close(p, x, 1e-12)


def learner(cbs, sched=None, predicts='u', **kw):
    torch.manual_seed(0)
    dls = toy_dls('moons', bs=64, n=640, device='cpu')
    return diffusion_learner(dls, MLP(2, width=8, depth=1), sched, predicts, decay=.9, cbs=cbs, **kw)


class Seen(Callback):
    "The flow's loss, by hand"
    order = 9.5                                                        # after `Diffuse`, before the network
    def before_batch(self):
        (z, lam, _), eps = self.xb, self.yb[0]
        alpha, sigma = amps(lam, 2)
        self.u = eps - (z - sigma*eps)/alpha
    def after_loss(self):
        by_hand = (self.model.net(*self.xb) - self.u).square().mean()
        torch.testing.assert_close(self.learn.loss.detach(), by_hand.detach(), rtol=2e-3, atol=1e-5)


def test_the_flow_loss_is_the_mean_of_squared_velocities():
    "In training and in validation; without the callback it is another number"
    with (learn := learner([FlowLoss(), Seen()], FlowSchedule(0., 1.))).no_bar(), learn.no_logging(): learn.fit(1)
    assert learn.model.predicts == 'u' and all(math.isfinite(v) for v in learn.recorder.values[0][:2])
    with (learn := learner([Seen()], FlowSchedule(0., 1.))).no_bar(), learn.no_logging(), pytest.raises(AssertionError): learn.fit(1)


def test_flow_loss_of_images():
    x, eps, lam, z = noisy(6, (1, 8, 8), -4., 4., torch.float32)
    class Learn: pass
    cb = FlowLoss(); cb.learn = Learn()
    guess = torch.randn_like(eps)
    cb.learn.xb, cb.learn.pred, cb.learn.y = (z, lam, None), guess, eps
    cb.after_pred()
    alpha, sigma = amps(lam, 4)
    u_hat = guess - (z - sigma*guess)/alpha
    close(cb.learn.pred - cb.learn.yb[0], u_hat - (eps - x), 1e-4)


def test_denoiser_and_learner_know_u():
    net = unet_digits()
    z, lam, y = torch.randn(2, 1, 8, 8), torch.tensor([-1., 2.]), torch.tensor([0, 1])
    close(Denoiser(net, 'u')(z, lam, y), u2eps(z, net(z, lam, y), lam), 1e-6)
    with pytest.raises(ValueError, match="predicts must be one of .*'u'"): learner([], predicts='velocity')
    assert Schedule().lam_min == FlowSchedule().lam_min
