"""
Random arguments, right and wrong, for every public function: the right answer, or one clear sentence before any work.

    pip install hypothesis
    python -m benchmarks properties --examples 200
"""
import importlib, math, re, traceback, warnings
from collections import Counter
from functools import partial
from pathlib import Path
import torch
from fastcore.script import call_parse
from torch import Tensor, nn

modules = 'schedule process plots mixture denoiser guidance sampling data nets training classifier metrics cli beyond'.split()
refusals = ValueError, TypeError, FileNotFoundError, FloatingPointError, KeyError
checks = {}                                                                 # name → function of hypothesis' `draw`

def check(*names):
    def add(f):
        for n in names: checks[n] = partial(f, n)
        return f
    return add

class Wrong(AssertionError): pass

def ask(f, *args, may_refuse=True, **kwargs):
    "What `f` says; None where it refuses with one sentence, raised by this package. Raises Wrong for any other exception"
    try: return f(*args, **kwargs)
    except refusals as e:
        if not may_refuse: raise Wrong(f"refused what is right: {type(e).__name__}: {e}") from e
        own = [o.filename for o in traceback.extract_tb(e.__traceback__)][-1]
        if 'cfg_edu' not in own: raise Wrong(f"{type(e).__name__} from {Path(own).name}, not from this package: {e}") from e
        text = str(e)
        if not 8 < len(text) < 400 or '\n' in text: raise Wrong(f"not one sentence: {text!r}") from e
    except Exception as e: raise Wrong(f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}") from e

def is_close(got, want, dtype):
    "Equal to what was computed in float64, as far as `dtype` can tell; nan and infinity in the same places"
    if got.shape != want.shape: raise Wrong(f"shape {tuple(got.shape)}, not {tuple(want.shape)}")
    tol = {torch.float64: 1e-9, torch.float32: 2e-4, torch.bfloat16: .1, torch.float16: .02}[dtype]
    got, want = got.double(), want.double()
    ok = (got - want).abs() <= tol*(1 + want.abs()) if dtype != torch.float16 else ((got - want).abs() <= tol*(1 + want.abs())) | (want.abs() > 6e4)
    ok |= (got.isnan() & want.isnan()) | (got == want)
    if not ok.all(): raise Wrong(f"{got[~ok][0]:g} instead of {want[~ok][0]:g}")

# ---- arguments ----
def strategies():
    from hypothesis import strategies as st
    floats = st.sampled_from([torch.float32]*4 + [torch.float64, torch.bfloat16, torch.float16])
    rest = st.sampled_from([(2,), (3,), (1,), (1,4,4), (2,3), ()])
    return st, floats, rest

def tensor(draw, shape, dtype, scale=1., odd=True):
    "Random numbers, perhaps not contiguous, perhaps with nan or infinity among them"
    st, *_ = strategies()
    g = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    x = (torch.randn(*shape, generator=g)*scale).to(dtype)
    if x.ndim > 1 and draw(st.booleans()): x = x.transpose(0, -1).contiguous().transpose(0, -1)
    if odd and x.numel() and draw(st.integers(0, 7)) == 0: x[(0,)*x.ndim] = draw(st.sampled_from([math.nan, math.inf, -math.inf]))
    return x

def level(draw, b, wrong=True):
    "λ for a batch of b, and whether it fits"
    st, *_ = strategies()
    value = draw(st.sampled_from([-20., -6., -.5, 0., 1., 6., 20., 40.]))
    how = draw(st.sampled_from(['each', 'each', 'one, expanded'] + ['too many', 'too few', 'two dimensions']*wrong))
    lam = {'each': torch.linspace(value-1, value, b) if b else torch.zeros(0), 'one, expanded': torch.tensor(value).expand(b), 'too many': torch.full((b+1,), value),
           'too few': torch.full((max(b-1, 0),), value), 'two dimensions': torch.full((b,1), value)}[how]
    return lam, how in ('each', 'one, expanded') or lam.shape == (b,)

