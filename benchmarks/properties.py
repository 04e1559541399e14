"""
Random arguments, right and wrong, for every public function: the right answer, or one clear sentence before any work.

    pip install hypothesis
    python -m benchmarks properties --examples 200
"""
import importlib, io, math, re, shutil, traceback, warnings
from collections import Counter
from contextlib import redirect_stdout
from functools import lru_cache, partial
from pathlib import Path
import torch
from fastcore.script import call_parse
from torch import Tensor, nn

modules = 'schedule process plots mixture denoiser guidance sampling data nets training classifier metrics cli beyond'.split()
refusals = ValueError, TypeError, FileNotFoundError, FloatingPointError, KeyError
checks = {}                                                                 # name → functions of hypothesis' `draw`

def check(*names):
    "What is decorated tries these names; one that has two checks is given to either"
    def add(f):
        for n in names: checks.setdefault(n, []).append(partial(f, n))
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

@check('amps')
def _(name, draw):
    "λ of any size in two precisions; against float64"
    from cfg_edu.schedule import amps
    st, floats, _ = strategies()
    lam = tensor(draw, (draw(st.integers(0, 5)),), draw(st.sampled_from([torch.float32, torch.float64])), 20.)
    a, s = ask(amps, lam, draw(st.integers(1, 4)), may_refuse=False)
    for got, want in zip((a, s), slow_amps(lam)): is_close(got.flatten(), want, lam.dtype)

@check('Schedule')
def _(name, draw):
    "Bounds without limits, nan and infinity among them; λ(u), grids and draws must be finite, ordered and inside"
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
    d = ask(s.draw, n, may_refuse=not right)
    if right and (d is None or d.shape != (n,) or not (d.isfinite().all() and (d >= s.lam_min - 1e-3).all() and (d <= s.lam_max + 1e-3).all())): raise Wrong("draw")

@check('diffuse', 'eps2x', 'x2eps', 'v2eps', 'eps2v', 'eps2score', 'score2eps')
def _(name, draw):
    "Shapes, dtypes, layouts, nan, empty batches; λ too many, too few, two-dimensional; against formulas in float64"
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
    "Two λ in the right and the wrong order, v in and beyond [0, 1], shapes that do not fit; against formulas in float64"
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
    "Weights from −1 to 1,000, shapes that would stretch; against the formula in float64"
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
    "z of all dtypes and of a wrong width, λ that does not fit, labels −1 … n + 1, floats, too many, none; weights nan, infinite, huge, below −1"
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
    dtype = draw(floats)
    z, (lam, right), (y, how) = tensor(draw, (b, 2), dtype, odd=False), level(draw, b), classes(draw, b, n)
    if draw(st.integers(0, 5)) == 0: z, right = tensor(draw, (b, 3), dtype, odd=False), False
    right &= how in ('right', 'null') or name == 'CFG' and w == -1 or how == 'none' and name in ('CFG', 'Mixture', 'Interval', 'Tempered')
    if how == 'int32' : return
    got = ask(guided, z, lam, y, may_refuse=not right or how in ('none', 'null'))
    if got is None: return
    if not right and how != 'none': raise Wrong(f"accepted z {tuple(z.shape)}, λ {tuple(lam.shape)}, y {how}")       # at w = −1 no class is asked for
    for o in got if isinstance(got, tuple) else (got,):
        if o.shape != z.shape: raise Wrong(f"shape {tuple(o.shape)}, not {tuple(z.shape)}")
        if abs(w) < 100 and dtype in (torch.float32, torch.float64) and not o.isfinite().all(): raise Wrong("not finite")

@check('MLP', 'UNet', 'EncoderUNet', 'Denoiser', 'check_inputs', 'unet_digits', 'encoder_digits')
def _(name, draw):
    "z of all dtypes, layouts and wrong shapes, empty batches, λ and labels as above; shape and dtype of the answer"
    import cfg_edu.nets as nets
    from cfg_edu.denoiser import Denoiser
    st, floats, _ = strategies()
    net = nets.MLP(3, width=8, depth=1, features=4) if name == 'MLP' else nets.encoder_digits(3) if 'ncoder' in name else nets.unet_digits(3)
    b, classifier = draw(st.integers(0, 3)), 'ncoder' in name
    f = Denoiser(net) if name == 'Denoiser' else partial(nets.check_inputs, net) if name == 'check_inputs' else net
    shape = draw(st.sampled_from([net.shape]*4 + [net.shape[1:], (2, *net.shape[1:]), (*net.shape[:-1], net.shape[-1]+2)]))
    z, (lam, right), (y, how) = tensor(draw, (b, *shape), draw(floats)), level(draw, b), classes(draw, b, 3)
    right &= shape == net.shape and (classifier or how in ('right', 'null', 'none', 'int32'))
    with torch.no_grad(): got = ask(f, z, lam, *([] if classifier else [y]), may_refuse=not right or how == 'int32')
    if name == 'check_inputs' or got is None: return
    if not right: raise Wrong(f"accepted z {tuple(z.shape)}, λ {tuple(lam.shape)}, y {how}")
    if got.shape != ((b, 3) if classifier else z.shape): raise Wrong(f"shape {tuple(got.shape)}")
    if got.dtype != (torch.float32 if classifier else torch.promote_types(z.dtype, torch.float32) if name == 'Denoiser' else z.dtype): raise Wrong(f"{got.dtype} for {z.dtype}")

