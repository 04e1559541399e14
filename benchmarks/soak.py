"""
Long runs: memory, open files, threads and child processes must not grow (Linux):

    python -m benchmarks soak --job train --n 5000
    python -m benchmarks soak --job sample --n 50000
    python -m benchmarks soak --job large
"""
import gc, time
from pathlib import Path
from tempfile import TemporaryDirectory
import torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientClip
from fastcore.script import call_parse
from cfg_edu.cli import recipes
from cfg_edu.data import data_dls, digits_dls
from cfg_edu.denoiser import Denoiser
from cfg_edu.guidance import CFG
from cfg_edu.mixture import ring
from cfg_edu.nets import unet_digits
from cfg_edu.sampling import ancestral, sample, sampler
from cfg_edu.training import diffusion_learner
from .record import machine

class Watch:
    "Notes what the process holds"
    def __init__(self): self.rows, self.began = [], time.perf_counter()
    def __call__(self, done):
        gc.collect()
        status = dict(l.split(':', 1) for l in Path('/proc/self/status').read_text().splitlines())
        children = sum(len((p/'children').read_text().split()) for p in Path('/proc/self/task').iterdir())
        self.rows.append((done, int(status['VmRSS'].split()[0])/1024, len(list(Path('/proc/self/fd').iterdir())), int(status['Threads']), children))
        print('{:8} done, {:7.1f} MB, {} files, {} threads, {} children; {:.0f} s'.format(*self.rows[-1], time.perf_counter()-self.began), flush=True)
    def flat(self, mb):
        "Does nothing grow, after the first third?"
        start, *_, last = self.rows[len(self.rows)//3:]
        return last[1] - start[1] < mb and last[2:] == start[2:]

@call_parse
def soak(
    job:str='train', # train: the digits' network, resumable; sample: the digits' network; large: 1,000 classes, and 10,000 calls
    n:int=5000,      # steps, or samples
    mb:float=20.,    # growth of memory that is allowed, MB
):
    "Long runs of training and sampling: memory, open files, threads and processes at each tenth, and whether they grow."
    print(f'{machine()}, {torch.get_num_threads()} threads; {job}')
    watch, r = Watch(), recipes['unet_digits']
    if job == 'train':
        class Look(Callback):
            order = 200
            def after_epoch(self): watch((self.epoch+1)*(n//10))
        dls = digits_dls()
        dls.train.n = n//10*r['bs']
        learn = diffusion_learner(dls, unet_digits(), decay=r['decay'], lr=r['lr'], cbs=[GradientClip(1.), Look()])
        learn.logger = lambda row: None
        with TemporaryDirectory() as d, learn.no_bar(): learn.fit_resumable(10, Path(d)/'last.ckpt')
    elif job == 'sample':
        model = CFG(Denoiser(unet_digits()).eval(), 1.)
        for i in range(10):
            x = sample(model, (n//10, 1, 8, 8), torch.arange(n//10)%10, seed=i*(n//10), bs=64, clip=(-1, 1), **sampler())
            if not x.isfinite().all(): raise SystemExit('samples are not finite')
            del x
            watch((i+1)*(n//10))
    elif job == 'large':
        net = unet_digits(1000)
        dls = data_dls(torch.rand(2000, 1, 8, 8)*2 - 1, torch.arange(2000)%1000, range(1000), 100)
        learn = diffusion_learner(dls, net)
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
        if not sample(CFG(learn.ema.avg, 1.), (1000, 1, 8, 8), torch.arange(1000), clip=(-1, 1), **sampler()).isfinite().all(): raise SystemExit('samples of 1,000 classes are not finite')
        print('1,000 classes: trained, sampled')
        m = ring()
        for i in range(3):
            x = sample(m, (500, 2), 1, step=ancestral(), n_steps=10_000)
            watch(10_000*(i+1))
        lost = (m.classify(x, torch.full((500,), 20.)).argmax(1) != 1).float().mean()
        print(f'10,000 calls: {lost:.1%} of the samples of another class')
        if not x.isfinite().all() or lost >= .02: raise SystemExit('10,000 calls lose the class')
    else: raise SystemExit(f"job must be train, sample or large, got {job!r}")
    print('flat' if watch.flat(mb) else 'GROWS')
    if not watch.flat(mb): raise SystemExit(1)