def classes(draw, b, n):
    "Labels for a batch of b and n classes, and whether they fit"
    st, *_ = strategies()
    how = draw(st.sampled_from(['right', 'right', 'null', 'none', 'minus one', 'n + 1', 'huge', 'floats', 'too many', 'two dimensions', 'int32']))
    y = torch.arange(b)%n
    if b == 0 and how in ('minus one', 'n + 1', 'huge'): how = 'right'
    out = {'right': y, 'null': torch.full((b,), n), 'none': None, 'minus one': y - 1, 'n + 1': torch.full((b,), n+1), 'huge': torch.full((b,), 10**9), 'floats': y.float(),
           'too many': torch.arange(b+1)%n, 'two dimensions': y[:,None], 'int32': y.int()}[how]
    return out, how

def slow_amps(lam): return (1/(1 + (-lam.double()).exp())).sqrt(), (1/(1 + lam.double().exp())).sqrt()
def along(t, z): return t.reshape(-1, *[1]*(z.ndim-1))

# ---- checks ----
@check('amps')
def _(name, draw):
    from cfg_edu.schedule import amps
    st, floats, _ = strategies()
    lam = tensor(draw, (draw(st.integers(0, 5)),), draw(st.sampled_from([torch.float32, torch.float64])), 20.)
    a, s = ask(amps, lam, draw(st.integers(1, 4)), may_refuse=False)
    for got, want in zip((a, s), slow_amps(lam)): is_close(got.flatten(), want, lam.dtype)

@check('Schedule')
def _(name, draw):
    from cfg_edu.schedule import Schedule
    st, *_ = strategies()
    lo, hi = draw(st.floats(allow_nan=True, allow_infinity=True)), draw(st.floats(allow_nan=True, allow_infinity=True))
    if draw(st.booleans()): lo, hi = draw(st.floats(-1000, 0)), draw(st.floats(1, 1000))
    right = -1000 <= lo < hi <= 1000
    s = ask(Schedule, lo, hi, may_refuse=not right)
    if s is None: return
    if not right: raise Wrong(f"accepted {lo}, {hi}")
    u = torch.linspace(0, 1, 9, dtype=torch.float64)
    lam = s.lam(u)
    if not (lam.isfinite().all() and (lam.diff() <= 1e-9).all() and lam[0] <= hi and lam[-1] >= lo): raise Wrong("λ(u) does not fall from lam_max to lam_min")
    n, kind = draw(st.integers(-2, 12)), draw(st.sampled_from(['paper', 'authors', 'uniform', 'nothing']))
    right = n >= 2 and kind != 'nothing'
    g = ask(s.grid, n, kind, may_refuse=not right)
    if right and (g is None or g.shape != (n,)): raise Wrong("grid")
    right = n >= 1
    d = ask(s.sample, n, may_refuse=not right)
    if right and (d is None or d.shape != (n,) or not (d.isfinite().all() and (d >= s.lam_min - 1e-3).all() and (d <= s.lam_max + 1e-3).all())): raise Wrong("sample")

@check('diffuse', 'eps2x', 'x2eps', 'v2eps', 'eps2v', 'eps2score', 'score2eps')
def _(name, draw):
    import cfg_edu.denoiser as d, cfg_edu.process as p
    st, floats, rest = strategies()
    b, r, dtype = draw(st.integers(0, 4)), draw(rest), draw(floats)
    z, (lam, right) = tensor(draw, (b, *r), dtype), level(draw, b)
    o, one = tensor(draw, (b, *r), dtype), name in ('eps2score', 'score2eps')
    if not one and draw(st.integers(0, 3)) == 0: o = tensor(draw, draw(st.sampled_from([(1, *r), (b+1, *r), (b,), (b, *r, 2)])), dtype)
    right &= one or o.shape == z.shape
    f = getattr(p if name == 'diffuse' else d, name)
    got = ask(f, z, lam, o, may_refuse=not right) if name == 'diffuse' else ask(f, z, lam, may_refuse=not right) if one else ask(f, z, o, lam, may_refuse=not right)
    if got is None: return
    if not right: raise Wrong(f"accepted z {tuple(z.shape)}, {tuple(o.shape)}, λ {tuple(lam.shape)} silently")
    a, s = (along(t, z) for t in slow_amps(lam))
    Z, O = z.double(), o.double()
    want = dict(diffuse=lambda: a*Z + s*O, eps2x=lambda: (Z - s*O)/a, x2eps=lambda: (Z - a*O)/s, v2eps=lambda: a*O + s*Z, eps2v=lambda: (O - s*Z)/a, eps2score=lambda: -Z/s, score2eps=lambda: -s*Z)[name]()
    big = (want.abs() > 1e3) | want.isnan()                                   # divided by a tiny α or σ: only the shape counts
    got = got[0] if name == 'diffuse' else got
    if got.shape != want.shape: raise Wrong(f"shape {tuple(got.shape)}, not {tuple(want.shape)}")
    is_close(got[~big], want[~big], torch.float32 if dtype == torch.float64 else dtype)      # λ is float32

