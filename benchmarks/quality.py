"""
Calls of the model that a sampler needs for a quality, ours and other libraries', all driven by one model:

    python -m benchmarks quality --data mixture --ws 0,1
    python -m benchmarks quality --data digits --ws 0,.3
"""
import torch
from fastcore.script import call_parse
from cfg_edu.data import digits_dls
from cfg_edu.guidance import CFG
from cfg_edu.judges import get_judge
from cfg_edu.metrics import evaluate, real_stats
from cfg_edu.mixture import ring, sliced_wasserstein
from cfg_edu.sampling import ancestral, dpmpp_2m, sample, samplers
from cfg_edu.schedule import Schedule
from . import rivals
from .late import train
from .record import machine, record

def _ours(name, v=0., lo=None):
    "A sampler of ours; `lo`: on a uniform grid from there, not from −6"
    def run(model, shape, y, calls, seed, clip):
        how = dict(sampler=samplers[name](v=v), n_steps=calls)
        if lo is not None: how['lams'] = Schedule(lo, 6.).grid(calls, 'uniform')
        return sample(model, shape, y, seed=seed, clip=clip, **how), calls - (name == 'heun' and calls%2 == 0)
    return run
ours = {'ode': {**{f'ours {n}': _ours(n) for n in ('ddim', 'heun', 'dpmpp_2m')}, 'ours dpmpp_2m, λ ≥ −4': _ours('dpmpp_2m', lo=-4.)},
        'sde': {'ours ancestral': _ours('ancestral'), 'ours ancestral, v = 0.3': _ours('ancestral', .3), 'ours dpmpp_2m_sde': _ours('dpmpp_2m_sde'), 'ours dpmpp_2m_sde, λ ≥ −4': _ours('dpmpp_2m_sde', lo=-4.)}}

class Chunks:
    "A model asked for `n` examples at a time, which stay in a processor's caches"
    def __init__(self, model, n=64): self.model, self.w, self.n = model, model.w, n
    def __call__(self, z, lam, y): return torch.cat([self.model(*o) for o in zip(*(t.split(self.n) for t in (z, lam, y)))])

def fewest(rows, level):
    "Fewest calls, and who makes them, at which the error is at most `level`"
    return min(((calls, name) for name, calls, e in rows if e <= level), default=(None, 'none'))

@call_parse
def quality(
    data:str='digits',        # digits: a trained U-Net, FID; mixture: the exact model of a ring, sliced Wasserstein distance to where endless steps lead
    ws:str='0,.3',            # guidance weights
    calls:str='6,8,12,16,20', # calls of the model
    n:int=2000,               # samples
    steps:int=300,            # of the digits' training
    seed:int=0,               # of training and samples
    only:str='',              # samplers whose side, kind and name contain this, such as 'theirs sde'; none: all
    out:str='benchmarks/results.csv', # rows are added to this file; '': to none
):
    "Error against calls of the model, and the fewest calls for each quality: ours and other libraries' samplers."
    print(f'{machine()}, {torch.get_num_threads()} threads; {data}, {n} samples, seed {seed}')
    theirs = dict(ode=rivals.installed(rivals.ode), sde=rivals.installed(rivals.sde))
    calls = [int(o) for o in calls.split(',')]
    if data == 'digits':
        model, shape, clip, y, key = train(steps, seed), (n,1,8,8), (-1, 1), torch.arange(n)%10, 'fid'
        ref = real_stats(torch.cat([dl.dataset.tensors[0] for dl in digits_dls(seed=seed)]), 'digits')
        error = lambda x, kind, guided: evaluate(x, ref, y, get_judge('digits'))['fid']
    else:
        model, shape, clip, key = ring(), (n,2), None, 'sw'
        x, y = model.draw(n, generator=torch.Generator().manual_seed(1000+seed))
        limits = {}
        def error(o, kind, guided):     # guided noise and no noise lead to different places
            if guided.w == 0: return sliced_wasserstein(o, x)
            if (kind, guided.w) not in limits: limits[kind, guided.w] = sample(guided, shape, y, dpmpp_2m(None if kind == 'ode' else 0.), lams=Schedule(-10, 10).grid(400, 'uniform'), seed=10**6)
            return sliced_wasserstein(o, limits[kind, guided.w])
    for w in map(float, ws.split(',')):
        guided, found = CFG(model, w), {}
        if data == 'digits': guided = Chunks(guided)
        case = f'data={data} w={w:g}' + (f' steps={steps}' if data == 'digits' else '')
        if data == 'digits' and not only: # what the target compares with
            best = error(sample(guided, shape, y, ancestral(), 256, seed=seed, clip=clip), 'sde', guided)
            print(f'w = {w:g}: ancestral, 256 calls: {key} {best:.4g}', flush=True)
            record(out, 'quality', f'{case} calls=256', 'ours ancestral, v = 0.3', {key: best}, seed)
        for side, kinds in dict(ours=ours, theirs=theirs).items():
            for kind, all in kinds.items():
                for name, f in all.items():
                    if name.startswith('denoising') and data != 'digits' or only not in f'{side} {kind} {name}': continue    # that one is made for images
                    errors = []
                    for c in calls:
                        x_hat, made = f(guided, shape, y, c, seed=seed, clip=clip)
                        errors.append(error(x_hat, kind, guided) if x_hat.isfinite().all() else float('inf'))
                        found.setdefault(side, []).append((name, made, errors[-1]))
                        record(out, 'quality', f'{case} calls={made}', name, {key: errors[-1]}, seed, name.split(',')[0].split(' ')[0].replace('ours', 'cfg_edu'))
                    print(f'w = {w:g} {name:40}' + ''.join(f'{e:9.4f}' for e in errors), flush=True)
        if only: continue
        for level in sorted({float(f'{e:.2g}') for side in found.values() for _, _, e in side if e < float('inf')})[::5]:
            (a, mine), (b, other) = (fewest(found[side], level) for side in ('ours', 'theirs'))
            print(f'w = {w:g}: {key} ≤ {level:g}: ours {a} ({mine}), theirs {b} ({other})')