@check('clock', 'sinusoid', 'adm_time')
def _(name, draw):
    "λ of any size in three precisions: finite float32, in its range"
    import cfg_edu.nets as nets
    st, floats, _ = strategies()
    b = draw(st.integers(0, 5))
    lam = tensor(draw, (b,), draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16])), 30., odd=False)
    out = ask(getattr(nets, name), lam, *([draw(st.sampled_from([2, 8]))] if name == 'sinusoid' else []), may_refuse=False)
    if len(out) != b or out.dtype != torch.float32 or not out.isfinite().all(): raise Wrong(f"{out.dtype} {tuple(out.shape)}")
    if name == 'clock' and not ((out >= 0) & (out <= 1)).all(): raise Wrong("beyond 0 … 1")

@check('sample', 'sampler', 'ancestral', 'ddim', 'heun', 'dpmpp_2m', 'cooled', 'NoiseStreams')
def _(name, draw):
    "Shapes, batch sizes, steps, ranges, labels, v and names, right and wrong; as many draws as were ordered"
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
        for _ in range(k): f()
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
    "Shapes that do not fit, unknown names and conventions, sizes below 1; against other formulas where there is one"
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

def either(draw, right, wrong=()):
    "One of several arguments, and whether it is right"
    st, *_ = strategies()
    i = draw(st.integers(0, len(right) + len(wrong) - 1))
    return ([*right, *wrong][i], i < len(right))

def must(name, got, right, what):
    "Raises Wrong where a wrong argument was taken"
    if got is not None and not right: raise Wrong(f"accepted {what}")

@check('three', 'ring', 'lattice', 'Mixture', 'toy', 'digits', 'draw_glyphs', 'imagenet_classes', 'dls_for', 'data_dls', 'toy_dls', 'digits_dls', 'TensorDL', 'random_flip', 'fingerprint')
def _(name, draw):
    "Parameters of laws and loaders, right and wrong: sizes, splits, names, classes, batch sizes, held-out indices, nan"
    import cfg_edu.data as d, cfg_edu.mixture as m
    st, *_ = strategies()
    if name == 'three': return must(name, ask(m.three, may_refuse=False), True, '')
    if name in ('ring', 'lattice'):
        k, right = either(draw, [2, 4, 8] if name == 'ring' else [1, 2, 3], [0, -1, 1.5] + [3]*(name == 'ring'))
        got = ask(getattr(m, name), k, may_refuse=not right)
        return must(name, got, right, k)
    if name == 'Mixture':
        k, dim = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        w, r1 = either(draw, [[1.]*k, torch.rand(k) + .1], [[-1.]*k, [0.]*k, [math.nan]*k, [1.]*(k+1), [math.inf]*k])
        mu, r2 = either(draw, [torch.randn(k, dim)], [torch.randn(k), torch.full((k, dim), math.nan), torch.randn(k, dim, 1)])
        c, r3 = either(draw, [[.1]*k, torch.eye(dim).expand(k, -1, -1)], [[-1.]*k, [0.]*k, [.1]*(k+1), -torch.eye(dim).expand(k, -1, -1), torch.full((k, dim, dim), math.inf)])
        l, r4 = either(draw, [None, [0]*k], [[-1]*k, [5]*k, [0]*(k+1)])
        right = r1 and r2 and r3 and r4
        return must(name, ask(m.Mixture, w, mu, c, l, may_refuse=not right), right, (w, mu, c, l))
    if name in ('toy', 'toy_dls', 'dls_for'):
        which, r1 = either(draw, ['mixture', 'moons', 'spirals', 'pinwheel', 'checkerboard'], ['nothing', '', None])
        n, r2 = either(draw, [40, 200], [0, -1]) if name == 'toy' else (60, True)
        got = ask(d.toy, which, n, may_refuse=not (r1 and r2)) if name == 'toy' else ask(d.toy_dls, which, 8, n, may_refuse=not r1) if name == 'toy_dls' else ask(partial(d.dls_for, bs=8), which, may_refuse=not r1)
        if name == 'toy' and got is not None and r1 and r2 and (got[0].shape != (n, 2) or got[1].shape != (n,) or not got[0].isfinite().all()): raise Wrong('wrong points')
        return must(name, got, r1 and r2, (which, n))
    if name == 'digits':
        split, right = either(draw, ['train', 'valid', 'all'], ['test', None, 0])
        return must(name, ask(d.digits, split, may_refuse=not right), right, split)
    if name == 'digits_dls':
        bs, right = either(draw, [1, 128, 1437], [0, -1, 1438])
        return must(name, ask(d.digits_dls, bs, may_refuse=not right), right, bs)
    if name == 'draw_glyphs':
        (n, r1), (size, r2), (seed, r3) = either(draw, [0, 2], [-1, 1.5, '3']), either(draw, [8, 16], [7, 0, -1, 2.5]), either(draw, [0, 3], [-1, .5])
        got = ask(d.draw_glyphs, n, size, seed, may_refuse=not (r1 and r2 and r3))
        return must(name, got, r1 and r2 and r3, (n, size, seed))
    if name == 'imagenet_classes':
        order, right = either(draw, ['wnid', 'archive'], ['nothing', None])
        return must(name, ask(d.imagenet_classes, order, may_refuse=not right), right, order)
    if name == 'random_flip':
        x = tensor(draw, draw(st.sampled_from([(0, 1, 2, 2), (3, 1, 2, 2), (3, 2)])), torch.float32, odd=False)
        got = ask(d.random_flip, x, may_refuse=False)
        if got.shape != x.shape: raise Wrong(f"{got.shape}")
        return
    if name == 'fingerprint':
        x = tensor(draw, (3, 2), draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])))
        one = ask(d.fingerprint, x, may_refuse=False)
        if one != d.fingerprint(x.clone()) or one == d.fingerprint(x.reshape(2, 3)): raise Wrong('not a fingerprint')
        return
    n = draw(st.integers(0, 12))
    x, r1 = either(draw, [torch.rand(n, 2), torch.rand(n, 1, 4, 4), torch.zeros(n, 1, 4, 4, dtype=torch.uint8)], [torch.full((n, 2), math.nan), torch.full((n, 1, 4, 4), 7.), torch.rand(n+1, 2)])
    y, r2 = either(draw, [torch.arange(n)%3], [torch.arange(n) - 1, torch.full((n,), 3), torch.arange(n+1)%3, torch.zeros(n, 1)])
    (bs, r3), (valid, r4) = either(draw, [1, 3], [0, -1, 100]), either(draw, [None, [0]], [[], [100], [-100]])
    if len(x) == len(y) == n+1 and y.ndim == 1: r1 = r2 = True                # both longer: they fit again
    right = r1 and r2 and r3 and r4 and n > 5
    got = ask(d.data_dls, x, y, list('abc'), bs, valid, may_refuse=not right)
    if n > 5 and not (n == 0): must(name, got, right, f"{tuple(x.shape)}, {y.tolist()}, bs {bs}, valid {valid}")
    if got is not None: next(iter(got.train))