@check('forward', 'posterior', 'transition', 'posterior_weights', 'transition_var')
def _(name, draw):
    import cfg_edu.process as p
    st, floats, rest = strategies()
    b, r = draw(st.integers(1, 4)), draw(rest)
    z, x = tensor(draw, (b, *r), torch.float64, odd=False), tensor(draw, (b, *r), torch.float64, odd=False)
    (lam, right), step = level(draw, b), draw(st.sampled_from([0., .1, 3., -.1]))
    lam = lam.double()
    lam_s, v = lam + step, draw(st.sampled_from([0., .3, 1., -.1, 1.1, math.nan]))
    if draw(st.integers(0, 4)) == 0: x = x[:, None]
    if name in ('posterior_weights', 'transition_var'): right = True
    right &= (step >= 0 or not len(lam)) and (not name.startswith('transition') or 0 <= v <= 1) and (x.shape == z.shape or name in ('forward', 'posterior_weights', 'transition_var'))
    args = dict(forward=(z, lam_s, lam), posterior=(z, x, lam, lam_s), transition=(z, x, lam, lam_s, v), posterior_weights=(lam, lam_s), transition_var=(lam, lam_s, v))[name]
    got = ask(getattr(p, name), *args, may_refuse=not right)
    if got is None: return
    if not right: raise Wrong(f"accepted {[tuple(o.shape) if isinstance(o, Tensor) else o for o in args]} silently")
    a, s = slow_amps(lam); a_s, s_s = slow_amps(lam_s)
    e = -torch.expm1(lam - lam_s)
    if name == 'transition_var': return is_close(got, (e*s_s**2)**(1-v)*(e*s**2)**v, torch.float64)
    wz, wx, var = (lam-lam_s).exp()*a_s/a, e*a_s, e*s_s**2
    if name == 'posterior_weights': return [is_close(o, w.reshape(lam.shape), torch.float64) for o, w in zip(got, (wz, wx, var))]
    mean = along(a/a_s, z)*z if name == 'forward' else along(wz, z)*z + along(wx, z)*x
    is_close(got[0], mean, torch.float64)
    is_close(got[1].flatten(), dict(forward=e*s**2, posterior=var, transition=(e*s_s**2)**(1-v)*(e*s**2)**v)[name].flatten(), torch.float64)

@check('cfg')
def _(name, draw):
    from cfg_edu.guidance import cfg
    st, floats, rest = strategies()
    b, r, dtype = draw(st.integers(0, 4)), draw(rest), draw(floats)
    c, w = tensor(draw, (b, *r), dtype, odd=False), draw(st.sampled_from([-1., 0., .3, 3., 1e3]))
    u = tensor(draw, draw(st.sampled_from([(b, *r)]*3 + [(1, *r), (b+1, *r), (b,)])), dtype, odd=False)
    got = ask(cfg, c, u, w, may_refuse=c.shape != u.shape)
    if got is None: return
    if c.shape != u.shape: raise Wrong(f"accepted ε {tuple(c.shape)} and {tuple(u.shape)} silently")
    if w < 100 or dtype in (torch.float32, torch.float64): is_close(got/(1+w) if w > 1 else got, ((1+w)*c.double() - w*u.double())/((1+w) if w > 1 else 1), dtype)

def some_model(n=3):
    from cfg_edu.mixture import three
    return three()

