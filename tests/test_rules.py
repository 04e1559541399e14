"Later guidance rules at their edges."
import math, subprocess, sys
import pytest, torch
from cfg_edu.denoiser import eps2v, eps2x, x2eps
from cfg_edu.guidance import CFG, ClassifierGuided, Interval, rules
from cfg_edu.mixture import Mixture, lattice, three
from cfg_edu.rules import APG, AutoGuided, Promised, RandomClass, Rescaled, Varying, ZeroStar, part, plus_plus
from cfg_edu.sampling import ddim, sample
from cfg_edu.schedule import Schedule, amps


@pytest.fixture
def points():
    g = torch.Generator().manual_seed(0)
    return torch.randn(30, 2, generator=g).double(), torch.linspace(-6, 6, 30).double(), torch.arange(30) % 3


def test_rescaled_keeps_the_direction(points):
    m, (z, lam, y) = lattice(), points
    def v(model): return eps2v(z, model(z, lam, y), lam)
    guided, scaled = v(CFG(m, 3.)), v(Rescaled(CFG(m, 3.), 1.))
    torch.testing.assert_close(scaled.norm(dim=1), v(m).norm(dim=1))
    torch.testing.assert_close(torch.cosine_similarity(guided, scaled), torch.ones(30).double())
    torch.testing.assert_close(Rescaled(CFG(m, 0.))(z, lam, y), m(z, lam, y))
    torch.testing.assert_close(v(Rescaled(CFG(m, 3.), .3)).norm(dim=1), .7*guided.norm(dim=1) + .3*v(m).norm(dim=1))


def test_rescaled_takes_any_guided_model(points):
    m, (z, lam, y) = three(), points
    by_classifier = ClassifierGuided(m, m.classify, 2.)
    for guided in (by_classifier, Interval(CFG(m, 2.), -3., 3.)): assert Rescaled(guided)(z, lam, y).shape == z.shape
    assert Rescaled(CFG(m, 1.)).null == 3
    still = Rescaled(CFG(lambda z, lam, y: 0*z, 1.))                        # the output v may be 0
    assert torch.equal(still(torch.zeros(1, 2), torch.zeros(1), torch.zeros(1).long()), torch.zeros(1, 2))


def test_rescaled_refuses():
    for phi in (-.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=r'phi must lie in \[0, 1\]'): Rescaled(CFG(three(), 1.), phi)
    with pytest.raises(ValueError, match='guided must be a model such as CFG'): Rescaled(three())


def test_rules_by_name(points):
    m, (z, lam, y) = three(), points
    torch.testing.assert_close(rules['rescaled'](m, 2.)(z, lam, y), Rescaled(CFG(m, 2.))(z, lam, y))
    torch.testing.assert_close(rules['cfg'](m, 2.)(z, lam, y), CFG(m, 2.)(z, lam, y))
    with pytest.raises(ValueError, match='w must'): rules['rescaled'](m, -2.)


def test_autoguided(points):
    m, (z, lam, y) = three(), points
    dull = Mixture(m.weights, m.means, m.covs + .04*torch.eye(2).double(), m.labels)
    torch.testing.assert_close(AutoGuided(m, dull, .5)(z, lam, y), 1.5*m(z, lam, y) - .5*dull(z, lam, y))
    torch.testing.assert_close(AutoGuided(m, dull, .5)(z, lam), 1.5*m(z, lam) - .5*dull(z, lam))
    torch.testing.assert_close(AutoGuided(m, m, 3.)(z, lam, y), m(z, lam, y), rtol=1e-9, atol=1e-9)
    def never(z, lam, y): raise AssertionError('w = 0 needs no second model')
    never.null = 3
    assert torch.equal(AutoGuided(m, never, 0.)(z, lam, y), m(z, lam, y))
    assert AutoGuided(m, dull, 1.).null == 3 and sample(AutoGuided(m, dull, 1.), (6, 2), y[:6], n_steps=4).isfinite().all()


def test_autoguided_refuses():
    for w in (-1., -.5, math.nan, math.inf):
        with pytest.raises(ValueError, match='w must be'): AutoGuided(three(), three(), w)
    with pytest.raises(ValueError, match=r'same classes, got null = \[3, 1\]'): AutoGuided(three(), Mixture([1.], [[0., 0.]], [.1]), 1.)


