"""
Quality against seconds of training: our learner and other libraries' loops, with the same network, batch, data and judge:

    python -m benchmarks train --data digits
    python -m benchmarks train --data mixture --marks 1,2,4,8,16
    python -m benchmarks train --data mnist --marks 30,60,120,240
"""
import time
from copy import deepcopy
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
import torch
import cfg_edu.runs  # noqa: F401 (`fit_resumable`)
from accelerate import Accelerator
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.training import GradientClip
from fastcore.script import call_parse
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from cfg_edu.data import digits_dls, mnist_dls, to_unit, toy, toy_dls
from cfg_edu.denoiser import Denoiser
from cfg_edu.guidance import CFG
from cfg_edu.judges import get_judge
from cfg_edu.metrics import evaluate, real_stats
from cfg_edu.mixture import sliced_wasserstein
from cfg_edu.nets import MLP, presets, unet_digits, unet_tiny
from cfg_edu.sampling import sample
from cfg_edu.schedule import amps
from cfg_edu.training import diffusion_learner
from . import rivals
from .record import machine, record

class Done(Exception): pass

class Watch:
    "Called after each step with the model as it would be used: judges it at each mark of CPU seconds, while the clock stands still"
    def __init__(self, marks, judge): self.marks, self.judge, self.spent, self.steps, self.seen = list(marks), judge, 0., 0, []
    def start(self): self.since = time.process_time()
    def pause(self): self.spent += time.process_time() - self.since
    def look(self, model): self.seen.append((self.spent, self.steps, self.judge(deepcopy(model()))))
    def __call__(self, model):
        self.pause()
        self.steps += 1
        if self.marks and self.spent >= self.marks[0]:
            self.marks.pop(0)
            self.look(model)
            if not self.marks: raise Done
        self.start()

def _hide(y, null, p=.1): return y.masked_fill(torch.rand(len(y)) < p, null)
def _loader(dls, bs):
    x, y = dls.train.dataset.tensors
    return DataLoader(TensorDataset(x if x.is_floating_point() else to_unit(x), y), bs, shuffle=True, drop_last=True)