@check('CFG', 'ClassifierGuided', 'Interval', 'both', 'implicit_score', 'Tempered', 'ClassAverage', 'Rescaled', 'AutoGuided', 'Mixture')
def _(name, draw):
    import cfg_edu.beyond as be, cfg_edu.denoiser as d, cfg_edu.guidance as g
    st, floats, _ = strategies()
    m, b = some_model(), draw(st.integers(0, 4))
    n = m.null
    w = draw(st.sampled_from([0., -1., .5, 3., 1e6, -1.5, math.nan, math.inf]))
    logp = lambda z, lam: m.classify(z, lam)
    make = dict(CFG=lambda: g.CFG(m, w), ClassifierGuided=lambda: g.ClassifierGuided(m, logp, w), Interval=lambda: g.Interval(g.CFG(m, 1.), *sorted([w, 1.])), both=lambda: partial(d.both, m),
                implicit_score=lambda: partial(g.implicit_score, m), Tempered=lambda: be.Tempered(m, w), ClassAverage=lambda: be.ClassAverage(m), Rescaled=lambda: be.Rescaled(g.CFG(m, 1.), w),
                AutoGuided=lambda: be.AutoGuided(m, m, w), Mixture=lambda: m)[name]
    guided = ask(make)
    if guided is None: return
    if name in ('CFG', 'ClassifierGuided') and not (math.isfinite(w) and w >= -1): raise Wrong(f"accepted w = {w}")
    z, (lam, right), (y, how) = tensor(draw, (b, 2), torch.float32, odd=False), level(draw, b), classes(draw, b, n)
    if draw(st.integers(0, 5)) == 0: z, right = tensor(draw, (b, 3), torch.float32, odd=False), False
    right &= how in ('right', 'null') or name == 'CFG' and w == -1 or how == 'none' and name in ('CFG', 'Mixture', 'Interval', 'Tempered')
    if how == 'int32' : return
    got = ask(guided, z, lam, y, may_refuse=not right or how in ('none', 'null'))
    if got is None: return
    if not right and how != 'none': raise Wrong(f"accepted z {tuple(z.shape)}, λ {tuple(lam.shape)}, y {how}")       # at w = −1 no class is asked for
    for o in got if isinstance(got, tuple) else (got,):
        if o.shape != z.shape: raise Wrong(f"shape {tuple(o.shape)}, not {tuple(z.shape)}")
        if abs(w) < 100 and not o.isfinite().all(): raise Wrong("not finite")

@check('MLP', 'UNet', 'EncoderUNet', 'Denoiser', 'check_inputs', 'unet_digits', 'encoder_digits')
def _(name, draw):
    import cfg_edu.nets as nets
    from cfg_edu.denoiser import Denoiser
    st, floats, _ = strategies()
    net = nets.MLP(3, width=8, depth=1, features=4) if name == 'MLP' else nets.encoder_digits(3) if 'ncoder' in name else nets.unet_digits(3)
    b, classifier = draw(st.integers(0, 3)), 'ncoder' in name
    f = Denoiser(net) if name == 'Denoiser' else partial(nets.check_inputs, net) if name == 'check_inputs' else net
    shape = draw(st.sampled_from([net.shape]*4 + [net.shape[1:], (2, *net.shape[1:]), (*net.shape[:-1], net.shape[-1]+2)]))
    z, (lam, right), (y, how) = tensor(draw, (b, *shape), torch.float32), level(draw, b), classes(draw, b, 3)
    right &= shape == net.shape and (classifier or how in ('right', 'null', 'none', 'int32'))
    with torch.no_grad(): got = ask(f, z, lam, *([] if classifier else [y]), may_refuse=not right or how == 'int32')
    if name == 'check_inputs' or got is None: return
    if not right: raise Wrong(f"accepted z {tuple(z.shape)}, λ {tuple(lam.shape)}, y {how}")
    if got.shape != ((b, 3) if classifier else z.shape): raise Wrong(f"shape {tuple(got.shape)}")

@check('clock', 'sinusoid', 'adm_time')
def _(name, draw):
    import cfg_edu.nets as nets
    st, floats, _ = strategies()
    b = draw(st.integers(0, 5))
    lam = tensor(draw, (b,), draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16])), 30., odd=False)
    out = ask(getattr(nets, name), lam, *([draw(st.sampled_from([2, 8]))] if name == 'sinusoid' else []), may_refuse=False)
    if len(out) != b or out.dtype != torch.float32 or not out.isfinite().all(): raise Wrong(f"{out.dtype} {tuple(out.shape)}")
    if name == 'clock' and not ((out >= 0) & (out <= 1)).all(): raise Wrong("beyond 0 … 1")

