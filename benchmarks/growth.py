"""
How seconds and memory grow with the calls, the batch, the resolution, the channels and the number of classes:

    python -m benchmarks growth
    python -m benchmarks growth --device cuda
"""
import ctypes, gc, math, time
from pathlib import Path
from statistics import median
import torch
from fastcore.script import call_parse
from torch.nn import functional as F
from cfg_edu.denoiser import Denoiser
from cfg_edu.guidance import CFG
from cfg_edu.nets import UNet
from cfg_edu.sampling import sample
from .contestants import stir
from .record import machine, record

start = dict(calls=16, batch=16, pixels=16, channels=32, classes=10)     # all others stay here while one grows
grows = dict(calls=(4,8,16,32,64,128), batch=(1,4,16,64,256), pixels=(8,16,32,64), channels=(16,32,64,128), classes=(10,100,1000,10_000))

class Peak:
    "MB that a `with` block needs beyond what there was: CUDA's own count, or the process's resident memory (Linux)"
    def __init__(self, cuda): self.cuda = cuda
    def _status(self, key): return int(next(l for l in Path('/proc/self/status').read_text().splitlines() if l.startswith(key)).split()[1])/1024
    def __enter__(self):
        gc.collect()
        if self.cuda: torch.cuda.empty_cache(); torch.cuda.reset_peak_memory_stats(); self.before = torch.cuda.memory_allocated()/2**20
        else:
            ctypes.CDLL(None).malloc_trim(0)
            Path('/proc/self/clear_refs').write_text('5')               # the peak starts anew
            self.before = self._status('VmRSS')
        return self
    def __exit__(self, *args): self.mb = (torch.cuda.max_memory_allocated()/2**20 if self.cuda else self._status('VmHWM')) - self.before

def _net(pixels, channels, classes):
    "A U-Net that attends at half the size and below, as ours do"
    return stir(UNet(pixels, 3, channels, attn_sizes=(pixels//2,), n_classes=classes, head_channels=channels))

@call_parse
def growth(
    device:str='cpu',   # cpu or cuda
    only:str='',        # what grows: calls, batch, pixels, channels or classes; none: each in turn
    repeats:int=3,      # of which the median is taken
    limit:float=60.,    # seconds: a step that would take longer is left out
    threads:int=1,      # of the processor
    out:str='benchmarks/results.csv', # rows are added to this file; '': to none
):
    "Seconds and memory of guided sampling and of a training step as one size grows."
    torch.set_num_threads(threads)
    cuda = device == 'cuda'
    now = lambda: (torch.cuda.synchronize() if cuda else None, time.perf_counter())[1]
    print(f'{machine(device)}, {threads} threads; else {start}; power: of seconds, between neighbours')
    for what, values in grows.items():
        if only not in ('', what): continue
        last = {}
        for value in values:
            at = {**start, what: value}
            net = _net(at['pixels'], at['channels'], at['classes']).to(device)
            model, b, opt = Denoiser(net), at['batch'], torch.optim.AdamW(net.parameters(), fused=True)
            shape, y = (b, *net.shape), torch.arange(b, device=device)%at['classes']
            z, lam = torch.randn(shape, device=device), torch.zeros(b, device=device)
            def train():
                F.mse_loss(model(z, lam, y), z).backward()
                opt.step(); opt.zero_grad()
            jobs = dict(guided=lambda: sample(CFG(model, 1.), shape, y, n_steps=at['calls']))
            if what != 'calls': jobs['training'] = train
            for job, f in jobs.items():
                if job in last and last[job][1]*(value/last[job][0]) > limit: print(f'{what} {value:6} {job}: left out, beyond {limit:g} s'); continue
                f()
                times = []
                with Peak(cuda) as peak:
                    for _ in range(repeats):
                        t0 = now()
                        f()
                        times.append(now()-t0)
                t = median(times)
                power = f'{math.log(t/last[job][1])/math.log(value/last[job][0]):5.2f}' if job in last else ''
                print(f'{what:9}{value:6} {job:9} {t:9.4f} s {peak.mb:9.1f} MB  {power}', flush=True)
                record(out, 'growth', ' '.join(f'{k}={v}' for k, v in at.items()), f'{job}, {what}', dict(seconds=(t, min(times), max(times)), mb=peak.mb), 0, device=device)
                last[job] = value, t
