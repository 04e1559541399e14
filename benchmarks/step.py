"""
Milliseconds of a training step, ours and others':

    python -m benchmarks step --net adm64 --device cuda --batch 64 --precision bf16
    python -m benchmarks step --net digits --batch 64 --steps 100 --precision fp32
"""
import gc, os, time
from contextlib import nullcontext
from statistics import median
import torch
from fastcore.script import call_parse
from torch.nn import functional as F
from .contestants import compile_blocks, count, difference, inputs, parse, sizes, stir
from .record import machine, record

defaults = dict(  # the most important first: time may run out
    adm64='ours,guided+fp16,diffusers,ours+last,ours+blocks,ddpm,ours+compile,diffusers+compile,guided,ours+recompute,guided+fp16+recompute,ours+last+compile,diffusers+last',
    digits='ours,diffusers,ddpm,ours+last,ours+compile,diffusers+compile')
peaks = {'H100 PCIe':756, 'H100':989, 'H200':989, 'A100':312}   # TFLOP/s in bf16, dense: data sheets

class Contestant:
    "A variant's network, optimiser and batch: what it needs for a step."
    def __init__(self,
        variant:str,    # see `contestants.parse`
        size:str,       # 'adm64' or 'digits'
        device:str,     # 'cpu' or 'cuda'
        batch:int,      # images
        precision:str,  # of autocast: 'bf16', 'fp16' or 'fp32'
        seed:int,       # of weights and batch
    ):
        self.variant, (self.lib, opts) = variant, parse(variant)
        torch.manual_seed(seed)
        with torch.device(device): self.net = stir(self.lib.build(size, opts), seed).train()
        if 'last' in opts: self.net.to(memory_format=torch.channels_last)
        self.trainer, params, self.precision = None, self.net.parameters(), precision
        if 'fp16' in opts:                                  # weights in half precision and their copies in float32, by hand
            from guided_diffusion.fp16_util import MixedPrecisionTrainer
            self.trainer, self.precision = MixedPrecisionTrainer(model=self.net, use_fp16=True, initial_lg_loss_scale=16), 'fp16'
            params = self.trainer.master_params
        self.opt = torch.optim.AdamW(params, lr=1e-4, weight_decay=0., fused=True)
        *self.args, self.target = inputs(size, batch, device, seed)
        if 'last' in opts: self.args[0], self.target = [o.to(memory_format=torch.channels_last) for o in (self.args[0], self.target)]
        if 'compile' in opts: self.net.compile()
        if 'blocks' in opts: compile_blocks(self.net)
        if 'graphs' in opts: self.net.compile(mode='reduce-overhead')   # CUDA graphs
        half = dict(bf16=torch.bfloat16, fp16=torch.float16).get(precision)
        self.autocast = (lambda: torch.autocast(device, half)) if half and not self.trainer else nullcontext
        self.scaler = torch.amp.GradScaler(device, enabled=precision == 'fp16' and not self.trainer)

    def step(self):
        "Forward, loss, backward, AdamW, zero_grad; the loss."
        with self.autocast(): loss = F.mse_loss(self.lib.call(self.net, *self.args).float(), self.target)
        if self.trainer:
            self.trainer.backward(loss)
            if not self.trainer.optimize(self.opt): raise FloatingPointError("gradients overflow")
            self.trainer.zero_grad()
        else:
            self.scaler.scale(loss).backward()
            self.scaler.step(self.opt)
            self.scaler.update()
            self.opt.zero_grad()
        return loss.detach()

class Clock:
    "Seconds of each `with` block: CUDA's events, read when all is over, or the processor's clock."
    def __init__(self, cuda): self.cuda, self.pairs = cuda, []
    def now(self):
        if not self.cuda: return time.perf_counter()
        e = torch.cuda.Event(enable_timing=True)
        e.record()
        return e
    def __enter__(self): self.pairs.append([self.now()])
    def __exit__(self, *args): self.pairs[-1].append(self.now())
    def seconds(self):
        if self.cuda: torch.cuda.synchronize()
        return [a.elapsed_time(b)/1000 if self.cuda else b-a for a, b in self.pairs]

def clean(cuda):
    "Frees what the last variant leaves"
    torch._dynamo.reset()
    gc.collect()
    if cuda: torch.cuda.empty_cache()

def profile(c, n):
    "The `n` kernels that take most of a step"
    by = 'self_device_time_total' if c.clock.cuda else 'self_cpu_time_total'
    with torch.profiler.profile() as p:
        c.step()
        if c.clock.cuda: torch.cuda.synchronize()
    print(f"{c.variant}:")
    rows = [o for o in p.key_averages() if not c.clock.cuda or o.device_type.name == 'CUDA']    # kernels, not what called them
    for o in sorted(rows, key=lambda o: -getattr(o, by))[:n]: print(f"{getattr(o, by)/1e3:12.2f} ms {o.count:6} × {o.key[:100]}", flush=True)