@check('sample', 'sampler', 'ancestral', 'ddim', 'heun', 'dpmpp_2m', 'cooled', 'NoiseStreams')
def _(name, draw):
    import cfg_edu.sampling as s
    st, *_ = strategies()
    numbers = st.sampled_from([0., .3, 1., -.1, 1.1, math.nan, math.inf])
    if name in ('ancestral', 'ddim', 'cooled', 'dpmpp_2m'):
        v = draw(numbers)
        f = ask(getattr(s, name), *([s.ancestral(), v] if name == 'cooled' else [v]), may_refuse=not 0 <= v <= 1)
        if f is not None and not 0 <= v <= 1: raise Wrong(f"accepted {v}")
        return
    if name == 'sampler':
        which, n, v = draw(st.sampled_from([*s.samplers, 'nothing'])), draw(st.integers(-1, 20)), draw(numbers)
        right = which in s.samplers and 0 <= v <= 1 and n >= (3 if which == 'heun' else 2)
        got = ask(s.sampler, which, n, v, may_refuse=not right)
        if got is not None and not right: raise Wrong(f"accepted {which}, {n}, {v}")
        return
    if name == 'NoiseStreams':
        k = draw(st.integers(0, 3))
        f = s.NoiseStreams(range(2), (2,), k)
        for i in range(k): f()
        try: f()
        except RuntimeError: return
        raise Wrong("gave more draws than were ordered")
    m = some_model()
    shape, bs, n_steps = draw(st.sampled_from([(3,2)]*4 + [(0,2), (3,), (-1,2), 3, (2.,2), (1,2)])), draw(st.sampled_from([None, 1, 2, 0, -1])), draw(st.sampled_from([2, 5, 1, 0, -3]))
    y = draw(st.sampled_from([None, 0, 2, 3, 4, -1, 'all', 'floats', 'short', 'nested']))
    count = shape[0] if isinstance(shape, tuple) and isinstance(shape[0], int) and shape[0] > 0 else 3
    if isinstance(y, str): y = dict(all=torch.arange(count)%3, floats=torch.zeros(count), short=torch.zeros(count+1, dtype=torch.long), nested=torch.zeros(count, 1, dtype=torch.long))[y]
    clip = draw(st.sampled_from([None, (-1, 1), (1, -1), 3, (0, 0), (math.nan, 1)]))
    right = shape in ((3,2), (1,2)) and (bs is None or bs > 0) and n_steps >= 2 and clip in (None, (-1, 1)) and (y is None or isinstance(y, int) and 0 <= y <= 3 or isinstance(y, Tensor) and y.shape == (count,) and y.dtype == torch.int64)
    got = ask(s.sample, m, shape, y, s.dpmpp_2m(), None, n_steps, bs=bs, clip=clip, may_refuse=not right)
    if got is None: return
    if not right: raise Wrong(f"accepted shape {shape}, bs {bs}, T {n_steps}, clip {clip}, y {y}")
    if got.shape != shape or not got.isfinite().all(): raise Wrong(f"{tuple(got.shape)}")