@check('show_points', 'show_density', 'show_field', 'show_paths', 'show_grid', 'gallery', 'film', 'explore')
def _(name, draw):
    "What can be drawn and what cannot: shapes, dtypes, nan, extents, no values"
    import cfg_edu.plots as p, matplotlib.pyplot as plt
    st, *_ = strategies()
    n = draw(st.integers(0, 5))
    odd = draw(st.sampled_from([0., math.nan, math.inf]))
    y, r2 = either(draw, [None, torch.arange(n)], [torch.arange(n+1)])
    if name == 'show_points': x, r1 = either(draw, [torch.rand(n, 2) + odd], [torch.rand(n, 3), torch.rand(n), torch.rand(n, 2, 2)]); got = ask(p.show_points, x, y, may_refuse=not (r1 and r2))
    elif name == 'show_paths': x, r1 = either(draw, [torch.rand(4, n, 2)], [torch.rand(n, 2), torch.rand(4, n, 3)]); got = ask(p.show_paths, x, y, may_refuse=not (r1 and r2))
    elif name in ('show_grid', 'gallery'):
        x, r1 = either(draw, [torch.rand(n+1, 1, 4, 4) + odd, torch.rand(n+1, 3, 4, 4)], [torch.rand(n+1, 2, 4, 4), torch.rand(n+1, 4, 4), torch.zeros(n+1, 1, 4, 4, dtype=torch.uint8), torch.rand(0, 1, 4, 4)])
        r2 = True
        got = ask(getattr(p, name), x, may_refuse=not r1)
    elif name == 'show_density':
        f, r1 = either(draw, [lambda x: -x.pow(2).sum(1), lambda x: x[:,0] + odd], [lambda x: x, lambda x: x.sum()]); (e, r2) = either(draw, [2., (-1, 1, -2, 2)], [0., -1., (1, -1, 0, 1), (0, 1)])
        got = ask(p.show_density, f, extent=e, n=5, may_refuse=not (r1 and r2))
    elif name == 'show_field':
        f, r1 = either(draw, [lambda x: -x], [lambda x: x[:,0], lambda x: x.sum()]); (e, r2) = either(draw, [2., (-1, 1, -2, 2)], [0., (1, -1, 0, 1)])
        got = ask(p.show_field, f, extent=e, n=5, may_refuse=not (r1 and r2))
    elif name == 'film':
        values, r1 = either(draw, [[0., 1.], [1]], [[]])
        r2 = True
        got = ask(p.film, lambda w: p.show_points(torch.zeros(1, 2)), values, 'w', 'dots', may_refuse=not r1)
    else:
        o, r1 = either(draw, [(0., 1., .1), (0, 3, 1, 2), ['a', 'b'], True], [(0., 1.), [], 'text', 3])
        r2 = True
        got = ask(p.explore, lambda w: None, w=o, may_refuse=not r1)
    plt.close('all')
    must(name, got, r1 and r2, 'what it cannot draw')

