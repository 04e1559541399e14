"""
Guided images a second, and what a sampler costs beyond its network:

    python -m benchmarks sampling --net digits
    python -m benchmarks sampling --net mnist --batches 1 --threads 2
    python -m benchmarks sampling --net adm64 --device cuda --batches 1,16,64 --calls 8 --rounds 2 --precision bf16
"""
import time
from contextlib import nullcontext
from statistics import median
import torch
from fastcore.script import call_parse
from cfg_edu.conditions import Classes
from cfg_edu.denoiser import both, Denoiser
from cfg_edu.guidance import CFG, cfg
from cfg_edu.nets import adm64, unet_digits, unet_small, unet_tiny
from cfg_edu.onepass import ClassesAndW, OnePass
from cfg_edu.sampling import sample, samplers
from . import rivals
from .contestants import stir
from .record import machine, record

nets = dict(digits=(unet_digits, 10), mnist=(unet_tiny, 10), small=(unet_small, 62), adm64=(adm64, 1000))   # and classes

class Apart:
    "Guidance by two separate calls"
    def __init__(self, model, w): self.model, self.w = model, w
    def __call__(self, z, lam, y): return cfg(self.model(z, lam, y), self.model(z, lam, None), self.w)

class Doubled:
    "Guidance as pipelines write it: everything twice in one batch"
    def __init__(self, model, w): self.model, self.w = model, w
    def __call__(self, z, lam, y):
        c, u = self.model(torch.cat([z]*2), torch.cat([lam]*2), torch.cat([y, torch.full_like(y, self.model.null)])).chunk(2)
        return u + (1+self.w)*(c - u)

class Free:
    "A model that costs nothing: what is left is the sampler's own"
    def __init__(self, null): self.null = null
    def __call__(self, z, lam, y): return z

def contestants(model, told, shape, y, calls, device):
    "name → (a guided sampler, its library); `told`: a network that is told w"
    w = 1.
    z, lams = torch.randn(shape, device=device), torch.linspace(-6, 6, calls).to(device)
    def alone(call):
        with torch.no_grad():
            for lam in lams: call(z, lam.expand(len(z)), y)
    run = lambda guided, name: lambda: sample(guided, shape, y, clip=(-1, 1), device=device, sampler=samplers[name](v=0.), n_steps=calls)
    there = lambda f, guided, **kw: lambda: f(guided, shape, y, calls, clip=(-1, 1), device=device, **kw)
    out = {'network alone, unguided': (lambda: alone(model), 'cfg_edu'), 'network alone, guided': (lambda: alone(lambda *a: both(model, *a)), 'cfg_edu')}
    for name in ('ancestral', 'ddim', 'dpmpp_2m_sde'):
        out[f'sampler alone, {name}'] = run(Free(model.null), name), 'cfg_edu'
        out[f'ours unguided, {name}'] = run(model, name), 'cfg_edu'
        out[f'ours, {name}'] = run(CFG(model, w), name), 'cfg_edu'
    out['ours in one pass, dpmpp_2m_sde'] = run(OnePass(told, w), 'dpmpp_2m_sde'), 'cfg_edu'
    out['two calls, dpmpp_2m_sde'] = run(Apart(model, w), 'dpmpp_2m_sde'), 'cfg_edu'
    how = {'diffusers DDIM': Doubled, 'diffusers DPM++ 2M SDE': Doubled, 'k-diffusion DPM++ 2M SDE, λ': Doubled, 'smalldiffusion DDIM': Doubled, 'denoising-diffusion-pytorch': Apart}
    for name, guide in rivals.installed(how).items():
        lib, more = name.split(',')[0].split()[0], dict(tree=True) if name[0] == 'k' else {}
        out[name] = there({**rivals.ode, **rivals.sde}[name], guide(model, w), **more), lib
    return out

@call_parse
def sampling(
    net:str='digits',        # digits (8×8), mnist (28×28, small), small (32×32) or adm64
    device:str='cpu',        # cpu or cuda
    batches:str='1,4,16,64,256', # images at a time
    calls:int=16,            # of the model
    rounds:int=7,            # of which the medians are taken; all contestants take turns
    precision:str='fp32',    # of autocast: fp32 or bf16
    only:str='',             # contestants that contain this
    threads:int=1,           # of the processor
    out:str='benchmarks/results.csv', # rows are added to this file; '': to none
):
    "Guided images a second at the same network and calls, and each sampler's time over its network's alone."
    if net not in nets: raise SystemExit(f"net must be one of {', '.join(nets)}, got {net!r}")
    make, classes = nets[net]
    torch.set_num_threads(threads)
    with torch.device(device): model, told = (Denoiser(stir(make(cond=c))).eval() for c in (Classes, ClassesAndW))
    cast = torch.autocast(device, torch.bfloat16) if precision == 'bf16' else nullcontext()
    print(f'{machine(device)}, {threads} threads, torch {torch.__version__}; {net}, {calls} calls, {precision}, median of {rounds}')
    for b in map(int, batches.split(',')):
        times = {}
        all = contestants(model, told, (b, *model.net.shape), (torch.arange(b)%classes).to(device), calls, device)
        all = {k: v for k, v in all.items() if only in k or 'alone' in k}
        with cast:
            for i in range(rounds+1):                       # the first one warms up
                for name, (f, _) in all.items():
                    t0 = time.perf_counter()
                    f()
                    if device == 'cuda': torch.cuda.synchronize()
                    if i: times.setdefault(name, []).append(time.perf_counter()-t0)
        ratio = lambda a, c: median(s/t for s, t in zip(times[a], times[c]))    # of neighbours in time
        for name, (_, lib) in all.items():
            t = median(times[name])
            alone = 'network alone, unguided' if any(o in name for o in ('unguided', 'sampler alone', 'one pass')) else 'network alone, guided'
            more, mine = ratio(name, alone) - (name[:7] != 'sampler'), ratio(name, 'ours, dpmpp_2m_sde') if 'ours, dpmpp_2m_sde' in times else None
            print(f'batch {b:4} {name:32} {b/t:10.1f} images/s  {more:+7.1%} of the network alone' + (f'  {mine:5.2f} × the time of ours' if mine else ''), flush=True)
            record(out, 'sampling', f'net={net} batch={b} calls={calls} precision={precision}', name,
                   dict(images_per_s=(b/t, b/max(times[name]), b/min(times[name])), over_network=more, over_ours=mine), 0, lib, device)