def dots(a, b): return (a*b).flatten(1).sum(1)


def test_part_is_what_lies_along():
    a, b = torch.randn(2, 5, 3, 4, 4).double()
    rest = a - part(a, b)*b
    assert dots(rest, b).abs().max() < 1e-10 and part(a, b).shape == (5, 1, 1, 1)
    assert torch.equal(part(a, 0*b), torch.zeros(5, 1, 1, 1).double())


def test_two_answers_at_their_ends(points):
    m, (z, lam, y) = three(), points
    for rule in (APG, ZeroStar, RandomClass):
        assert torch.equal(rule(m, 0.)(z, lam, y), m(z, lam, y)) and torch.equal(rule(m, 2.)(z, lam), m(z, lam))
        assert rule(m, 2.).null == 3 and rule(m, 1.)(z, lam, y).shape == z.shape
        with pytest.raises(ValueError, match='w must be'): rule(m, -2.)
    images = lambda z, lam, y: .5*z if y is not None else .2*z.roll(1, -1)
    for rule in (APG, ZeroStar): assert rule(images, 2.)(torch.randn(3, 1, 8, 8), lam[:3].float(), y[:3]).dtype == torch.float32


def test_apg_written_out(points):
    m, (z, lam, y) = lattice(), points
    x, x_u = eps2x(z, m(z, lam, y), lam), eps2x(z, m(z, lam), lam)
    d = x - x_u
    d = d*(.3/d.norm(dim=1, keepdim=True)).clamp(max=1)
    unit = x/x.norm(dim=1, keepdim=True)
    along = (d*unit).sum(1, keepdim=True)*unit
    want = x2eps(z, x + 2*(d - along + .4*along), lam)
    torch.testing.assert_close(APG(m, 2., .4, .3)(z, lam, y), want)
    torch.testing.assert_close(APG(m, 2., eta=1.)(z, lam, y), CFG(m, 2.)(z, lam, y))   # nothing left out, nothing cut
    for r in (0., -1., math.nan):
        with pytest.raises(ValueError, match='r must be positive'): APG(m, 1., r=r)


def test_zero_star(points):
    m, (z, lam, y) = lattice(), points
    def u(eps): return eps - eps2x(z, eps, lam)
    u_c, u_u = u(m(z, lam, y)), u(m(z, lam))
    s = (dots(u_c, u_u)/dots(u_u, u_u))[:,None]
    torch.testing.assert_close(u(ZeroStar(m, 2., -9.)(z, lam, y)), s*u_u + 3*(u_c - s*u_u))
    still = u(ZeroStar(m, 2., 9.)(z, lam, y))
    torch.testing.assert_close(still, 0*still, atol=1e-10, rtol=0)
    rows = ddim()(torch.tensor([-7., -6., 3.]).double())     # in the flow's units z stays where it is
    (alpha, sigma), z = amps(torch.tensor([-7., -6.]).double()), torch.randn(9, 2).double()
    eps = ZeroStar(m, 2.)(z, torch.full((9,), -7.).double(), torch.zeros(9).long())
    after = rows[0,1]*z + rows[0,2]*eps2x(z, eps, torch.full((9,), -7.).double())
    torch.testing.assert_close(after/(alpha+sigma)[1], z/(alpha+sigma)[0])


def test_plus_plus_is_their_update(points):
    m, y = three(), torch.arange(30) % 3
    for lams in (Schedule(-5, 7).grid(6, 'uniform'), Schedule(-8, 8).grid(11)):
        (alpha, sigma), seen = amps(lams), []
        x = sample(Varying(m, plus_plus(.7, lams)), (30, 2), y, ddim(), lams=lams, dtype=torch.float64,
                   cb=lambda i, lam, z, x: seen.append(z.clone()))
        z = seen[0]
        for i, lam in enumerate(lams):
            e_c, e_u = m(z, lam.expand(30), y), m(z, lam.expand(30))
            want = (z - sigma[i]*(.3*e_u + .7*e_c))/alpha[i]
            if i < len(lams)-1: z = alpha[i+1]*want + sigma[i+1]*e_u
        torch.testing.assert_close(x, want, atol=1e-12, rtol=1e-12)
    assert plus_plus(.7, lams)(lams.float()).shape == (11,) and plus_plus(.7, lams)(lams)[-1] == .7 - 1
    for mu in (-.1, math.nan, math.inf):
        with pytest.raises(ValueError, match='mu must be'): plus_plus(mu, lams)
    with pytest.raises(ValueError, match='the grid that is walked: it has no λ = 0.3'): plus_plus(.7, Schedule(-5, 7).grid(6, 'uniform'))(torch.tensor([-5., .3]))