@check('GroupNorm32', 'ResBlock', 'AttentionBlock', 'AttentionPool', 'Encoder', 'unet_small', 'unet_32', 'unet_64', 'adm64', 'adm64_classifier', 'net_for', 'adm_lams', 'judge_cnn')
def _(name, draw):
    "Sizes, heads, orders, dropout and names of networks, right and wrong; shape of the answer"
    import cfg_edu.nets as nets, cfg_edu.metrics as me
    st, *_ = strategies()
    if name == 'adm_lams': return must(name, ask(nets.adm_lams, may_refuse=False), True, '')
    with torch.device('meta'), torch.no_grad():
        if name == 'GroupNorm32':
            ch = draw(st.sampled_from([1, 3, 4, 12, 32, 48, 192]))
            f, x = ask(nets.GroupNorm32, ch, may_refuse=False), torch.zeros(2, ch, 4, 4)
            if f(x).shape != x.shape: raise Wrong('shape')
        elif name == 'ResBlock':
            ch, out, up, down = draw(st.sampled_from([4, 8])), draw(st.sampled_from([None, 4, 12])), *draw(st.sampled_from([(False, False), (True, False), (False, True)]))
            got = ask(nets.ResBlock, ch, 16, out, 0., up, down, may_refuse=False)(torch.zeros(2, ch, 8, 8), torch.zeros(2, 16))
            if got.shape != (2, out or ch, *[16 if up else 4 if down else 8]*2): raise Wrong(f"{got.shape}")
        elif name in ('AttentionBlock', 'AttentionPool'):
            ch, heads, order = draw(st.sampled_from([8, 12])), draw(st.sampled_from([4, 8, 5, 0, -1])), draw(st.sampled_from(['new', 'legacy', 'nothing']))
            right = heads > 0 and ch%heads == 0 and (name == 'AttentionPool' or order != 'nothing')
            f = ask(nets.AttentionBlock, ch, heads, order, may_refuse=not right) if name == 'AttentionBlock' else ask(nets.AttentionPool, 4, ch, 3, heads, may_refuse=not right)
            must(name, f, right, (ch, heads, order))
            if f is not None and f(torch.zeros(2, ch, 4, 4)).shape != ((2, ch, 4, 4) if name == 'AttentionBlock' else (2, 3)): raise Wrong('shape')
        elif name == 'Encoder':
            v = {k: either(draw, r, w) for k, (r, w) in dict(image_size=([8, 16], [0, -8, 7]), in_channels=([1, 3], [0, -1]), model_channels=([4, 8], [0, 3, -2]), num_res_blocks=([1, 2], [0, -1]), attn_sizes=([(), (8,)], [(5,)]),
                 channel_mult=([(1,2)], [()]), n_classes=([1, 10], [0, -1]), dropout=([0., .5], [1., -.1, math.nan]), head_channels=([4], [3, 0]), qkv_order=(['new', 'legacy'], ['nothing']), clock=(['arctan', 'adm'], ['nothing'])).items()}
            right = all(r for _, r in v.values())
            must(name, ask(nets.UNet, **{k: o for k, (o, _) in v.items()}, may_refuse=not right), right, {k: o for k, (o, r) in v.items() if not r})
        elif name == 'net_for':
            (which, r1), (shape, r2) = either(draw, ['mlp', 'unet_digits', 'unet_small'], ['nothing', None]), either(draw, [(2,), (1,8,8), (3,16,16)], [(), (1,8), (1,9,9), (3,8,9)])
            right = r1 and r2 and shape in dict(mlp=[(2,)], unet_digits=[(1,8,8)], unet_small=[(1,8,8), (3,16,16)])[which]
            must(name, ask(nets.net_for, which, 3, shape, may_refuse=not right), right, (which, shape))
        elif name == 'judge_cnn': must(name, ask(me.judge_cnn, 1, 10, 8, may_refuse=False), True, '')
        else:
            n, right = either(draw, [1, 10], [0, -1])
            must(name, ask(getattr(nets, name), n, may_refuse=not right), right, n)

@check('load_weights', 'load_adm', 'load_adm_classifier', 'load_run', 'open_cache', 'cache_dls', 'prepare', 'images_dls', 'imagenet64_dls', 'mnist_dls', 'fashion_dls', 'cifar10_dls', 'reference', 'cfg_sample', 'cfg_evaluate')
def _(name, draw):
    "Files that are missing, empty, noise, text, folders or of another kind; nothing may be left behind"
    import tempfile
    import cfg_edu.cli as cli, cfg_edu.data as d, cfg_edu.metrics as me, cfg_edu.nets as nets
    st, *_ = strategies()
    with tempfile.TemporaryDirectory() as folder:
        path, kind = Path(folder)/'thing', draw(st.sampled_from(['missing', 'empty', 'noise', 'text', 'folder', 'npz', 'zip', 'tensors']))
        if kind == 'folder': path.mkdir(); (path/'file.txt').write_text('no picture')
        elif kind != 'missing': path.write_bytes(dict(empty=b'', noise=bytes(range(256))*9, text=b'hello\n'*9, npz=b'PK\x03\x04' + bytes(99), zip=b'PK\x05\x06' + bytes(18), tensors=b'').get(kind))
        if kind == 'tensors': torch.save(dict(a=torch.zeros(3)), path)
        f = dict(load_weights=lambda: nets.load_weights(nets.unet_digits(), path), load_run=lambda: cli.load_run(path), reference=lambda: me.reference(path, 'digits'), prepare=lambda: d.prepare(path, Path(folder)/'cache', 8, 1, False),
                 cfg_sample=lambda: cli.cfg_sample(str(path)), cfg_evaluate=lambda: cli.cfg_evaluate(str(path)),
                 images_dls=lambda: d.images_dls(path, 8, cache=Path(folder)/'cache'), imagenet64_dls=lambda: d.imagenet64_dls(path, cache=Path(folder)/'cache')).get(name)
        if f is None: f = partial(getattr(nets if name in ('load_adm', 'load_adm_classifier') else d, name), path)
        if ask(f) is not None: raise Wrong(f"accepted {kind}")
        if (Path(folder)/'cache').exists(): raise Wrong(f"left something behind after {kind}")