def ours(dls, net, r, lr, watch, cycle=0):
    "`diffusion_learner`, at a constant rate after 50 steps, or one cycle of so many steps"
    class Look(Callback):
        order = 200
        def after_batch(self):
            if not self.training: return
            try: watch(lambda: self.learn.ema.avg)
            except Done: raise CancelFitException from None
        def before_validate(self): watch.pause()
        def after_validate(self): watch.start()
    dls.train.n, dls.valid.n = 100*r['bs'], min(len(dls.valid_ds), 1000)
    learn = diffusion_learner(dls, net, decay=r['decay'], lr=lr, cbs=[GradientClip(1.), Look()])
    learn.logger = lambda row: None
    watch.start()
    with TemporaryDirectory() as d, learn.no_bar(): learn.fit_resumable(*((cycle//100, Path(d)/'c') if cycle else (10**4, Path(d)/'c', None, 50)))
    if cycle: watch.look(lambda: learn.ema.avg)

def diffusers(dls, net, r, lr, watch):
    "As diffusers' example of unconditional training does it: accelerate, AdamW, cosine rate after 500 steps, its EMA; linear betas, ε"
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_cosine_schedule_with_warmup
    from diffusers.training_utils import EMAModel
    acc, s, model = Accelerator(cpu=True), DDPMScheduler(1000), Denoiser(net, 'eps')
    opt = torch.optim.AdamW(model.parameters(), lr=lr, betas=(.95,.999), weight_decay=1e-6, eps=1e-8)
    ema = EMAModel(model.parameters(), decay=.9999, use_ema_warmup=True, inv_gamma=1., power=.75)
    lrs = get_cosine_schedule_with_warmup(opt, 500, 100_000)
    model, opt, loader, lrs = acc.prepare(model, opt, _loader(dls, r['bs']), lrs)
    lams = s.alphas_cumprod.double().logit().float()
    def averaged():
        avg = deepcopy(model)
        ema.copy_to(avg.parameters())
        return avg
    watch.start()
    for _ in count():
        for x, y in loader:
            eps, t = torch.randn_like(x), torch.randint(1000, (len(x),))
            loss = F.mse_loss(model(s.add_noise(x, eps, t), lams[t], _hide(y, net.null)), eps)
            acc.backward(loss)
            acc.clip_grad_norm_(model.parameters(), 1.)
            opt.step(); lrs.step(); opt.zero_grad()
            ema.step(model.parameters())
            watch(averaged)

def small(dls, net, r, lr, watch):
    "smalldiffusion's `training_loop`: AdamW, no average of the weights; betas of DDPM, ε"
    import smalldiffusion as lib
    class Net(nn.Module, lib.ModelMixin):
        def __init__(self): super().__init__(); self.inner, self.input_dims = Denoiser(net, 'eps'), net.shape
        def forward(self, x, sigma, cond=None):
            lam = -2*sigma.flatten().log()
            return self.inner(x*amps(lam, x.ndim)[0], lam, _hide(cond, net.null))
    model, lib.diffusion.tqdm = Net(), lambda o: o
    watch.start()
    for _ in lib.training_loop(_loader(dls, r['bs']), model, lib.ScheduleDDPM(), Accelerator(cpu=True), 10**6, lr, conditional=True): watch(lambda: model.inner)

def ddpm(dls, net, r, lr, watch):
    "denoising_diffusion_pytorch's `GaussianDiffusion` with the optimiser, clipping and EMA of its trainer; cosine betas, ε"
    from denoising_diffusion_pytorch import classifier_free_guidance as lib
    from ema_pytorch import EMA
    class Net(nn.Module):
        random_or_learned_sinusoidal_cond = False
        def __init__(self): super().__init__(); self.inner, self.channels, self.out_dim = Denoiser(net, 'eps'), net.shape[0], net.shape[0]
        def forward(self, x, t, classes): return self.inner(x, self.lams[t], _hide(classes, net.null))
    model = Net()
    d = lib.GaussianDiffusion(model, image_size=net.shape[-1])
    model.lams = d.alphas_cumprod.double().logit().float()
    opt, ema = torch.optim.Adam(d.parameters(), lr=lr, betas=(.9,.99)), EMA(model, beta=.995, update_every=10)
    watch.start()
    for _ in count():
        for x, y in _loader(dls, r['bs']):
            d((x+1)/2, classes=y).backward()
            nn.utils.clip_grad_norm_(d.parameters(), 1.)
            opt.step(); opt.zero_grad()
            ema.update()
            watch(lambda: ema.ema_model.inner)

@call_parse
def train(
    data:str='digits',       # digits, mnist, or points in the plane: mixture, moons, spirals, pinwheel, checkerboard
    marks:str='4,8,16,32,64',# CPU seconds of training at which the model is judged
    n:int=2000,              # samples that are judged; of points 10,000
    ws:str='0',              # guidance weights, of which the best counts
    seed:int=0,              # of the weights and the order
    only:str='',             # contestants that contain this
    out:str='benchmarks/results.csv', # rows are added to this file; '': to none
):
    "Quality against seconds of training: our learner and others' loops with the same network."
    torch.set_num_threads(1)                                # CPU seconds of one thread
    marks, plane, ws = [float(o) for o in marks.split(',')], data not in ('digits', 'mnist'), [float(o) for o in ws.split(',')]
    r = dict(presets['mlp' if plane else 'unet_digits'].recipe)
    if data == 'mnist': r.update(bs=64, decay=.998)
    if plane: n = 10_000
    get = dict(digits=lambda: digits_dls(r['bs'], seed), mnist=lambda: mnist_dls(bs=r['bs'], seed=seed, device='cpu')).get(data, lambda: toy_dls(data, r['bs'], seed=seed))
    make = dict(digits=unet_digits, mnist=unet_tiny).get(data, lambda: MLP(dls.c))
    dls = get()
    if plane: x, y = toy(data, n, 1000+seed)
    else: y, ref = torch.arange(n)%10, real_stats(dls.valid_ds.tensors[0] if data == 'mnist' else torch.cat([dl.dataset.tensors[0] for dl in dls]), get_judge(data))
    def judge(model):
        "What counts: sliced Wasserstein distance, or at the best weight FID and agreement"
        draw = lambda w: sample(CFG(model.eval(), w) if w else model.eval(), (n, *model.net.shape), y, seed=10_000*seed, bs=100, clip=None if plane else (-1, 1))
        with torch.random.fork_rng():
            if plane: return dict(sw=sliced_wasserstein(draw(0.), x))
            rows = [dict(evaluate(draw(w), ref, y, get_judge(data)), w=w) for w in ws]
        return {k: best[k] for best in [min(rows, key=lambda r: r['fid'])] for k in ('fid', 'agreement', 'w')}
    reached = {}
    rates = dict(diffusers=1e-4, smalldiffusion=1e-3, ddpm=1e-4)                    # theirs
    loops = {'ours': (partial(ours, lr=r['lr']), 'cfg_edu'), 'ours, one cycle': (partial(ours, lr=r['lr'], cycle=r['steps']), 'cfg_edu')}
    others = {'diffusers': ('diffusers', diffusers), 'smalldiffusion': ('smalldiffusion', small), 'denoising-diffusion-pytorch': ('ddpm', ddpm)}
    for lib, (name, f) in rivals.installed(others).items():
        if plane and name == 'ddpm': continue                                       # made for images
        for lr in (rates[name], r['lr']): loops[f'{name}, lr {lr:g}'] = partial(f, lr=lr), lib
    print(f'{machine()}, {torch.get_num_threads()} threads; {data}, batch {r["bs"]}, seed {seed}; after so many CPU seconds of training (steps)')
    for name, (loop, lib) in loops.items():
        if only not in name: continue
        if 'cycle' in name and data == 'mnist':             # as many steps as the constant rate took in the time
            if 'ours' not in reached: continue
            loop = partial(ours, lr=r['lr'], cycle=max(100, reached['ours']//100*100))
        torch.manual_seed(seed)
        net, watch = make(), Watch([] if 'cycle' in name else marks, judge)
        with torch.random.fork_rng():
            try: loop(get(), net, r, watch=watch)
            except Done: pass
        print(f'{name:26}' + '  '.join(f'{s:6.1f} s ({k:5}) ' + ' '.join(f'{o:.3f}' for o in e.values()) for s, k, e in watch.seen), flush=True)
        reached[name] = watch.steps
        for s, k, e in watch.seen: record(out, 'train', f'data={data} batch={r["bs"]} seconds={s:.3g}', name, dict(e, steps=k), seed, lib)