@call_parse
def step(
    net:str='adm64',       # adm64: 64×64×3, 296 million parameters; digits: 8×8×1, 0.2 million
    device:str='cpu',      # cpu or cuda
    batch:int=64,          # images in a step
    precision:str='bf16',  # of autocast: bf16, fp16 or fp32; guided+fp16 has its own
    steps:int=10,          # timed steps of each variant
    warmup:int=3,          # steps before them
    variants:str=None,     # library+option+…,…: ours, guided, diffusers, ddpm with last (channels_last), compile, blocks (compile each by itself), graphs (compile with CUDA graphs), recompute, fp16 (guided's own); none: a choice for the network
    budget:float=170.,     # seconds after which no variant is started, nor one that would end later if it took as long as the last of its kind, compiled or not; 0: no limit
    threads:int=0,         # of the processor; 0: as torch chooses
    seed:int=0,            # of weights, batch and dropout
    cudnn_benchmark:bool=False, # let cuDNN try its convolutions out?
    peak:float=0.,         # TFLOP/s of the card in this precision; 0: by its name, in bf16 and fp16
    kernels:int=0,         # after each variant, the kernels that took most of a step: how many of them?
    out:str='benchmarks/results.csv', # rows are added to this file; '': to none
):
    "Time, memory and throughput of a training step, ours and other libraries', in one process."
    if net not in sizes: raise SystemExit(f"net must be one of {', '.join(sizes)}, got {net!r}")
    if precision not in ('bf16', 'fp16', 'fp32'): raise SystemExit(f"precision must be bf16, fp16 or fp32, got {precision!r}")
    began, cuda, names, took = time.perf_counter(), device == 'cuda', (variants or defaults[net]).split(','), {}
    try: [parse(v) for v in names]
    except ValueError as e: raise SystemExit(str(e)) from None
    if threads: torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = cudnn_benchmark
    peak = peak or (next((p for name, p in peaks.items() if name in machine(device)), 0.) if cuda and precision != 'fp32' else 0.)
    print(f"{machine(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}; {net}, batch {batch}, {precision}, seed {seed}; median of {steps} steps after {warmup}; cudnn.benchmark {cudnn_benchmark}"
          + (f"; peak {peak:g} TFLOP/s" if peak else ''))
    if net == 'adm64' and any(v.startswith('guided') for v in names):
        try: print(f"guided-diffusion with our weights gives our output: largest difference {difference(device):.1e} of the largest value")
        except ImportError as e: print(f"guided-diffusion: {e}"); names = [v for v in names if not v.startswith('guided')]
        clean(cuda)
    print(f"{'variant':22} {'':5}{'ms/step':>9} {'min':>9} {'max':>9} {'images/s':>9} {'÷ ours':>7} {'peak GB':>8} {'M params':>9} {'GFLOP/img':>10} {'TFLOP/s':>8} {'of peak':>7}", flush=True)
    kept = ' allocator=kept' if 'MALLOC_TRIM_THRESHOLD_' in os.environ else ''         # the C library keeps what is freed
    case = lambda c: f'net={net} batch={batch} precision={c.precision}{kept}'
    base = []                                               # our time, to which the others are compared

    def prepare(v):
        "A variant, warmed up, and the memory it took, GB; None if it fails"
        kind, t0 = any(o in v for o in ('compile', 'blocks', 'graphs')), time.perf_counter()
        if budget and t0-began + took.get(kind, 0) > budget: return print(f"{v:22} not started: --budget {budget:g} is used up", flush=True)
        try:
            if cuda: torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated() if cuda else 0
            c = Contestant(v, net, device, batch, precision, seed)
            for _ in range(warmup): loss = c.step()
            if warmup and not loss.isfinite(): raise FloatingPointError(f"the loss is {loss.item()}")
            c.gb = (torch.cuda.max_memory_allocated() - before)/1e9 if cuda else None
            c.clock = Clock(cuda)
            return c
        except Exception as e: print(f"{v:22} {type(e).__name__}: {(str(e).strip() or 'no reason given').splitlines()[0]}", flush=True)
        finally: took[kind] = time.perf_counter() - t0

    def report(c):
        "A line of the table and of the file"
        s = c.clock.seconds()
        t, (params, flops) = median(s), count(c.variant.split('+')[0], net)
        if c.variant == 'ours': base.append(t)
        rate = 3*flops*batch/t/1e12                         # backward costs two forwards; what is computed again does not count
        memory, ratio, share = [f'{o:{f}}' if o else '–' for o, f in ((c.gb, '.2f'), (base and t/base[0], '.2f'), (cuda and peak and rate/peak, '.1%'))]
        print(f"{c.variant:22} {c.precision:5}{t*1e3:9.2f} {min(s)*1e3:9.2f} {max(s)*1e3:9.2f} {batch/t:9.1f} {ratio:>7} {memory:>8} {params/1e6:9.3f} {flops/1e9:10.3g} {rate:8.2f} {share:>7}", flush=True)
        record(out, 'step', case(c), c.variant, dict(seconds_per_step=(t, min(s), max(s)), images_per_s=batch/t, peak_gb=c.gb, params=params), seed, c.lib.package, device)

    for group in [names] if net == 'digits' else [[v] for v in names]:  # small networks take turns, large ones need the memory for themselves
        cs = [c for v in group if (c := prepare(v))]
        try:
            for _ in range(steps):
                for c in cs:
                    with c.clock: c.step()
            for c in cs: report(c)
            for c in cs if kernels else []: profile(c, kernels)
        except Exception as e: print(f"{', '.join(group)}: {type(e).__name__}: {str(e).strip().splitlines()[0]}", flush=True)
        c = cs = None
        if net != 'digits': clean(cuda)
    print(f"{time.perf_counter()-began:.0f} s in all")