@check('DropLabel', 'EMA', 'Diffuse', 'DiffuseInput', 'SampleGrid', 'Monitor', 'HalfPrecision', 'UniformLam', 'diffusion_learner', 'classifier_learner', 'Checkpoint', 'FiniteLoss', 'ShareBatch', 'classifier_logp')
def _(name, draw):
    "Probabilities, decays, modes, bounds and class numbers, right and wrong"
    import cfg_edu.classifier as c, cfg_edu.training as t, cfg_edu.nets as nets, cfg_edu.data as d
    st, *_ = strategies()
    shares = [0., .1, .5], [-.1, 1.1, math.nan, math.inf]
    if name == 'DropLabel': p, right = either(draw, *shares); return must(name, ask(t.DropLabel, 3, p, may_refuse=not right), right, p)
    if name == 'EMA': p, right = either(draw, shares[0], [*shares[1], 1.]); return must(name, ask(t.EMA, p, may_refuse=not right), right, p)
    if name == 'HalfPrecision': m, right = either(draw, ['bf16', 'fp16'], ['fp8', 16, None]); return must(name, ask(t.HalfPrecision, m, may_refuse=not right), right, m)
    if name == 'UniformLam': (lo, hi), right = either(draw, [(-6., 6.)], [(6., -6.), (0., 0.), (math.nan, 1.), (-math.inf, 0.)]); return must(name, ask(c.UniformLam, lo, hi, may_refuse=not right), right, (lo, hi))
    if name in ('diffusion_learner', 'classifier_learner'):
        dls = d.data_dls(torch.rand(20, 1, 8, 8), torch.arange(20)%3, list('abc'), 4)
        (n, r1), (p, r2), (decay, r3), (pred, r4) = either(draw, [3], [2, 4]), either(draw, *shares), either(draw, [0., .9], [1., -.1, math.nan]), either(draw, ['v', 'eps', 'x'], ['score', None])
        if name == 'diffusion_learner': right, got = r1 and r2 and r3 and r4, lambda: t.diffusion_learner(dls, nets.unet_digits(n), None, pred, p, decay)
        else: right, got = r1 and r3, lambda: c.classifier_learner(dls, nets.encoder_digits(n), decay=decay)
        return must(name, ask(got, may_refuse=not right), right, (n, p, decay, pred))
    make = dict(Diffuse=lambda: t.Diffuse(), DiffuseInput=lambda: c.DiffuseInput(), SampleGrid=lambda: t.SampleGrid(), Monitor=lambda: t.Monitor(), Checkpoint=lambda: t.Checkpoint('x'), FiniteLoss=lambda: t.FiniteLoss(), ShareBatch=lambda: t.ShareBatch(),
                classifier_logp=lambda: c.classifier_logp(nets.encoder_digits(3)))[name]
    must(name, ask(make, may_refuse=False), True, '')

@check('evaluate', 'noise_floor', 'tradeoff', 'get_judge', 'Judge', 'mean_cov', 'temperature', 'implicit_logits', 'show_tradeoff')
def _(name, draw):
    "Images of wrong shape, dtype or number, nan; labels that do not fit; weights, draws and judges, right and wrong"
    import cfg_edu.classifier as c, cfg_edu.metrics as me, matplotlib.pyplot as plt
    st, *_ = strategies()
    if name in ('get_judge', 'Judge'): j, right = either(draw, ['digits'], ['nothing', '', None]); return must(name, ask(getattr(me, name), j, may_refuse=not right), right, j)
    if name == 'mean_cov':
        x = tensor(draw, (draw(st.integers(2, 9)), 3), torch.float32, odd=False)
        mu, cov = ask(me.mean_cov, x.split(2), may_refuse=False)
        is_close(mu, x.double().mean(0), torch.float32); is_close(cov, torch.cov(x.double().T), torch.float32)
    elif name == 'temperature':
        n = draw(st.integers(2, 30))
        got = ask(me.temperature, torch.randn(n, 3), torch.arange(n)%3)
        if got is not None and not got > 0: raise Wrong(f"{got}")
    elif name == 'implicit_logits':
        x, r1 = either(draw, [torch.rand(2, 2)], [torch.rand(2, 3), torch.rand(2)])
        n, r2 = either(draw, [1, 2], [0, -1])
        got = ask(c.implicit_logits, some_model(), x, n, c.UniformLam(), may_refuse=not (r1 and r2))
        if got is not None and got.shape != (2, 3): raise Wrong(f"{got.shape}")
        must(name, got, r1 and r2, (tuple(x.shape), n))
    elif name == 'show_tradeoff':
        rows, right = either(draw, [[dict(w=0., fid=1., isc=2.), dict(w=1., fid=2., isc=3.)]], [[]])
        got = ask(me.show_tradeoff, rows, may_refuse=not right)
        plt.close('all')
    else:
        n = 20
        x, r1 = either(draw, [torch.rand(n, 1, 8, 8)*2 - 1, torch.zeros(n, 1, 8, 8, dtype=torch.uint8) + torch.randint(0, 255, (n, 1, 8, 8), dtype=torch.uint8)], [torch.full((n, 1, 8, 8), math.nan), torch.rand(n, 8, 8), torch.rand(1, 1, 8, 8), torch.zeros(n, 1, 8, 8, dtype=torch.int64)])
        y, r2 = either(draw, [None, torch.arange(n)%10], [torch.arange(n+1)%10, torch.zeros(n, 1)])
        real = torch.rand(30, 1, 8, 8)*2 - 1
        if name == 'evaluate': got = ask(me.evaluate, x, real, y, may_refuse=not (r1 and r2))
        elif name == 'noise_floor': got = ask(me.noise_floor, x, y, n_draws=2, may_refuse=not (r1 and r2))
        else:
            w, r1 = either(draw, [0., 1.], [-2., math.nan, math.inf])
            y, r2 = either(draw, [torch.arange(n)%10], [torch.arange(5), torch.zeros(n, 1, dtype=torch.long)])
            got = ask(me.tradeoff, lambda z, l, y: z*0, [w], real, y, may_refuse=not (r1 and r2))
        must(name, got, r1 and r2, 'bad images or labels')

@lru_cache(None)
def some_run():
    "A folder with a network that has hardly been trained"
    import tempfile
    import cfg_edu.cli as cli
    folder = tempfile.TemporaryDirectory()
    cli.cfg_train('digits', folder.name, steps=1)
    return folder