@check('sliced_wasserstein', 'frechet', 'at_isc', 'to_w', 'to_scale', 'to_unit', 'to_uint8', 'area', 'dealt', 'class_colors', 'embed_class')
def _(name, draw):
    import numpy as np
    import cfg_edu.data as data, cfg_edu.guidance as g, cfg_edu.metrics as me, cfg_edu.mixture as mi, cfg_edu.nets as nets, cfg_edu.plots as pl
    st, floats, rest = strategies()
    b = draw(st.integers(1, 5))
    if name == 'sliced_wasserstein':
        a, c = tensor(draw, (b, 2), torch.float32, odd=False), tensor(draw, draw(st.sampled_from([(b, 2)]*2 + [(b+1, 2), (b, 3), (2*b,)])), torch.float32, odd=False)
        got = ask(mi.sliced_wasserstein, a, c, may_refuse=a.shape != c.shape)
        if got is not None and a.shape != c.shape: raise Wrong("accepted clouds of two shapes")
    elif name == 'frechet':
        d = draw(st.integers(1, 4))
        q = [torch.randn(d, d, dtype=torch.float64) for _ in range(2)]
        (c1, c2), (m1, m2) = [o@o.T for o in q], torch.randn(2, d, dtype=torch.float64)
        ev = torch.linalg.eigvals(c1@c2).real.clamp(min=0).sqrt().sum()
        got = ask(me.frechet, m1, c1, m2, c2, may_refuse=False)
        is_close(torch.as_tensor(got).reshape(1), ((m1-m2)@(m1-m2) + c1.trace() + c2.trace() - 2*ev).reshape(1), torch.float32)
    elif name == 'at_isc': ask(me.at_isc, [dict(isc=float(i), fid=1.) for i in range(b)], draw(st.floats(-2, 8)), may_refuse=False)
    elif name in ('to_w', 'to_scale'):
        o, c = draw(st.sampled_from([0., 1., 7.5, -3., math.nan])), draw(st.sampled_from([*g.conventions, 'nothing']))
        got = ask(getattr(g, name), o, c, may_refuse=c == 'nothing' or not math.isfinite(o) or o < 0)
        if got is not None and c == 'nothing': raise Wrong("accepted an unknown convention")
    elif name == 'to_unit': is_close(ask(data.to_unit, torch.arange(256, dtype=torch.uint8), may_refuse=False), torch.arange(256)/127.5 - 1, torch.float32)
    elif name == 'to_uint8':
        x = tensor(draw, (b, 1, 2, 2), torch.float32, 2.)
        got = ask(me.to_uint8, x)
        if got is None and x.isfinite().all(): raise Wrong("refused finite images")
        if got is not None and (got.dtype != torch.uint8 or got.shape != x.shape): raise Wrong(f"{got.dtype}")
    elif name == 'area':
        h, w, size = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(-1, 6))
        img = np.random.default_rng(0).integers(0, 255, (h, w, 3), dtype=np.uint8)
        got = ask(data.area, img, size, may_refuse=size < 1 or size > min(h, w))
        if got is not None and got.shape != (size, size, 3): raise Wrong(f"{got.shape}")
    elif name == 'dealt':
        n, world = draw(st.integers(1, 20)), draw(st.integers(1, 5))
        seen = torch.cat([data.dealt(n, r, world) for r in range(world)])
        if set(seen.tolist()) != set(range(n)) or len(seen) != -(-n//world)*world: raise Wrong("not every row, or not equally many")
    elif name == 'class_colors': ask(pl.class_colors, torch.arange(b)*7, may_refuse=False)
    else:
        y = torch.randint(0, 4, (b,))
        got = ask(nets.embed_class, nn.Embedding(3, 5), y, may_refuse=False)
        if got.shape != (b, 5) or got[y == 3].any(): raise Wrong("null is not zero")

@call_parse
def properties(
    examples:int=100,  # random calls for each name
    only:str='',       # names that contain this
    seed:int=0,        # of the calls
):
    "Random right and wrong arguments for every public name, by hypothesis: how many names and calls, how many held."
    from hypothesis import HealthCheck, Phase, given, seed as seeded, settings, strategies as st
    warnings.simplefilter('ignore')
    names = {n: m for m in modules for n in importlib.import_module(f'cfg_edu.{m}').__all__}
    calls, broken = Counter(), {}
    for name, f in checks.items():
        if only not in name: continue
        @seeded(seed)
        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink], print_blob=False, report_multiple_bugs=False)
        @given(st.data())
        def run(data):
            calls[name] += 1
            f(data.draw)
        try: run()
        except Wrong as e: broken[name] = re.sub(r'\s+', ' ', str(e))[:160]
        except Exception as e: broken[name] = f'{type(e).__name__}: {e}'[:160]
        print(f"{names.get(name, '?'):10} {name:20} {calls[name]:5} calls  {'held' if name not in broken else broken[name]}", flush=True)
    rest = [n for n in names if n not in checks]
    print(f"{len(checks)} of {len(names)} names, {sum(calls.values())} calls; {len(calls) - len(broken)} names held, {len(broken)} broke")
    print('not tried here: ' + ', '.join(rest))
    if broken: raise SystemExit(1)