def test_varying_is_guidance_at_a_level(points):
    m, (z, lam, y) = three(), points
    mixed = Varying(m, lambda lam: torch.where(lam > 0, 2., 0.))
    torch.testing.assert_close(mixed(z, lam, y), Interval(CFG(m, 2.), 1e-9, 99)(z, lam, y))
    assert torch.equal(mixed(z, lam), m(z, lam)) and sample(mixed, (4, 2), n_steps=4).isfinite().all()


def test_a_random_class_has_prior_weights(points):
    m, (z, lam, y) = three(), points
    each = torch.stack([m(z, lam, torch.full((30,), c)) for c in range(3)])
    torch.manual_seed(0)
    draws = torch.stack([RandomClass(m, 1.)(z, lam, y) for _ in range(900)])
    mean, error = draws.mean(0), draws.std(0)/30
    assert ((mean - (2*m(z, lam, y) - each.mean(0))).abs() < 5*error + 1e-9).all()
    assert ((mean - CFG(m, 1.)(z, lam, y)).abs() > 10*error).any()
    with pytest.raises(ValueError, match='model must be told classes'): RandomClass(lambda z, lam, y: z, 1.)


def test_commands_know_the_rules_and_draw_alike(tmp_path):
    "By name; a rule that draws gives the same samples again, whatever was drawn before"
    from cfg_edu.cli import cfg_sample, cfg_train
    alone = 'from cfg_edu import draws; print(*draws.rules)'                           # nobody else has imported them
    assert {'rescaled', 'apg', 'cfg_zero', 'icg'} < {*subprocess.run([sys.executable, '-c', alone], capture_output=True, text=True).stdout.split()}
    run = cfg_train('moons', out=tmp_path/'r', steps=4, bs=64, every=2)
    for name in ('rescaled', 'apg', 'cfg_zero', 'icg'):
        twice = [cfg_sample(run, n=6, n_steps=3, rule=name, out=tmp_path/f'{name}{i}.npz')[0] for i in (0, 1)]
        assert torch.equal(*twice) and twice[0].isfinite().all()


def test_promised(points):
    m, (z, lam, y) = lattice(), points
    torch.testing.assert_close(Promised(m, 0.)(z, lam, y), m(z, lam, y), atol=1e-9, rtol=1e-9)
    wide = Mixture([1, 2, 1], [[-1.], [0.], [1.]], [.3, .2, .3], [0, 1, 0])          # against a fine grid
    x, z = torch.linspace(-6, 6, 8001).double()[:,None], torch.linspace(-2, 2, 30).double()[:,None]
    clean, lam = torch.full((8001,), 40.).double(), torch.full((30,), 1.).double()
    for c in (0, 1):
        told = torch.full((8001,), c)
        logp = wide.logp(x, clean, told) + 2*wide.classify(x, clean)[:,c]
        alpha, sigma = amps(lam[:1])
        p = (logp - (z - alpha*x.T)**2/(2*sigma**2)).softmax(1)
        torch.testing.assert_close(Promised(wide, 2., 60)(z, lam, told[:30]), x2eps(z, p @ x, lam), atol=2e-5, rtol=0)
    assert Promised(m, 1.)(torch.randn(6, 2), torch.zeros(6), torch.arange(6) % 3).dtype == torch.float32
    with pytest.raises(ValueError, match='w must be'): Promised(m, -2.)
    with pytest.raises(ValueError, match='must be a Mixture'): Promised(lambda z, lam, y: z, 1.)
    for y in (None, torch.tensor([0, 3])):
        with pytest.raises(ValueError, match='y must be a class 0 … 2'): Promised(m, 1.)(torch.randn(2, 2), torch.zeros(2), y)