@check('cfg_train', 'cfg_prepare', 'cfg_tradeoff', 'cfg_sample', 'cfg_evaluate')
def _(name, draw):
    "One argument wrong, the others right: refused, and no file written"
    import tempfile
    import cfg_edu.cli as cli
    options = dict(data=(['digits'], ['nothing', '']), net=([None], ['nothing', 'adm64', 'mlp']), steps=([1], [0, -1]), bs=([128], [0, -1, 10**6]), lr=([1e-3], [0., -1., math.nan, math.inf]), decay=([.9], [1., -.1, math.nan]), p_uncond=([.1], [-.1, 1.1, math.nan]),
                   predicts=([None], ['score']), lam_min=([-20.], [30., math.nan]), grad_clip=([1.], [0., -1., math.nan]), precision=(['fp32'], ['fp8']), seed=([0], [-1]), warmup=([None], [0, -1]), every=([None], [0, -1]))
    if name == 'cfg_tradeoff': options = dict(data=(['digits'], ['nothing']), ws=(['0,1'], ['', 'a', '-2', 'nan']), n=([20], [0, -1]), n_steps=([2], [1, 0]), v=([0.], [-1., math.nan]), bs=([None], [0]), precision=(['fp32'], ['fp8']), seed=([0], [-1]), sampler=(['ddim'], ['nothing']))
    if name == 'cfg_prepare': options = dict(path=([], ['/nothing/here', '']))
    if name == 'cfg_sample': options = dict(w=([1.], [-1.5, math.nan, math.inf]), n=([3], [0, -1]), y=([None, 0, 10], [-1, 11]), sampler=(['ddim'], ['nothing', None]), n_steps=([2], [1, 0, -3]), v=([0.], [-.1, 1.1, math.nan]), seed=([0], [-1, 2**32]), bs=([None], [0, -1]), precision=(['fp32'], ['fp8']))
    if name == 'cfg_evaluate': options = dict(w=([1.], [-1.5, math.nan, math.inf]), n=([20], [0, -1, 1]), judge=(['digits'], ['nothing', 'glyphs32']), sampler=(['ddim'], ['nothing']), n_steps=([2], [1, 0]), v=([0.], [-.1, math.nan]), seed=([0], [-1]), bs=([None], [0]), precision=(['fp32'], ['fp8']), data=(['digits'], ['nothing']))
    k = draw(strategies()[0].sampled_from(list(options)))           # one argument is wrong, the others right: work must not begin
    wrong = draw(strategies()[0].sampled_from(options[k][1]))
    with tempfile.TemporaryDirectory() as folder:
        args = {o: r[0] for o, (r, _) in options.items() if r} | {k: wrong}
        out = Path(folder)/'run'
        if name in ('cfg_sample', 'cfg_evaluate'): shutil.copytree(some_run().name, out)
        before = sorted(o.relative_to(folder) for o in Path(folder).rglob('*'))
        where = dict(run=str(out)) if name in ('cfg_sample', 'cfg_evaluate') else dict(out=str(out))
        said = []
        try: ask(lambda: said.append(getattr(cli, name)(**args, **where)))
        finally: new = sorted({o.relative_to(folder) for o in Path(folder).rglob('*')} - {*before, Path('run')})
        if said or new: raise Wrong(f"{k} = {wrong!r}: {'accepted' if said else 'left ' + ', '.join(map(str, new))}")

