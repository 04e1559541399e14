"""
What the place costs and brings where a network is told the class, and guidance in a part of the steps:

    python -m benchmarks late --seeds 0,1,2
"""
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
import torch
import cfg_edu.runs  # noqa: F401 (`fit_resumable`)
from fastai.callback.training import GradientClip
from fastcore.script import call_parse
from torch.utils.flop_counter import FlopCounterMode
from cfg_edu.data import digits_dls
from cfg_edu.denoiser import both
from cfg_edu.guidance import CFG, Interval
from cfg_edu.metrics import real_stats, tradeoff
from cfg_edu.nets import presets, unet_digits
from cfg_edu.sampling import dpmpp_2m
from cfg_edu.variants import LateUNet
from cfg_edu.training import diffusion_learner
from .record import machine, record

shapes = {'plain': {}, 'up 1': dict(up_blocks=1), 'down 2, up 1': dict(num_res_blocks=2, up_blocks=1), 'down 3, up 1': dict(num_res_blocks=3, up_blocks=1)}
places = {'plain': (0, 4, 5, 6, 7, 8), 'up 1': (0, 4, 5), 'down 2, up 1': (7,), 'down 3, up 1': (8, 9)}
intervals = (-3., 3.), (-6., 0.), (0., 6.), (-1.5, 4.5)     # half of the steps in [−6, 6] each

def work(f, *args):
    "Floating-point operations of a call"
    with FlopCounterMode(display=False) as count: f(*args)
    return count.get_total_flops()

def cost(net):
    "Operations for an image without guidance and with it, on paper: a CPU computes a single image twice, to round alike in every batch"
    net, args = deepcopy(net).to('meta'), [torch.empty(n, dtype=d, device='meta') for n, d in (((1, *net.shape), None), (1, None), (1, torch.long))]
    with torch.no_grad(): return work(net, *args), work(both, net, *args)

def train(steps, seed, cbs=(), **kwargs):
    "The digits' network with `kwargs`, trained as `cfg_train` does: its averaged weights"
    torch.manual_seed(seed)
    dls, r = digits_dls(seed=seed), presets['unet_digits'].recipe
    dls.train.n = 100*r['bs']                               # an epoch of 100 steps
    learn = diffusion_learner(dls, LateUNet(8, 1, 16, head_channels=32, **kwargs), decay=r['decay'], lr=r['lr'], cbs=[GradientClip(1.), *cbs])
    learn.logger = lambda row: None
    with TemporaryDirectory() as d, learn.no_bar(): learn.fit_resumable(-(-steps//100), Path(d)/'last.ckpt')
    return learn.ema.avg.eval()

@call_parse
def late(
    seeds:str='0',      # of the trainings, separated by commas
    steps:int=300,      # of each training, rounded up to hundreds
    ws:str='0,.1,.2,.3,.5,.7,1,1.5,2,3', # guidance weights
    n:int=2000,         # samples for each weight
    only:str='',        # networks whose name contains this, such as 'up 1, from stage 4'; none: all
    out:str='benchmarks/results.csv', # rows are added to this file; '': to none
):
    "Cost, FID and Inception score of guidance where the class comes late, and where only some steps are guided; digits."
    dls, ws = digits_dls(), [float(w) for w in ws.split(',')]
    ref, y, one = real_stats(torch.cat([dl.dataset.tensors[0] for dl in dls]), 'digits'), torch.arange(n)%10, cost(unet_digits())[0]
    print(f'{machine()}, {torch.get_num_threads()} threads; {steps} steps of training, {n} samples, 16 calls; cost: operations, unguided plain network = 1')

    def sweep(name, model, guide, price, seed):
        rows = list(tradeoff(model, ws, ref, y, 'digits', guide, clip=(-1, 1)))
        for r in rows: record(out, 'late', f"data=digits steps={steps} w={r['w']:g}", name, dict(fid=r['fid'], isc=r['isc']), seed)
        record(out, 'late', 'data=digits', name, dict(cost=price), seed)
        best = min(rows, key=lambda r: r['fid'])
        print(f"seed {seed} {name:28} cost {price:.2f}  FID at w = 0 {rows[0]['fid']:5.2f}, best {best['fid']:5.2f} at w = {best['w']:g}; (IS, FID): "
              + ' '.join(f"({r['isc']:.2f}, {r['fid']:.2f})" for r in rows), flush=True)

    for seed in map(int, seeds.split(',')):
        for shape, kw in shapes.items():
            for k in places[shape]:
                if only not in (name := f'{shape}, from stage {k}'): continue
                model = train(steps, seed, late=k, **kw)
                alone, guided = (o/one for o in cost(model.net))
                sweep(name, model, CFG, guided, seed)
                if name not in ('plain, from stage 0', 'up 1, from stage 4'): continue
                for lo, hi in intervals:
                    lams = dpmpp_2m(0.).grid(16)
                    share = ((lams >= lo) & (lams <= hi)).double().mean().item()
                    sweep(f'{name.removesuffix(", from stage 0")}, λ in [{lo:g}, {hi:g}]', model, lambda m, w: Interval(CFG(m, w), lo, hi), alone + share*(guided-alone), seed)
