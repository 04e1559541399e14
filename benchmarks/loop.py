"""
What fastai's loop and our callbacks add to a bare PyTorch loop that does the same work:

    python -m benchmarks loop --net digits
    python -m benchmarks loop --net adm64 --device cuda --batch 64 --steps 10 --precision bf16
"""
import time
from contextlib import nullcontext
from copy import deepcopy
from statistics import median
import torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientClip
from fastcore.script import call_parse
from torch.nn import functional as F
from cfg_edu.data import data_dls
from cfg_edu.denoiser import Denoiser
from cfg_edu.nets import adm64, MLP, unet_digits
from cfg_edu.process import diffuse
from cfg_edu.schedule import Schedule
from cfg_edu.processes import HalfPrecision
from cfg_edu.training import diffusion_learner
from .record import machine, record

nets = dict(mlp=((2,), 8, lambda: MLP(8)), digits=((1,8,8), 10, unet_digits), adm64=((3,64,64), 1000, adm64))

def bare(dls, net, decay, lr, half):
    "The same work by hand: batches, hidden labels, λ, noise, network, loss, clipping, fused AdamW, averaged weights. A function of the number of steps."
    (x, y), device, sched, null = dls.train.dataset.tensors, dls.device, Schedule(), net.null
    model, k, cuda = Denoiser(net), 0, dls.device.type == 'cuda'
    avg = deepcopy(model).requires_grad_(False)
    pairs = list(avg.parameters()), list(model.parameters())
    opt = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0., fused=True)
    def run(steps):
        nonlocal k
        model.train()
        for i in torch.randperm(len(x))[:steps*dls.train.bs].split(dls.train.bs):
            xb, yb = x[i].to(device), y[i].to(device)
            yb = yb.masked_fill(torch.rand(len(i), device=device) < .1, null)
            lam = sched.draw(len(i), device)
            z, eps = diffuse(xb, lam, torch.randn_like(xb))
            with torch.autocast(device.type, torch.bfloat16) if half else nullcontext(): out = model(z, lam, yb)
            loss = F.mse_loss(out, eps)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
            opt.step(); opt.zero_grad()
            k += 1
            with torch.no_grad(): torch._foreach_lerp_(*pairs, 1 - min(decay, (1+k)/(10+k)))
        if cuda: torch.cuda.synchronize()
    return run

class Stopwatch(Callback):
    "Seconds of the training part of each epoch"
    def __init__(self): self.seconds = []
    def _now(self):
        if self.dls.device.type == 'cuda': torch.cuda.synchronize()
        return time.perf_counter()
    def before_train(self): self.since = self._now()
    def after_train(self): self.seconds.append(self._now() - self.since)

@call_parse
def loop(
    net:str='digits',       # mlp, digits or adm64
    device:str='cpu',       # cpu or cuda
    batch:int=128,          # examples in a step
    steps:int=10,           # in a round: few, so that a machine that changes its speed changes both loops' alike
    rounds:int=50,          # in turns; after one that warms up
    precision:str='fp32',   # of autocast: fp32 or bf16
    threads:int=1,          # of the processor
    out:str='benchmarks/results.csv', # rows are added to this file; '': to none
):
    "Time of fastai's loop over that of a bare PyTorch loop with the same network and the same work."
    if net not in nets: raise SystemExit(f"net must be one of {', '.join(nets)}, got {net!r}")
    torch.set_num_threads(threads)
    (shape, classes, make), half, n, times = nets[net], precision == 'bf16', batch*steps, {}
    torch.manual_seed(0)
    x, y = torch.randn(n + batch, *shape).clamp(-1, 1), torch.arange(n + batch)%classes
    dls = data_dls(x, y, range(classes), batch, torch.arange(n, n + batch), device=torch.device(device))
    by_hand, watch = bare(dls, make().to(device), .999, 1e-4, half), Stopwatch()
    learn = diffusion_learner(dls, make(), lr=1e-4, cbs=[GradientClip(1.), watch] + ([HalfPrecision('bf16')] if half else []))
    learn.logger = lambda row: None
    print(f'{machine(device)}, {threads} threads, torch {torch.__version__}; {net}, batch {batch}, {precision}, {steps} steps a round, {rounds} rounds in turns')
    with learn.no_bar():
        for i in range(rounds+1):
            t0 = time.perf_counter()
            by_hand(steps)
            if i: times.setdefault('bare loop', []).append((time.perf_counter()-t0)/steps)
            learn.fit(1)
            if i: times.setdefault("fastai's loop", []).append(watch.seconds[-1]/steps)
    low, more, high = torch.tensor([b/a - 1 for a, b in zip(*times.values())]).quantile(torch.tensor([.25, .5, .75])).tolist()
    for name, s in times.items():
        t = median(s)
        print(f'{name:14} {t*1e3:9.3f} ms a step ({min(s)*1e3:.3f} to {max(s)*1e3:.3f})' + (f'  {more:+.1%} (half of the rounds {low:+.1%} to {high:+.1%})' if 'fastai' in name else ''))
        record(out, 'loop', f'net={net} batch={batch} precision={precision}', name, dict(seconds_per_step=(t, min(s), max(s)), over_bare=(more, low, high) if 'fastai' in name else None), 0, device=device)