@check('evaluating', 'replacing', 'cache_dir', 'check_zip', 'SharedDL', 'glyphs_dls')
def _(name, draw):
    "Modes and files after an error; bombs; rows of several processes; caches of glyphs"
    import os, tempfile, zipfile
    import cfg_edu.data as d, cfg_edu.sampling as s, cfg_edu.training as t
    st, floats, rest = strategies()
    if name == 'evaluating':
        net = nn.Sequential(nn.Dropout(.5), nn.Sequential(nn.BatchNorm1d(2)), nn.Linear(2, 2))
        for m in net.modules(): m.training = draw(st.booleans())
        modes, boom = [m.training for m in net.modules()], draw(st.booleans())
        try:
            with s.evaluating(draw(st.sampled_from([net, lambda z, lam, y: z]))) as _, s.evaluating(net):
                if any(m.training for m in net.modules()): raise Wrong('trains inside')
                if boom: raise KeyError
        except KeyError: pass
        if [m.training for m in net.modules()] != modes: raise Wrong('other modes afterwards')
    elif name == 'cache_dir':
        own, xdg = draw(st.sampled_from([None, '', '/some/own'])), draw(st.sampled_from([None, '', '/some/xdg']))
        old = {k: os.environ.pop(k, None) for k in ('CFG_EDU_CACHE', 'XDG_CACHE_HOME')}
        try:
            os.environ.update({k: o for k, o in (('CFG_EDU_CACHE', own), ('XDG_CACHE_HOME', xdg)) if o is not None})
            if d.cache_dir() != (Path(own) if own else (Path(xdg) if xdg else Path.home()/'.cache')/'cfg_edu'): raise Wrong(f"{d.cache_dir()}")
        finally:
            for k, o in old.items(): os.environ.pop(k, None); os.environ.update({k: o} if o is not None else {})
    elif name == 'SharedDL':
        n, bs, world = draw(st.integers(12, 40)), draw(st.integers(1, 8)), draw(st.integers(1, 4))
        x, epochs = torch.arange(float(n))[:, None], []
        for rank in range(world):
            dl = d.data_dls(x, torch.zeros(n).long(), ['a'], bs, seed=3).train
            epochs.append([b[0].flatten().tolist() for b in t.SharedDL(dl, rank, world)])
        plain = [b[0].flatten().tolist() for b in d.data_dls(x, torch.zeros(n).long(), ['a'], bs, seed=3).train]
        if [set(sum(o, [])) for o in zip(*epochs)] != [set(o) for o in plain]: raise Wrong(f"{n} rows, batches of {bs}, {world} processes: not the rows of one process")
    else:
        with tempfile.TemporaryDirectory() as folder:
            f = Path(folder)/'deep'/'thing'
            if name == 'replacing':
                old, boom = draw(st.booleans()), draw(st.sampled_from([None, KeyError, KeyboardInterrupt]))
                f.parent.mkdir(); f.write_bytes(b'old') if old else None
                try:
                    with d.replacing(f) as o:
                        o.write(b'half')
                        if f.exists() != old or old and f.read_bytes() != b'old': raise Wrong('the old file is gone too early')
                        if boom: raise boom
                        o.write(b'whole')
                except (KeyError, KeyboardInterrupt): pass
                if sorted(o.name for o in f.parent.iterdir()) != (['thing'] if old or not boom else []): raise Wrong('left something behind')
                if f.exists() and f.read_bytes() != (b'halfwhole' if not boom else b'old'): raise Wrong('half-written')
            elif name == 'check_zip':
                size, most, packed = draw(st.integers(0, 50_000)), draw(st.sampled_from([0, 1000, 10**6])), draw(st.booleans())
                f.parent.mkdir()
                if packed:
                    with zipfile.ZipFile(f, 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('a', bytes(size))
                else: f.write_bytes(bytes(size))
                right = not packed or size <= most + 100*f.stat().st_size
                try: d.check_zip(f, most)
                except ValueError as e:
                    if right or str(f) not in str(e): raise Wrong(str(e)) from e
                else: must(name, True, right, f'{size} bytes in {f.stat().st_size}')
            else:
                v = {k: either(draw, *o) for k, o in dict(size=([8, 9], [7, 0, 1.5, '8']), n=([10, 23], [9, 0, -1, 10.5]), bs=([1, 10], [0, -1, 24]), seed=([0], [-1, .5])).items()}
                right, old = all(r for _, r in v.values()), os.environ.get('CFG_EDU_CACHE')
                os.environ['CFG_EDU_CACHE'] = folder
                try: got = ask(d.glyphs_dls, **{k: o for k, (o, _) in v.items()}, may_refuse=not right)
                finally: os.environ.update(CFG_EDU_CACHE=old) if old else os.environ.pop('CFG_EDU_CACHE')
                must(name, got, right, {k: o for k, (o, r) in v.items() if not r})
                if got is None and any(Path(folder).iterdir()): raise Wrong('left something behind')
                if got is not None and (len(got.train.dataset), got.one_batch()[0].shape[2]) != (v['n'][0], v['size'][0]): raise Wrong('another number or size')

@check('fit_judge', 'fit_glyphs', 'cached', 'register_judge', 'OwnJudge', 'DigitsJudge', 'GlyphsJudge', 'Reference')
def _(name, draw):
    "Training data and numbers, right and wrong; a stored judge that is gone, cut, or has a wrong bit"
    import os, tempfile
    import cfg_edu.metrics as me
    st, *_ = strategies()
    n = 40
    if name == 'fit_judge':
        x, r1 = either(draw, [torch.rand(n, 1, 8, 8), torch.rand(n, 3, 8, 8)], [torch.rand(n, 8, 8), torch.full((n, 1, 8, 8), math.nan), torch.zeros(n, 1, 8, 8, dtype=torch.uint8), torch.rand(3, 1, 8, 8)])
        y, r2 = either(draw, [torch.arange(n)%3, torch.arange(n)%10], [torch.arange(n)%2, torch.arange(n+1)%3, torch.arange(n)%3 - 1, (torch.arange(n)%3).float()])
        (epochs, r3), (bs, r4), (lr, r5) = either(draw, [1], [0, -1]), either(draw, [20, 40], [0, -1, 41]), either(draw, [1e-3], [0., -1., math.nan])
        state, right = torch.get_rng_state(), r1 and r2 and r3 and r4 and r5
        got = ask(me.fit_judge, x, y, epochs, bs, lr, may_refuse=not right)
        if not torch.equal(state, torch.get_rng_state()): raise Wrong('draws from the global random state')
        must(name, got, right, (tuple(x.shape), x.dtype, tuple(y.shape), y.dtype, epochs, bs, lr))
    elif name == 'fit_glyphs':
        v = {k: either(draw, *o) for k, o in dict(size=([16], [8, 0, 17, '16', None]), n=([40], [0, -1, 1.5]), n_epochs=([1], [0, -1]), bs=([20], [0, -1, 10**6]), lr=([1e-3], [0., math.nan]), width=([8], [0, -8])).items()}
        right = all(r for _, r in v.values())
        must(name, ask(me.fit_glyphs, **{k: o for k, (o, _) in v.items()}, device='cpu', may_refuse=not right), right, {k: o for k, (o, r) in v.items() if not r})
    elif name == 'cached':
        with tempfile.TemporaryDirectory() as folder:
            old = os.environ.get('CFG_EDU_CACHE')
            os.environ['CFG_EDU_CACHE'] = folder
            try:
                made, want = [], dict(a=torch.rand(3, 2).T, b=torch.arange(4))
                def make(): made.append(1); return want
                first, f = me.cached('thing', make), Path(folder)/'thing.safetensors'
                harm = draw(st.sampled_from(['none', 'gone', 'cut', 'bit', 'empty']))
                bits = bytearray(f.read_bytes())
                if harm == 'gone': f.unlink()
                if harm == 'cut': f.write_bytes(bits[:draw(st.integers(0, len(bits)-1))])
                if harm == 'empty': f.write_bytes(b'')
                if harm == 'bit':
                    i = draw(st.integers(0, 8*len(bits)-1)); bits[i//8] ^= 1 << i%8
                    f.write_bytes(bits)
                second = me.cached('thing', make)
                for got in (first, second):
                    if any(not torch.equal(got[k], want[k]) for k in want): raise Wrong(f'other tensors after: {harm}')
                if harm in ('gone', 'cut', 'empty') and len(made) != 2 or harm == 'none' and len(made) != 1: raise Wrong(f'made {len(made)} times after: {harm}')
            finally: os.environ.update(CFG_EDU_CACHE=old) if old else os.environ.pop('CFG_EDU_CACHE')
    elif name == 'Reference':
        r = me.Reference(torch.zeros(3), torch.eye(3))
        if (r.prc, r.shape, r.n, r.judge) != (None,)*4: raise Wrong('knows more than it was told')
    elif name == 'register_judge':
        class Blind(me.OwnJudge): pass
        if me.register_judge('blind', Blind) is not Blind or me.register_judge('blind', Blind) is not Blind: raise Wrong('not the class')
    else:
        if name == 'GlyphsJudge':
            j = me.GlyphsJudge.__new__(me.GlyphsJudge)                                 # its networks are not trained for this
            me.OwnJudge.__init__(j, name, ['features', 'logits', 'verdict'])
            nets = me._glyph_nets(32, 8)
            j.cnn, j.soft = nets['cnn'], nets['soft']
        else: j = me.DigitsJudge(name, ['features', 'logits', 'verdict'])
        u, right = either(draw, [torch.randint(0, 256, (2, *j.shape), dtype=torch.uint8), torch.zeros(0, *j.shape, dtype=torch.uint8)],
                          [torch.rand(2, *j.shape), torch.zeros(2, 2, *j.shape[1:], dtype=torch.uint8), torch.zeros(*j.shape, dtype=torch.uint8)])
        with torch.no_grad(): got = ask(j, u, may_refuse=not right)
        must(name, got, right, (u.dtype, tuple(u.shape)))
        if got is not None and [len(o) for o in got] != [len(u)]*3: raise Wrong('not a row for each image')

@check('palette', 'conventions', 'samplers', 'toys', 'sources', 'glyph_names', 'glyph_fonts', 'rungs', 'paper_table', 'URL_STATISTICS', 'recipes', 'columns', 'paper_ws')
def _(name, draw):
    "Tables: every row must be of use to whom they are for"
    import inspect
    import cfg_edu.cli as cli, cfg_edu.data as d, cfg_edu.guidance as g, cfg_edu.metrics as me, cfg_edu.plots as pl, cfg_edu.sampling as s
    from matplotlib.colors import is_color_like
    st, *_ = strategies()
    pick = lambda table: draw(st.sampled_from(list(table)))
    w = draw(st.sampled_from([0., .1, 1., 4.]))
    ok = dict(palette=lambda: is_color_like(pick(pl.palette)) and len(set(pl.palette)) == len(pl.palette) >= 10,
        conventions=lambda: abs(g.to_w(g.to_scale(w, c := pick(g.conventions)), c) - w) < 1e-9 and g.to_scale(w, c) == w + g.conventions[c],
        samplers=lambda: s.samplers[pick(s.samplers)](draw(st.sampled_from([0., .3, 1.])))(torch.linspace(-6, 6, n := draw(st.integers(2, 9)), dtype=torch.float64)).shape in ((n-1, 5), (2*n-2, 5)),
        toys=lambda: (x := d.toys[pick(d.toys)](50, torch.Generator().manual_seed(0)))[0].shape == (50, 2) and len(x[1]) == 50,
        sources=lambda: all(len(o) == 3 and o[0].startswith('http') and 'MB' in o[2] for o in d.sources.values()),
        glyph_names=lambda: len(set(d.glyph_names)) == 62 and all(len(o) == 1 for o in d.glyph_names),
        glyph_fonts=lambda: d._ink(pick(d.glyph_names), pick(d.glyph_fonts), 16).getbbox() is not None,
        rungs=lambda: 'bs' in inspect.signature(d.rungs[pick(d.rungs)]).parameters, paper_table=lambda: all(r['fid'] > 0 and r['isc'] > 1 for r in me.paper_table) and [f"{r['w']:g}" for r in me.paper_table] == cli.paper_ws.split(','),
        URL_STATISTICS=lambda: me.URL_STATISTICS.startswith('https://') and me.URL_STATISTICS.endswith('.npz'),
        recipes=lambda: set(r := cli.recipes[pick(cli.recipes)]) >= {'steps', 'bs', 'lr', 'decay'} and 0 < r['decay'] < 1 and min(r['steps'], r['bs'], r['lr']) > 0,
        columns=lambda: cli.columns[pick(cli.columns)].format(1.5) != '', paper_ws=lambda: all(float(o) >= 0 for o in cli.paper_ws.split(',')))[name]()
    if not ok: raise Wrong('a row is of no use')

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
    said = None
    for name, f in checks.items():
        if only not in name: continue
        if (what := '; '.join(o.func.__doc__ for o in f)) != said: print(said := what, flush=True)
        @seeded(seed)
        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink], print_blob=False, report_multiple_bugs=False)
        @given(st.data())
        def run(data):
            calls[name] += 1
            with redirect_stdout(io.StringIO()): data.draw(st.sampled_from(f))(data.draw)
        try: run()
        except Wrong as e: broken[name] = re.sub(r'\s+', ' ', str(e))[:160]
        except Exception as e: broken[name] = f'{type(e).__name__}: {e}'[:160]
        print(f"    {names.get(name, '?'):10} {name:20} {calls[name]:5} calls  {'held' if name not in broken else broken[name]}", flush=True)
    rest = [n for n in names if n not in checks]
    print(f"{len(checks)} of {len(names)} names, {sum(calls.values())} calls; {len(calls) - len(broken)} names held, {len(broken)} broke")
    print('not tried here: ' + ', '.join(rest))
    if broken: raise SystemExit(1)
