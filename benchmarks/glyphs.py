"""
Letters and digits that a person can read: a network for glyphs, trained for so many minutes, and guided:

    python -m benchmarks glyphs --device cuda --minutes 4
"""
import time
from pathlib import Path
from tempfile import TemporaryDirectory
import torch
import cfg_edu.runs  # noqa: F401 (`fit_resumable`)
from fastai.callback.training import GradientClip
from fastcore.script import call_parse
from cfg_edu.glyphs import glyphs_dls
from cfg_edu.guidance import CFG
from cfg_edu.judges import get_judge
from cfg_edu.metrics import evaluate, real_stats
from cfg_edu.nets import presets
from cfg_edu.plots import save_figure, show_grid
from cfg_edu.processes import HalfPrecision
from cfg_edu.sampling import sample
from cfg_edu.training import diffusion_learner
from .record import machine, record

@call_parse
def glyphs(
    device:str='cpu',     # cpu or cuda
    minutes:float=4.,     # of training, compiling included
    size:int=64,          # pixels: 16, 32 or 64
    batch:int=0,          # images in a step; 0: the recipe's
    n:int=40_000,         # glyphs to learn from
    ws:str='0,1,2,4',     # guidance weights
    samples:int=1240,     # for each weight, equally many of each of the 62 classes
    compiled:bool=False,  # compile the network?
    picture:str='',       # folder for a picture of each weight; '': none
    seed:int=0,           # of weights, glyphs and samples
    out:str='benchmarks/results.csv', # rows are added to this file; '': to none
):
    "FID and agreement over w of a network for glyphs after some minutes of training."
    name = dict(glyphs16='unet_small', glyphs32='unet_small', glyphs64='unet_64')[f'glyphs{size}']
    torch.manual_seed(seed)
    preset, cuda = presets[name], device == 'cuda'
    r, began = preset.recipe, time.monotonic()
    bs = batch or min(r['bs'], n)
    dls = glyphs_dls(size, bs, n, seed, device=torch.device(device))
    net, judge = preset.make(62, (3, size, size)), get_judge(f'glyphs{size}')
    if compiled: net.compile()
    print(f'{machine(device)}; glyphs {size}×{size}, {name}, batch {bs}; data and judge ready after {time.monotonic()-began:.0f} s', flush=True)
    learn = diffusion_learner(dls, net, decay=.998, lr=r['lr'], cbs=[GradientClip(1.)] + [HalfPrecision('bf16')]*cuda)
    learn.logger = lambda row: None
    def now():
        if cuda: torch.cuda.synchronize()
        return time.monotonic()
    began = time.monotonic()
    with TemporaryDirectory() as d, learn.no_bar():
        dls.train.n, start = 2*bs, now()
        learn.fit(1)                                        # compiles
        dls.train.n, start = 10*bs, now()
        learn.fit(1)
        one = (now()-start)/10
        epochs = max(1, int((60*minutes - (time.monotonic()-began))/one/50))
        dls.train.n = 50*bs
        learn.fit_resumable(epochs, Path(d)/'last.ckpt')
    took, model = now()-began, learn.ema.avg.eval()
    rate = (50*epochs + 12)*bs/took
    print(f'{50*epochs+12} steps in {took:.0f} s, {rate:.0f} images/s', flush=True)
    case = f'size={size} minutes={minutes:g} batch={bs} net={name}' + ' compiled'*compiled
    record(out, 'glyphs', case, 'training', dict(steps=50*epochs+12, images_per_s=rate), seed, device=device)
    y, real = torch.arange(samples)%62, real_stats(dls.valid_ds.tensors[0], judge)
    for w in map(float, ws.split(',')):
        x = sample(CFG(model, w), (samples, 3, size, size), y, seed=seed, clip=(-1, 1), device=device)
        row = evaluate(x, real, y, judge)
        print(f"w = {w:g}: FID {row['fid']:.3f}, Inception score {row['isc']:.2f}, agreement {row['agreement']:.1%}", flush=True)
        record(out, 'glyphs', f'{case} w={w:g}', 'guided', {k: row[k] for k in ('fid', 'isc', 'agreement')}, seed, device=device)
        if picture: save_figure(show_grid(x[:124].cpu(), 31), Path(picture)/f'glyphs{size}_w{w:g}.png')
